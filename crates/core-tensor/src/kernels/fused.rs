//! A list of element-wise operations of host tensors in one pass: nothing between inputs and outputs touches memory.
//!
//! The values of a [`Kernel`] live on a grid of rows and columns, the columns being the last dimension. A tile of whole rows,
//! about [`TILE`] elements, goes through all instructions before the next one is begun, so that the registers stay in the
//! first-level cache and a reduction along the row is one more instruction. Tiles are independent: threads share them, and the
//! result does not depend on how.
//!
//! Every operation rounds as the same operation of Burn's flex does; sums alone differ, as they add in [`LANES`] lanes on every
//! machine where flex adds in as many as the vector unit has.

use std::ops::{Add, Div, Mul, Neg, Sub};

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchDevice, DispatchTensor, TensorMetadata};
use burn::tensor::{DType, Shape, TensorData};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::elementary;
use super::host::{self, Slice, SliceMut};
use super::slices::Real;

/// Elements of a register.
const TILE: usize = 1024;
/// Independent accumulators of a sum.
const LANES: usize = 16;
/// Below this much work, in simple operations on one element, a second thread costs more than it brings.
const PARALLEL: usize = 1 << 19;

/// How a value varies over the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// A value for every element.
    Full,
    /// A value for every row.
    Row,
    /// A value for every column.
    Column,
    /// One value.
    One,
}

/// What an instruction computes of its operands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Op {
    Add,
    Sub,
    Mul,
    Div,
    AddScalar(f64),
    SubScalar(f64),
    MulScalar(f64),
    DivScalar(f64),
    Neg,
    Abs,
    Square,
    Recip,
    SquareRecip,
    Sqrt,
    Exp,
    Log,
    Tanh,
    Erf,
    Sigmoid,
    SigmoidBackward,
    Gelu,
    GeluSlope,
    Relu,
    ReluBackward,
    Power(f64),
    /// The sum of each row.
    Sum,
    /// The mean of each row.
    Mean,
    /// The largest element of each row, NaN if there is one.
    Max,
    /// Of each row of the first operand, the element where the second's is largest: the first such, NaN before all.
    PickMax,
}

impl Op {
    /// Whether the operation has a kernel for the type. Functions whose rounding depends on the backend have none for `f64`.
    pub fn supports(self, dtype: DType) -> bool {
        match dtype {
            DType::F32 => true,
            DType::F64 => !matches!(self, Op::Erf | Op::Sigmoid | Op::SigmoidBackward | Op::Gelu | Op::GeluSlope),
            _ => false,
        }
    }

    /// Time per element, in additions.
    fn cost(self) -> usize {
        match self {
            Op::Exp | Op::Tanh | Op::Sigmoid => 16,
            Op::Erf | Op::Gelu | Op::GeluSlope => 40,
            Op::Log | Op::Power(_) => 60,
            Op::Div | Op::DivScalar(_) | Op::Recip | Op::SquareRecip | Op::Sqrt => 3,
            _ => 1,
        }
    }

    /// Whether one such operation alone gains from this path.
    pub fn dear(self) -> bool {
        self == Op::GeluSlope
    }

    /// Whether the operation makes one value a row.
    pub fn reduces(self) -> bool {
        matches!(self, Op::Sum | Op::Mean | Op::Max | Op::PickMax)
    }
}

/// An operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    /// An input.
    Input(usize),
    /// The result of an instruction.
    Result(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub op: Op,
    /// The second is the first again where the operation has one operand.
    pub args: [Arg; 2],
    pub extent: Extent,
}

/// A compiled list of instructions.
#[derive(Debug)]
pub(crate) struct Kernel {
    rows: usize,
    columns: usize,
    inputs: Vec<Extent>,
    instructions: Vec<Instruction>,
    /// The register of each instruction's result: first those of the outputs, in order, then scratch.
    registers: Vec<usize>,
    scratch: usize,
    outputs: Vec<Output>,
}

#[derive(Debug)]
struct Output {
    shape: Shape,
    extent: Extent,
    /// The input whose memory the output may take.
    reuse: Option<usize>,
}

impl Kernel {
    /// Compiles a list for a grid of shape `space`. `outputs` are results, with their shapes.
    pub fn new(
        space: &Shape,
        inputs: Vec<Extent>,
        instructions: Vec<Instruction>,
        outputs: Vec<(usize, Shape)>,
    ) -> Self {
        let total = space.num_elements();
        let mut columns = space.iter().last().copied().unwrap_or(1);
        let plain = |extent: &Extent| matches!(extent, Extent::Full | Extent::One);
        if inputs.iter().all(plain) && instructions.iter().all(|i| plain(&i.extent) && !i.op.reduces()) {
            columns = 1;
        }
        // The last instruction that reads each result and each input.
        let mut last = vec![0; instructions.len()];
        let mut input_last = vec![0; inputs.len()];
        for (position, instruction) in instructions.iter().enumerate() {
            for arg in instruction.args {
                match arg {
                    Arg::Input(input) => input_last[input] = position,
                    Arg::Result(result) => last[result] = position,
                }
            }
        }
        let mut registers = vec![usize::MAX; instructions.len()];
        let mut used = vec![false; inputs.len()];
        let mut places = Vec::with_capacity(outputs.len());
        for (register, (result, shape)) in outputs.into_iter().enumerate() {
            registers[result] = register;
            let extent = instructions[result].extent;
            // An input that is read for the last time before the output is written.
            let reuse = (0..inputs.len()).find(|&input| {
                !used[input] && extent == Extent::Full && inputs[input] == Extent::Full && input_last[input] < result
            });
            reuse.into_iter().for_each(|input| used[input] = true);
            places.push(Output { shape, extent, reuse });
        }
        let mut free = Vec::new();
        let mut count = places.len();
        for (position, instruction) in instructions.iter().enumerate() {
            if registers[position] == usize::MAX {
                registers[position] = free.pop().unwrap_or_else(|| {
                    count += 1;
                    count - 1
                });
            }
            // Freed only now: an instruction never writes where it reads.
            let [a, b] = instruction.args;
            for arg in if a == b { vec![a] } else { vec![a, b] } {
                if let Arg::Result(result) = arg
                    && last[result] == position
                    && registers[result] >= places.len()
                {
                    free.push(registers[result]);
                }
            }
        }
        let scratch = count - places.len();
        Self { rows: total / columns, columns, inputs, instructions, registers, scratch, outputs: places }
    }

    /// Runs the kernel; the tensors come back where they are not plain tensors of the host of one type.
    ///
    /// Inputs without another holder may be overwritten.
    pub fn run(
        &self,
        inputs: Vec<DispatchTensor>,
        device: &DispatchDevice,
    ) -> Result<Vec<DispatchTensor>, Vec<DispatchTensor>> {
        let Some(dtype) = inputs.first().map(|input| input.dtype()) else {
            return Err(inputs);
        };
        if !inputs.iter().all(|input| host::is_host(input) && input.dtype() == dtype) {
            return Err(inputs);
        }
        match dtype {
            DType::F32 => Ok(self.run_typed::<f32>(inputs, device)),
            DType::F64 => Ok(self.run_typed::<f64>(inputs, device)),
            _ => Err(inputs),
        }
    }

    fn run_typed<E: Float>(&self, inputs: Vec<DispatchTensor>, device: &DispatchDevice) -> Vec<DispatchTensor> {
        let mut inputs: Vec<Option<DispatchTensor>> =
            inputs.into_iter().map(|input| Some(host::contiguous(input))).collect();
        // Taken out of the inputs where their memory becomes an output's.
        let mut targets: Vec<(Option<DispatchTensor>, Vec<E>)> = Vec::with_capacity(self.outputs.len());
        let mut in_place = vec![None; inputs.len()];
        for (register, output) in self.outputs.iter().enumerate() {
            let taken = output.reuse.and_then(|input| {
                let mut tensor = inputs[input].take()?;
                if E::slice_mut(&mut tensor).is_some() {
                    in_place[input] = Some(register);
                    return Some(tensor);
                }
                inputs[input] = Some(tensor);
                None
            });
            let fresh = match taken {
                Some(_) => Vec::new(),
                None => vec![E::ZERO; output.extent.len(self.rows, self.columns)],
            };
            targets.push((taken, fresh));
        }
        {
            let slices: Vec<&[E]> = inputs
                .iter()
                .map(|input| match input {
                    Some(input) => E::slice(input).expect("a contiguous tensor of the host has a slice"),
                    None => &[],
                })
                .collect();
            let outputs: Vec<&mut [E]> = targets
                .iter_mut()
                .map(|(taken, fresh)| match taken {
                    Some(tensor) => E::slice_mut(tensor).expect("nobody took hold of the tensor"),
                    None => fresh.as_mut_slice(),
                })
                .collect();
            self.compute(&slices, &in_place, outputs);
        }
        let made = self.outputs.iter().zip(targets);
        made.map(|(output, (taken, fresh))| {
            taken.unwrap_or_else(|| Dispatch::float_from_data(TensorData::new(fresh, output.shape.clone()), device))
        })
        .collect()
    }

    /// Roughly the time of a run, in simple operations on one element.
    pub fn work(&self) -> usize {
        let work =
            |i: &Instruction| i.op.cost() * if i.extent == Extent::Row && !i.op.reduces() { 1 } else { self.columns };
        self.rows * self.instructions.iter().map(work).sum::<usize>()
    }

    /// Rows of a tile.
    fn tile(&self) -> usize {
        (TILE / self.columns).max(1)
    }

    fn compute<E: Float>(&self, inputs: &[&[E]], in_place: &[Option<usize>], mut outputs: Vec<&mut [E]>) {
        let arch = Arch::new();
        let parts = match self.work() < PARALLEL {
            true => 1,
            false => rayon::current_num_threads(),
        };
        if parts == 1 {
            return arch.dispatch(Part { kernel: self, inputs, in_place, outputs, first: 0, rows: self.rows });
        }
        let rows = self.rows.div_ceil(parts).next_multiple_of(self.tile());
        let mut tasks = Vec::new();
        for first in (0..self.rows).step_by(rows) {
            let rows = rows.min(self.rows - first);
            let head = self.outputs.iter().zip(&mut outputs).map(|(output, rest)| {
                let (head, tail) = std::mem::take(rest).split_at_mut(output.extent.len(rows, self.columns));
                *rest = tail;
                head
            });
            tasks.push(Part { kernel: self, inputs, in_place, outputs: head.collect(), first, rows });
        }
        tasks.into_par_iter().for_each(|task| arch.dispatch(task));
    }
}

impl Extent {
    /// Number of values of so many rows.
    fn len(self, rows: usize, columns: usize) -> usize {
        match self {
            Extent::Full => rows * columns,
            Extent::Row => rows,
            Extent::Column => columns,
            Extent::One => 1,
        }
    }
}

/// Some rows of a kernel's grid.
struct Part<'a, E> {
    kernel: &'a Kernel,
    inputs: &'a [&'a [E]],
    /// The register where an input is found whose memory an output has taken.
    in_place: &'a [Option<usize>],
    outputs: Vec<&'a mut [E]>,
    first: usize,
    rows: usize,
}

impl<E: Float> WithSimd for Part<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _simd: S) {
        let Kernel { columns, instructions, registers, scratch, .. } = self.kernel;
        let (columns, tile) = (*columns, self.kernel.tile());
        let mut memory = vec![E::ZERO; scratch * tile * columns];
        let mut done = 0;
        while done < self.rows {
            let rows = tile.min(self.rows - done);
            let mut values: Vec<&mut [E]> = Vec::with_capacity(self.outputs.len() + scratch);
            for (place, output) in self.kernel.outputs.iter().zip(&mut self.outputs) {
                let extent = place.extent;
                values.push(&mut output[extent.len(done, columns)..extent.len(done + rows, columns)]);
            }
            values.extend(memory.chunks_mut(tile * columns));
            for (instruction, register) in instructions.iter().zip(registers) {
                let out = std::mem::take(&mut values[*register]);
                let view = |arg: Arg| {
                    let (extent, slice) = match arg {
                        Arg::Result(result) => {
                            let extent = instructions[result].extent;
                            (extent, &values[registers[result]][..extent.len(rows, columns)])
                        }
                        Arg::Input(input) => {
                            let extent = self.kernel.inputs[input];
                            let start = self.first + done;
                            match (self.in_place[input], extent) {
                                (Some(register), _) => (extent, &values[register][..rows * columns]),
                                (_, Extent::Full) => (extent, &self.inputs[input][start * columns..][..rows * columns]),
                                (_, Extent::Row) => (extent, &self.inputs[input][start..][..rows]),
                                (_, Extent::Column | Extent::One) => (extent, self.inputs[input]),
                            }
                        }
                    };
                    View::new(extent, slice, instruction.extent)
                };
                let [a, b] = instruction.args.map(view);
                step(instruction.op, &mut out[..instruction.extent.len(rows, columns)], a, b, columns);
                values[*register] = out;
            }
            done += rows;
        }
    }
}

/// An operand as seen from the result.
#[derive(Clone, Copy)]
enum View<'a, E> {
    /// As long as the result, or the rows of a reduction.
    Same(&'a [E]),
    /// A value for each row.
    Each(&'a [E]),
    /// The same for each row.
    Repeat(&'a [E]),
    One(E),
}

impl<'a, E: Float> View<'a, E> {
    #[inline(always)]
    fn new(extent: Extent, slice: &'a [E], of: Extent) -> Self {
        match (extent, of) {
            (Extent::Full, _) | (Extent::Row, Extent::Row) => View::Same(slice),
            (Extent::Row, _) => View::Each(slice),
            (Extent::Column, _) => View::Repeat(slice),
            (Extent::One, _) => View::One(slice[0]),
        }
    }

    #[inline(always)]
    fn same(self) -> &'a [E] {
        match self {
            View::Same(slice) => slice,
            _ => unreachable!("an operation of one operand has its shape"),
        }
    }
}

/// One instruction on a tile.
#[inline(always)]
fn step<E: Float>(op: Op, out: &mut [E], a: View<'_, E>, b: View<'_, E>, columns: usize) {
    macro_rules! map {
        (|$x:ident| $body:expr) => {
            for (out, x) in out.iter_mut().zip(a.same()) {
                let $x = *x;
                *out = $body;
            }
        };
    }
    // Rows of one of four kinds; a single row where neither operand has rows of its own.
    macro_rules! zip {
        (|$x:ident, $y:ident| $body:expr) => {{
            let whole = |view: View<'_, E>| matches!(view, View::Same(_) | View::One(_));
            let columns = if whole(a) && whole(b) { out.len() } else { columns };
            for (row, out) in out.chunks_exact_mut(columns).enumerate() {
                let lane = |view| match view {
                    View::Same(slice) => Err(&slice[row * columns..][..columns]),
                    View::Repeat(slice) => Err(&slice[..columns]),
                    View::Each(slice) => Ok(slice[row]),
                    View::One(x) => Ok(x),
                };
                match (lane(a), lane(b)) {
                    (Err(a), Err(b)) => {
                        for ((out, x), y) in out.iter_mut().zip(a).zip(b) {
                            let ($x, $y) = (*x, *y);
                            *out = $body;
                        }
                    }
                    (Err(a), Ok($y)) => {
                        for (out, x) in out.iter_mut().zip(a) {
                            let $x = *x;
                            *out = $body;
                        }
                    }
                    (Ok($x), Err(b)) => {
                        for (out, y) in out.iter_mut().zip(b) {
                            let $y = *y;
                            *out = $body;
                        }
                    }
                    (Ok($x), Ok($y)) => out.fill($body),
                }
            }
        }};
    }
    macro_rules! reduce {
        (|$row:ident| $body:expr) => {
            for (out, $row) in out.iter_mut().zip(a.same().chunks_exact(columns)) {
                *out = $body;
            }
        };
    }
    let count = E::narrow(columns as f64);
    match op {
        Op::Add => zip!(|x, y| x + y),
        Op::Sub => zip!(|x, y| x - y),
        Op::Mul => zip!(|x, y| x * y),
        Op::Div => zip!(|x, y| x / y),
        Op::AddScalar(s) => {
            let s = E::narrow(s);
            map!(|x| x + s)
        }
        Op::SubScalar(s) => {
            let s = E::narrow(s);
            map!(|x| x - s)
        }
        Op::MulScalar(s) => {
            let s = E::narrow(s);
            map!(|x| x * s)
        }
        Op::DivScalar(s) => {
            let s = E::narrow(s);
            map!(|x| x / s)
        }
        Op::Neg => map!(|x| -x),
        Op::Abs => map!(|x| x.abs()),
        Op::Square => map!(|x| x * x),
        Op::Recip => map!(|x| E::ONE / x),
        Op::SquareRecip => map!(|x| E::ONE / (x * x)),
        Op::Sqrt => map!(|x| x.sqrt()),
        Op::Exp => map!(|x| x.exp()),
        Op::Log => map!(|x| x.log()),
        Op::Tanh => map!(|x| x.tanh()),
        Op::Erf => map!(|x| E::narrow(elementary::erf(x.wide()))),
        Op::Sigmoid => map!(|x| E::narrow(elementary::sigmoid(x.wide()))),
        Op::SigmoidBackward => zip!(|s, g| g * s * (E::ONE - s)),
        Op::Gelu => map!(|x| E::narrow(elementary::gelu(x.wide()))),
        Op::GeluSlope => map!(|x| E::narrow(elementary::gelu_backward(x.wide(), 1.0))),
        // NaN stays, and keeps its gradient.
        Op::Relu => map!(|x| if x <= E::ZERO { E::ZERO } else { x }),
        Op::ReluBackward => zip!(|y, g| if y <= E::ZERO { E::ZERO } else { g }),
        Op::Power(p) => {
            let p = E::narrow(p);
            map!(|x| x.power(p))
        }
        Op::Sum => reduce!(|row| sum(row)),
        Op::Mean => reduce!(|row| sum(row) / count),
        Op::Max => reduce!(|row| max(row)),
        Op::PickMax => {
            let rows = a.same().chunks_exact(columns).zip(b.same().chunks_exact(columns));
            for (out, (values, row)) in out.iter_mut().zip(rows) {
                let top = max(row);
                let first = row.iter().position(|x| *x == top || x.is_nan()).unwrap_or(0);
                *out = values[first];
            }
        }
    }
}

#[inline(always)]
fn sum<E: Float>(row: &[E]) -> E {
    let mut lanes = [E::ZERO; LANES];
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] = lanes[lane] + block[lane];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = *lane + *x;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = lanes[lane] + lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn max<E: Float>(row: &[E]) -> E {
    // NaN, once there, stays: nothing is greater.
    let pick = |top: E, x: E| if x > top || x.is_nan() { x } else { top };
    let mut lanes = [E::NEG_INFINITY; LANES];
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] = pick(lanes[lane], block[lane]);
        }
    }
    let top = lanes.into_iter().fold(E::NEG_INFINITY, pick);
    rest.iter().copied().fold(top, pick)
}

/// A type that kernels are compiled for.
trait Float:
    Real
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    const ONE: Self;
    const NEG_INFINITY: Self;
    fn is_nan(self) -> bool;
    fn abs(self) -> Self;
    fn sqrt(self) -> Self;
    fn exp(self) -> Self;
    fn log(self) -> Self;
    fn tanh(self) -> Self;
    fn power(self, exponent: Self) -> Self;
    fn slice(tensor: &DispatchTensor) -> Option<&[Self]>;
    fn slice_mut(tensor: &mut DispatchTensor) -> Option<&mut [Self]>;
}

macro_rules! float {
    ($type:ident, $variant:ident, |$x:ident| $exp:expr, $tanh:expr) => {
        impl Float for $type {
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = $type::NEG_INFINITY;
            #[inline(always)]
            fn is_nan(self) -> bool {
                self != self
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $type::abs(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                $type::sqrt(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                let $x = self;
                $exp
            }
            #[inline(always)]
            fn log(self) -> Self {
                $type::ln(self)
            }
            #[inline(always)]
            fn tanh(self) -> Self {
                let $x = self;
                $tanh
            }
            #[inline(always)]
            fn power(self, exponent: Self) -> Self {
                $type::powf(self, exponent)
            }
            fn slice(tensor: &DispatchTensor) -> Option<&[Self]> {
                match host::slice(tensor)? {
                    Slice::$variant(slice) => Some(slice),
                    _ => None,
                }
            }
            fn slice_mut(tensor: &mut DispatchTensor) -> Option<&mut [Self]> {
                match host::slice_mut(tensor)? {
                    SliceMut::$variant(slice) => Some(slice),
                    _ => None,
                }
            }
        }
    };
}

float!(f32, F32, |x| elementary::exp(f64::from(x)) as f32, elementary::tanh(f64::from(x)) as f32);
float!(f64, F64, |x| f64::exp(x), f64::tanh(x));
