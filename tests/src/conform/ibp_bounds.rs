//! Interval bounds of a network's outputs.

use adversarial::{Rounding, Threat, Verifier};
use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use super::model::{Activation, Layer, layers, vector};
use super::{Case, Trouble, adversarial as common};

/// Compares `lower` and `upper` of the logits over the ball of radius `params.eps` round the rows of `inputs.x`, by interval bound
/// propagation and without a box that matters.
pub fn run(case: &mut Case<'_>) -> Result<(), Trouble> {
    // The model is among the inputs or the parameters.
    case.params.only(&["eps", "norm", "model"])?;
    case.inputs.only(&["x", "eps", "norm", "model"])?;
    case.expect.only(&["lower", "upper"])?;
    let (params, inputs) = (&case.params, &case.inputs);
    let field = |key: &str| match params.find(key)? {
        Some(field) => Ok(field),
        None => inputs.get(key),
    };
    let threat = Threat::new(common::norm(&field("norm")?)?, field("eps")?.number()?)?.bounds(-1e6, 1e6)?;
    let layers = layers(&field("model")?)?;
    let x = common::rows(&case.inputs.get("x")?)?;
    let (examples, width) = (x.dims()[0], layers[0].weight.shape[0]);
    if x.dims()[1] != width {
        let problem = format!("{} columns for a model of {width} inputs", x.dims()[1]);
        return Err(case.inputs.get("x")?.malformed(problem).into());
    }
    let model: Vec<Linear> = layers.iter().map(|layer| linear(layer, &x.device())).collect();
    let activations: Vec<Activation> = layers.iter().map(|layer| layer.activation).collect();
    let forward = move |model: &Vec<Linear>, x: Tensor<2>| {
        model.iter().zip(&activations).fold(x, |x, (layer, activation)| activation(layer.forward(x)))
    };
    // The expected bounds are those of exact arithmetic.
    let bounds = Verifier::record(&model, &x, forward)?.rounding(Rounding::Ignored).ibp(&x, &threat)?;
    let outputs = layers.last().map_or(0, |layer| layer.weight.shape[1]);
    for (key, got) in [("lower", bounds.lower), ("upper", bounds.upper)] {
        let want = case.expect.get(key)?;
        let (shape, numbers) = want.ranked::<2>()?;
        if shape != [examples, outputs] {
            return Err(want.malformed(format!("shape {shape:?} for bounds of [{examples}, {outputs}]")).into());
        }
        case.check_all(key, &got.into_data().iter::<f64>().collect::<Vec<_>>(), &numbers);
    }
    Ok(())
}

fn linear(layer: &Layer, device: &Device) -> Linear {
    let [inputs, outputs] = layer.weight.shape;
    let mut linear = LinearConfig::new(inputs, outputs).with_bias(layer.bias.is_some()).init(device);
    linear.weight = Param::from_tensor(layer.weight.tensor(device));
    linear.bias = layer.bias.as_ref().map(|bias| Param::from_tensor(vector(bias, device)));
    linear
}

#[cfg(test)]
mod tests {
    use super::super::json::{Field, Json};
    use super::super::{OPERATIONS, Report, run as run_document};

    fn outcome(text: &str) -> Result<Report, String> {
        let json: Json = serde_json::from_str(text).unwrap();
        run_document(&Field::root("a.json", &json), OPERATIONS).map_err(|e| e.to_string())
    }

    /// `relu(x₁ − x₂) · 2` round `[1, 0]`.
    const CASE: &str = r#"{"op": "ibp_bounds", "source": "by hand", "cases": [{"name": "one",
        "params": {"norm": "linf", "eps": 0.25}, "inputs": {"x": {"shape": [1, 2], "data": [1, 0]}, "model": {"layers": [
        {"type": "linear", "weight": {"shape": [2, 1], "data": [1, -1]}, "activation": "relu"},
        {"type": "linear", "weight": {"shape": [1, 1], "data": [2]}, "bias": {"shape": [1], "data": [0]},
        "activation": "none"}]}}, "expect": {"lower": {"shape": [1, 1], "data": [1]}, "upper": {"shape": [1, 1], "data": [3]}},
        "tol": {"abs": 1e-6}}]}"#;

    #[test]
    fn cases_by_hand_pass_and_wrong_numbers_fail() {
        assert!(outcome(CASE).unwrap().is_green());
        assert_eq!(outcome(&CASE.replace("[3]}}", "[3.1]}}")).unwrap().failed, 1);
        // Hölder: √2·¼ and ¼.
        let l2 = CASE.replace("linf", "l2").replace("\"data\": [1]}", "\"data\": [1.2928932]}");
        assert!(outcome(&l2.replace("[3]}}", "[2.7071068]}}")).unwrap().is_green());
        let l1 = CASE.replace("linf", "l1").replace("\"data\": [1]}", "\"data\": [1.5]}");
        assert!(outcome(&l1.replace("[3]}}", "[2.5]}}")).unwrap().is_green());
    }

    #[test]
    fn what_is_not_there_is_unsupported_and_misfits_are_malformed() {
        assert_eq!(outcome(&CASE.replace("linf", "l3")).unwrap().unsupported, 1);
        assert_eq!(outcome(&CASE.replace("\"relu\"", "\"maxout\"")).unwrap().unsupported, 1);
        let wide = CASE.replace(r#""x": {"shape": [1, 2], "data": [1, 0]}"#, r#""x": {"shape": [1, 1], "data": [1]}"#);
        assert!(outcome(&wide).unwrap_err().contains("1 columns for a model of 2 inputs"));
    }
}
