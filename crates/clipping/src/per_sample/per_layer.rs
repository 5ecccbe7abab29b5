//! A limit for each layer of a sample's gradient.

use std::fmt;

use burn::tensor::Tensor;
use core_tensor::{Error, LeafName, Result};

use super::{SampleClip, SampleNorms, shrink};
use crate::limit::limit;

/// Names the layer of a leaf.
type Layers = Box<dyn Fn(&LeafName) -> String + Send>;

/// `fᵢ = min(1, C_k/‖gᵢₖ‖)` for each layer `k`: per-layer clipping.
///
/// H. B. McMahan et al., "A general approach to adding differential privacy to iterative training procedures", 2018; the
/// limits have `‖(C_1, …, C_K)‖ = C`. A layer is what shares a path up to the last dot, weight and bias of one module, unless a
/// function says otherwise. Layers with small gradients keep more of them than under [`Flat`](super::Flat), large ones less.
///
/// ```
/// use clipping::per_sample::{PerLayer, SampleClip};
///
/// let rule = PerLayer::with_limits([("body", 3.0), ("head", 4.0)], |name| {
///     name.path.split('.').next().unwrap_or_default().to_string()
/// })?;
/// assert_eq!(rule.sensitivity(), 5.0);
/// # Ok::<(), core_tensor::Error>(())
/// ```
pub struct PerLayer {
    total: f64,
    /// By name; empty for equal shares.
    limits: Vec<(String, f64)>,
    layer: Layers,
}

impl PerLayer {
    /// Equal limits `C/√K` for the `K` layers of the model.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `max_norm` is negative or NaN.
    pub fn new(max_norm: f64) -> Result<Self> {
        let parent = |name: &LeafName| name.path.rsplit_once('.').map_or("", |(parent, _)| parent).to_string();
        Ok(Self { total: limit("max_norm", max_norm)?, limits: Vec::new(), layer: Box::new(parent) })
    }

    /// The limit of each layer, and which layer a leaf belongs to.
    ///
    /// # Errors
    /// [`Error::Parameter`] if a limit is negative or NaN.
    pub fn with_limits<N: Into<String>>(
        limits: impl IntoIterator<Item = (N, f64)>,
        layer: impl Fn(&LeafName) -> String + Send + 'static,
    ) -> Result<Self> {
        let checked = limits.into_iter().map(|(name, c)| Ok((name.into(), limit("limit", c)?)));
        let limits: Vec<(String, f64)> = checked.collect::<Result<_>>()?;
        let total = limits.iter().map(|(_, c)| c * c).sum::<f64>().sqrt();
        Ok(Self { total, limits, layer: Box::new(layer) })
    }

    fn limit(&self, layer: &str, layers: usize) -> Result<f64> {
        match self.limits.iter().find(|(name, _)| name == layer) {
            Some((_, limit)) => Ok(*limit),
            None if self.limits.is_empty() => Ok(self.total / (layers as f64).sqrt()),
            None => Err(Error::transform(self.name(), format!("there is no limit for the layer `{layer}`"))),
        }
    }
}

impl SampleClip for PerLayer {
    fn name(&self) -> &str {
        "per_layer"
    }

    fn factors(&self, norms: &SampleNorms<'_>) -> Result<Vec<Tensor<1>>> {
        let of: Vec<String> = norms.names.iter().map(&self.layer).collect();
        let mut layers: Vec<&String> = of.iter().collect();
        layers.sort_unstable();
        layers.dedup();
        let mut factors = Vec::with_capacity(layers.len());
        for layer in &layers {
            let mut members = of.iter().map(|other| &other == layer);
            let norm = norms.of(|_| members.next() == Some(true)).expect("a layer has a leaf");
            factors.push(shrink(norm, self.limit(layer, layers.len())?));
        }
        let position = |layer: &String| layers.binary_search(&layer).expect("all are listed");
        Ok(of.iter().map(|layer| factors[position(layer)].clone()).collect())
    }

    fn sensitivity(&self) -> f64 {
        self.total
    }
}

impl fmt::Debug for PerLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerLayer").field("total", &self.total).field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::per_sample::clip_sample_gradients;
    use burn::tensor::Device;
    use core_tensor::Tree;

    #[test]
    fn weight_and_bias_share_a_limit_and_every_layer_needs_one() {
        let device = Device::flex();
        let leaf = |x: f32| Tensor::<2>::from_data([[x]], &device);
        let grads = Tree::empty()
            .push("body.weight", leaf(3.0))
            .and_then(|tree| tree.push("body.bias", leaf(4.0)))
            .and_then(|tree| tree.push("head.weight", leaf(0.1)))
            .unwrap();
        let rule = PerLayer::new(2f64.sqrt()).unwrap();
        let sum = clip_sample_gradients(&grads, &rule).unwrap().sum;
        let values: Vec<f32> = sum.flatten().unwrap().try_into_vec_as().unwrap();
        for (got, want) in values.iter().zip([0.6, 0.8, 0.1]) {
            assert!((got - want).abs() < 1e-6, "{values:?}");
        }
        let first = |name: &LeafName| name.path.split('.').next().unwrap_or_default().to_string();
        let rule = PerLayer::with_limits([("body", 1.0)], first).unwrap();
        let error = clip_sample_gradients(&grads, &rule).unwrap_err().to_string();
        assert!(error.contains("`head`"), "{error}");
        assert!(PerLayer::with_limits([("body", f64::NAN)], first).is_err());
    }
}
