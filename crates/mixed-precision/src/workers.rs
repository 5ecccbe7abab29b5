//! The mean of what several workers send.

use core_tensor::Tree;
use core_tensor::transform::{Context, GradientTransform, State, Update};

use crate::error::{Error, Result, within};

/// A transform of its own for each of `n` workers, and the mean of what comes out: `g = (1/n)·Σ Tᵢ(gᵢ)`.
///
/// A worker's transform is whatever a chain holds: [`Compress`](crate::Compress), [`ErrorFeedback`](crate::ErrorFeedback) with a residual each,
/// [`Ef21`](crate::Ef21). Give each worker another seed, so that their noise averages out.
///
/// If one skips, all do, and every state is as it was before the step. State: that of every worker under its number. Cost: the transforms, one after another, and
/// a pass for each worker.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::{Context, Tree, Update};
/// use mixed_precision::{ErrorFeedback, Keep, TopK, Workers};
///
/// let top = TopK::new(Keep::Count(1))?;
/// let mut workers = Workers::new(2, |_| ErrorFeedback::new(top))?;
/// let gradient = |x: [f32; 2]| Tree::empty().push("x", Tensor::<1>::from_data(x, &Device::flex()));
/// let mean = workers.mean(vec![gradient([4.0, 1.0])?, gradient([0.0, -2.0])?], &Context::new(0))?;
/// assert!(matches!(mean, Update::Apply(tree) if tree.sum().value() == 1.0));
/// # Ok::<(), mixed_precision::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Workers<T> {
    transforms: Vec<T>,
}

impl<T: GradientTransform> Workers<T> {
    /// `n` workers, each with the transform made for its number.
    ///
    /// # Errors
    /// [`Error::Parameter`] for none.
    pub fn new(n: usize, make: impl FnMut(usize) -> T) -> Result<Self> {
        let n = within("workers", n, 1..=usize::MAX, "1 <= workers")?;
        Ok(Self { transforms: (0..n).map(make).collect() })
    }

    /// The mean of the transformed gradients, one of each worker in order.
    ///
    /// # Errors
    /// [`core_tensor::Error::Length`] unless there is one gradient a worker; those of the transforms, and of gradients that differ in structure. Every
    /// state is then as it was.
    pub fn mean(&mut self, grads: Vec<Tree>, context: &Context<'_>) -> Result<Update> {
        let count = self.transforms.len();
        if grads.len() != count {
            let error = core_tensor::Error::Length { what: "gradients", expected: count, actual: grads.len() };
            return Err(Error::Core(error));
        }
        let before: Vec<State> = self.transforms.iter().map(|t| t.state()).collect();
        let result = self.sum(grads, context);
        if !matches!(result, Ok(Update::Apply(_))) {
            for (transform, state) in self.transforms.iter_mut().zip(before) {
                transform.load_state(state)?;
            }
        }
        match result? {
            Update::Apply(sum) => Ok(Update::Apply(sum.scale(1.0 / count as f64))),
            skip => Ok(skip),
        }
    }

    fn sum(&mut self, grads: Vec<Tree>, context: &Context<'_>) -> Result<Update> {
        let mut sum: Option<Tree> = None;
        for (transform, grads) in self.transforms.iter_mut().zip(grads) {
            let sent = match transform.apply(grads, context)? {
                Update::Apply(sent) => sent,
                skip => return Ok(skip),
            };
            sum = Some(match sum {
                None => sent,
                Some(sum) => sum.add(&sent)?,
            });
        }
        Ok(Update::Apply(sum.unwrap_or_default()))
    }

    /// The state of every worker.
    pub fn state(&self) -> State {
        let states = self.transforms.iter().enumerate();
        states.fold(State::new(), |state, (i, t)| state.with_nested(&i.to_string(), t.state()))
    }

    /// Goes on from a state of as many workers.
    ///
    /// # Errors
    /// [`core_tensor::Error::State`] for another state; all are then as they were.
    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        let states: Vec<State> = (0..self.transforms.len()).map(|i| state.take_nested(&i.to_string())).collect();
        state.finish()?;
        let before: Vec<State> = self.transforms.iter().map(|t| t.state()).collect();
        for (i, state) in states.into_iter().enumerate() {
            if let Err(error) = self.transforms[i].load_state(state) {
                for (transform, state) in self.transforms.iter_mut().zip(before) {
                    transform.load_state(state)?;
                }
                return Err(error.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compress, Ef21, ErrorFeedback, Keep, Qsgd, TopK};
    use burn::tensor::{DType, Device, Tensor, TensorData};

    const A: [[f64; 3]; 3] = [[-3.0, 2.0, 2.0], [2.0, -3.0, 2.0], [2.0, 2.0, -3.0]];

    fn tree(x: [f64; 3]) -> Tree {
        let x = Tensor::<1>::from_data(TensorData::from(x), (&Device::flex(), DType::F64));
        Tree::empty().push("x", x).unwrap()
    }

    /// The gradients of `⟨aᵢ, x⟩² + ¼‖x‖²`.
    fn gradients(x: [f64; 3]) -> Vec<Tree> {
        let gradient = |a: &[f64; 3]| {
            let along: f64 = a.iter().zip(x).map(|(a, x)| a * x).sum();
            tree(std::array::from_fn(|i| 2.0 * along * a[i] + 0.5 * x[i]))
        };
        A.iter().map(gradient).collect()
    }

    fn descend<T: GradientTransform>(mut workers: Workers<T>, rate: f64, steps: u64) -> Vec<[f64; 3]> {
        let mut path = vec![[1.0; 3]];
        for step in 0..steps {
            let x = path[step as usize];
            let Ok(Update::Apply(g)) = workers.mean(gradients(x), &Context::new(step)) else { panic!("applied") };
            let g: Vec<f64> = g.get::<1>("x").unwrap().into_data().iter::<f64>().collect();
            path.push(std::array::from_fn(|i| x[i] - rate * g[i]));
        }
        path
    }

    /// A. Beznosikov et al., arXiv:2002.12410, example 1.
    #[test]
    fn top_one_diverges_exactly_and_feedback_cures_it() {
        let top = TopK::new(Keep::Count(1)).unwrap();
        let rate = 0.05;
        let path = descend(Workers::new(3, |_| Compress::new(top)).unwrap(), rate, 40);
        for (k, x) in path.iter().enumerate() {
            let expected = (1.0 + 11.0 * rate / 6.0).powi(k as i32);
            assert!(x.iter().all(|x| (x / expected - 1.0).abs() < 1e-12), "{k}: {x:?}, {expected}");
        }
        let size = |path: Vec<[f64; 3]>| path.last().unwrap().iter().map(|x| x * x).sum::<f64>().sqrt();
        let feedback = size(descend(Workers::new(3, |_| ErrorFeedback::new(top)).unwrap(), 0.01, 4000));
        assert!(feedback < 1e-6, "{feedback}");
        let ef21 = size(descend(Workers::new(3, |_| Ef21::new(top)).unwrap(), 0.01, 4000));
        assert!(ef21 < 1e-6, "{ef21}");
    }

    #[test]
    fn one_that_skips_skips_all_and_errors_change_nothing() {
        let mut workers = Workers::new(2, |_| ErrorFeedback::new(TopK::new(Keep::Count(1)).unwrap())).unwrap();
        let context = Context::new(0);
        workers.mean(vec![tree([1.0, 2.0, 3.0]), tree([3.0, 2.0, 1.0])], &context).unwrap();
        let before = workers.state();
        let skip = workers.mean(vec![tree([1.0; 3]), tree([f64::NAN; 3])], &context).unwrap();
        assert!(matches!(skip, Update::Skip { .. }));
        assert_eq!(workers.state(), before);
        let other = Tree::empty().push("y", Tensor::<1>::ones([3], &Device::flex())).unwrap();
        assert!(workers.mean(vec![tree([1.0; 3]), other], &context).is_err());
        assert_eq!(workers.state(), before);
        let error = workers.mean(vec![tree([1.0; 3])], &context).unwrap_err().to_string();
        assert_eq!(error, "gradients has 1 elements, expected 2");
        assert!(matches!(Workers::new(0, |_| Compress::new(Qsgd::new(1, 0).unwrap())), Err(Error::Parameter { .. })));
    }

    #[test]
    fn states_come_back() {
        let make = |i: usize| ErrorFeedback::new(Qsgd::new(3, i as u64).unwrap());
        let (mut old, mut new) = (Workers::new(3, make).unwrap(), Workers::new(3, make).unwrap());
        let context = Context::new(0);
        for _ in 0..3 {
            old.mean(gradients([1.0, 0.3, -0.2]), &context).unwrap();
        }
        new.load_state(old.state()).unwrap();
        let step = |workers: &mut Workers<_>| match workers.mean(gradients([1.0, 2.0, 3.0]), &context).unwrap() {
            Update::Apply(tree) => tree.get::<1>("x").unwrap().into_data(),
            Update::Skip { why } => panic!("{why}"),
        };
        assert_eq!(step(&mut old), step(&mut new));
        let before = new.state();
        assert!(new.load_state(Workers::new(4, make).unwrap().state()).is_err());
        assert_eq!(new.state(), before);
    }
}
