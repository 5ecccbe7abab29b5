//! What aggregators promise, as properties over matrices sampled by rank, stationarity and scale; a line an aggregator
//! says
//! which laws it keeps.

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{DType, Tensor, TensorData};
use core_tensor::Tree;
use core_tensor::testing::{assert_close, assert_same_bits, host_devices, property};
use core_tensor::transform::State;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::*;

macro_rules! laws {
    ($($name:ident: $make:expr => [$($law:ident),* $(,)?];)*) => {$(
        mod $name {
            use super::*;
            $(#[test]
            fn $law() {
                super::$law(|| $make);
            })*
            #[test]
            fn takes_every_scale() {
                super::takes_every_scale(|| $make);
            }
            #[test]
            fn isolates_rows_that_are_not_finite() {
                super::isolates_rows_that_are_not_finite(|| $make);
            }
            #[test]
            fn resumes_from_a_file() {
                super::resumes_from_a_file(|| $make);
            }
            #[test]
            fn refuses_the_state_of_another() {
                super::refuses_the_state_of_another(|| $make);
            }
        }
    )*};
}

/// UPGrad without regularisation.
fn upgrad() -> UpGrad {
    UpGrad::new().norm_eps(0.0).unwrap().reg_eps(0.0).unwrap()
}

fn dualproj() -> DualProj {
    DualProj::new().norm_eps(0.0).unwrap().reg_eps(0.0).unwrap()
}

fn cagrad(c: f64) -> CaGrad {
    CaGrad::new(c).unwrap().norm_eps(0.0).unwrap()
}

laws! {
    mean: Mean::new() => [linear_under_scaling, permutes, keeps_one_row, ignores_scale];
    sum: Sum::new() => [linear_under_scaling, permutes, keeps_one_row, ignores_scale, ignores_zero_rows];
    upgrad_exact: upgrad() => [
        non_conflicting, linear_under_scaling, vanishes_where_stationary, permutes, keeps_one_row, ignores_scale
    ];
    upgrad_default: UpGrad::new() => [permutes, keeps_one_row];
    dualproj_exact: dualproj() => [
        non_conflicting, vanishes_where_stationary, permutes, keeps_one_row, ignores_scale
    ];
    dualproj_default: DualProj::new() => [permutes, keeps_one_row];
    mgda: Mgda::new() => [non_conflicting, vanishes_where_stationary, permutes, keeps_one_row, ignores_scale];
    cagrad_near: cagrad(0.4) => [permutes, keeps_one_row, ignores_scale];
    cagrad_far: cagrad(1.5) => [non_conflicting, permutes, keeps_one_row, ignores_scale];
    nash_mtl: NashMtl::new() => [permutes, keeps_one_row, ignores_scale, ignores_zero_rows, ignores_row_scales];
    nash_mtl_short: NashMtl::new().max_norm(0.5).unwrap().update_every(2).unwrap() => [keeps_one_row];
    fairgrad: FairGrad::new(1.0).unwrap() => [permutes, keeps_one_row, ignores_zero_rows, ignores_row_scales];
    fairgrad_delay: FairGrad::new(2.0).unwrap() => [permutes, keeps_one_row, ignores_scale, ignores_zero_rows];
    imtl_g: ImtlG::new() => [permutes, keeps_one_row, ignores_scale, ignores_zero_rows];
    aligned_mtl: AlignedMtl::new() => [permutes, keeps_one_row, ignores_scale];
    aligned_mtl_mean: AlignedMtl::new().scale(AlignedScale::Mean) => [permutes, keeps_one_row, ignores_scale];
    config: ConFig::new() => [linear_under_scaling, permutes, keeps_one_row, ignores_scale, ignores_zero_rows];
    pcgrad: PcGrad::new(5) => [keeps_one_row, ignores_scale, ignores_zero_rows_at_the_end];
    gradvac: GradVac::new(5) => [keeps_one_row, ignores_scale];
    sdmgrad: SdmGrad::new(0.3).unwrap() => [permutes, keeps_one_row, ignores_scale];
    modo: MoDo::new(0.01).unwrap().rho(0.1).unwrap() => [permutes, keeps_one_row];
    moco: MoCo::new() => [permutes, keeps_one_row];
    cr_mogm: CrMogm::new(Mgda::new(), 0.9).unwrap() => [keeps_one_row, permutes, ignores_scale];
    cr_mogm_random: CrMogm::new(PcGrad::new(3), 0.5).unwrap() => [keeps_one_row];
    per_group: PerGroup::new(|name| name.path.clone(), |_| upgrad()) => [permutes, keeps_one_row_of_one_leaf, ignores_scale];
    excess_mtl: weighting::ExcessMtl::new(0.1).unwrap() => [permutes, keeps_one_row];
    random: RandomWeights::new(5) => [keeps_one_row, ignores_scale];
    trimmed_mean: TrimmedMean::new(0) => [linear_under_scaling, permutes, keeps_one_row, ignores_scale];
    graddrop: GradDrop::new(5) => [permutes, keeps_one_row, ignores_scale, ignores_zero_rows];
}

/// Rows of one structure.
type Rows = Vec<Vec<f64>>;

/// How the rows of a matrix stand to each other.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// As drawn: rank `min(m, n)`.
    Free,
    /// Of a lower rank.
    LowRank,
    /// A combination with weights above zero is zero.
    StronglyStationary,
    /// Two rows are opposite.
    WeaklyStationary,
    /// Some rows are zero.
    ZeroRows,
    /// Rows from 1e-3 to 1e3.
    Uneven,
}

fn matrices(kinds: &'static [Kind], rows: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Rows> {
    (rows, 1..=9usize, proptest::sample::select(kinds)).prop_flat_map(|(m, n, kind)| {
        let rank = if kind == Kind::LowRank { (m.min(n) / 2).max(1) } else { n };
        let factors = (vec(vec(-1.0..1.0f64, rank), m), vec(vec(-1.0..1.0f64, n), rank), vec(-3..=3i32, m));
        factors.prop_map(move |(left, right, exponents)| matrix(left, &right, &exponents, kind))
    })
}

fn matrix(left: Rows, right: &Rows, exponents: &[i32], kind: Kind) -> Rows {
    let mut rows = match kind {
        Kind::LowRank => {
            let n = right[0].len();
            let entry = |row: &[f64], k: usize| row.iter().zip(right).map(|(x, line)| x * line[k]).sum();
            left.iter().map(|row| (0..n).map(|k| entry(row, k)).collect()).collect()
        }
        _ => left,
    };
    let (m, n) = (rows.len(), rows[0].len());
    match kind {
        Kind::StronglyStationary => {
            let weight = |i: usize| 1.0 + i as f64;
            let last: Vec<f64> = (0..n).map(|k| (0..m - 1).map(|i| -weight(i) * rows[i][k]).sum()).collect();
            rows[m - 1] = last;
        }
        Kind::WeaklyStationary if m > 1 => rows[1] = rows[0].iter().map(|x| -2.0 * x).collect(),
        Kind::ZeroRows => {
            for (row, exponent) in rows.iter_mut().zip(exponents) {
                if *exponent > 1 {
                    row.fill(0.0);
                }
            }
        }
        Kind::Uneven => {
            for (row, exponent) in rows.iter_mut().zip(exponents) {
                row.iter_mut().for_each(|x| *x *= 10f64.powi(*exponent));
            }
        }
        _ => {}
    }
    rows
}

const ALL: &[Kind] =
    &[Kind::Free, Kind::LowRank, Kind::StronglyStationary, Kind::WeaklyStationary, Kind::ZeroRows, Kind::Uneven];
const CASES: u32 = 60;
const SCALES: [f64; 8] = [0.0, 1e-160, 1e-10, 1.0, 1e3, 1e5, 1e10, 1e15];

/// Trees of two leaves in `f64`.
fn trees(rows: &Rows) -> Vec<Tree> {
    let device = host_devices().swap_remove(0);
    let leaf = |x: &[f64]| Tensor::<1>::from_data(TensorData::new(x.to_vec(), [x.len()]), (&device, DType::F64));
    let tree = |row: &Vec<f64>| {
        let cut = row.len() / 3;
        Tree::empty().push("a", leaf(&row[..cut])).and_then(|tree| tree.push("b", leaf(&row[cut..]))).unwrap()
    };
    rows.iter().map(tree).collect()
}

fn scaled(rows: &Rows, factor: impl Fn(usize) -> f64) -> Rows {
    rows.iter().enumerate().map(|(i, row)| row.iter().map(|x| factor(i) * x).collect()).collect()
}

/// `None` where the method says that there are no weights.
fn run(aggregator: &mut impl Aggregator, rows: &[Tree]) -> Option<Aggregated> {
    match aggregator.aggregate(rows) {
        Ok(out) => Some(out),
        Err(Error::NoWeights { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Runs a check on matrices; it says whether the law applied, which it has to do in a third of the cases.
fn check<A: Aggregator>(make: impl Fn() -> A, kinds: &'static [Kind], law: impl Fn(A, Rows) -> bool) {
    let (all, met) = (AtomicUsize::new(0), AtomicUsize::new(0));
    property(CASES, matrices(kinds, 1..=6), |rows| {
        all.fetch_add(1, Ordering::Relaxed);
        if law(make(), rows) {
            met.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (all, met) = (all.into_inner(), met.into_inner());
    assert!(3 * met >= all, "the law was met in {met} of {all} cases only");
}

fn size(rows: &[Tree]) -> f64 {
    rows.iter().map(|row| row.norm().value()).sum()
}

/// `⟨g_i, d⟩ ≥ 0` for every row, at every scale.
fn non_conflicting<A: Aggregator>(make: impl Fn() -> A) {
    check(&make, ALL, |mut aggregator, rows| {
        for scale in SCALES {
            let rows = trees(&scaled(&rows, |_| scale));
            let Some(out) = run(&mut aggregator, &rows) else { return false };
            let weights = out.report.weights.unwrap();
            let terms: f64 = rows.iter().zip(&weights).map(|(row, w)| row.norm().value() * w.abs()).sum();
            for row in &rows {
                let along = row.dot(&out.gradient).unwrap().value();
                assert!(along >= -1e-11 * row.norm().value() * terms - 1e-300, "{along:e} at scale {scale:e}");
            }
        }
        true
    });
}

/// `A(diag(a + b)·J) = A(diag(a)·J) + A(diag(b)·J)` for `a, b > 0`.
fn linear_under_scaling<A: Aggregator>(make: impl Fn() -> A) {
    const KINDS: &[Kind] = &[Kind::Free, Kind::LowRank, Kind::StronglyStationary, Kind::ZeroRows];
    check(&make, KINDS, |_, rows| {
        let (a, b) = (|i: usize| 1.0 + i as f64, |i: usize| 0.25 + 1.0 / (1 + i) as f64);
        let both = trees(&scaled(&rows, |i| a(i) + b(i)));
        let [whole, one, two] = [both.clone(), trees(&scaled(&rows, a)), trees(&scaled(&rows, b))]
            .map(|rows| run(&mut make(), &rows).map(|out| out.gradient));
        let (Some(whole), Some(one), Some(two)) = (whole, one, two) else { return false };
        assert_close(&one.add(&two).unwrap(), &whole, 1e-7 * size(&both));
        true
    });
}

/// A combination of the rows with weights above zero is zero: so is the result.
fn vanishes_where_stationary<A: Aggregator>(make: impl Fn() -> A) {
    check(&make, &[Kind::StronglyStationary], |_, rows| {
        let rows = trees(&rows);
        let Some(out) = run(&mut make(), &rows) else { return false };
        // The Gramian knows norms to the root of its rounding.
        assert!(out.gradient.norm().value() <= 1e-7 * size(&rows), "{:e}", out.gradient.norm().value());
        true
    });
}

/// The order of the rows does not matter, and weights go with their rows.
fn permutes<A: Aggregator>(make: impl Fn() -> A) {
    check(&make, ALL, |mut aggregator, rows| {
        let rows = trees(&rows);
        let mut turned = rows.clone();
        turned.rotate_left(1);
        if turned.len() > 3 {
            turned.swap(0, 2);
        }
        let (one, two) = (run(&mut aggregator, &rows), run(&mut make(), &turned));
        let (Some(one), Some(two)) = (one, two) else { return false };
        let length = one.gradient.norm().value().max(size(&rows));
        assert_close(&one.gradient, &two.gradient, 1e-7 * length);
        true
    });
}

/// One row comes out as a positive multiple of itself.
fn keeps_one_row<A: Aggregator>(make: impl Fn() -> A) {
    property(CASES, matrices(&[Kind::Free], 1..=1), |rows| {
        let rows = trees(&rows);
        let out = run(&mut make(), &rows).expect("one row always has a weight");
        let (norm, length) = (rows[0].norm().value(), out.gradient.norm().value());
        let cosine = rows[0].dot(&out.gradient).unwrap().value() / (norm * length);
        assert!(length > 0.0 && (cosine - 1.0).abs() < 1e-12, "{cosine}");
    });
}

/// For methods that weigh leaves apart.
fn keeps_one_row_of_one_leaf<A: Aggregator>(make: impl Fn() -> A) {
    let row = trees(&vec![vec![2.0]]);
    assert_close(&make().aggregate(&row).unwrap().gradient, &row[0], 0.0);
}

/// The direction is that of the rows times any factor.
fn ignores_scale<A: Aggregator>(make: impl Fn() -> A) {
    check(&make, ALL, |_, rows| {
        let plain = trees(&rows);
        let Some(one) = run(&mut make(), &plain) else { return false };
        let length = one.gradient.norm().value();
        for scale in [1e-160, 1e-10, 3.0, 1e15] {
            let scaled = trees(&scaled(&rows, |_| scale));
            let Some(two) = run(&mut make(), &scaled) else { return false };
            let two = two.gradient;
            // Where nothing is left but rounding there is no direction.
            if length <= 1e-6 * size(&plain) {
                assert!(two.norm().value() <= 2e-6 * size(&scaled));
                continue;
            }
            let factor = length / two.norm().value();
            assert_close(&two.scale(factor), &one.gradient, 1e-7 * length);
        }
        true
    });
}

/// The direction is that of rows times factors of their own.
fn ignores_row_scales<A: Aggregator>(make: impl Fn() -> A) {
    check(&make, &[Kind::Free, Kind::LowRank], |_, rows| {
        let one = run(&mut make(), &trees(&rows));
        let two = run(&mut make(), &trees(&scaled(&rows, |i| 10f64.powi(2 * i as i32 - 5))));
        let (Some(one), Some(two)) = (one, two) else { return false };
        let length = one.gradient.norm().value();
        // Close to stationary points weights are large, and what is left of their sum is not exact.
        let weights = one.report.weights.unwrap();
        let terms: f64 = weights.iter().zip(trees(&rows)).map(|(w, row)| w * row.norm().value()).sum();
        assert_close(&two.gradient, &one.gradient, 1e-12 * terms * terms.max(length));
        true
    });
}

/// Rows of zeros make no difference, wherever they are.
fn ignores_zero_rows<A: Aggregator>(make: impl Fn() -> A) {
    zero_rows(make, |rows, zeros| rows.insert(rows.len() / 2, zeros));
}

/// For methods that draw orders or numbers by position.
fn ignores_zero_rows_at_the_end<A: Aggregator>(make: impl Fn() -> A) {
    // Two rows have one order only.
    property(CASES, matrices(&[Kind::Free], 2..=2), |rows| {
        let mut more = rows.clone();
        more.push(vec![0.0; rows[0].len()]);
        let (one, two) = (run(&mut make(), &trees(&rows)).unwrap(), run(&mut make(), &trees(&more)).unwrap());
        assert_close(&one.gradient, &two.gradient, 1e-13 * size(&trees(&rows)));
    });
}

fn zero_rows<A: Aggregator>(make: impl Fn() -> A, add: impl Fn(&mut Rows, Vec<f64>)) {
    check(&make, ALL, |_, rows| {
        let mut more = rows.clone();
        add(&mut more, vec![0.0; rows[0].len()]);
        let (one, two) = (run(&mut make(), &trees(&rows)), run(&mut make(), &trees(&more)));
        let (Some(one), Some(two)) = (one, two) else { return false };
        let length = one.gradient.norm().value().max(size(&trees(&rows)));
        assert_close(&one.gradient, &two.gradient, 1e-9 * length);
        true
    });
}

/// Whatever the scale, a finite result or a typed error.
fn takes_every_scale<A: Aggregator>(make: impl Fn() -> A) {
    check(&make, ALL, |mut aggregator, rows| {
        let mut met = false;
        for scale in SCALES {
            let rows = trees(&scaled(&rows, |_| scale));
            if let Some(out) = run(&mut aggregator, &rows) {
                met = true;
                out.gradient.same_structure(&rows[0]).unwrap();
                assert_eq!(out.gradient.is_finite().value(), 1.0, "at scale {scale:e}");
                assert!(scale != 0.0 || out.gradient.norm().value() == 0.0);
                assert!(out.report.dropped().is_empty());
            }
        }
        met
    });
}

/// Rows with a NaN or an infinity are named, and leave no other trace.
fn isolates_rows_that_are_not_finite<A: Aggregator>(make: impl Fn() -> A) {
    check(&make, &[Kind::Free, Kind::Uneven], |mut aggregator, rows| {
        let n = rows[0].len();
        let mut broken = rows.clone();
        broken.insert(0, (0..n).map(|k| if k == n - 1 { f64::NAN } else { 1.0 }).collect());
        broken.push((0..n).map(|k| if k == 0 { f64::INFINITY } else { 1.0 }).collect());
        let Some(out) = run(&mut aggregator, &trees(&broken)) else { return false };
        assert_eq!(out.report.dropped(), [0, rows.len() + 1]);
        assert_eq!(out.gradient.is_finite().value(), 1.0);
        if let Some(weights) = &out.report.weights {
            assert_eq!((weights[0], weights[rows.len() + 1]), (0.0, 0.0));
        }
        assert!(out.report.norms()[0].is_nan() && out.report.cosine(0, 1).is_nan());
        // Random weights are drawn by task.
        if aggregator.name() != "random" {
            let clean = run(&mut make(), &trees(&rows)).unwrap();
            // Iterations carry the rounding of one over the number of tasks on.
            assert_close(
                &clean.gradient,
                &out.gradient,
                1e-13 * size(&trees(&rows)).max(clean.gradient.norm().value()),
            );
        }
        let all = trees(&vec![broken[0].clone(); 2]);
        let nothing = make().aggregate(&all).unwrap();
        assert_eq!((nothing.gradient.norm().value(), nothing.report.dropped()), (0.0, vec![0, 1]));
        true
    });
}

/// A state survives a file, and a fresh aggregator goes on from it bit for bit.
fn resumes_from_a_file<A: Aggregator>(make: impl Fn() -> A) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.bpk");
    property(16, vec(matrices(&[Kind::Free], 3..=3), 4), |steps| {
        let n = steps.iter().map(|rows| rows[0].len()).min().unwrap_or(1);
        let steps: Vec<Vec<Tree>> =
            steps.iter().map(|rows| trees(&rows.iter().map(|row| row[..n].to_vec()).collect())).collect();
        let mut old = make();
        steps[..2].iter().for_each(|rows| drop(run(&mut old, rows)));
        old.state().save(&path).unwrap();
        let loaded = State::load(&path, &host_devices()[0]).unwrap();
        assert_eq!(loaded, old.state());
        let mut resumed = make();
        resumed.load_state(loaded).unwrap();
        for rows in &steps[2..] {
            match (run(&mut old, rows), run(&mut resumed, rows)) {
                (Some(one), Some(two)) => assert_same_bits(&one.gradient, &two.gradient),
                (None, None) => {}
                _ => panic!("one has weights, the other has not"),
            }
        }
        assert_eq!(old.state(), resumed.state());
    });
}

/// A state with an entry that is not its own is refused and changes nothing.
fn refuses_the_state_of_another<A: Aggregator>(make: impl Fn() -> A) {
    let mut aggregator = make();
    let before = aggregator.state();
    assert!(aggregator.load_state(before.clone().with("an entry of no one", 1u64)).is_err());
    assert_eq!(aggregator.state(), before);
    assert!(matches!(aggregator.aggregate(&[]), Err(Error::NoTasks)));
}

/// Directions of two rows, brought to one length.
fn direction(aggregator: &mut impl Aggregator, rows: &[Tree]) -> Option<Tree> {
    let gradient = run(aggregator, rows)?.gradient;
    let norm = gradient.norm().value();
    Some(gradient.scale(1.0 / norm))
}

#[test]
fn two_tasks_make_impartial_methods_agree() {
    property(200, matrices(&[Kind::Free, Kind::Uneven], 2..=2), |rows| {
        let rows = trees(&rows);
        // Nearly dependent rows have a direction of their own only to the digits left.
        if Gramian::of(&rows).unwrap().cosine(0, 1).abs() > 0.999 {
            return;
        }
        let nash = direction(&mut NashMtl::new(), &rows).unwrap();
        assert_close(&direction(&mut FairGrad::new(1.0).unwrap(), &rows).unwrap(), &nash, 1e-9);
        assert_close(&direction(&mut ImtlG::new(), &rows).unwrap(), &nash, 1e-9);
        assert_close(&direction(&mut ConFig::new(), &rows).unwrap(), &nash, 1e-9);
    });
}

#[test]
fn two_tasks_make_pcgrad_an_exact_upgrad() {
    property(200, matrices(ALL, 2..=2), |rows| {
        let rows = trees(&rows);
        let mut exact = upgrad().preference(&[1.0, 1.0]).unwrap();
        let (one, two) = (run(&mut exact, &rows).unwrap(), run(&mut PcGrad::new(0), &rows).unwrap());
        assert_close(&one.gradient, &two.gradient, 1e-12 * size(&rows));
    });
}

#[test]
fn extremes_of_cagrad_are_mean_and_mgda() {
    property(100, matrices(ALL, 1..=6), |rows| {
        let rows = trees(&rows);
        let mean = run(&mut Mean::new(), &rows).unwrap().gradient;
        assert_same_bits(&run(&mut cagrad(0.0), &rows).unwrap().gradient, &mean);
        // Far out the direction is MGDA's: the two differ by the mean, a part in 10⁶.
        let mgda = run(&mut Mgda::new(), &rows).unwrap().gradient;
        if mgda.norm().value() > 1e-2 * size(&rows) && mean.norm().value() > 1e-2 * size(&rows) {
            let far = direction(&mut cagrad(1e6), &rows).unwrap();
            assert_close(&far, &direction(&mut Mgda::new(), &rows).unwrap(), 1e-4);
        }
    });
}

#[test]
fn regularised_projections_meet_their_own_conditions() {
    property(200, matrices(ALL, 1..=6), |rows| {
        let gramian = Gramian::of(&trees(&rows)).unwrap();
        let (g, m) = (gramian.products(), gramian.size());
        let trace = g.trace();
        if gramian.unscaled(trace, 2) < 1e-4 {
            return;
        }
        let regular = g.map(|i, j, x| x / trace + if i == j { 1e-4 } else { 0.0 });
        for weights in [UpGrad::new().weights(&gramian).unwrap(), DualProj::new().weights(&gramian).unwrap()] {
            assert!(weights.iter().all(|w| *w >= 1.0 / m as f64 - 1e-12));
            let dual = regular.times(&weights);
            let size: f64 = weights.iter().sum();
            assert!(dual.iter().all(|x| *x >= -1e-12 * size), "{dual:?}");
        }
    });
}

#[test]
fn small_gradients_count_as_zero_where_the_reference_says_so() {
    // Opposite rows below the trace 1e-4: the mean, as TorchJD; without the bound the projection.
    let rows = trees(&vec![vec![1e-3, 0.0], vec![-1e-3, 1e-4]]);
    let default = run(&mut UpGrad::new(), &rows).unwrap();
    assert_eq!(default.report.weights.unwrap(), [0.5, 0.5]);
    let exact = run(&mut UpGrad::new().norm_eps(0.0).unwrap(), &rows).unwrap();
    assert!(exact.report.weights.unwrap()[1] > 0.9);
}

#[test]
fn robust_means_lose_the_outlier() {
    property(60, matrices(&[Kind::Free], 4..=4), |rows| {
        let clean = trees(&rows);
        let mut with_outlier = rows.clone();
        with_outlier.push(vec![1e12; rows[0].len()]);
        let dirty = trees(&with_outlier);
        let trimmed = run(&mut TrimmedMean::new(1), &dirty).unwrap().gradient;
        assert!(trimmed.norm_inf().value() <= clean.iter().map(|row| row.norm_inf().value()).fold(0.0, f64::max));
        let krum = run(&mut Krum::new(1).selected(2).unwrap(), &dirty).unwrap();
        assert_eq!(krum.report.weights.unwrap()[4], 0.0);
        // The order of the rows does not matter to either, but for ties.
        let mut turned = dirty.clone();
        turned.rotate_left(2);
        assert_close(&run(&mut TrimmedMean::new(1), &turned).unwrap().gradient, &trimmed, 1e-15);
        let krum_turned = run(&mut Krum::new(1).selected(2).unwrap(), &turned).unwrap().gradient;
        assert_close(&krum_turned, &krum.gradient, 1e-12);
        let few = TrimmedMean::new(3).aggregate(&dirty);
        assert!(matches!(few, Err(Error::TooFewRows { least: 7, actual: 5, .. })));
    });
}
