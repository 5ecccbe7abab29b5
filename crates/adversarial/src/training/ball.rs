//! The allowed inputs round a batch, and the steps of an ascent in them.

use burn::tensor::{DType, Tensor, TensorData};
use core_tensor::host::{self, Slice, SliceMut};
use core_tensor::{Random, Tree};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::threat::{Norm, Threat};

/// Elements of one task.
const CHUNK: usize = 1 << 13;

/// Share of the elements that one step in the `L1` ball moves (Tramèr and Boneh 2019, SLIDE, have the same).
const SPARSE: f64 = 0.01;

/// Ball and box round `origin`, one example a row.
///
/// For `Linf` the ends of every element's interval are computed once, rounded toward the origin, so that a step is one pass of
/// addition and clamp and yet inside exactly. Other norms go through [`Threat::project`].
pub(crate) struct Ball<const D: usize> {
    threat: Threat,
    origin: Tensor<D>,
    ends: Option<[Tensor<D>; 2]>,
}

impl<const D: usize> Ball<D> {
    /// Checks that `origin` is in the box.
    pub fn new(threat: Threat, origin: Tensor<D>, what: &'static str) -> Result<Self> {
        let norm = threat.norm();
        if norm == Norm::L0 {
            return Err(Error::UnsupportedNorm { what, norm });
        }
        let fused = host::read(&origin.clone().into_dispatch(), |x| match x {
            Slice::F32(x) => {
                let width = origin.dims()[1..].iter().product();
                let checked = inside(&threat, x, width);
                checked.map(|()| Some((norm == Norm::Linf).then(|| ends(&threat, x))))
            }
            _ => Ok(None),
        });
        let ends = match fused.transpose()?.flatten() {
            Some(ends) => ends.map(|ends| {
                ends.map(|x| Tensor::from_data(TensorData::new(x, origin.dims()), (&origin.device(), DType::F32)))
            }),
            // The projection checks the box.
            None => {
                let end = |sign: f64| threat.project(&origin, origin.full_like(sign * f64::INFINITY));
                let ends = [end(-1.0)?, end(1.0)?];
                (norm == Norm::Linf).then_some(ends)
            }
        };
        Ok(Self { threat, origin, ends })
    }

    /// The unperturbed inputs.
    #[cfg(test)]
    pub fn origin(&self) -> &Tensor<D> {
        &self.origin
    }

    /// The allowed input nearest to `x`.
    pub fn project(&self, x: Tensor<D>) -> Result<Tensor<D>> {
        match &self.ends {
            Some([low, high]) => Ok(x.max_pair(low.clone()).min_pair(high.clone())),
            None => self.threat.project(&self.origin, x),
        }
    }

    /// One step of steepest ascent of length `size`, projected. Elements whose gradient is not a number stay.
    pub fn ascend(&self, x: Tensor<D>, gradient: Tensor<D>, size: f64) -> Result<Tensor<D>> {
        let Some([low, high]) = &self.ends else {
            let (device, dtype, shape) = (x.device(), x.dtype(), x.dims());
            let [mut values, gradient] = [x, gradient].map(|x| x.into_data().iter::<f64>().collect::<Vec<_>>());
            let width = shape[1..].iter().product::<usize>().max(1);
            let rows = values.par_chunks_mut(width).zip(gradient.par_chunks(width));
            rows.for_each(|(x, gradient)| self.ascend_row(x, gradient, size));
            let moved = TensorData::new(values, shape).convert_dtype(dtype);
            return self.threat.project(&self.origin, Tensor::from_data(moved, (&device, dtype)));
        };
        let [g, low_end, high_end] = [&gradient, low, high].map(|x| x.clone().into_dispatch());
        let moved = host::update(x.into_dispatch(), |x| {
            let SliceMut::F32(x) = x else { return None };
            let mut step = |g: &[f32], low: &[f32], high: &[f32]| {
                let parts = x.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK));
                let parts = parts.zip(low.par_chunks(CHUNK).zip(high.par_chunks(CHUNK)));
                parts.for_each(|((x, g), (low, high))| signed_step(x, g, low, high, size as f32));
            };
            host::read(&g, |g| {
                host::read(&low_end, |low| {
                    host::read(&high_end, |high| match (g, low, high) {
                        (Slice::F32(g), Slice::F32(low), Slice::F32(high)) => {
                            step(g, low, high);
                            Some(())
                        }
                        _ => None,
                    })
                })
            })
            .flatten()
            .flatten()
            .flatten()
        });
        let x = match moved {
            Ok((x, Some(()))) => return Ok(Tensor::from_dispatch(x)),
            Ok((x, None)) | Err(x) => Tensor::<D>::from_dispatch(x),
        };
        let sign = gradient.clone().mask_fill(gradient.is_nan(), 0.0).sign();
        self.project(x + sign * size)
    }

    /// The step of steepest ascent for one example, not projected.
    fn ascend_row(&self, x: &mut [f64], gradient: &[f64], size: f64) {
        let (low, high) = (self.threat.low(), self.threat.high());
        let gradient: Vec<f64> = gradient.iter().map(|g| if g.is_nan() { 0.0 } else { *g }).collect();
        match self.threat.norm() {
            Norm::L2 => {
                let norm = Norm::L2.of(gradient.iter().copied());
                if norm > 0.0 && norm.is_finite() {
                    x.iter_mut().zip(&gradient).for_each(|(x, g)| *x += size * (g / norm));
                }
            }
            Norm::L1 => {
                // Only where the box leaves room.
                let free = |i: &usize| (gradient[*i] > 0.0 && x[*i] < high) || (gradient[*i] < 0.0 && x[*i] > low);
                let mut order: Vec<usize> = (0..x.len()).filter(free).collect();
                let count = ((x.len() as f64 * SPARSE).ceil() as usize).min(order.len());
                order.sort_by(|i, j| gradient[*j].abs().total_cmp(&gradient[*i].abs()).then(i.cmp(j)));
                for i in order.into_iter().take(count) {
                    x[i] += gradient[i].signum() * size / count as f64;
                }
            }
            Norm::Linf | Norm::L0 => unreachable!("has its own step, or is refused"),
        }
    }

    /// A point uniform in the ball, projected on the box.
    pub fn uniform(&self, random: &mut Random) -> Result<Tensor<D>> {
        let (shape, epsilon) = (self.origin.dims(), self.threat.epsilon());
        let like = Tree::empty().push("x", self.origin.clone())?;
        let noise = match self.threat.norm() {
            Norm::Linf => {
                random.uniform::<D>(shape, -epsilon, epsilon, &self.origin.device()).cast(self.origin.dtype())
            }
            norm => {
                let width = shape[1..].iter().product::<usize>().max(1);
                let normal = random.normal_like(&like, 1.0).get::<D>("x")?.into_data();
                let mut values: Vec<f64> = normal.iter::<f64>().collect();
                for row in values.chunks_mut(width) {
                    if norm == Norm::L1 {
                        // Laplace: the direction of a uniform point of this ball.
                        row.iter_mut().for_each(|x| *x = -(1.0 - random.next_f64()).ln() * x.signum());
                    }
                    let size = norm.of(row.iter().copied());
                    let radius = epsilon * random.next_f64().powf(1.0 / width as f64);
                    row.iter_mut().for_each(|x| *x *= radius / size.max(f64::MIN_POSITIVE));
                }
                let data = TensorData::new(values, shape).convert_dtype(self.origin.dtype());
                Tensor::from_data(data, (&self.origin.device(), self.origin.dtype()))
            }
        };
        self.project(self.origin.clone() + noise)
    }

    /// The origin with normal noise, projected.
    pub fn normal(&self, random: &mut Random, deviation: f64) -> Result<Tensor<D>> {
        let like = Tree::empty().push("x", self.origin.clone())?;
        let noise = random.normal_like(&like, deviation).get::<D>("x")?;
        self.project(self.origin.clone() + noise)
    }
}

/// `x ← clamp(x + size·sign g)`
#[inline]
fn signed_step(x: &mut [f32], g: &[f32], low: &[f32], high: &[f32], size: f32) {
    host::vectorised(
        #[inline(always)]
        || {
            for (((x, g), low), high) in x.iter_mut().zip(g).zip(low).zip(high) {
                let step = if *g > 0.0 { size } else { 0.0 } - if *g < 0.0 { size } else { 0.0 };
                *x = (*x + step).max(*low).min(*high);
            }
        },
    );
}

/// Refuses inputs outside of the box.
fn inside(threat: &Threat, x: &[f32], width: usize) -> Result<()> {
    let (low, high) = (threat.low(), threat.high());
    let outside = |x: &f32| !(f64::from(*x) >= low && f64::from(*x) <= high);
    match x.par_iter().position_first(outside) {
        None => Ok(()),
        Some(i) => {
            let value = f64::from(x[i]);
            Err(Error::OutOfBounds { example: i / width, element: i % width, value, low, high })
        }
    }
}

/// The least and the largest allowed value of each element.
fn ends(threat: &Threat, x: &[f32]) -> [Vec<f32>; 2] {
    let epsilon = threat.epsilon();
    let (low, high) = (least(threat.low(), |v| f64::from(v) >= threat.low()), threat.high());
    let high = -least(-high, |v| f64::from(-v) <= high);
    let below = |x: f32| least(f64::from(x) - epsilon, |v| f64::from(x) - f64::from(v) <= epsilon).max(low);
    let above = |x: f32| (-least(-f64::from(x) - epsilon, |v| f64::from(-v) - f64::from(x) <= epsilon)).min(high);
    [x.par_iter().map(|x| below(*x)).collect(), x.par_iter().map(|x| above(*x)).collect()]
}

/// The least `f32` from about `v` upward that is allowed.
#[inline]
fn least(v: f64, allowed: impl Fn(f32) -> bool) -> f32 {
    let mut value = v as f32;
    while !allowed(value) {
        value = value.next_up();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use core_tensor::testing::{host_devices, property};
    use proptest::prelude::*;

    fn ball(threat: Threat, x0: &[f32], dtype: DType, device: &Device) -> Ball<2> {
        let data = TensorData::new(x0.to_vec(), [1, x0.len()]).convert_dtype(dtype);
        Ball::new(threat, Tensor::from_data(data, (device, dtype)), "a test").unwrap()
    }

    fn numbers(x: &Tensor<2>) -> Vec<f64> {
        x.to_data().iter::<f64>().collect()
    }

    /// Inputs in `[0, 1]` and gradients, NaN among them.
    fn cases() -> impl Strategy<Value = (Vec<f32>, Vec<f32>, f64, f64, u64)> {
        let slope = prop_oneof![5 => -2f32..2.0, 1 => Just(0.0), 1 => Just(f32::NAN), 1 => Just(f32::INFINITY)];
        let epsilon = prop_oneof![0.0..1.5, Just(0.0), Just(0.1), Just(8.0 / 255.0)];
        let x0 = prop_oneof![0f32..=1.0, Just(0.0), Just(1.0)];
        (1usize..9).prop_flat_map(move |n| {
            let x0 = proptest::collection::vec(x0.clone(), n);
            (x0, proptest::collection::vec(slope.clone(), n), epsilon.clone(), 0.0..1.0, any::<u64>())
        })
    }

    #[test]
    fn every_point_is_inside_ball_and_box_exactly() {
        property(200, cases(), |(x0, slope, epsilon, size, seed)| {
            for device in host_devices() {
                for norm in [Norm::Linf, Norm::L2, Norm::L1] {
                    let threat = Threat::new(norm, epsilon).unwrap();
                    let ball = ball(threat, &x0, DType::F32, &device);
                    let gradient = Tensor::from_data(TensorData::new(slope.clone(), [1, x0.len()]), &device);
                    let mut random = Random::new(seed);
                    let starts = [
                        ball.origin().clone(),
                        ball.uniform(&mut random).unwrap(),
                        ball.normal(&mut random, 0.3).unwrap(),
                    ];
                    for start in starts {
                        let moved = ball.ascend(start.clone(), gradient.clone(), size).unwrap();
                        for x in [numbers(&start), numbers(&moved)] {
                            assert!(x.iter().all(|x| (0.0..=1.0).contains(x)), "{norm:?} {x:?}");
                            let size = norm.of(x.iter().zip(&x0).map(|(x, x0)| x - f64::from(*x0)));
                            assert!(size <= epsilon, "{norm:?}: {size:e} of {epsilon:e}");
                        }
                    }
                }
            }
        });
    }

    /// The fused pass and the tensor operations agree, and the ends are those of the exact projection.
    #[test]
    fn the_fused_pass_is_the_exact_projection() {
        property(100, cases(), |(x0, slope, epsilon, size, _)| {
            let device = Device::flex();
            let threat = Threat::new(Norm::Linf, epsilon).unwrap();
            let ball = ball(threat, &x0, DType::F32, &device);
            for (sign, end) in [-1.0, 1.0].into_iter().zip(ball.ends.as_ref().unwrap()) {
                let exact = threat.project(ball.origin(), ball.origin().full_like(sign * f64::INFINITY)).unwrap();
                assert_eq!(numbers(end), numbers(&exact));
            }
            let moved = ball.ascend(
                ball.origin().clone(),
                Tensor::from_data(TensorData::new(slope.clone(), [1, x0.len()]), &device),
                size,
            );
            let step: Vec<f32> = slope.iter().map(|g| if g.is_nan() || *g == 0.0 { 0.0 } else { g.signum() }).collect();
            let step = Tensor::<2>::from_data(TensorData::new(step, [1, x0.len()]), &device);
            let plain = ball.project(ball.origin().clone() + step * size).unwrap();
            assert_eq!(numbers(&moved.unwrap()), numbers(&plain));
        });
    }

    #[test]
    fn steps_by_hand() {
        let device = Device::flex();
        let x0 = vec![0.5f32; 4];
        let slope = Tensor::<2>::from_data([[3.0, -4.0, 0.0, 0.0]], &device);
        let step = |norm| {
            let ball = ball(Threat::new(norm, 1.0).unwrap(), &x0, DType::F64, &device);
            let moved = ball.ascend(ball.origin().clone(), slope.clone().cast(DType::F64), 0.25).unwrap();
            numbers(&moved).iter().map(|x| x - 0.5).collect::<Vec<f64>>()
        };
        assert_eq!(step(Norm::Linf), [0.25, -0.25, 0.0, 0.0]);
        assert_eq!(step(Norm::L2), [0.15, -0.2, 0.0, 0.0].map(|d| d + 0.5 - 0.5));
        assert_eq!(step(Norm::L1), [0.0, -0.25, 0.0, 0.0]);
    }

    #[test]
    fn what_has_no_rule_or_is_outside_is_an_error() {
        let device = Device::flex();
        let x = Tensor::<2>::from_data([[0.0, 0.5], [0.5, 1.5]], &device);
        let sparse = Threat::new(Norm::L0, 1.0).unwrap();
        let error = Ball::new(sparse, x.clone(), "PGD training").err().unwrap();
        assert_eq!(error.to_string(), "PGD training is not defined for L0");
        for norm in [Norm::Linf, Norm::L2] {
            for dtype in [DType::F32, DType::F64] {
                let error = Ball::new(Threat::new(norm, 0.1).unwrap(), x.clone().cast(dtype), "").err().unwrap();
                assert_eq!(error.to_string(), "element 1 of example 1 is 1.5, outside of [0, 1]");
            }
        }
    }
}
