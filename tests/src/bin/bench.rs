//! `bench [--only PART] [--peers-file FILE] [--markdown FILE]`: times of programs and trees as ratios of one run.
//!
//! Every figure is the median of interleaved repetitions, so that a slow moment of the machine falls on all sides alike.
//! The allocator is mimalloc, as in `lab`. `memory` measures peaks.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use core_tensor::{Batch, Program, Tree};
use crucible_tests::models::{Cnn, Mlp, Transformer, labels};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What can be measured alone.
const PARTS: [&str; 4] = ["mlp", "cnn", "transformer", "trees"];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut only, mut peers, mut markdown) = (None, None, None);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--only", Some(part)) if PARTS.contains(&part.as_str()) => only = Some(part),
            ("--peers-file", Some(file)) => peers = Some(file),
            ("--markdown", Some(file)) => markdown = Some(file),
            _ => {
                eprintln!("usage: bench [--only {}] [--peers-file FILE] [--markdown FILE]", PARTS.join("|"));
                return ExitCode::from(2);
            }
        }
    }
    let peers = match peers.map(|file| read_peers(&file)).transpose() {
        Ok(peers) => peers.unwrap_or_default(),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let mut report = String::new();
    let wanted = |part: &str| only.as_ref().is_none_or(|only| only == part);
    programs(&mut report, &peers, &wanted);
    if wanted("trees") {
        trees(&mut report, &peers);
    }
    print!("{report}");
    if let Some(file) = markdown
        && let Err(error) = std::fs::write(&file, &report)
    {
        eprintln!("cannot write {file}: {error}");
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}

/// Peers' times in milliseconds by (model or operation, peer, what).
type Peers = BTreeMap<(String, String, String), f64>;

fn read_peers(file: &str) -> Result<Peers, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let mut peers = Peers::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('{')) {
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|error| format!("{file}:{}: {error}", number + 1))?;
        let field = |name: &str| value[name].as_str().unwrap_or_default().to_string();
        let (model, what) = match value["model"].is_string() {
            true => (field("model"), field("what")),
            false => (field("tree"), "tree".to_string()),
        };
        let figure = value["copies"].as_f64().or_else(|| value["ms"].as_f64());
        if let Some(figure) = figure {
            peers.insert((model, field("peer"), what), figure);
        }
    }
    Ok(peers)
}

fn programs(out: &mut String, peers: &Peers, wanted: &dyn Fn(&str) -> bool) {
    if !PARTS[..3].iter().any(|part| wanted(part)) {
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

/// Median milliseconds of each function over interleaved rounds; function `i` runs every `every[i]`-th round.
fn medians<const N: usize>(functions: [&dyn Fn(); N], every: &[usize; N]) -> [f64; N] {
    const ROUNDS: usize = 80;
    let mut times: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
    for round in 0..ROUNDS {
        for (index, function) in functions.iter().enumerate() {
            if round % every[index] == 0 {
                let start = Instant::now();
                function();
                times[index].push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    times.map(|mut times| {
        // The first rounds warm caches and thread pools.
        times.drain(..times.len() / 8);
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

fn trees(out: &mut String, peers: &Peers) {
    let device = Device::default();
    const ELEMENTS: usize = 10_000_000;
    let leaf = |seed: f32| {
        let values: Vec<f32> = (0..ELEMENTS).map(|i| seed + (i % 1000) as f32 * 1e-3).collect();
        Tree::empty().push("x", Tensor::<1>::from_data(TensorData::new(values, [ELEMENTS]), &device)).unwrap()
    };
    let (x, y) = (leaf(0.5), std::cell::RefCell::new(Some(leaf(0.25))));
    let source = vec![1.0f32; ELEMENTS];
    let target = std::cell::RefCell::new(vec![0.0f32; ELEMENTS]);
    let copy = || target.borrow_mut().copy_from_slice(&source);
    let in_place = |f: &dyn Fn(Tree) -> Tree| {
        let taken = y.borrow_mut().take().expect("put back after every call");
        *y.borrow_mut() = Some(f(taken));
    };
    let axpy = || in_place(&|y| y.axpy(1e-6, &x).unwrap());
    let scale = || in_place(&|y| y.scale(0.999_999));
    let other = leaf(0.1);
    let dot = || drop(x.dot(&other).unwrap());
    let norm = || drop(x.norm());
    let parallel_copy = || {
        let mut target = target.borrow_mut();
        let half = ELEMENTS / 2;
        let (a, b) = target.split_at_mut(half);
        rayon::join(|| a.copy_from_slice(&source[..half]), || b.copy_from_slice(&source[half..]));
    };
    let [copy, parallel, axpy, scale, dot, norm] =
        medians([&copy, &parallel_copy, &axpy, &scale, &dot, &norm], &[1; 6]);
    let best = copy.min(parallel);
    let bandwidth = |passes: f64, ms: f64| passes * ELEMENTS as f64 * 4.0 / ms / 1e6;
    let reference = bandwidth(2.0, best);
    writeln!(out, "### Trees, 10 M f32 elements in one leaf\n").unwrap();
    writeln!(out, "| operation | passes over memory | time | bandwidth | of a memory copy |\n|---|---|---|---|---|")
        .unwrap();
    for (name, passes, ms) in [
        ("copy, one thread", 2.0, copy),
        ("copy, two threads", 2.0, parallel),
        ("axpy in place", 3.0, axpy),
        ("scale in place", 2.0, scale),
        ("dot", 2.0, dot),
        ("norm", 1.0, norm),
    ] {
        let speed = bandwidth(passes, ms);
        writeln!(out, "| {name} | {passes} | {ms:.2} ms | {speed:.1} GB/s | {:.0}% |", 100.0 * speed / reference)
            .unwrap();
    }
    writeln!(out).unwrap();

    const LEAVES: usize = 200;
    const SIZE: usize = 125_000;
    let many = || {
        (0..LEAVES).fold(Tree::empty(), |tree, index| {
            let leaf = Tensor::<1>::ones([SIZE], &device) * 0.5;
            tree.push(format!("leaf{index}"), leaf).unwrap()
        })
    };
    let tree = std::cell::RefCell::new(Some(many()));
    let source = vec![1.0f32; LEAVES * SIZE];
    let target = std::cell::RefCell::new(vec![0.0f32; LEAVES * SIZE]);
    let copy = || target.borrow_mut().copy_from_slice(&source);
    let norm = || drop(tree.borrow().as_ref().unwrap().norm());
    let clip = || {
        let taken = tree.borrow_mut().take().unwrap();
        let norm = taken.norm();
        // The norm over itself: a factor of one that only the device knows.
        let factor = norm.clone() / norm;
        *tree.borrow_mut() = Some(taken.scale_by(&factor));
    };
    let [copy, norm, clip] = medians([&copy, &norm, &clip], &[1; 3]);
    writeln!(out, "### Trees, 25 M f32 elements in 200 leaves\n").unwrap();
    writeln!(out, "| operation | time | copies of the tree |\n|---|---|---|").unwrap();
    for (name, ms) in [("copy", copy), ("norm", norm), ("norm, then scale by a device scalar", clip)] {
        writeln!(out, "| {name} | {ms:.2} ms | {:.2} |", ms / copy).unwrap();
    }
    for ((operation, peer, _), copies) in peers.iter().filter(|((_, _, what), _)| what == "tree") {
        writeln!(out, "| {peer}: {operation} | – | {copies:.2} |").unwrap();
    }
}
