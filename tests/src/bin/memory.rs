//! `memory`: the peak memory of programs, as ratios to that of a recorded gradient.
//!
//! A program of its own: the allocator that counts is not the one that `bench` is timed with. The peak is what is allocated at
//! once beyond what was there before the call.

#![forbid(unsafe_code)]

use bilevel::update::Sgd;
use bilevel::{Checkpoint, Forward as ForwardMode, Implicit, Method, Neumann};
use burn::module::Module;
use burn::tensor::{DType, Device, Distribution, Tensor};
use clipping::per_sample::{Flat, clip_samples};
use core_tensor::{Batch, Program, Tree};
use crucible_tests::hypergradients::{Case as Hypergradients, Kind};
use crucible_tests::models::{Cnn, Mlp, Transformer, labels};
use crucible_tests::tasks::{Case, TASKS, cnn, mlp};
use multitask::layerwise::Layerwise;
use multitask::{Forward, Gramian};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fn main() {
    let device = Device::default();
    let normal = Distribution::Normal(0.0, 1.0);
    println!("### Peak memory\n");
    println!(
        "| model | Burn forward+backward | recorded gradient | value, gradient and H·v | clipped sum of samples |"
    );
    println!("|---|---|---|---|---|");
    let x = Tensor::<2>::random([128, 784], normal, &device);
    model("mlp", &Mlp::new(&[784, 256, 256, 10], &device), (x, labels(128, &device)), Mlp::loss, Mlp::losses);
    let x = Tensor::<4>::random([64, 1, 28, 28], normal, &device);
    model("cnn", &Cnn::new(&device), (x, labels(64, &device)), Cnn::loss, Cnn::losses);
    let x = Tensor::<3>::random([16, 32, 64], normal, &device);
    model("transformer", &Transformer::new(&device), (x, labels(16, &device)), Transformer::loss, Transformer::losses);
    println!();
    tasks("mlp", |tasks| mlp(tasks, &device));
    tasks("cnn", |tasks| cnn(tasks, &device));
    hypergradients(&device).expect("the problem is regular");
}

/// Inner steps of hypergradients.
const STEPS: [usize; 4] = [20, 80, 320, 1280];

/// A method's peak for each number of steps.
fn line<'a>(
    gradient: f64,
    name: &str,
    of: &dyn Fn(usize) -> bilevel::Result<Box<dyn Fn() + 'a>>,
) -> bilevel::Result<()> {
    print!("| {name} |");
    for steps in STEPS {
        let bytes = peak(of(steps)?);
        print!(" {:.1} MB ({:.1}×) |", bytes / 1e6, bytes / gradient);
    }
    println!();
    Ok(())
}

/// Hypergradients of a network's four decays after `T` steps.
fn hypergradients(device: &Device) -> bilevel::Result<()> {
    let case = Hypergradients::new(Kind::Decays, DType::F32, device)?;
    let (problem, x, start, batches) = (&case.problem, &case.x, &case.start, &case.batches);
    let gradient = peak(|| drop(problem.inner_gradient(x, start, &batches.inner).unwrap()));
    println!("### Peak memory of hypergradients through T steps\n");
    println!(
        "| method |{} |\n|---|{}",
        STEPS.map(|steps| format!(" T = {steps}")).join(" |"),
        "---|".repeat(STEPS.len())
    );
    // A series, as a network has negative curvature before it is trained.
    let series = Implicit::new(Neumann::new(20, case.rate)?);
    line(gradient, "steps, then implicit, 20 products", &|steps| {
        let (run, series) = (case.steps(steps, Checkpoint::All)?, &series);
        Ok(Box::new(move || {
            let z = run.run(problem, x, start, &batches.inner).unwrap();
            drop(series.hypergradient(problem, x, &z, batches).unwrap());
        }))
    })?;
    for (name, checkpoint) in [
        ("reverse, all states", Checkpoint::All),
        ("reverse, √T checkpoints", Checkpoint::Sqrt),
        ("reverse, halves of halves", Checkpoint::Kary(2)),
    ] {
        line(gradient, name, &|steps| {
            let method = case.steps(steps, checkpoint)?;
            Ok(Box::new(move || drop(method.hypergradient(problem, x, start, batches).unwrap())))
        })?;
    }
    line(gradient, "forward", &|steps| {
        let method = ForwardMode::new(Sgd::new(case.rate), steps)?;
        Ok(Box::new(move || drop(method.hypergradient(problem, x, start, batches).unwrap())))
    })?;
    println!();
    Ok(())
}

/// The ways from m losses to one update, in peaks of one recorded gradient.
fn tasks<B, M, X, const D: usize>(name: &str, case: impl Fn(usize) -> Case<B, M, X>)
where
    B: Layerwise<X, Output = Tensor<D>> + Sync + 'static,
    M: Forward<Tensor<D>, Output = Tensor<2>> + Sync + 'static,
    X: Batch + Clone + 'static,
{
    println!("### Peak memory with m tasks: {name}\n");
    println!("| way |{} |", TASKS.map(|tasks| format!(" m = {tasks}")).join(" |"));
    println!("|---|{}", "---|".repeat(TASKS.len()));
    let mut lines: Vec<(&str, String)> = Vec::new();
    for (column, tasks) in TASKS.into_iter().enumerate() {
        let case = case(tasks);
        let even = |gramian: &Gramian| vec![1.0 / gramian.total() as f64; gramian.total()];
        let peaks: Vec<(&str, f64)> = case.ways(&even).iter().map(|(way, run)| (*way, peak(run))).collect();
        for (line, (way, bytes)) in peaks.iter().enumerate() {
            if column == 0 {
                lines.push((way, String::new()));
            }
            lines[line].1 += &format!(" {:.1} MB ({:.1}×) |", bytes / 1e6, bytes / peaks[0].1);
        }
    }
    lines.iter().for_each(|(way, cells)| println!("| {way} |{cells}"));
    println!();
}

fn model<M, B>(name: &str, model: &M, batch: B, loss: fn(&M, &B) -> Tensor<1>, losses: fn(&M, &B) -> Tensor<1>)
where
    M: Module + Sync + 'static,
    B: Batch + 'static,
{
    let point = Tree::from_module(model);
    let program = Program::record(model, &batch, loss).expect("the model can be recorded");
    let trained = model.clone().train();
    let eager = peak(|| drop(Tree::from_grads(loss(&trained, &batch).backward(), &trained)));
    let gradient = peak(|| drop(program.value_and_grad(&point, &batch).unwrap()));
    let jvp = peak(|| drop(program.jvp(&point, &batch, &point).unwrap()));
    let each = Program::record_first_order(model, &batch, losses).expect("the model can be recorded");
    let rule = Flat::new(1.0).expect("a limit");
    let samples = peak(|| drop(clip_samples(each.per_sample(&point, &batch).unwrap(), &rule).unwrap()));
    let cell = |bytes: f64| format!("{:.1} MB ({:.2}×)", bytes / 1e6, bytes / gradient);
    println!("| {name} | {} | {:.1} MB | {} | {} |", cell(eager), gradient / 1e6, cell(jvp), cell(samples));
}

/// Bytes allocated at the peak of a call beyond those before it.
fn peak(function: impl Fn()) -> f64 {
    function();
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    function();
    (MEMORY.peak_usage() - before) as f64
}
