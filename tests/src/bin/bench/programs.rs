//! Programs: gradients and Hessian-vector products beside Burn's own backward pass.

use std::fmt::Write as _;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use core_tensor::{Batch, Program, Tree};
use crucible_tests::models::{Cnn, Mlp, Transformer, labels};

use crate::{Peers, medians};

const MODELS: [&str; 3] = ["mlp", "cnn", "transformer"];

/// Gradients and Hessian-vector products of the three models.
pub fn run(out: &mut String, peers: &Peers, wanted: &dyn Fn(&str) -> bool) {
    if !MODELS.into_iter().any(wanted) {
        return;
    }
    let device = Device::default();
    writeln!(out, "### Programs\n").unwrap();
    writeln!(
        out,
        "| model | operations (gradient / with tangents) | Burn forward+backward | recorded gradient | value, gradient and H·v | \
         one more H·v | recording | JAX gradient → H·v | PyTorch gradient → H·v |"
    )
    .unwrap();
    writeln!(out, "|---|---|---|---|---|---|---|---|---|").unwrap();
    let normal = Distribution::Normal(0.0, 1.0);
    if wanted("mlp") {
        let x = Tensor::<2>::random([128, 784], normal, &device);
        model(out, "mlp", &Mlp::new(&[784, 256, 256, 10], &device), (x, labels(128, &device)), Mlp::loss, peers);
    }
    if wanted("cnn") {
        let x = Tensor::<4>::random([64, 1, 28, 28], normal, &device);
        model(out, "cnn", &Cnn::new(&device), (x, labels(64, &device)), Cnn::loss, peers);
    }
    if wanted("transformer") {
        let x = Tensor::<3>::random([16, 32, 64], normal, &device);
        model(out, "transformer", &Transformer::new(&device), (x, labels(16, &device)), Transformer::loss, peers);
    }
    writeln!(out).unwrap();
}

fn model<M, B>(out: &mut String, name: &str, model: &M, batch: B, loss: fn(&M, &B) -> Tensor<1>, peers: &Peers)
where
    M: Module + Sync + 'static,
    B: Batch + 'static,
{
    let point = Tree::from_module(model);
    let direction = point.clone();
    let record = || Program::record(model, &batch, loss).expect("the model can be recorded");
    let program = record();
    let trained = model.clone().train();
    let linear = program.linearize(&point, &batch).unwrap();
    let eager = || {
        let grads = loss(&trained, &batch).backward();
        drop(Tree::from_grads(grads, &trained));
    };
    let gradient = || drop(program.value_and_grad(&point, &batch).unwrap());
    let jvp = || drop(program.jvp(&point, &batch, &direction).unwrap());
    let hvp = || drop(linear.hvp(&direction).unwrap());
    let [eager, gradient, jvp_ms, hvp, recording] =
        medians([&eager, &gradient, &jvp, &hvp, &|| drop(record())], &[1, 1, 1, 1, 8]);
    let (short, long) = program.operations(&point, &batch).unwrap();
    let peer = |peer: &str| {
        let get = |what: &str| peers.get(&(name.to_string(), peer.to_string(), what.to_string()));
        match (get("grad"), get("hvp")) {
            (Some(g), Some(h)) => format!("{g:.2} → {h:.2} ms ({:.2}×)", h / g),
            _ => "–".to_string(),
        }
    };
    writeln!(
        out,
        "| {name} | {short} / {long} | {eager:.2} ms | {gradient:.2} ms ({:.2}×) | {jvp_ms:.2} ms ({:.2}× recorded, {:.2}× Burn's) | \
         {hvp:.2} ms ({:.2}×) | {recording:.1} ms ({:.1}×) | {} | {} |",
        gradient / eager,
        jvp_ms / gradient,
        jvp_ms / eager,
        hvp / gradient,
        recording / gradient,
        peer("jax"),
        peer("torch"),
    )
    .unwrap();
}
