//! Gramians, weighted sums and weights: `cargo bench -p multitask --bench aggregate`.
//!
//! The bytes counted are those of the rows, read once. `pairs` computes the same products pair by pair.

use std::hint::black_box;

use burn::tensor::{Device, Tensor};
use core_tensor::{Random, Tree};
use divan::Bencher;
use divan::counter::BytesCount;
use multitask::solvers::Matrix;
use multitask::{
    Aggregator, AlignedMtl, CaGrad, ConFig, Gramian, GramianAggregator, ImtlG, Jacobian, Mgda, NashMtl, PcGrad,
    TrimmedMean, UpGrad,
};

const TASKS: [usize; 4] = [2, 8, 16, 64];
/// Elements of a row.
const ELEMENTS: usize = 1_000_000;

fn main() {
    divan::main();
}

fn rows(tasks: usize, elements: usize) -> Vec<Tree> {
    let like = Tree::empty().push("w", Tensor::<1>::zeros([elements], &Device::flex())).expect("one leaf");
    let mut random = Random::new(1);
    (0..tasks).map(|_| random.normal_like(&like, 1.0)).collect()
}

fn bytes(tasks: usize, elements: usize) -> BytesCount {
    BytesCount::of_many::<f32>(tasks * elements)
}

#[divan::bench(args = TASKS, max_time = 2)]
fn gramian(bencher: Bencher, tasks: usize) {
    let rows = rows(tasks, ELEMENTS);
    bencher
        .counter(bytes(tasks, ELEMENTS))
        .bench_local(|| Gramian::of(black_box(&rows)).expect("rows of one structure"));
}

#[divan::bench(args = TASKS, max_time = 2)]
fn gramian_of_small_rows(bencher: Bencher, tasks: usize) {
    let rows = rows(tasks, 10_000);
    bencher.counter(bytes(tasks, 10_000)).bench_local(|| Gramian::of(black_box(&rows)).expect("rows of one structure"));
}

#[divan::bench(args = TASKS, max_time = 2)]
fn pairs(bencher: Bencher, tasks: usize) {
    let rows = rows(tasks, ELEMENTS);
    bencher.counter(bytes(tasks, ELEMENTS)).bench_local(|| {
        let pairs = (0..tasks).flat_map(|i| (i..tasks).map(move |j| (i, j)));
        pairs.map(|(i, j)| rows[i].dot(&rows[j]).expect("one structure").value()).sum::<f64>()
    });
}

#[divan::bench(args = TASKS, max_time = 2)]
fn weighted_sum(bencher: Bencher, tasks: usize) {
    let rows = rows(tasks, ELEMENTS);
    let weights: Vec<f64> = (0..tasks).map(|i| 1.0 / (i + 1) as f64).collect();
    bencher.counter(bytes(tasks, ELEMENTS)).bench_local(|| black_box(&rows).combine(&weights).expect("one structure"));
}

#[divan::bench(args = TASKS, max_time = 2)]
fn trimmed_mean(bencher: Bencher, tasks: usize) {
    let rows = rows(tasks, ELEMENTS);
    let mut trimmed = TrimmedMean::new(usize::from(tasks > 2));
    bencher.counter(bytes(tasks, ELEMENTS)).bench_local(|| trimmed.aggregate(black_box(&rows)).expect("enough rows"));
}

/// Rows in few dimensions, so that they conflict and some are dependent.
fn conflicting(tasks: usize, dimensions: usize) -> Gramian {
    let rows = rows(tasks, dimensions);
    let products = Matrix::symmetric(tasks, |i, j| rows[i].dot(&rows[j]).expect("one structure").value());
    Gramian::from_products(&products).expect("there are rows")
}

macro_rules! weights {
    ($($name:ident: $make:expr, $dimensions:expr;)*) => {$(
        #[divan::bench(args = TASKS, max_time = 1)]
        fn $name(bencher: Bencher, tasks: usize) {
            let (gramian, mut method) = (conflicting(tasks, $dimensions(tasks)), $make);
            bencher.bench_local(|| method.weights(black_box(&gramian)).expect("weights"));
        }
    )*};
}

weights! {
    weights_upgrad: UpGrad::new(), |tasks| tasks;
    weights_mgda: Mgda::new(), |tasks| 2 * tasks;
    weights_cagrad: CaGrad::new(0.4).expect("in range"), |tasks| 2 * tasks;
    weights_nash_mtl: NashMtl::new(), |tasks| 2 * tasks;
    weights_imtl_g: ImtlG::new(), |tasks| 2 * tasks;
    weights_aligned_mtl: AlignedMtl::new(), |tasks| tasks;
    weights_config: ConFig::new(), |tasks| 2 * tasks;
    weights_pcgrad: PcGrad::new(1), |tasks| tasks;
}
