//! Clipping rules against Burn's own clipping and the peers, in copies of the tree's bytes.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;

use burn::grad_clipping::GradientClipping;
use burn::tensor::{Device, Tensor, TensorData};
use clipping::{
    AdaptiveGradientClip, ClipByGlobalNorm, ClipByTensorNorm, ClipByValue, NonFinite, NonFinitePolicy, Reports,
    UnitAxes, ZClip,
};
use core_tensor::Tree;
use core_tensor::transform::{Context, GradientTransform, Update};

use crate::{Copy, Held, Peers, medians};

const LEAVES: usize = 200;
const SHAPE: [usize; 2] = [250, 500];

/// Every rule on a gradient of its own, for rules change what they clip.
pub fn run(out: &mut String, peers: &Peers) {
    let device = Device::default();
    let leaf = |seed: usize| {
        let number = |i: usize| ((i * 7919 + seed) % 2000) as f32 * 1e-3 - 1.0;
        let values: Vec<f32> = (0..SHAPE[0] * SHAPE[1]).map(number).collect();
        Tensor::<2>::from_data(TensorData::new(values, SHAPE), &device)
    };
    let tree = |seed: usize| {
        let push = |tree: Tree, i: usize| tree.push(format!("leaf{i}"), leaf(seed)).expect("another name");
        (0..LEAVES).fold(Tree::empty(), push)
    };
    let gradient = || Held::new(tree(1));
    let buffers = Copy::new(LEAVES * SHAPE[0] * SHAPE[1]);

    // A limit below the norm every time.
    let lower = |limit: &Cell<f64>| {
        limit.set(0.9999 * limit.get());
        limit.get()
    };
    let (long, limit, reports) = (gradient(), Cell::new(tree(1).norm().value()), Reports::default());
    let shorten = || {
        let mut rule = ClipByGlobalNorm::new(lower(&limit)).unwrap().report_to(&reports);
        long.update(|grads| apply(&mut rule, grads, &Context::new(0)));
        assert!(reports.last().is_some_and(|clip| clip.clipped()));
    };
    let short = gradient();
    let pass = || short.update(|grads| apply(&mut ClipByGlobalNorm::new(1e9).unwrap(), grads, &Context::new(0)));
    let (params, grads) = (gradient(), tree(2));
    let step = || params.update(|params| params.axpy(-1e-9, &grads).unwrap());
    let folded = || {
        let clip = ClipByGlobalNorm::new(1.0).unwrap().measure(&grads).unwrap();
        params.update(|params| params.axpy_by(&clip.fold(-1e-9), &grads).unwrap());
    };
    let bounded = gradient();
    let value = || bounded.update(|grads| apply(&mut ClipByValue::new(0.5).unwrap(), grads, &Context::new(0)));
    let (tensors, tensor_limit) = (gradient(), Cell::new(leaf_norm(&tree(1))));
    let tensor = || {
        let mut rule = ClipByTensorNorm::new(lower(&tensor_limit)).unwrap();
        tensors.update(|grads| apply(&mut rule, grads, &Context::new(0)));
    };
    let (units, weights) = (gradient(), tree(3));
    let axes = (0..LEAVES).fold(UnitAxes::default(), |axes, i| axes.with(format!("leaf{i}"), 1));
    let adaptive = || {
        let mut rule = AdaptiveGradientClip::new(0.01, axes.clone()).unwrap();
        units.update(|grads| apply(&mut rule, grads, &Context::new(0).with_params(&weights)));
    };
    let finite = gradient();
    let zero = |grads| apply(&mut NonFinite::new(NonFinitePolicy::Zero), grads, &Context::new(0));
    let whole = || finite.update(zero);
    let broken = gradient();
    let repair = || {
        broken.update(|grads| {
            let (_, rest) = grads.partition(|name| name.path == "broken");
            zero(rest.push("broken", Tensor::<1>::from_data([f32::NAN], &device)).unwrap())
        });
    };
    let (steady, history) = (gradient(), RefCell::new(ZClip::default()));
    let z = || steady.update(|grads| apply(&mut *history.borrow_mut(), grads, &Context::new(0)));
    let leaves = || Held::new((0..LEAVES).map(|_| leaf(1)).collect::<Vec<_>>());
    let burn = |rule: GradientClipping, leaves: &Held<Vec<Tensor<2>>>| {
        leaves.update(|leaves| leaves.into_iter().map(|leaf| rule.clip_gradient(leaf)).collect());
    };
    let (norm_leaves, value_leaves) = (leaves(), leaves());
    let burn_norm = || burn(GradientClipping::Norm(1.0), &norm_leaves);
    let burn_value = || burn(GradientClipping::Value(0.5), &value_leaves);

    let (one, two) = (|| buffers.one_thread(), || buffers.two_threads());
    let runs: [(&str, &dyn Fn()); 14] = [
        ("copy, one thread", &one),
        ("copy, two threads", &two),
        ("a step `x − lr·g`", &step),
        ("the step, global norm folded into it", &folded),
        ("global norm, shortened", &shorten),
        ("global norm, within the limit", &pass),
        ("value", &value),
        ("norm of each tensor, shortened", &tensor),
        ("adaptive, matrices by column", &adaptive),
        ("not finite to zero, all finite", &whole),
        ("not finite to zero, one NaN", &repair),
        ("ZClip", &z),
        ("Burn: norm of each tensor", &burn_norm),
        ("Burn: value", &burn_value),
    ];
    let every = runs.map(|(name, _)| if name.starts_with("adaptive") { 4 } else { 1 });
    let times = medians(runs.map(|(_, run)| run), &every);
    let copy = times[0].min(times[1]);
    writeln!(out, "### Clipping, 25 M f32 elements in 200 leaves\n").unwrap();
    writeln!(out, "| rule | time | copies of the tree |\n|---|---|---|").unwrap();
    let extra = ("global norm folded into the step: what it adds", times[3] - times[2]);
    for (name, ms) in runs.iter().map(|(name, _)| *name).zip(times).chain([extra]) {
        writeln!(out, "| {name} | {ms:.2} ms | {:.2} |", ms / copy).unwrap();
    }
    for ((rule, peer, _), copies) in peers.iter().filter(|((_, _, what), _)| what == "clipping") {
        writeln!(out, "| {peer}: {rule} | – | {copies:.2} |").unwrap();
    }
    writeln!(out).unwrap();
}

/// The sum of clipped per-sample gradients: what the peers need for it beside a plain gradient.
pub fn per_sample(out: &mut String, peers: &Peers) {
    let figure = |model: &str, what: &str| peers.get(&(model.to_string(), "opacus".to_string(), what.to_string()));
    let models = ["mlp", "cnn"].into_iter().filter(|model| figure(model, "plain").is_some()).collect::<Vec<_>>();
    if models.is_empty() {
        return;
    }
    writeln!(out, "### Clipped per-sample gradients\n").unwrap();
    writeln!(out, "| model | PyTorch gradient | Opacus, explicit | Opacus, ghost |\n|---|---|---|---|").unwrap();
    for model in models {
        let cell =
            |what: &str| match (figure(model, what), figure(model, "plain"), figure(model, &format!("{what} mb"))) {
                (Some(ms), Some(plain), Some(mb)) => format!("{ms:.2} ms ({:.2}×), {mb:.1} MB", ms / plain),
                _ => "–".to_string(),
            };
        writeln!(out, "| {model} | {} | {} | {} |", cell("plain"), cell("explicit"), cell("ghost")).unwrap();
    }
    writeln!(out).unwrap();
}

fn leaf_norm(tree: &Tree) -> f64 {
    tree.leaf_norms()[0].value()
}

fn apply(rule: &mut impl GradientTransform, grads: Tree, context: &Context<'_>) -> Tree {
    match rule.apply(grads, context) {
        Ok(Update::Apply(clipped)) => clipped,
        Ok(Update::Skip { why }) => panic!("{why}"),
        Err(error) => panic!("{error}"),
    }
}
