//! Models of the format: `{"layers": [{"type": "linear", "weight": [in, out], "bias": [out], "activation"}]}`,
//! a layer being `y = act(x·W + b)`.

use burn::tensor::{Device, Tensor, TensorData, activation};
use core_tensor::Tree;

use super::Trouble;
use super::json::{Field, Malformed};

/// A layer's parameters and activation.
#[derive(Clone, Debug)]
pub struct Layer {
    /// `[in, out]`
    pub weight: Matrix,
    /// `[out]`, or none.
    pub bias: Option<Vec<f64>>,
    /// What follows `x·W + b`.
    pub activation: Activation,
}

/// A row-major matrix.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// `[rows, columns]`
    pub shape: [usize; 2],
    /// `rows · columns` numbers.
    pub data: Vec<f64>,
}

/// An activation of the format.
pub type Activation = fn(Tensor<2>) -> Tensor<2>;

const ACTIVATIONS: &[(&str, Activation)] = &[
    ("none", |x| x),
    ("identity", |x| x),
    ("tanh", activation::tanh),
    ("relu", activation::relu),
    ("leaky_relu", |x| activation::leaky_relu(x, 0.01)),
    ("gelu", activation::gelu),
    ("sigmoid", activation::sigmoid),
    ("silu", activation::silu),
    ("softplus", |x| activation::softplus(x, 1.0)),
    ("elu", |x| activation::elu(x, 1.0)),
];

/// Reads `model.layers`, whose widths have to fit each other.
pub fn layers(model: &Field<'_>) -> Result<Vec<Layer>, Trouble> {
    let list = model.get("layers")?;
    let mut layers: Vec<Layer> = Vec::new();
    for field in list.items()? {
        field.only(&["type", "weight", "bias", "activation"])?;
        match field.get("type")?.text()? {
            "linear" => {}
            other => return Err(Trouble::Unsupported(format!("layer type `{other}`"))),
        }
        let weight = matrix(&field.get("weight")?)?;
        if let Some(before) = layers.last() {
            let (rows, width) = (weight.shape[0], before.weight.shape[1]);
            if rows != width {
                let problem = format!("{rows} rows after a layer of width {width}");
                return Err(field.get("weight")?.malformed(problem).into());
            }
        }
        let bias = match field.find("bias")? {
            None => None,
            Some(bias) => match bias.ranked::<1>()? {
                ([width], data) if width == weight.shape[1] => Some(data),
                ([width], _) => {
                    let problem = format!("{width} numbers for a layer of width {}", weight.shape[1]);
                    return Err(bias.malformed(problem).into());
                }
            },
        };
        let name = field.get("activation")?.text()?;
        let Some((_, activation)) = ACTIVATIONS.iter().find(|(known, _)| *known == name) else {
            return Err(Trouble::Unsupported(format!("activation `{name}`")));
        };
        layers.push(Layer { weight, bias, activation: *activation });
    }
    if layers.is_empty() {
        return Err(list.malformed("empty").into());
    }
    Ok(layers)
}

/// Reads a tensor of rank 2.
pub fn matrix(field: &Field<'_>) -> Result<Matrix, Malformed> {
    let (shape, data) = field.ranked::<2>()?;
    Ok(Matrix { shape, data })
}

/// The layers' parameters as leaves `0.weight`, `0.bias`, `1.weight` and so on.
pub fn tree(layers: &[Layer], device: &Device) -> Result<Tree, core_tensor::Error> {
    let mut tree = Tree::empty();
    for (i, layer) in layers.iter().enumerate() {
        tree = tree.push(format!("{i}.weight"), layer.weight.tensor(device))?;
        if let Some(bias) = &layer.bias {
            tree = tree.push(format!("{i}.bias"), vector(bias, device))?;
        }
    }
    Ok(tree)
}

/// The model's output for `x`, its parameters taken from `tree`.
///
/// # Panics
/// If the tree was not made by [`tree`] from these layers.
pub fn forward(layers: &[Layer], tree: &Tree, x: Tensor<2>) -> Tensor<2> {
    layers.iter().enumerate().fold(x, |x, (i, layer)| {
        let weight = tree.get::<2>(&format!("{i}.weight")).expect("a weight for each layer");
        let mut y = x.matmul(weight);
        if layer.bias.is_some() {
            let bias = tree.get::<1>(&format!("{i}.bias")).expect("a bias for this layer");
            y = y + bias.unsqueeze();
        }
        (layer.activation)(y)
    })
}

impl Matrix {
    /// As a tensor of the device's default precision.
    pub fn tensor(&self, device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(self.data.clone(), self.shape), device)
    }
}

/// A vector as a tensor of the device's default precision.
pub fn vector(data: &[f64], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(data.to_vec(), [data.len()]), device)
}
