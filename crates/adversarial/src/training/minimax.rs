//! Solvers for `min_x max_y f(x, y)` on trees: gradient descent ascent, optimistic, extragradient.
//!
//! Adversarial training is such a problem, `x` the parameters and `y` the perturbations; the methods of this
//! [module](super) solve its inner part anew for each batch, while these move both players together. They take the two partial gradients from a
//! closure, so that anything that gives gradients can be a player; [`saddle_gradients`] gives them from a recorded [`Program`].
//!
//! | method | gradient evaluations a step | `f = xᵀy` at rate `η` | strongly convex-concave |
//! |---|---|---|---|
//! | [`gradient_descent_ascent`] | 1 | diverges, by `√(1 + η²)` a step | converges for small rates |
//! | [`alternating_gradient_descent_ascent`] | 1 (x and y at different points: 2 calls) | circles | converges for small rates |
//! | [`Optimistic`] | 1 | converges | converges |
//! | [`extragradient`] | 2 | converges, by `√(1 − η² + η⁴)` a step | converges |
//!
//! ```
//! use adversarial::training::minimax::{Rates, extragradient, saddle_gradients};
//! use burn::tensor::{Device, Tensor};
//! use core_tensor::{Program, Tree};
//!
//! let device = Device::flex();
//! let leaf = |value: f32| Tree::empty().push("a", Tensor::<1>::from_data([value], &device));
//! let (mut x, mut y) = (leaf(1.0)?, leaf(1.0)?);
//! // f = x·y, whose saddle is the origin.
//! let program = Program::record_pair(("x", &x), ("y", &y), &(), |x: &Tree, y: &Tree, _: &()| {
//!     x.get::<1>("a").unwrap() * y.get::<1>("a").unwrap()
//! })?;
//! let rates = Rates::equal(0.5)?;
//! for _ in 0..100 {
//!     (x, y) = extragradient(x, y, rates, |x, y| saddle_gradients(&program, x, y, &()))?;
//! }
//! assert!(x.norm().value() < 1e-3 && y.norm().value() < 1e-3);
//! # Ok::<(), adversarial::Error>(())
//! ```

use core_tensor::transform::State;
use core_tensor::{Batch, Program, Scalar, Tree};

use super::inner::above_zero;
use crate::error::{Error, Result};

/// How far each player moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    x: f64,
    y: f64,
}

impl Rates {
    /// One rate for both players.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is above zero and finite.
    pub fn equal(rate: f64) -> Result<Self> {
        Self::new(rate, rate)
    }

    /// Of the minimising and of the maximising player. Two time scales, `y` the faster, are what nonconvex-concave problems need.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless both are above zero and finite.
    pub fn new(x: f64, y: f64) -> Result<Self> {
        Ok(Self { x: above_zero("x rate", x)?, y: above_zero("y rate", y)? })
    }
}

/// `x ← x − η_x ∂ₓf`, `y ← y + η_y ∂_yf`, both gradients at the same point.
///
/// Diverges on bilinear problems; for nonconvex-strongly-concave ones it converges to a stationary point if `η_y/η_x` is large.
///
/// `field(x, y)` gives `(∂ₓf, ∂_yf)` with the leaves of `x` and of `y`. Cost: 1 evaluation.
///
/// T. Lin, C. Jin, M. I. Jordan, "On gradient descent ascent for nonconvex-concave minimax problems", ICML 2020, arXiv:1906.00331,
/// algorithm 1.
///
/// # Errors
/// Those of `field`, and gradients of another structure.
pub fn gradient_descent_ascent<E: From<core_tensor::Error>>(
    x: Tree,
    y: Tree,
    rates: Rates,
    field: impl FnOnce(&Tree, &Tree) -> Result<(Tree, Tree), E>,
) -> Result<(Tree, Tree), E> {
    let (slope_x, slope_y) = field(&x, &y)?;
    Ok((x.axpy(-rates.x, &slope_x)?, y.axpy(rates.y, &slope_y)?))
}

/// As [`gradient_descent_ascent`], the ascent from the new `x`: stable on bilinear problems for `√(η_x η_y)·‖A‖ < 2`, but circling.
///
/// Cost: 2 calls of `field`, of which one half each is used; give a field that computes what is asked if this matters.
///
/// G. Zhang, Y. Wang, L. Lessard, R. Grosse, "Near-optimal local convergence of alternating gradient descent-ascent for minimax
/// optimization", AISTATS 2022, arXiv:2102.09468.
///
/// # Errors
/// As [`gradient_descent_ascent`].
pub fn alternating_gradient_descent_ascent<E: From<core_tensor::Error>>(
    x: Tree,
    y: Tree,
    rates: Rates,
    mut field: impl FnMut(&Tree, &Tree) -> Result<(Tree, Tree), E>,
) -> Result<(Tree, Tree), E> {
    let (slope_x, _) = field(&x, &y)?;
    let x = x.axpy(-rates.x, &slope_x)?;
    let (_, slope_y) = field(&x, &y)?;
    let y = y.axpy(rates.y, &slope_y)?;
    Ok((x, y))
}

/// A step of [`gradient_descent_ascent`] to look ahead, then one from where it began with the gradients found there.
///
/// Converges for monotone `L`-Lipschitz problems, bilinear ones among them, for rates up to `1/L`, and never leaves a saddle farther behind
/// (`extragradient_never_moves_away`).
///
/// Cost: 2 evaluations, one more copy of both players.
///
/// G. M. Korpelevich, "The extragradient method for finding saddle points and other problems", 1976.
///
/// # Errors
/// As [`gradient_descent_ascent`].
pub fn extragradient<E: From<core_tensor::Error>>(
    x: Tree,
    y: Tree,
    rates: Rates,
    mut field: impl FnMut(&Tree, &Tree) -> Result<(Tree, Tree), E>,
) -> Result<(Tree, Tree), E> {
    let (ahead_x, ahead_y) = gradient_descent_ascent(x.clone(), y.clone(), rates, &mut field)?;
    gradient_descent_ascent(x, y, rates, |_, _| field(&ahead_x, &ahead_y))
}

/// Optimistic gradient descent ascent: `x ← x − 2η_x gₜ + η_x gₜ₋₁`, and the same upward for `y`.
///
/// Looks ahead like [`extragradient`] with the change of the gradients instead of a second evaluation. Remembers the last
/// gradients; the first step is one of gradient descent ascent.
///
/// Cost: 1 evaluation, a copy of both gradients.
///
/// C. Daskalakis, A. Ilyas, V. Syrgkanis, H. Zeng, "Training GANs with optimism", ICLR 2018, arXiv:1711.00141, equation 6.
///
/// ```
/// use adversarial::training::minimax::{Optimistic, Rates};
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
///
/// let leaf = |value: f32| Tree::empty().push("a", Tensor::<1>::from_data([value], &Device::flex()));
/// let (mut x, mut y) = (leaf(1.0)?, leaf(1.0)?);
/// let mut optimistic = Optimistic::new(Rates::equal(0.3)?);
/// for _ in 0..200 {
///     (x, y) = optimistic.step(x, y, |x, y| Ok::<_, core_tensor::Error>((y.clone(), x.clone())))?;
/// }
/// assert!(x.norm().value() < 1e-3);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Optimistic {
    rates: Rates,
    last: Option<(Tree, Tree)>,
}

impl Optimistic {
    /// Without a past.
    pub fn new(rates: Rates) -> Self {
        Self { rates, last: None }
    }

    /// One step.
    ///
    /// # Errors
    /// As [`gradient_descent_ascent`]; the past is then as it was.
    pub fn step<E: From<core_tensor::Error>>(
        &mut self,
        x: Tree,
        y: Tree,
        field: impl FnOnce(&Tree, &Tree) -> Result<(Tree, Tree), E>,
    ) -> Result<(Tree, Tree), E> {
        let (slope_x, slope_y) = field(&x, &y)?;
        let Rates { x: rate_x, y: rate_y } = self.rates;
        let (x, y) = match &self.last {
            None => (x.axpy(-rate_x, &slope_x)?, y.axpy(rate_y, &slope_y)?),
            Some((last_x, last_y)) => {
                let x = x.axpy(-2.0 * rate_x, &slope_x)?.axpy(rate_x, last_x)?;
                (x, y.axpy(2.0 * rate_y, &slope_y)?.axpy(-rate_y, last_y)?)
            }
        };
        self.last = Some((slope_x, slope_y));
        Ok((x, y))
    }

    /// The last gradients.
    pub fn state(&self) -> State {
        let (x, y) = self.last.clone().unzip();
        State::new().with("x", x).with("y", y)
    }

    /// Go on from a state.
    ///
    /// # Errors
    /// [`Error::Core`] for the state of something else. Then nothing has changed.
    pub fn load_state(&mut self, mut state: State) -> Result<()> {
        let x: Option<Tree> = state.take_optional("x")?;
        let last = match x {
            Some(x) => Some((x, state.take("y")?)),
            None => None,
        };
        state.finish()?;
        self.last = last;
        Ok(())
    }
}

/// Both partial gradients from one backward pass of a program recorded by [`Program::record_pair`] with the names `x` and `y`; zero for
/// leaves that the value does not depend on.
///
/// # Errors
/// As [`Program::value_and_grad`].
pub fn saddle_gradients<B: Batch>(program: &Program<B>, x: &Tree, y: &Tree, batch: &B) -> Result<(Tree, Tree)> {
    let point = Program::<B>::pair(("x", x), ("y", y))?;
    let gradient = program.value_and_grad(&point, batch)?.gradient;
    let part = |name: &str, of: &Tree| {
        let leaves = of.iter().map(|(leaf, value)| {
            let at = gradient.position(&format!("{name}/{}", leaf.path));
            match at {
                Some(at) => Ok((leaf.clone(), gradient.leaf(at).1.clone())),
                None => {
                    let zero = Tree::from_leaves([(leaf.clone(), value.clone())])?.zeros_like();
                    Ok((leaf.clone(), zero.leaf(0).1.clone()))
                }
            }
        });
        let leaves: core_tensor::Result<Vec<_>> = leaves.collect();
        Ok::<_, Error>(Tree::from_leaves(leaves?)?)
    };
    Ok((part("x", x)?, part("y", y)?))
}

/// `√(‖∂ₓf‖² + ‖∂_yf‖²)`, zero at a stationary point: what to watch, since the value says nothing at a saddle.
pub fn residual(slopes: &(Tree, Tree)) -> Scalar {
    let square = |tree: &Tree| tree.norm() * tree.norm();
    (square(&slopes.0) + square(&slopes.1)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, Tensor, TensorData};
    use core_tensor::testing::{assert_same_bits, property};

    fn tree(values: &[f64]) -> Tree {
        let data = TensorData::new(values.to_vec(), [values.len()]);
        Tree::empty().push("a", Tensor::<1>::from_data(data, (&Device::flex(), DType::F64))).unwrap()
    }

    fn numbers(tree: &Tree) -> Vec<f64> {
        tree.get::<1>("a").unwrap().into_data().iter::<f64>().collect()
    }

    fn size(x: &Tree, y: &Tree) -> f64 {
        residual(&(x.clone(), y.clone())).value()
    }

    /// `∇(x·y)`
    fn bilinear(x: &Tree, y: &Tree) -> Result<(Tree, Tree)> {
        Ok((y.clone(), x.clone()))
    }

    #[test]
    fn rates_on_the_bilinear_problem_are_the_known_ones() {
        for rate in [0.05, 0.3, 0.45] {
            let rates = Rates::equal(rate).unwrap();
            let (mut x, mut y) = (tree(&[1.0]), tree(&[-0.5]));
            let start = size(&x, &y);
            for _ in 0..50 {
                (x, y) = gradient_descent_ascent(x, y, rates, bilinear).unwrap();
            }
            let grown = (1.0 + rate * rate).powf(25.0);
            assert!((size(&x, &y) / start / grown - 1.0).abs() < 1e-12, "descent ascent diverges");

            let (mut x, mut y) = (tree(&[1.0]), tree(&[-0.5]));
            for _ in 0..50 {
                (x, y) = extragradient(x, y, rates, bilinear).unwrap();
            }
            let shrunk = (1.0 - rate * rate + rate.powi(4)).powf(25.0);
            assert!((size(&x, &y) / start / shrunk - 1.0).abs() < 1e-12);

            // The larger root of λ² − (1 − 2iη)λ − iη: |λ| from λ = (1 − 2iη + √(1 − 4η²))/2.
            let root = ((1.0 + (1.0 - 4.0 * rate * rate).sqrt()) / 2.0).hypot(rate);
            let (mut x, mut y, mut optimistic) = (tree(&[1.0]), tree(&[-0.5]), Optimistic::new(rates));
            let mut sizes = Vec::new();
            for _ in 0..400 {
                (x, y) = optimistic.step(x, y, bilinear).unwrap();
                sizes.push(size(&x, &y));
            }
            let measured = (sizes[399] / sizes[299]).powf(0.01);
            assert!((measured / root - 1.0).abs() < 1e-9 && root < 1.0, "{measured} {root}");

            // Alternating steps keep x² + y² − ηxy.
            let kept = |x: &Tree, y: &Tree| {
                let (x, y) = (numbers(x)[0], numbers(y)[0]);
                x * x + y * y - rate * x * y
            };
            let (mut x, mut y) = (tree(&[1.0]), tree(&[-0.5]));
            let before = kept(&x, &y);
            for _ in 0..500 {
                (x, y) = alternating_gradient_descent_ascent(x, y, rates, bilinear).unwrap();
            }
            assert!((kept(&x, &y) / before - 1.0).abs() < 1e-10);
        }
    }

    /// `f = ½μx² + xᵀAy − ½μy²`, a monotone problem with constant `μ + ‖A‖`.
    fn problem(a: &[f64], mu: f64) -> impl Fn(&Tree, &Tree) -> Result<(Tree, Tree)> + '_ {
        move |x, y| {
            let (x, y) = (numbers(x), numbers(y));
            let slope_x: Vec<f64> = (0..2).map(|i| mu * x[i] + a[2 * i] * y[0] + a[2 * i + 1] * y[1]).collect();
            let slope_y: Vec<f64> = (0..2).map(|j| a[j] * x[0] + a[2 + j] * x[1] - mu * y[j]).collect();
            Ok((tree(&slope_x), tree(&slope_y)))
        }
    }

    #[test]
    fn extragradient_never_moves_away() {
        let number = || -2.0f64..2.0;
        let cases = (proptest::array::uniform4(number()), proptest::array::uniform4(number()), 0.0..1.0, 0.01..1.0);
        property(100, cases, |(a, z, mu, share)| {
            let lipschitz: f64 = mu + a.iter().map(|a| a * a).sum::<f64>().sqrt();
            let rates = Rates::equal(share / lipschitz.max(1e-3)).unwrap();
            let (mut x, mut y) = (tree(&z[..2]), tree(&z[2..]));
            for _ in 0..20 {
                let before = size(&x, &y);
                (x, y) = extragradient(x, y, rates, problem(&a, mu)).unwrap();
                assert!(size(&x, &y) <= before * (1.0 + 1e-12));
            }
        });
    }

    #[test]
    fn all_reach_the_saddle_of_a_strongly_convex_concave_problem() {
        let a = [0.5, -1.0, 0.3, 0.8];
        let field = problem(&a, 1.0);
        let rates = Rates::new(0.2, 0.25).unwrap();
        let (mut optimistic, start) = (Optimistic::new(rates), (tree(&[3.0, -2.0]), tree(&[1.0, 4.0])));
        type Step<'a> = Box<dyn FnMut(Tree, Tree) -> Result<(Tree, Tree)> + 'a>;
        let mut steps: [Step<'_>; 4] = [
            Box::new(|x, y| gradient_descent_ascent(x, y, rates, &field)),
            Box::new(|x, y| alternating_gradient_descent_ascent(x, y, rates, &field)),
            Box::new(|x, y| extragradient(x, y, rates, &field)),
            Box::new(|x, y| optimistic.step(x, y, &field)),
        ];
        for step in &mut steps {
            let (mut x, mut y) = start.clone();
            for _ in 0..300 {
                (x, y) = step(x, y).unwrap();
            }
            assert!(residual(&field(&x, &y).unwrap()).value() < 1e-9 && size(&x, &y) < 1e-9);
        }
    }

    #[test]
    fn optimism_resumes_bit_for_bit_and_an_error_changes_nothing() {
        let a = [0.5, -1.0, 0.3, 0.8];
        let mut one = Optimistic::new(Rates::equal(0.1).unwrap());
        let (x, y) = one.step(tree(&[1.0, 2.0]), tree(&[3.0, -1.0]), problem(&a, 0.1)).unwrap();
        let mut other = Optimistic::new(Rates::equal(0.1).unwrap());
        other.load_state(one.state()).unwrap();
        let failed = one.step(x.clone(), y.clone(), |_, _| Err(Error::EmptyBatch { what: "a test" }));
        assert!(failed.is_err());
        assert!(other.load_state(State::new().with("z", 1u64)).is_err());
        let [one, other] = [one, other].map(|mut o| o.step(x.clone(), y.clone(), problem(&a, 0.1)).unwrap());
        assert_same_bits(&one.0, &other.0);
        assert_same_bits(&one.1, &other.1);
    }

    #[test]
    fn gradients_of_a_program_are_those_of_both_players() {
        let (x, y) = (tree(&[2.0, 3.0]), tree(&[5.0]));
        let idle = y.clone().push("idle", Tensor::<1>::ones([2], (&Device::flex(), DType::F64))).unwrap();
        let program = Program::record_pair(("x", &x), ("y", &idle), &(), |x: &Tree, y: &Tree, _: &()| {
            x.get::<1>("a").unwrap().square().sum() * y.get::<1>("a").unwrap()
        });
        let (slope_x, slope_y) = saddle_gradients(&program.unwrap(), &x, &idle, &()).unwrap();
        assert_same_bits(&slope_x, &tree(&[20.0, 30.0]));
        assert_same_bits(
            &slope_y,
            &idle
                .zeros_like()
                .axpy(13.0, &{
                    let zero = Tensor::<1>::zeros([2], (&Device::flex(), DType::F64));
                    tree(&[1.0]).push("idle", zero).unwrap()
                })
                .unwrap(),
        );
        assert!(Rates::new(0.1, f64::NAN).unwrap_err().to_string().starts_with("y rate = NaN"));
        assert!(Rates::equal(0.0).is_err());
    }
}
