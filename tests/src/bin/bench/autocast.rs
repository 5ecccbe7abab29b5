//! Mixed precision: value and gradient in 16 bits beside those in `f32`.

use std::fmt::Write as _;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use core_tensor::{Batch, Program, Tree};
use crucible_tests::models::{Cnn, Mlp, Transformer, labels};
use mixed_precision::autocast;

use crate::medians;

/// Gradients of the three models.
pub fn run(out: &mut String) {
    let device = Device::default();
    writeln!(out, "### Autocast\n").unwrap();
    writeln!(out, "| model | f32 | bf16 | f16 | bf16 emulated | stored for the backward pass, f32 → bf16 |").unwrap();
    writeln!(out, "|---|---|---|---|---|---|").unwrap();
    let normal = Distribution::Normal(0.0, 1.0);
    let x = Tensor::<2>::random([128, 784], normal, &device);
    model(out, "mlp", &Mlp::new(&[784, 256, 256, 10], &device), (x, labels(128, &device)), Mlp::loss);
    let x = Tensor::<4>::random([64, 1, 28, 28], normal, &device);
    model(out, "cnn", &Cnn::new(&device), (x, labels(64, &device)), Cnn::loss);
    let x = Tensor::<3>::random([16, 32, 64], normal, &device);
    model(out, "transformer", &Transformer::new(&device), (x, labels(16, &device)), Transformer::loss);
    writeln!(out).unwrap();
}

fn model<M, B>(out: &mut String, name: &str, model: &M, batch: B, loss: fn(&M, &B) -> Tensor<1>)
where
    M: Module + Sync + 'static,
    B: Batch + 'static,
{
    let point = Tree::from_module(model);
    let full = Program::record_first_order(model, &batch, loss).expect("the model can be recorded");
    let (brain, half) = (full.autocast(&autocast::bf16()), full.autocast(&autocast::f16()));
    let emulated = full.autocast(&autocast::bf16().emulated());
    let run = |program: &Program<B>| drop(program.value_and_grad(&point, &batch).expect("recorded for this batch"));
    let [full_ms, brain_ms, half_ms, emulated_ms] =
        medians([&|| run(&full), &|| run(&brain), &|| run(&half), &|| run(&emulated)], &[1, 1, 1, 1]);
    let report = brain.autocast_report(&point, &batch).expect("run before").expect("an autocast program");
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let ratio = |ms: f64| format!("{ms:.2} ms ({:.2}×)", ms / full_ms);
    writeln!(
        out,
        "| {name} | {full_ms:.2} ms | {} | {} | {} | {:.2} → {:.2} MiB |",
        ratio(brain_ms),
        ratio(half_ms),
        ratio(emulated_ms),
        mib(report.stored_bytes_before),
        mib(report.stored_bytes),
    )
    .unwrap();
}
