//! Many losses: every way to the tasks' gradients and their Gramian beside one recorded gradient, whole steps beside the peers, and the
//! weights alone.

use std::fmt::Write as _;

use burn::tensor::Device;
use core_tensor::Batch;
use crucible_tests::tasks::{Case, Labels, TASKS, cnn, mlp, weights_of};
use multitask::layerwise::Layerwise;
use multitask::{
    AlignedMtl, CaGrad, ConFig, DualProj, FairGrad, Forward, Gramian, GramianAggregator, ImtlG, Mgda, NashMtl, PcGrad,
    UpGrad,
};

use crate::{Peers, medians_of};

type Make = fn() -> Box<dyn GramianAggregator>;
type Weigh = Box<dyn Fn(&Gramian) -> Vec<f64>>;

/// Seconds that each way is measured for.
const SECONDS: f64 = 0.4;

/// Both models with every number of tasks.
pub fn run(out: &mut String, peers: &Peers) {
    let device = Device::default();
    let mut gramians = Vec::new();
    tables(out, "mlp", &mut gramians, peers, |tasks| mlp(tasks, &device));
    tables(out, "cnn", &mut Vec::new(), peers, |tasks| cnn(tasks, &device));
    writeln!(out, "### Weights from a Gramian of the MLP's tasks\n").unwrap();
    header(out, "method");
    let methods: [(&str, Make); 10] = [
        ("UPGrad", || Box::new(UpGrad::new())),
        ("DualProj", || Box::new(DualProj::new())),
        ("MGDA", || Box::new(Mgda::new())),
        ("CAGrad", || Box::new(CaGrad::new(0.4).expect("in range"))),
        ("Nash-MTL", || Box::new(NashMtl::new())),
        ("FairGrad", || Box::new(FairGrad::new(1.0).expect("in range"))),
        ("IMTL-G", || Box::new(ImtlG::new())),
        ("Aligned-MTL", || Box::new(AlignedMtl::new())),
        ("ConFIG", || Box::new(ConFig::new())),
        ("PCGrad", || Box::new(PcGrad::new(1))),
    ];
    for (name, make) in methods {
        write!(out, "| {name} |").unwrap();
        for gramian in &gramians {
            let weights = weights_of(make());
            let [ms] = medians_of(&[&|| drop(weights(gramian))], SECONDS)[..] else { unreachable!("one function") };
            write!(out, " {ms:.3} ms |").unwrap();
        }
        writeln!(out).unwrap();
    }
    writeln!(out).unwrap();
}

fn header(out: &mut String, what: &str) {
    writeln!(out, "| {what} |{} |", TASKS.map(|tasks| format!(" m = {tasks}")).join(" |")).unwrap();
    writeln!(out, "|---|{}", "---|".repeat(TASKS.len())).unwrap();
}

fn tables<B, M, X, const D: usize>(
    out: &mut String,
    name: &str,
    gramians: &mut Vec<Gramian>,
    peers: &Peers,
    case: impl Fn(usize) -> Case<B, M, X>,
) where
    B: Layerwise<X, Output = burn::tensor::Tensor<D>> + Sync + 'static,
    M: Forward<burn::tensor::Tensor<D>, Output = burn::tensor::Tensor<2>> + Sync + 'static,
    X: Batch + Clone + 'static,
    (X, Labels): Batch,
{
    let (mut ways, mut steps): (Table, Table) = Default::default();
    for tasks in TASKS {
        let case = case(tasks);
        let even = |gramian: &Gramian| vec![1.0 / gramian.total() as f64; gramian.total()];
        let runs = case.ways(&even);
        let times = measure(&runs.iter().map(|(_, run)| &**run as &dyn Fn()).collect::<Vec<_>>());
        for ((way, _), ms) in runs.iter().zip(&times) {
            ways.push_ratio(way, *ms, times[0]);
        }
        gramians.push(case.gramian());
        let methods: [(&str, Weigh); 4] = [
            ("UPGrad", Box::new(weights_of(UpGrad::new()))),
            ("MGDA", Box::new(weights_of(Mgda::new()))),
            ("CAGrad", Box::new(weights_of(CaGrad::new(0.4).expect("in range")))),
            ("PCGrad", Box::new(weights_of(PcGrad::new(1)))),
        ];
        let all: Vec<_> = methods.iter().map(|(_, weights)| case.ways(weights)).collect();
        // Rows with the heads first, and in factored form.
        let some: Vec<&dyn Fn()> = all.iter().flat_map(|ways| [6, 7].map(|way| &*ways[way].1 as &dyn Fn())).collect();
        let found = measure(&some);
        for ((method, _), ms) in methods.iter().zip(found.chunks(2)) {
            steps.push_ratio(&format!("{method}, rows"), ms[0], times[0]);
            steps.push_ratio(&format!("{method}, factored rows"), ms[1], times[0]);
        }
    }
    writeln!(out, "### Gradients of m tasks: {name}\n").unwrap();
    header(out, "from the model to an update of all parameters, weights given");
    ways.write(out);
    writeln!(out, "\n### Whole steps with m tasks: {name}\n").unwrap();
    header(out, "step");
    steps.write(out);
    let mut theirs = Table::default();
    for model in TASKS.map(|tasks| format!("{name}, {tasks} tasks")) {
        let lines = peers.iter().filter(|((of, _, what), _)| *of == model && !what.ends_with(" mb"));
        for ((_, peer, what), ms) in lines {
            let mb = peers.get(&(model.clone(), peer.clone(), format!("{what} mb"))).copied().unwrap_or(f64::NAN);
            theirs.push(&format!("{peer}: {what}"), &format!("{ms:.2} ms, {mb:.1} MB"));
        }
    }
    theirs.write(out);
    writeln!(out).unwrap();
}

fn measure(runs: &[&dyn Fn()]) -> Vec<f64> {
    medians_of(runs, SECONDS)
}

/// Lines by name, in the order of their first cells.
#[derive(Default)]
struct Table(Vec<(String, String)>);

impl Table {
    fn push(&mut self, name: &str, cell: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, cells)) => *cells += &format!(" {cell} |"),
            None => self.0.push((name.to_string(), format!(" {cell} |"))),
        }
    }

    /// Milliseconds, and how many times those of one recorded gradient.
    fn push_ratio(&mut self, name: &str, ms: f64, gradient: f64) {
        self.push(name, &format!("{ms:.2} ms ({:.1}×)", ms / gradient));
    }

    fn write(&self, out: &mut String) {
        self.0.iter().for_each(|(name, cells)| writeln!(out, "| {name} |{cells}").unwrap());
    }
}
