//! Each tensor clipped relative to its own history.

use std::collections::BTreeMap;

use core_tensor::transform::{Context, GradientTransform, State, Update};
use core_tensor::{Error, Result, Scalar, Tree};

use crate::limit::{decay, limit, positive, read};
use crate::tensor_norm::scale_longer;

/// Clips each tensor's norm to `λ_rel` times the moving average of its clipped norms.
///
/// For tensor `i`, `h_i = min(λ_rel·γ_i/‖g_i‖, 1)·g_i` and `γ_i ← β·γ_i + (1 − β)·‖h_i‖`. In the first steps, the warm-up,
/// the whole gradient is clipped to the norm `λ_abs` and `γ_i` is the smallest norm so far. G. Wang et al., "AdaGC: improving
/// training stability for large language model pretraining", 2025, algorithm 1; `λ_rel = 1.05`, `λ_abs = 1`, `β = 0.98`,
/// warm-up 100.
///
/// A tensor whose norm is not finite passes and leaves its average alone. Cost as
/// [`ClipByTensorNorm`](crate::ClipByTensorNorm), one host synchronisation a step on a GPU.
#[derive(Clone, Debug)]
pub struct AdaGc {
    relative: f64,
    absolute: f64,
    beta: f64,
    warmup: u64,
    steps: u64,
    /// `γ` by path.
    averages: BTreeMap<String, f64>,
}

impl Default for AdaGc {
    /// The paper's constants.
    fn default() -> Self {
        Self { relative: 1.05, absolute: 1.0, beta: 0.98, warmup: 100, steps: 0, averages: BTreeMap::new() }
    }
}

impl AdaGc {
    /// Relative limit `λ_rel`, absolute limit `λ_abs` and length of the warm-up, decay `β`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `relative > 0` is finite, `absolute >= 0`, `0 <= beta < 1`.
    pub fn new(relative: f64, absolute: f64, beta: f64, warmup: u64) -> Result<Self> {
        let (relative, absolute) = (positive("relative", relative)?, limit("absolute", absolute)?);
        Ok(Self { relative, absolute, beta: decay("beta", beta)?, warmup, ..Self::default() })
    }
}

impl GradientTransform for AdaGc {
    fn name(&self) -> &str {
        "adagc"
    }

    fn apply(&mut self, grads: Tree, _context: &Context<'_>) -> Result<Update> {
        let norms = read(&grads.leaf_norms());
        let warm = self.steps < self.warmup;
        let global = match warm {
            // Of the finite part, so that one bad tensor does not decide over the others.
            true => {
                let finite: Vec<Scalar> = norms.iter().filter(|n| n.is_finite()).map(|n| Scalar::from(*n)).collect();
                let total = crate::combine_norms(&finite, 2.0)?.value();
                if total > self.absolute { self.absolute / total } else { 1.0 }
            }
            false => 1.0,
        };
        let mut factors = Vec::with_capacity(norms.len());
        for (name, norm) in grads.names().iter().zip(norms) {
            if !norm.is_finite() {
                factors.push(Scalar::from(1.0));
                continue;
            }
            let average = self.averages.get(&name.path).copied();
            let (factor, next) = match average {
                Some(average) if !warm => {
                    let bound = self.relative * average;
                    let factor = if norm > bound { bound / norm } else { 1.0 };
                    (factor, self.beta * average + (1.0 - self.beta) * factor * norm)
                }
                // A tensor first seen after the warm-up starts from what it is.
                average => (global, average.map_or(global * norm, |average| average.min(global * norm))),
            };
            factors.push(Scalar::from(factor));
            self.averages.insert(name.path.clone(), next);
        }
        self.steps += 1;
        Ok(Update::Apply(scale_longer(grads, &factors)?))
    }

    fn state(&self) -> State {
        let averages = self.averages.iter().fold(State::new(), |state, (path, average)| state.with(path, *average));
        State::new().with("steps", self.steps).with_nested("averages", averages)
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let steps: u64 = state.take("steps")?;
        let mut nested = state.take_nested("averages");
        state.finish()?;
        let paths: Vec<String> = nested.iter().map(|(path, _)| path.to_string()).collect();
        let averages: Result<BTreeMap<String, f64>, Error> =
            paths.into_iter().map(|path| nested.take(&path).map(|average| (path, average))).collect();
        (self.averages, self.steps) = (averages?, steps);
        Ok(())
    }
}

#[cfg(test)]
mod conformance {
    use super::*;
    core_tensor::transform_conformance!(adagc, || AdaGc::new(1.05, 1.0, 0.9, 2).unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    #[test]
    fn a_spike_in_one_tensor_leaves_the_other_alone() {
        let device = Device::flex();
        let tree = |a: f32, b: f32| {
            let leaf = |x: f32| Tensor::<1>::from_data([x], &device);
            Tree::empty().push("a", leaf(a)).and_then(|tree| tree.push("b", leaf(b))).unwrap()
        };
        let mut clip = AdaGc::new(1.05, 1.0, 0.98, 2).unwrap();
        let mut step = |a: f32, b: f32| match clip.apply(tree(a, b), &Context::new(0)) {
            Ok(Update::Apply(out)) => out.flatten().unwrap().try_into_vec_as::<f32>().unwrap(),
            _ => panic!("applied"),
        };
        // Warm-up: the whole gradient has norm 1.
        assert_eq!(step(3.0, 4.0), [0.6, 0.8]);
        assert_eq!(step(0.3, 0.4), [0.3, 0.4]);
        // Averages are the smallest so far, .3 and .4.
        let out = step(300.0, 0.4);
        assert!((out[0] - 0.315).abs() < 1e-6 && out[1] == 0.4, "{out:?}");
        let out = step(f32::NAN, 0.4);
        assert!(out[0].is_nan() && out[1] == 0.4);
        // .98·.3 + .02·.315, not touched by the NaN.
        let bound = 1.05 * (0.98 * 0.3 + 0.02 * 0.315);
        assert!((step(1.0, 0.4)[0] - bound as f32).abs() < 1e-6);
    }
}
