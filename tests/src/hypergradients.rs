//! Bilevel problems on the digits: the same data, starts and sizes as in `tests/peers/bilevel.py`.

use std::io::Read;

use bilevel::update::{Momentum, Sgd};
use bilevel::{
    Batches, Checkpoint, ConjugateGradient, Forward, Implicit, Method, Neumann, NewtonCg, Problem, Result, Unroll,
};
use burn::tensor::{DType, Device, Tensor, TensorData, activation};
use core_tensor::Tree;

/// Pixels of `[0, 1]` and one-hot labels.
pub type Examples = (Tensor<2>, Tensor<2>);

const HIDDEN: usize = 128;
const CLASSES: usize = 10;
/// The digits from here on are the outer objective's.
const HELD_OUT: usize = 1000;

/// What is learned of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 64 decays, one a pixel, of a softmax regression on 1000 digits.
    Logistic,
    /// Four decays, one a tensor, of a network 64-128-10 with tanh on 1000 digits.
    Decays,
    /// 500 weights of the examples of such a network's training set.
    Weights,
}

/// A problem with all that its hypergradients are computed from.
pub struct Case {
    /// Its name among the peers' figures.
    pub name: &'static str,
    /// Both objectives.
    pub problem: Problem<Examples, Examples>,
    /// The training digits and those held out.
    pub batches: Batches<Examples, Examples>,
    /// The outer variable.
    pub x: Tree,
    /// Where steps begin.
    pub start: Tree,
    /// The rate of steps and of the Neumann series.
    pub rate: f64,
    /// Added to the Hessian.
    pub damping: f64,
    kind: Kind,
}

/// A hypergradient's name, the method, and whether it begins at the start instead of the trained point.
pub type Named = (String, Box<dyn Method<Examples, Examples>>, bool);

impl Kind {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Logistic, Self::Decays, Self::Weights];
}

impl Case {
    /// The problem in an element type.
    ///
    /// # Errors
    /// Those of recording.
    pub fn new(kind: Kind, dtype: DType, device: &Device) -> Result<Self> {
        let tensor = |values: Vec<f64>, shape: [usize; 2]| -> Tensor<2> {
            Tensor::from_data(TensorData::new(values, shape), (device, dtype))
        };
        let list = |values: Vec<f64>| -> Tensor<1> {
            let length = values.len();
            Tensor::from_data(TensorData::new(values, [length]), (device, dtype))
        };
        let digits = Digits::load();
        let examples = |rows: std::ops::Range<usize>| {
            let hot = digits.labels[rows.clone()]
                .iter()
                .flat_map(|l| (0..CLASSES).map(move |c| f64::from(u8::from(*l == c))));
            let pixels = digits.pixels[rows.start * 64..rows.end * 64].to_vec();
            (tensor(pixels, [rows.len(), 64]), tensor(hot.collect(), [rows.len(), CLASSES]))
        };
        let train = if kind == Kind::Weights { 500 } else { HELD_OUT };
        let batches = Batches::new(examples(0..train), examples(HELD_OUT..digits.labels.len()));
        let (name, x, rate, damping) = match kind {
            Kind::Logistic => ("logistic", Tree::empty().push("decay", list(vec![-4.0; 64]))?, 0.5, 0.0),
            Kind::Decays => ("decays", Tree::empty().push("decay", list(vec![-5.0; 4]))?, 0.1, 0.05),
            Kind::Weights => ("weights", Tree::empty().push("weight", list(vec![0.0; train]))?, 0.1, 0.05),
        };
        let (start, problem) = match kind {
            Kind::Logistic => {
                let start = Tree::empty().push("w", tensor(vec![0.0; 64 * CLASSES], [64, CLASSES]))?;
                let entropy =
                    |z: &Tree, (pixels, hot): &Examples| entropies(pixels.clone().matmul(leaf(z, "w")), hot).mean();
                let inner = move |x: &Tree, z: &Tree, data: &Examples| {
                    let decay = x.get::<1>("decay").expect("the leaf above").exp().unsqueeze_dim::<2>(1);
                    entropy(z, data) + (leaf(z, "w").square() * decay).sum() * 0.5
                };
                (
                    start.clone(),
                    Problem::from_functions(
                        &x,
                        &start,
                        &batches,
                        inner,
                        move |_: &Tree, z: &Tree, data: &Examples| entropy(z, data),
                    )?,
                )
            }
            Kind::Decays | Kind::Weights => {
                let mut numbers = lcg().map(|number| 0.5 * number);
                let mut draw = |rows: usize, columns: usize| {
                    tensor(numbers.by_ref().take(rows * columns).collect(), [rows, columns])
                };
                let (first, second) = (draw(64, HIDDEN), draw(HIDDEN, CLASSES));
                let start = Tree::empty()
                    .push("w1", first)?
                    .push("b1", tensor(vec![0.0; HIDDEN], [1, HIDDEN]))?
                    .push("w2", second)?
                    .push("b2", tensor(vec![0.0; CLASSES], [1, CLASSES]))?;
                let inner = move |x: &Tree, z: &Tree, (pixels, hot): &Examples| {
                    let squares = ["w1", "b1", "w2", "b2"].map(|name| leaf(z, name).square().sum());
                    let squares = Tensor::cat(squares.to_vec(), 0);
                    let entropies = entropies(logits(z, pixels), hot);
                    match kind {
                        Kind::Weights => {
                            let weight = activation::sigmoid(x.get::<1>("weight").expect("the leaf above"));
                            (entropies * weight.unsqueeze_dim::<2>(1)).mean() + squares.sum() * (0.5 * (-5f64).exp())
                        }
                        _ => {
                            entropies.mean()
                                + (squares * x.get::<1>("decay").expect("the leaf above").exp()).sum() * 0.5
                        }
                    }
                };
                let outer = |_: &Tree, z: &Tree, (pixels, hot): &Examples| entropies(logits(z, pixels), hot).mean();
                (start.clone(), Problem::from_functions(&x, &start, &batches, inner, outer)?)
            }
        };
        Ok(Self { name, problem, batches, x, start, rate, damping, kind })
    }

    /// The solution of the inner problem, or the point after 200 steps with momentum.
    ///
    /// # Errors
    /// Those of the solver.
    pub fn point(&self) -> Result<Tree> {
        let (problem, x, z, inner) = (&self.problem, &self.x, &self.start, &self.batches.inner);
        match self.kind {
            Kind::Logistic => NewtonCg::new(50, 1e-11)?.solve(problem, x, z, inner),
            _ => Unroll::new(Momentum::new(0.1, 0.9), 200)?.run(problem, x, z, inner),
        }
    }

    /// The implicit hypergradient by conjugate gradients.
    ///
    /// # Errors
    /// A parameter error.
    pub fn conjugate_gradients(&self, products: usize, tolerance: f64) -> Result<Implicit<ConjugateGradient>> {
        Implicit::new(ConjugateGradient::new(products)?.tolerance(tolerance)?).damping(self.damping)
    }

    /// Steps of gradient descent.
    ///
    /// # Errors
    /// A parameter error.
    pub fn steps(&self, steps: usize, checkpoint: Checkpoint) -> Result<Unroll<Sgd>> {
        Unroll::new(Sgd::new(self.rate), steps)?.checkpoint(checkpoint)
    }

    /// All methods that are measured.
    ///
    /// # Errors
    /// A parameter error.
    pub fn methods(&self) -> Result<Vec<Named>> {
        let mut methods: Vec<Named> = Vec::new();
        for products in [10, 20] {
            let method = self.conjugate_gradients(products, 0.0)?;
            methods.push((format!("CG, {products} products"), Box::new(method), false));
        }
        let series = Implicit::new(Neumann::new(20, self.rate)?).damping(self.damping)?;
        methods.push(("Neumann, 20 products".into(), Box::new(series), false));
        for steps in [20, 100] {
            methods.push((format!("reverse, {steps} steps"), Box::new(self.steps(steps, Checkpoint::All)?), true));
        }
        let sqrt = self.steps(100, Checkpoint::Sqrt)?;
        methods.push(("reverse with √T checkpoints, 100 steps".into(), Box::new(sqrt), true));
        if self.kind != Kind::Weights {
            methods.push(("forward, 20 steps".into(), Box::new(Forward::new(Sgd::new(self.rate), 20)?), true));
        }
        Ok(methods)
    }
}

fn leaf(z: &Tree, name: &str) -> Tensor<2> {
    z.get::<2>(name).expect("a leaf of the start")
}

fn logits(z: &Tree, pixels: &Tensor<2>) -> Tensor<2> {
    (pixels.clone().matmul(leaf(z, "w1")) + leaf(z, "b1")).tanh().matmul(leaf(z, "w2")) + leaf(z, "b2")
}

/// The cross-entropy of each row, shape `[rows, 1]`.
fn entropies(logits: Tensor<2>, hot: &Tensor<2>) -> Tensor<2> {
    (activation::log_softmax(logits, 1) * hot.clone()).sum_dim(1).neg()
}

/// Numbers of `[-½, ½)` that are the same in every language.
fn lcg() -> impl Iterator<Item = f64> {
    let mut state = 1u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state) / 4_294_967_296.0 - 0.5
    })
}

/// The digits that the lab embeds.
struct Digits {
    pixels: Vec<f64>,
    labels: Vec<usize>,
}

impl Digits {
    fn load() -> Self {
        let file: &[u8] = include_bytes!("../../crates/lab/data/digits.csv.gz");
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("the file is part of the repository");
        let mut digits = Self { pixels: Vec::new(), labels: Vec::new() };
        for line in text.lines() {
            let numbers: Vec<f64> = line.split(',').map(|number| number.parse().expect("a number")).collect();
            digits.pixels.extend(numbers[..64].iter().map(|ink| ink / 16.0));
            digits.labels.push(numbers[64] as usize);
        }
        digits
    }
}
