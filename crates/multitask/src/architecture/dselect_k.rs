//! DSelect-k: a gate that learns, by gradients alone, to use at most `k` experts.

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};
use core_tensor::Random;

use super::at_least_one;
use super::gate::Gate;
use crate::model::{ModelError, Result};

/// `k` single-expert selectors, mixed.
///
/// $$q(α, z) = \sum_{i=1}^k \mathrm{softmax}(α)_i\, r(z^{(i)}), \qquad r(z)_e = \prod_b S(z_b)^{e_b} (1 - S(z_b))^{1 - e_b}$$
///
/// `e_b` is bit `b` of the expert's number, `S` the smooth step of width `γ`: a cubic between `−γ/2` and `γ/2`, exactly 0 below and exactly
/// 1 above, with a continuous derivative. Once all `z` have left that interval each selector is on one expert and the gate
/// has at most `k` entries that are not zero (`gates_are_sparse_once_codes_are_decided`). [`entropy`](Self::entropy), added to the loss
/// with a small factor, drives them there.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | `k` | | 1 to experts | most experts an example uses |
/// | `gamma` | 1 | > 0 | width of the step: larger decides later |
/// | per example | no | | codes depend on the input (`W_z x`, `W_α x`) instead of being the same for all examples |
///
/// H. Hazimeh et al., "DSelect-k: Differentiable Selection in the Mixture of Experts with Applications to Multi-Task Learning",
/// NeurIPS 2021, arXiv:2106.03760, equations 4 to 8. Deviation: where the number of experts is no power of 2 the paper penalises codes that
/// name none; here they name the experts again from the first, so that weights always sum to one.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use multitask::architecture::{DSelectK, Gate};
///
/// let device = Device::default();
/// let gate = DSelectK::new(8, 2, 7, &device)?;
/// let weights = gate.weights(Tensor::<2>::ones([3, 5], &device));
/// assert_eq!(weights.dims(), [3, 8]);
/// # Ok::<(), multitask::ModelError>(())
/// ```
#[derive(Module, Debug)]
pub struct DSelectK {
    codes: Codes,
    experts: usize,
    k: usize,
    bits: usize,
    gamma: f64,
}

/// Where `z` and `α` come from.
#[derive(Module, Debug)]
enum Codes {
    Fixed(FixedCodes),
    OfExample(CodesOfExample),
}

#[derive(Module, Debug)]
struct FixedCodes {
    /// `[1, k·bits]`
    z: Param<Tensor<2>>,
    /// `[1, k]`
    alpha: Param<Tensor<2>>,
}

#[derive(Module, Debug)]
struct CodesOfExample {
    z: Linear,
    alpha: Linear,
}

impl DSelectK {
    /// At most `k` of `experts`, the same for all examples. Codes start near the middle of the step, drawn from `seed`.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] unless `1 <= k <= experts`.
    pub fn new(experts: usize, k: usize, seed: u64, device: &Device) -> Result<Self> {
        let bits = Self::check(experts, k)?;
        let mut random = Random::new(seed).fork("dselect-k");
        let z = random.uniform([1, k * bits], -0.01, 0.01, device);
        let alpha = random.uniform([1, k], -0.01, 0.01, device);
        let codes = Codes::Fixed(FixedCodes { z: Param::from_tensor(z), alpha: Param::from_tensor(alpha) });
        Ok(Self { codes, experts, k, bits, gamma: 1.0 })
    }

    /// At most `k` of `experts` for each example, by its `features`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn per_example(features: usize, experts: usize, k: usize, device: &Device) -> Result<Self> {
        at_least_one("features", features)?;
        let bits = Self::check(experts, k)?;
        let codes = Codes::OfExample(CodesOfExample {
            z: LinearConfig::new(features, k * bits).init(device),
            alpha: LinearConfig::new(features, k).init(device),
        });
        Ok(Self { codes, experts, k, bits, gamma: 1.0 })
    }

    /// Another width of the step.
    ///
    /// # Errors
    /// [`ModelError::Parameter`] unless `gamma` is positive and finite.
    pub fn with_gamma(self, gamma: f64) -> Result<Self> {
        match gamma > 0.0 && gamma.is_finite() {
            true => Ok(Self { gamma, ..self }),
            false => Err(ModelError::parameter("gamma", gamma, "> 0 and finite")),
        }
    }

    /// `Σᵢ H(r(z⁽ⁱ⁾))`, the entropies of the selectors, averaged over the examples; shape `[1]`. 0 once all codes are decided.
    pub fn entropy(&self, input: Tensor<2>) -> Tensor<1> {
        let (z, _) = self.codes(input);
        let examples = z.dims()[0];
        let r = self.selectors(z);
        // At 0 the entropy is 0 and its derivative is cut off at a finite slope.
        let log = r.clone().clamp_min(1e-12).log();
        (r * log).sum().neg() / examples as f64
    }

    fn check(experts: usize, k: usize) -> Result<usize> {
        at_least_one("experts", experts)?;
        if k == 0 || k > experts {
            return Err(ModelError::parameter("k", k as f64, "1 <= k <= experts"));
        }
        Ok((experts.next_power_of_two().trailing_zeros() as usize).max(1))
    }

    /// `z` of shape `[examples, k·bits]` and `α` of `[examples, k]`.
    fn codes(&self, input: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        match &self.codes {
            Codes::Fixed(codes) => {
                let examples = input.dims()[0] as i64;
                (codes.z.val().expand([examples, -1]), codes.alpha.val().expand([examples, -1]))
            }
            Codes::OfExample(codes) => (codes.z.forward(input.clone()), codes.alpha.forward(input)),
        }
    }

    /// `[examples, k, experts]`
    fn selectors(&self, z: Tensor<2>) -> Tensor<3> {
        let examples = z.dims()[0];
        let s: Tensor<3> = self.smooth_step(z).reshape([examples, self.k, self.bits]);
        let codes = (0..1usize << self.bits).map(|code| {
            let mut factors = (0..self.bits).map(|bit| {
                let s = s.clone().slice_dim(2, bit);
                if code >> bit & 1 == 1 { s } else { s.neg() + 1.0 }
            });
            let first = factors.next().expect("a code has a bit");
            factors.fold(first, |product, factor| product * factor)
        });
        let mut of_expert: Vec<Option<Tensor<3>>> = vec![None; self.experts];
        for (code, r) in codes.enumerate() {
            let slot = &mut of_expert[code % self.experts];
            *slot = Some(match slot.take() {
                Some(sum) => sum + r,
                None => r,
            });
        }
        Tensor::cat(of_expert.into_iter().flatten().collect(), 2)
    }

    /// `−2t³/γ³ + 3t/2γ + 1/2` between `−γ/2` and `γ/2`, as `u²(3 − 2u)` of `u = t/γ + 1/2`, which is exactly 0 and 1 at the ends.
    fn smooth_step(&self, t: Tensor<2>) -> Tensor<2> {
        let u = (t / self.gamma + 0.5).clamp(0.0, 1.0);
        u.clone() * u.clone() * (u * -2.0 + 3.0)
    }
}

impl Gate for DSelectK {
    fn weights(&self, input: Tensor<2>) -> Tensor<2> {
        let (z, alpha) = self.codes(input);
        let examples = z.dims()[0];
        let mix = softmax(alpha, 1).reshape([examples, 1, self.k]);
        mix.matmul(self.selectors(z)).reshape([examples, self.experts])
    }
}

#[cfg(test)]
mod tests {
    use super::super::gate::tests::is_a_gate;
    use super::super::tests::{random, values};
    use super::*;
    use core_tensor::testing::property;

    #[test]
    fn gates_sum_to_one_for_any_number_of_experts() {
        property(24, (1..10usize, 1..10usize, 0..9u64), |(experts, k, seed)| {
            let device = Device::flex();
            let k = k.min(experts);
            is_a_gate(&DSelectK::new(experts, k, seed, &device).unwrap(), 3, experts, &device);
            is_a_gate(&DSelectK::per_example(3, experts, k, &device).unwrap(), 3, experts, &device);
        });
    }

    #[test]
    fn gates_are_sparse_once_codes_are_decided() {
        property(24, (2..12usize, 1..4usize, 0..99u64), |(experts, k, seed)| {
            let device = Device::flex();
            let k = k.min(experts);
            let mut gate = DSelectK::new(experts, k, seed, &device).unwrap().with_gamma(0.7).unwrap();
            let signs = Random::new(seed).bernoulli([1, k * gate.bits], 0.5, &device) * 2.0 - 1.0;
            if let Codes::Fixed(codes) = &mut gate.codes {
                codes.z = Param::from_tensor(signs * 0.36);
            }
            let x = random([2, 3], &device);
            let weights = values(gate.weights(x.clone()));
            for row in weights.chunks(experts) {
                let used = row.iter().filter(|w| **w != 0.0).count();
                assert!((1..=k).contains(&used), "{used} of {k}: {row:?}");
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-6);
            }
            assert_eq!(values(gate.entropy(x)), [0.0]);
        });
    }

    #[test]
    fn bits_name_the_experts() {
        let device = Device::flex();
        let mut gate = DSelectK::new(4, 1, 0, &device).unwrap();
        for expert in 0..4usize {
            let z: Vec<f64> = (0..2).map(|bit| if expert >> bit & 1 == 1 { 9.0 } else { -9.0 }).collect();
            gate.codes = Codes::Fixed(FixedCodes {
                z: Param::from_tensor(Tensor::from_data([[z[0], z[1]]], &device)),
                alpha: Param::from_tensor(Tensor::zeros([1, 1], &device)),
            });
            let mut one = [0.0; 4];
            one[expert] = 1.0;
            assert_eq!(values(gate.weights(Tensor::zeros([1, 1], &device))), one);
        }
        // In the middle all are alike, with the entropy of a fair choice.
        gate.codes = Codes::Fixed(FixedCodes {
            z: Param::from_tensor(Tensor::zeros([1, 2], &device)),
            alpha: Param::from_tensor(Tensor::zeros([1, 1], &device)),
        });
        assert_eq!(values(gate.weights(Tensor::zeros([1, 1], &device))), [0.25; 4]);
        assert!((values(gate.entropy(Tensor::zeros([1, 1], &device)))[0] - 4f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn the_step_is_smooth_and_bad_settings_are_refused() {
        let device = Device::flex();
        let gate = DSelectK::new(2, 1, 0, &device).unwrap();
        let t = Tensor::<2>::from_data([[-0.6, -0.5, -0.25, 0.0, 0.25, 0.5, 9.0]], &device);
        assert_eq!(values(gate.smooth_step(t)), [0.0, 0.0, 0.15625, 0.5, 0.84375, 1.0, 1.0]);
        for (experts, k) in [(0, 1), (3, 0), (3, 4)] {
            assert!(DSelectK::new(experts, k, 0, &device).is_err());
        }
        assert!(DSelectK::new(3, 1, 0, &device).unwrap().with_gamma(0.0).is_err());
    }
}
