//! `memory`: the peak memory of programs, as ratios to that of a recorded gradient.
//!
//! A program of its own: the allocator that counts is not the one that `bench` is timed with. The peak is what is allocated at
//! once beyond what was there before the call.

#![forbid(unsafe_code)]

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use core_tensor::{Batch, Program, Tree};
use crucible_tests::models::{Cnn, Mlp, Transformer, labels};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fn main() {
    let device = Device::default();
    let normal = Distribution::Normal(0.0, 1.0);
    println!("### Peak memory\n");
    println!("| model | recorded gradient | value, gradient and H·v |\n|---|---|---|");
    let x = Tensor::<2>::random([128, 784], normal, &device);
    model("mlp", &Mlp::new(&[784, 256, 256, 10], &device), (x, labels(128, &device)), Mlp::loss);
    let x = Tensor::<4>::random([64, 1, 28, 28], normal, &device);
    model("cnn", &Cnn::new(&device), (x, labels(64, &device)), Cnn::loss);
    let x = Tensor::<3>::random([16, 32, 64], normal, &device);
    model("transformer", &Transformer::new(&device), (x, labels(16, &device)), Transformer::loss);
    println!();
}

fn model<M, B>(name: &str, model: &M, batch: B, loss: fn(&M, &B) -> Tensor<1>)
where
    M: Module + Sync + 'static,
    B: Batch + 'static,
{
    let point = Tree::from_module(model);
    let program = Program::record(model, &batch, loss).expect("the model can be recorded");
    let gradient = peak(|| drop(program.value_and_grad(&point, &batch).unwrap()));
    let jvp = peak(|| drop(program.jvp(&point, &batch, &point).unwrap()));
    println!("| {name} | {:.1} MB | {:.1} MB ({:.2}×) |", gradient / 1e6, jvp / 1e6, jvp / gradient);
}

/// Bytes allocated at the peak of a call beyond those before it.
fn peak(function: impl Fn()) -> f64 {
    function();
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    function();
    (MEMORY.peak_usage() - before) as f64
}
