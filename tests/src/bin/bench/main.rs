//! `bench [--only PART] [--peers-file FILE] [--markdown FILE]`: times of programs, mixed precision, trees, clipping, precision and
//! attacks, many tasks and hypergradients as ratios of one run.
//!
//! Every figure is the median of interleaved repetitions, so that a slow moment of the machine falls on all sides alike.
//! The allocator is mimalloc, as in `lab`. `memory` measures peaks.

#![forbid(unsafe_code)]

mod attacks;
mod autocast;
mod bilevel;
mod clipping;
mod multitask;
mod precision;
mod programs;
mod trees;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What can be measured alone.
const PARTS: [&str; 11] = [
    "mlp",
    "cnn",
    "transformer",
    "autocast",
    "trees",
    "clipping",
    "samples",
    "precision",
    "attacks",
    "multitask",
    "bilevel",
];

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
    // The networks that peers attacked lie beside their figures.
    let folder = peers.as_ref().and_then(|file| Path::new(file).parent().map(Path::to_path_buf));
    let peers = match peers.map(|file| read_peers(&file)).transpose() {
        Ok(peers) => peers.unwrap_or_default(),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let mut report = String::new();
    let wanted = |part: &str| only.as_ref().is_none_or(|only| only == part);
    programs::run(&mut report, &peers, &wanted);
    if wanted("autocast") {
        autocast::run(&mut report);
    }
    if wanted("trees") {
        trees::run(&mut report, &peers);
    }
    if wanted("clipping") {
        clipping::run(&mut report, &peers);
    }
    if wanted("samples") {
        clipping::per_sample(&mut report, &peers);
    }
    if wanted("precision") {
        precision::run(&mut report, &peers);
    }
    if wanted("attacks") {
        attacks::run(&mut report, &peers, folder.as_deref());
    }
    if wanted("multitask") {
        multitask::run(&mut report, &peers);
    }
    if wanted("bilevel") {
        bilevel::run(&mut report, &peers);
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

/// Peers' figures by (model or operation, peer, what): milliseconds, or copies of a tree where they are given; what ends in
/// `mb` is a peak of memory; attacks have `seconds`, the share `standing`, and `gradients` an image; hypergradients an `error`, and the `norm` of
/// what they are compared with.
type Peers = BTreeMap<(String, String, String), f64>;

fn read_peers(file: &str) -> Result<Peers, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let mut peers = Peers::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('{')) {
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|error| format!("{file}:{}: {error}", number + 1))?;
        let field = |name: &str| value[name].as_str().unwrap_or_default().to_string();
        let (model, what) = match ["tree", "clipping", "precision"].into_iter().find(|kind| value[kind].is_string()) {
            Some(kind) => (field(kind), kind.to_string()),
            None => (field("model"), field("what")),
        };
        for also in ["mb", "seconds", "standing", "gradients", "error", "norm"] {
            if let Some(figure) = value[also].as_f64() {
                peers.insert((model.clone(), field("peer"), format!("{what} {also}")), figure);
            }
        }
        let figure = value["copies"].as_f64().or_else(|| value["ms"].as_f64());
        if let Some(figure) = figure {
            peers.insert((model, field("peer"), what), figure);
        }
    }
    Ok(peers)
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

/// Median milliseconds of each function over interleaved rounds, as many as take about `seconds` a function.
fn medians_of(functions: &[&dyn Fn()], seconds: f64) -> Vec<f64> {
    let once = |function: &dyn Fn()| {
        let start = Instant::now();
        function();
        start.elapsed().as_secs_f64()
    };
    // The first rounds warm caches and thread pools; the slowest of their two says how many follow.
    let total: f64 = functions.iter().map(|function| once(*function).max(once(*function))).sum();
    let rounds = (seconds * functions.len() as f64 / total).clamp(7.0, 70.0) as usize;
    let mut times = vec![Vec::new(); functions.len()];
    for _ in 0..rounds {
        functions.iter().zip(&mut times).for_each(|(function, times)| times.push(once(*function) * 1e3));
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    times.into_iter().map(median).collect()
}

/// Copies `elements` numbers from one buffer to another, on one thread or two.
struct Copy {
    source: Vec<f32>,
    target: RefCell<Vec<f32>>,
}

impl Copy {
    fn new(elements: usize) -> Self {
        Self { source: vec![1.0; elements], target: RefCell::new(vec![0.0; elements]) }
    }

    fn one_thread(&self) {
        self.target.borrow_mut().copy_from_slice(&self.source);
    }

    fn two_threads(&self) {
        let (source, mut target) = (&self.source, self.target.borrow_mut());
        let half = source.len() / 2;
        let (a, b) = target.split_at_mut(half);
        rayon::join(|| a.copy_from_slice(&source[..half]), || b.copy_from_slice(&source[half..]));
    }
}

/// A value that a call takes and gives back, so that it is the only holder of its buffers.
struct Held<T>(RefCell<Option<T>>);

impl<T> Held<T> {
    fn new(value: T) -> Self {
        Self(RefCell::new(Some(value)))
    }

    fn update(&self, f: impl FnOnce(T) -> T) {
        let taken = self.0.borrow_mut().take().expect("given back after every call");
        *self.0.borrow_mut() = Some(f(taken));
    }

    fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        f(self.0.borrow().as_ref().expect("given back after every call"))
    }
}
