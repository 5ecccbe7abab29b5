//! Hypergradients: time and error of each method beside one gradient of the inner objective, and beside the peers.

use std::fmt::Write as _;

use bilevel::{Checkpoint, Method};
use burn::tensor::{DType, Device, FloatDType};
use core_tensor::Tree;
use crucible_tests::hypergradients::{Case, Kind};

use crate::{Peers, medians_of};

/// Seconds that each method is measured for.
const SECONDS: f64 = 0.5;
const PEERS: [&str; 4] = ["jax", "torch", "torchopt", "betty"];

/// All problems.
pub fn run(out: &mut String, peers: &Peers) {
    for kind in Kind::ALL {
        measure(out, peers, kind).expect("the problems are regular");
    }
}

fn measure(out: &mut String, peers: &Peers, kind: Kind) -> bilevel::Result<()> {
    let device = Device::default();
    let exact = Case::new(kind, DType::F64, &device)?;
    let solution = exact.point()?;
    let reference = |method: &dyn Method<_, _>, z: &Tree| -> bilevel::Result<Tree> {
        Ok(method.hypergradient(&exact.problem, &exact.x, z, &exact.batches)?.gradient)
    };
    let references = [
        ("implicit", reference(&exact.conjugate_gradients(5000, 1e-12)?, &solution)?),
        ("20 steps", reference(&exact.steps(20, Checkpoint::All)?, &exact.start)?),
        ("100 steps", reference(&exact.steps(100, Checkpoint::All)?, &exact.start)?),
    ];
    let of = |peer: &str, what: &str| peers.get(&(exact.name.to_string(), peer.to_string(), what.to_string())).copied();
    for (name, reference) in &references {
        if let Some(theirs) = of("torch", &format!("reference {name} norm")) {
            let ours = reference.norm().value();
            assert!((ours - theirs).abs() < 1e-6 * theirs, "{}, {name}: {ours} here, {theirs} there", exact.name);
        }
    }

    let case = Case::new(kind, DType::F32, &device)?;
    let point = solution.cast(FloatDType::F32);
    let methods = case.methods()?;
    let (problem, x, batches) = (&case.problem, &case.x, &case.batches);
    let run = |method: &dyn Method<_, _>, from_start: bool| {
        let z = if from_start { &case.start } else { &point };
        method.hypergradient(problem, x, z, batches).expect("the problem is regular")
    };
    let gradient = || drop(problem.inner_gradient(x, &point, &batches.inner).unwrap());
    let product = || drop(problem.linearize(x, &point, &batches.inner).unwrap().along_z(&point).unwrap());
    // Each alone: a method of a hundred steps leaves cold caches to a gradient after it.
    let alone = |call: &dyn Fn()| medians_of(&[call], SECONDS)[0];
    let once = [alone(&gradient), alone(&product)];
    let times: Vec<f64> = methods.iter().map(|(_, method, start)| alone(&|| drop(run(&**method, *start)))).collect();

    writeln!(out, "### Hypergradients: {}\n", case.name).unwrap();
    writeln!(
        out,
        "| method | time (gradients) | error | JAX | PyTorch | TorchOpt | betty |\n|---|---|---|---|---|---|---|"
    )
    .unwrap();
    let mut line = |name: &str, ms: f64, error: Option<f64>| {
        let error = error.map_or("–".to_string(), |error| format!("{error:.0e}"));
        write!(out, "| {name} | {ms:.2} ms ({:.1}×) | {error} |", ms / once[0]).unwrap();
        for peer in PEERS {
            match (of(peer, name), of(peer, &format!("{name} error"))) {
                (Some(ms), Some(error)) => write!(out, " {ms:.2} ms, {error:.0e} |").unwrap(),
                (Some(ms), None) => write!(out, " {ms:.2} ms |").unwrap(),
                _ => write!(out, " – |").unwrap(),
            }
        }
        writeln!(out).unwrap();
    };
    line("gradient", once[0], None);
    line("gradient and product", once[1], None);
    for ((name, method, start), ms) in methods.iter().zip(&times) {
        let found = run(&**method, *start).gradient.cast(FloatDType::F64);
        let by = references.iter().find(|(of, _)| name.ends_with(of)).unwrap_or(&references[0]);
        let error = found.sub(&by.1)?.norm().value() / by.1.norm().value();
        line(name, *ms, Some(error));
    }
    writeln!(out).unwrap();
    Ok(())
}
