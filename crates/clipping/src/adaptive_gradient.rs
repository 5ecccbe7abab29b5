//! Clipping each unit relative to its weights.

use std::collections::BTreeMap;

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Shape, Tensor};
use core_tensor::transform::{Context, GradientTransform, Update};
use core_tensor::{Error, Result, Tree};

use crate::limit::{limit, not_negative};
use crate::unit_norm::{scale_units, unit_norms};

/// Adaptive gradient clipping: a unit's gradient may be at most `λ` times the size of its weights.
///
/// For every unit, `m = λ·max(‖w‖, ε)`; where `‖g‖ > m`, `g ← g·m/max(‖g‖, 10⁻⁶)`. A unit is an output of a layer, so the
/// norms run over all axes of the parameter but one, which depends on the layer and not on the rank: see [`UnitAxes`].
/// In vectors each element is a unit. A. Brock, S. De, S. L. Smith, K. Simonyan, "High-performance large-scale image
/// recognition without normalization" (NFNets), ICML 2021, equation 3, with `λ` from 0.01 (large batches) to 0.16 and
/// `ε = 10⁻³`; the paper leaves the last linear layer out ([`Masked`](core_tensor::transform::Masked)).
///
/// Needs the parameters in the context. Cost: on the host one pass over parameters and gradient, and one in place over
/// leaves with a unit that is too long; elsewhere, and in `f64`, about eighteen passes as tensor operations. No host
/// synchronisation.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::optim::SgdConfig;
/// use burn::tensor::Device;
/// use clipping::{AdaptiveGradientClip, UnitAxes};
/// use core_tensor::Chain;
///
/// let model = LinearConfig::new(3, 2).init(&Device::flex());
/// let clip = AdaptiveGradientClip::new(0.01, UnitAxes::of(&model))?;
/// let train = Chain::new().then(clip).before(SgdConfig::new().init());
/// # let _ = train;
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct AdaptiveGradientClip {
    lambda: f64,
    epsilon: f64,
    axes: UnitAxes,
}

/// Which axis of each parameter counts its units.
///
/// [`of`](UnitAxes::of) reads it from the layers: a linear layer's weight is `[in, out]` in Burn, so its units are on axis
/// 1; a convolution's is `[out, in, k…]`, axis 0; a transposed convolution's `[in, out, k…]`, axis 1; an embedding's
/// `[entries, size]`, axis 0. Parameters that are not listed have their units on axis 0.
#[derive(Clone, Debug, Default)]
pub struct UnitAxes(BTreeMap<String, usize>);

impl UnitAxes {
    /// The axes of a module's float parameters, by the layers that hold them.
    pub fn of<M: Module>(module: &M) -> Self {
        let mut reader = LayoutReader::default();
        module.visit(&mut reader);
        Self(reader.axes)
    }

    /// The same with another axis for one parameter.
    pub fn with(mut self, path: impl Into<String>, axis: usize) -> Self {
        self.0.insert(path.into(), axis);
        self
    }

    /// The axis of a parameter.
    pub fn axis(&self, path: &str) -> usize {
        self.0.get(path).copied().unwrap_or(0)
    }
}

#[derive(Default)]
struct LayoutReader {
    /// Names and the types that hold them, from the root.
    path: Vec<(String, String)>,
    axes: BTreeMap<String, usize>,
}

impl ModuleVisitor for LayoutReader {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push((name.to_string(), container_type.to_string()));
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
        if D < 2 {
            return;
        }
        let Some((_, holder)) = self.path.last() else { return };
        let layer = holder.strip_prefix("Struct:").unwrap_or(holder);
        // Only there the outputs come second.
        if layer == "Linear" || layer.starts_with("ConvTranspose") {
            let names: Vec<&str> = self.path.iter().map(|(name, _)| name.as_str()).collect();
            self.axes.insert(names.join("."), 1);
        }
    }
}

impl AdaptiveGradientClip {
    /// A ratio `λ` of gradient to weight, with `ε = 10⁻³`.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `lambda` is negative or NaN.
    pub fn new(lambda: f64, axes: UnitAxes) -> Result<Self> {
        Ok(Self { lambda: limit("lambda", lambda)?, epsilon: 1e-3, axes })
    }

    /// Another size that stands for weights near zero.
    ///
    /// # Errors
    /// [`Error::Parameter`] if it is negative, infinite or NaN.
    pub fn with_epsilon(self, epsilon: f64) -> Result<Self> {
        Ok(Self { epsilon: not_negative("epsilon", epsilon)?, ..self })
    }

    /// The gradient clipped relative to `params`, which has its leaves and may have more.
    ///
    /// # Errors
    /// [`Error::UnknownLeaf`] or [`Error::Shape`] if `params` does not match, [`Error::Parameter`] for a unit axis that a
    /// leaf does not have.
    pub fn clip(&self, grads: Tree, params: &Tree) -> Result<Tree> {
        let params = params.restrict(&grads)?;
        let mut units = Vec::with_capacity(grads.len());
        for (name, leaf) in grads.iter() {
            let shape = leaf.shape();
            let axis = self.axes.axis(&name.path);
            if axis >= shape.num_dims() {
                let value = axis as f64;
                return Err(Error::Parameter { parameter: "unit axis", value, bound: "axis < rank of the leaf" });
            }
            let product = |range: std::ops::Range<usize>| range.map(|d| shape[d]).product::<usize>();
            units.push([product(0..axis), shape[axis], product(axis + 1..shape.num_dims())]);
        }
        let mut units = units.into_iter();
        grads.zip_map(&params, |_, g, w| match units.next() {
            Some(unit) if unit.iter().product::<usize>() > 0 => self.leaf(g, w, unit),
            _ => g,
        })
    }

    fn leaf(&self, g: DispatchTensor, w: &DispatchTensor, unit: [usize; 3]) -> DispatchTensor {
        let g = match (unit_norms(&g, unit), unit_norms(w, unit)) {
            (Some(lengths), Some(sizes)) => {
                let factors: Vec<f64> = lengths.iter().zip(sizes).map(|(g, w)| self.factor(*g, w)).collect();
                if factors.iter().all(|factor| *factor == 1.0) {
                    return g;
                }
                match scale_units(g, unit, &factors) {
                    Ok(scaled) => return scaled,
                    Err(g) => g,
                }
            }
            _ => g,
        };
        let shape = g.shape();
        let flat = |x: DispatchTensor| {
            let length = x.shape().num_elements();
            Tensor::<1>::from_dispatch(Dispatch::float_reshape(x, Shape::new([length])))
        };
        let clipped = self.unit_wise(flat(g), flat(w.clone()), unit);
        Dispatch::float_reshape(clipped.into_dispatch(), shape)
    }

    /// The factor of a unit whose gradient is `length` long and whose weights are `size`.
    fn factor(&self, length: f64, size: f64) -> f64 {
        let largest = self.lambda * size.max(self.epsilon);
        // A NaN is not longer than anything and passes.
        if length > largest { largest / length.max(1e-6) } else { 1.0 }
    }

    fn unit_wise(&self, g: Tensor<1>, w: Tensor<1>, unit: [usize; 3]) -> Tensor<1> {
        let (shape, dtype) = (g.dims(), g.dtype());
        let [g, w] = [g, w].map(|x| crate::elementwise::wide_tensor(x).reshape(unit));
        let (size, size_scale) = scaled_norms(w.cast(g.dtype()));
        let (norm, scale) = scaled_norms(g.clone());
        // Everything in units of the largest element, for the norm itself may be out of range.
        let largest = size.mul(size_scale).clamp_min(self.epsilon).mul_scalar(self.lambda).div(scale.clone());
        let too_long = norm.clone().greater(largest.clone());
        let factor = largest.div(norm.max_pair(scale.recip().mul_scalar(1e-6)));
        let factor = factor.ones_like().mask_where(too_long, factor);
        g.mul(factor).reshape(shape).cast(dtype)
    }
}

/// Norms over the first and the last axis in units of a scale, so that squares stay in range, and the scale.
fn scaled_norms(x: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let largest = x.clone().abs().max_dim(0).max_dim(2);
    // An infinite element makes the norm infinite, a NaN makes it NaN.
    let unusable = largest.clone().equal_elem(0.0).bool_or(largest.clone().is_inf());
    let scale = largest.mask_fill(unusable, 1.0);
    (x.div(scale.clone()).square().sum_dim(0).sum_dim(2).sqrt(), scale)
}

impl GradientTransform for AdaptiveGradientClip {
    fn name(&self) -> &str {
        "adaptive_gradient_clip"
    }

    /// # Errors
    /// [`Error::Transform`] without parameters in the context; else as [`clip`](AdaptiveGradientClip::clip).
    fn apply(&mut self, grads: Tree, context: &Context<'_>) -> Result<Update> {
        let params =
            context.params.ok_or_else(|| Error::transform(self.name(), "needs the parameters in its context"))?;
        Ok(Update::Apply(self.clip(grads, params)?))
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(agc, || AdaptiveGradientClip::new(0.01, UnitAxes::default()).unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
    use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, LinearLayout};
    use burn::tensor::Device;

    #[derive(Module, Debug)]
    struct Layers {
        row: Linear,
        col: Linear,
        conv: Conv2d,
        up: ConvTranspose2d,
        table: Embedding,
        many: Vec<Linear>,
    }

    #[test]
    fn axes_follow_the_layers() {
        let device = Device::flex();
        let layers = Layers {
            row: LinearConfig::new(3, 2).init(&device),
            col: LinearConfig::new(3, 2).with_layout(LinearLayout::Col).init(&device),
            conv: Conv2dConfig::new([3, 4], [2, 2]).init(&device),
            up: ConvTranspose2dConfig::new([3, 4], [2, 2]).init(&device),
            table: EmbeddingConfig::new(5, 2).init(&device),
            many: vec![LinearConfig::new(2, 2).init(&device)],
        };
        let axes = UnitAxes::of(&layers);
        let of = |path: &str| axes.axis(path);
        assert_eq!([of("row.weight"), of("col.weight"), of("up.weight"), of("many.0.weight")], [1; 4], "{axes:?}");
        assert_eq!([of("conv.weight"), of("table.weight"), of("row.bias"), of("conv.bias")], [0; 4]);
        // The paths are those of the tree.
        let tree = Tree::from_module(&layers);
        assert!(axes.0.keys().all(|path| tree.position(path).is_some()), "{axes:?}");
        assert_eq!(axes.with("conv.weight", 1).axis("conv.weight"), 1);
    }

    #[test]
    fn a_unit_is_clipped_to_its_share_of_the_weights() {
        let device = Device::flex();
        let tree = |x: [[f32; 2]; 2]| Tree::empty().push("w", Tensor::<2>::from_data(x, &device)).unwrap();
        // Column 0 has a weight of 5 and a gradient of 50, column 1 no weight and a small gradient.
        let (w, g) = (tree([[3.0, 0.0], [4.0, 0.0]]), tree([[30.0, 1e-5], [40.0, 0.0]]));
        let clip = AdaptiveGradientClip::new(0.1, UnitAxes::default().with("w", 1)).unwrap();
        let out: Vec<f32> = clip.clip(g.clone(), &w).unwrap().get::<2>("w").unwrap().try_into_vec_as().unwrap();
        for (out, expected) in out.iter().zip([0.3, 1e-5, 0.4, 0.0]) {
            assert!((out - expected).abs() < 1e-6, "{out} {expected}");
        }
        let error = AdaptiveGradientClip::new(0.1, UnitAxes::default().with("w", 2)).unwrap().clip(g.clone(), &w);
        assert!(matches!(error, Err(Error::Parameter { parameter: "unit axis", .. })));
        assert!(AdaptiveGradientClip::new(f64::NAN, UnitAxes::default()).is_err());
        let mut transform = clip;
        let error = transform.apply(g, &Context::new(0)).unwrap_err().to_string();
        assert!(error.contains("parameters"), "{error}");
    }

    #[test]
    fn units_may_lie_anywhere_in_the_range() {
        let device = Device::flex();
        let clip = |w: Vec<f32>, g: Vec<f32>| -> Vec<f32> {
            // Rows of three.
            let tree = |x: Vec<f32>| {
                let data = burn::tensor::TensorData::new(x, [3]);
                Tree::empty().push("w", Tensor::<1>::from_data(data, &device).reshape([1, 3])).unwrap()
            };
            let clip = AdaptiveGradientClip::new(0.5, UnitAxes::default()).unwrap().with_epsilon(0.0).unwrap();
            clip.clip(tree(g), &tree(w)).unwrap().get::<2>("w").unwrap().try_into_vec_as().unwrap()
        };
        let close = |got: Vec<f32>, want: [f32; 3]| {
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() <= 2e-6 * b.abs()), "{got:?} {want:?}");
        };
        // A norm above the largest f32.
        close(clip(vec![3.0, 0.0, 4.0], vec![3e38, 0.0, -3e38]), [1.767_767, 0.0, -1.767_767]);
        close(clip(vec![3e37, 0.0, 4e37], vec![3e38, 0.0, 0.0]), [2.5e37, 0.0, 0.0]);
        // Small gradients of small weights: the norm counts as 10⁻⁶.
        close(clip(vec![1e-8, 0.0, 0.0], vec![3e-8, 0.0, 4e-8]), [1.5e-10, 0.0, 2e-10]);
        close(clip(vec![1.0, 0.0, 0.0], vec![1e-40, 0.0, 0.0]), [1e-40, 0.0, 0.0]);
        // Without weights nothing is left, and with ε = 0 and no gradient nothing becomes NaN.
        close(clip(vec![0.0; 3], vec![1.0, 2.0, 3.0]), [0.0; 3]);
        close(clip(vec![0.0; 3], vec![0.0; 3]), [0.0; 3]);
        // A NaN is not a norm above a limit, with or without an infinity beside it.
        let broken = clip(vec![1.0; 3], vec![f32::NAN, f32::INFINITY, 7.0]);
        assert!(broken[0].is_nan() && broken[1] == f32::INFINITY && broken[2] == 7.0, "{broken:?}");
        let infinite = clip(vec![1.0; 3], vec![1.0, f32::INFINITY, 7.0]);
        assert!(infinite[0] == 0.0 && infinite[1].is_nan() && infinite[2] == 0.0, "{infinite:?}");
        assert!(AdaptiveGradientClip::new(0.1, UnitAxes::default()).unwrap().with_epsilon(-1.0).is_err());
    }
}
