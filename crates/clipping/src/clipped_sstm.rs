//! An accelerated method with clipped gradients for heavy-tailed noise.

use core_tensor::transform::State;
use core_tensor::{Result, Tree};

use crate::limit::positive;
use crate::report::{Clip, Epsilon};

/// Clipped-SSTM: the similar triangles method with gradients clipped at a level that falls as steps grow.
///
/// From `y₀ = z₀ = x₀`, `A₀ = 0`: `α_{k+1} = (k + 2)/(2aL)`, `A_{k+1} = A_k + α_{k+1}`, `λ_{k+1} = B/α_{k+1}`,
/// `x_{k+1} = (A_k·y_k + α_{k+1}·z_k)/A_{k+1}`, `z_{k+1} = z_k − α_{k+1}·clip(∇f(x_{k+1}, ξ), λ_{k+1})`,
/// `y_{k+1} = (A_k·y_k + α_{k+1}·z_{k+1})/A_{k+1}`. E. Gorbunov, M. Danilova, A. Gasnikov, "Stochastic optimization with
/// heavy-tailed noise via accelerated gradient clipping", NeurIPS 2020, algorithm 1. For convex `f` that is `L`-smooth, with `a`
/// large where the noise is (1 without noise), its rate holds with high probability though only the variance is bounded.
///
/// The gradient is taken at [`query`](ClippedSstm::query), the answer is [`point`](ClippedSstm::point). Cost: about six passes a
/// step, two trees of memory. No host synchronisation.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use clipping::ClippedSstm;
/// use core_tensor::Tree;
///
/// // f(x) = ‖x‖²/2, whose gradient is x.
/// let start = Tree::empty().push("x", Tensor::<1>::from_data([5.0, -3.0], &Device::flex()))?;
/// let mut method = ClippedSstm::new(start, 1.0, 1.0, 10.0)?;
/// for _ in 0..100 {
///     let gradient = method.query()?;
///     method.update(gradient)?;
/// }
/// assert!(method.point().norm().value() < 1e-2);
/// # Ok::<(), core_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClippedSstm {
    a: f64,
    smoothness: f64,
    level: f64,
    steps: u64,
    weight: f64,
    y: Tree,
    z: Tree,
}

impl ClippedSstm {
    /// Start, step-size factor `a`, smoothness `L`, clipping level `B`.
    ///
    /// # Errors
    /// [`core_tensor::Error::Parameter`] unless all three numbers are above zero and finite.
    pub fn new(start: Tree, a: f64, smoothness: f64, level: f64) -> Result<Self> {
        let (a, smoothness) = (positive("a", a)?, positive("smoothness", smoothness)?);
        let level = positive("level", level)?;
        Ok(Self { a, smoothness, level, steps: 0, weight: 0.0, y: start.clone(), z: start })
    }

    fn alpha(&self) -> f64 {
        (self.steps + 2) as f64 / (2.0 * self.a * self.smoothness)
    }

    /// `x_{k+1}`: where the next gradient is to be taken.
    ///
    /// # Errors
    /// None but those of tree arithmetic, whose operands have one structure here.
    pub fn query(&self) -> Result<Tree> {
        let alpha = self.alpha();
        self.y.clone().lerp(&self.z, alpha / (self.weight + alpha))
    }

    /// A step with the gradient at [`query`](ClippedSstm::query); returns what clipping did.
    ///
    /// # Errors
    /// A gradient of another structure than the point.
    pub fn update(&mut self, gradient: Tree) -> Result<Clip> {
        self.z.same_structure(&gradient)?;
        let alpha = self.alpha();
        let weight = self.weight + alpha;
        let clip = Epsilon::Exact.clip(gradient.norm(), (self.level / alpha).into());
        // Clip and step in one pass.
        self.z = std::mem::take(&mut self.z).axpy_by(&clip.fold(-alpha), &gradient)?;
        self.y = std::mem::take(&mut self.y).lerp(&self.z, alpha / weight)?;
        (self.weight, self.steps) = (weight, self.steps + 1);
        Ok(clip)
    }

    /// `y_k`: the answer so far.
    pub fn point(&self) -> &Tree {
        &self.y
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What changes from step to step.
    pub fn state(&self) -> State {
        State::new()
            .with("steps", self.steps)
            .with("weight", self.weight)
            .with("y", self.y.clone())
            .with("z", self.z.clone())
    }

    /// Go on from a state, bit for bit.
    ///
    /// # Errors
    /// [`core_tensor::Error::State`] for the state of something else, or one whose points have another structure. The method is
    /// then as it was.
    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        let (steps, weight): (u64, f64) = (state.take("steps")?, state.take("weight")?);
        let (y, z): (Tree, Tree) = (state.take("y")?, state.take("z")?);
        state.finish()?;
        self.y.same_structure(&y)?;
        self.z.same_structure(&z)?;
        (self.steps, self.weight, self.y, self.z) = (steps, weight, y, z);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    #[test]
    fn two_steps_by_hand() {
        let start = Tree::empty().push("x", Tensor::<1>::from_data([8.0], &Device::flex())).unwrap();
        let mut method = ClippedSstm::new(start, 1.0, 1.0, 2.0).unwrap();
        let value = |tree: &Tree| tree.sum().value();
        assert_eq!(value(&method.query().unwrap()), 8.0);
        // α = 1, λ = 2: z = 8 − 2.
        let clip = method.update(method.query().unwrap()).unwrap();
        assert!(clip.clipped());
        assert_eq!((value(method.point()), method.steps()), (6.0, 1));
        // α = 3/2, A = 5/2, λ = 4/3: x = 6, z = 6 − 3/2·4/3 = 4, y = (6 + 3/2·4)/(5/2).
        assert_eq!(value(&method.query().unwrap()), 6.0);
        method.update(method.query().unwrap()).unwrap();
        assert!((value(method.point()) - 4.8).abs() < 1e-6);
        assert!(ClippedSstm::new(Tree::empty(), 0.0, 1.0, 1.0).is_err());
        assert!(method.update(Tree::empty()).is_err());
    }
    #[test]
    fn a_run_resumes_bit_for_bit() {
        let device = Device::flex();
        let start = || Tree::empty().push("x", Tensor::<1>::from_data([5.0, -3.0, 0.1], &device)).unwrap();
        let step = |method: &mut ClippedSstm| {
            let gradient = method.query().unwrap();
            method.update(gradient).unwrap();
        };
        let mut method = ClippedSstm::new(start(), 1.0, 1.0, 2.0).unwrap();
        (0..3).for_each(|_| step(&mut method));
        let file = tempfile::NamedTempFile::new().unwrap();
        method.state().save(file.path()).unwrap();
        let mut resumed = ClippedSstm::new(start(), 1.0, 1.0, 2.0).unwrap();
        resumed.load_state(State::load(file.path(), &device).unwrap()).unwrap();
        for _ in 0..3 {
            step(&mut method);
            step(&mut resumed);
            core_tensor::testing::assert_same_bits(method.point(), resumed.point());
        }
        assert!(resumed.load_state(State::new()).is_err());
        let other = ClippedSstm::new(Tree::empty(), 1.0, 1.0, 2.0).unwrap().state();
        assert!(resumed.load_state(other).is_err());
        assert_eq!(resumed.steps(), 6);
    }
}
