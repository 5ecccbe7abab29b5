//! A table that walks burn-nn: every module, activation and loss, and the tensor functions models call, each recorded
//! as a program and checked.
//!
//! A case is a small module, its float inputs (held as parameters too, so that derivatives flow through every argument),
//! a batch and a scalar function of them. [`Case::run`] checks in `f64` that
//! - the recorded value is the eager value,
//! - the gradient is that of Burn's own `backward`, lacks the same leaves, and agrees with differences of the value,
//! - `H·v` agrees with central differences of the gradient, and `⟨u, H·v⟩ = ⟨v, H·u⟩`.
//!
//! Random modules have no eager value and gradient to compare with, since Burn draws anew on every call. The program
//! replays one draw in all its calls, so that the other checks apply to them as well.

mod activations;
mod attention;
mod check;
mod convolution;
mod images;
mod losses;
mod networks;
mod normalisation;
mod pooling;
mod recurrent;
mod report;
mod stochastic;
mod tensors;

pub use check::{Limits, Measured, Mixed, Outcome};
pub use report::{Row, markdown, stable};

use burn::module::{Module, ModuleDisplay};
use burn::nn::Identity;
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::{Autocast, Batch};

use crate::draw::Draw;

/// A module and its float inputs as one module, so that both are differentiated.
#[derive(Module, Debug)]
pub struct Net<M: Module, I: Module> {
    /// What is tested.
    pub module: M,
    /// A parameter, or a tuple of them.
    pub input: I,
}

/// What a case is expected to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Everything within [`Limits`].
    Covered,
    /// A refusal at record time whose message contains each of these.
    Uncovered(Vec<&'static str>),
    /// Burn's own backward pass panics, so that there is nothing to record.
    NoGradientInBurn,
}

/// How a case is made and checked.
type Make = Box<dyn Fn(&Case, &mut Draw) -> Outcome + Send + Sync>;

/// One row of the table.
pub struct Case {
    /// Section of the table.
    pub group: &'static str,
    /// What is tested, as the row shows it.
    pub name: String,
    /// Remark for the last column.
    pub note: &'static str,
    /// Expected outcome.
    pub expect: Expect,
    /// How far numbers may be apart.
    pub limits: Limits,
    random: bool,
    /// Instead of the usual checks, those of the case in mixed precision.
    mixed: Option<Autocast>,
    make: Make,
}

impl Case {
    /// Makes the case's module and batch on `device`, the same every time, and checks it.
    pub fn run(&self, device: &Device) -> Outcome {
        // FNV-1a, so that a case's numbers do not depend on the cases before it.
        let hash = |state: u64, byte| (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        let seed = self.name.bytes().fold(0xCBF2_9CE4_8422_2325, hash);
        (self.make)(self, &mut Draw::new(seed, device))
    }

    /// Compares the case in mixed precision with the case in `f32`, instead of the usual checks.
    pub fn mixed(mut self, by: &Autocast) -> Self {
        self.mixed = Some(by.clone());
        self
    }

    /// Sets other limits.
    pub fn limits(&mut self, limits: Limits) -> &mut Self {
        self.limits = limits;
        self
    }

    /// Marks a case that divides by a number ([`Limits::DIVISOR`]).
    pub fn divides(&mut self) -> &mut Self {
        self.limits(Limits::DIVISOR).note("Burn rounds the divisor to f32 in backward")
    }

    /// Sets the remark.
    pub fn note(&mut self, note: &'static str) -> &mut Self {
        self.note = note;
        self
    }

    /// Sets the expected outcome.
    pub fn expect(&mut self, expect: Expect) -> &mut Self {
        self.expect = expect;
        self
    }

    /// Marks a case that draws random numbers.
    pub fn random(&mut self) -> &mut Self {
        self.random = true;
        self
    }
}

/// The cases, in the order of the table.
pub fn cases() -> Vec<Case> {
    let mut table = Table { group: "", cases: Vec::new() };
    for (group, fill) in GROUPS {
        table.group = group;
        fill(&mut table);
    }
    table.cases
}

type Fill = fn(&mut Table);

const GROUPS: &[(&str, Fill)] = &[
    ("Linear", convolution::linear),
    ("Convolution", convolution::convolution),
    ("Transposed and deformable convolution", convolution::transposed),
    ("Pooling", pooling::pooling),
    ("Normalisation", normalisation::normalisation),
    ("Embedding and position", attention::encodings),
    ("Recurrent", recurrent::recurrent),
    ("Attention", attention::attention),
    ("Transformer", attention::transformer),
    ("Activations", activations::activations),
    ("Random layers", stochastic::stochastic),
    ("Resampling and rearranging", images::resampling),
    ("Similarity", images::similarity),
    ("Losses: classification", losses::classification),
    ("Losses: regression", losses::regression),
    ("Losses: ranking", losses::ranking),
    ("Losses: sequences", losses::sequences),
    ("Networks", networks::networks),
    ("Tensor: elementwise", tensors::elementwise),
    ("Tensor: reductions and order", tensors::reductions),
    ("Tensor: shape", tensors::shapes),
    ("Tensor: indexing", tensors::indexing),
    ("Tensor: products and sampling", tensors::products),
];

/// `mean(out ∘ w) + ½·mean(out²)` with fixed `w`: a scalar whose second derivatives are not all zero even where `out`
/// is linear, and which tells every element of `out` from the others.
pub fn scalarise<const D: usize>(out: Tensor<D>) -> Tensor<1> {
    let shape = out.dims();
    let weights: Vec<f64> = (0..shape.iter().product::<usize>()).map(|i| (1.3 * i as f64 + 0.4).sin()).collect();
    let weights = Tensor::from_data(TensorData::new(weights, shape), &out.device());
    (out.clone() * weights).mean() + out.square().mean() * 0.5
}

/// What a module inside [`Net`] has to be.
trait Part: Module + ModuleDisplay + Sync + 'static {}

impl<M: Module + ModuleDisplay + Sync + 'static> Part for M {}

/// Collects the cases of a group.
struct Table {
    group: &'static str,
    cases: Vec<Case>,
}

impl Table {
    /// A case of any module, inputs and batch.
    fn add<M, I, B, F>(
        &mut self,
        name: impl Into<String>,
        make: impl Fn(&mut Draw) -> (M, I, B) + Send + Sync + 'static,
        function: F,
    ) -> &mut Case
    where
        M: Part,
        I: Part,
        B: Batch + 'static,
        F: Fn(&Net<M, I>, &B) -> Tensor<1> + Clone + Send + Sync + 'static,
    {
        self.cases.push(Case {
            group: self.group,
            name: name.into(),
            note: "",
            expect: Expect::Covered,
            limits: Limits::DOUBLE,
            random: false,
            mixed: None,
            make: Box::new(move |case, draw| {
                let (module, input, batch) = make(draw);
                check::check(&Net { module, input }, &batch, function.clone(), case, draw)
            }),
        });
        self.cases.last_mut().expect("just pushed")
    }

    /// A layer of one input, its parameters and the input drawn away from 0.
    fn layer<M, const D: usize, const O: usize>(
        &mut self,
        name: impl Into<String>,
        shape: [usize; D],
        init: impl Fn(&Device) -> M + Send + Sync + 'static,
        forward: fn(&M, Tensor<D>) -> Tensor<O>,
    ) -> &mut Case
    where
        M: Part,
    {
        self.away(name, shape, (-1.3, 1.3, &[0.0]), init, forward)
    }

    /// A layer whose input is drawn from `[low, high)`, away from kinks.
    fn away<M, const D: usize, const O: usize>(
        &mut self,
        name: impl Into<String>,
        shape: [usize; D],
        (low, high, kinks): (f64, f64, &'static [f64]),
        init: impl Fn(&Device) -> M + Send + Sync + 'static,
        forward: fn(&M, Tensor<D>) -> Tensor<O>,
    ) -> &mut Case
    where
        M: Part,
    {
        self.add(
            name,
            move |draw| {
                let module = init(&draw.autodiff());
                let module = draw.module(module);
                let data = draw.away(shape.iter().product(), low, high, kinks);
                (module, draw.param_of(shape, data), ())
            },
            move |net, _| scalarise(forward(&net.module, net.input.val())),
        )
    }

    /// A function of one tensor, drawn away from 0.
    fn function<const D: usize, const O: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        f: fn(Tensor<D>) -> Tensor<O>,
    ) -> &mut Case {
        self.add(
            name,
            move |draw| (Identity::new(), draw.param(shape), ()),
            move |net, _| scalarise(f(net.input.val())),
        )
    }

    /// A function of one tensor of `[0.2, 2)`.
    fn positive<const D: usize, const O: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        f: fn(Tensor<D>) -> Tensor<O>,
    ) -> &mut Case {
        self.add(
            name,
            move |draw| (Identity::new(), draw.param_in(shape, 0.2, 2.0), ()),
            move |net, _| scalarise(f(net.input.val())),
        )
    }

    /// A function of two tensors.
    fn pair<const D: usize, const E: usize, const O: usize>(
        &mut self,
        name: &str,
        first: [usize; D],
        second: [usize; E],
        f: fn(Tensor<D>, Tensor<E>) -> Tensor<O>,
    ) -> &mut Case {
        self.add(
            name,
            move |draw| (Identity::new(), (draw.param(first), draw.param(second)), ()),
            move |net, _| {
                let (x, y) = &net.input;
                scalarise(f(x.val(), y.val()))
            },
        )
    }

    /// A function of a tensor and indices.
    fn indexed<const D: usize, const O: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        indices: &'static [i64],
        f: fn(Tensor<D>, Tensor<1, Int>) -> Tensor<O>,
    ) -> &mut Case {
        self.add(
            name,
            move |draw| (Identity::new(), draw.param(shape), draw.exactly([indices.len()], indices)),
            move |net, indices: &Tensor<1, Int>| scalarise(f(net.input.val(), indices.clone())),
        )
    }

    /// A function of two tensors and indices.
    fn indexed_pair<const D: usize, const E: usize, const O: usize>(
        &mut self,
        name: &str,
        first: [usize; D],
        second: [usize; E],
        indices: &'static [i64],
        f: fn(Tensor<D>, Tensor<E>, Tensor<1, Int>) -> Tensor<O>,
    ) -> &mut Case {
        self.add(
            name,
            move |draw| {
                let input = (draw.param(first), draw.param(second));
                (Identity::new(), input, draw.exactly([indices.len()], indices))
            },
            move |net, indices: &Tensor<1, Int>| {
                let (x, y) = &net.input;
                scalarise(f(x.val(), y.val(), indices.clone()))
            },
        )
    }
}
