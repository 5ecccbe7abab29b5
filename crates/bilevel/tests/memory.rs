//! How the memory of hypergradients grows with the inner steps, measured: one large leaf, so that states are all that counts.

#![forbid(unsafe_code)]

use bilevel::update::{Setting, Sgd};
use bilevel::{Batches, Checkpoint, ConjugateGradient, Forward, Implicit, Method, Problem, Unroll};
use burn::tensor::{Device, Tensor};
use core_tensor::Tree;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const ELEMENTS: usize = 100_000;

/// The peak of a call beyond what was there before, in trees of the inner variable.
fn trees(function: impl Fn()) -> f64 {
    function();
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    function();
    (MEMORY.peak_usage() - before) as f64 / (4 * ELEMENTS) as f64
}

#[test]
fn states_are_what_memory_grows_by() {
    let device = Device::flex();
    let number = |name: &str, value: f32| Tree::empty().push(name, Tensor::<1>::from_data([value], &device));
    let x = number("decay", -1.0).and_then(|x| x.merge(number("rate", -1.5)?)).unwrap();
    let z = Tree::empty().push("z", Tensor::<1>::zeros([ELEMENTS], &device)).unwrap();
    let batches = Batches::new((), ());
    let problem = Problem::from_functions(
        &x,
        &z,
        &batches,
        |x: &Tree, z: &Tree, _: &()| {
            let (decay, z) = (x.get::<1>("decay").unwrap().exp(), z.get::<1>("z").unwrap());
            ((z.clone() - 1.0).square() + z.square() * decay + x.get::<1>("rate").unwrap().exp() * 0.0).sum() * 0.5
        },
        |_: &Tree, z: &Tree, _: &()| z.get::<1>("z").unwrap().square().mean(),
    )
    .unwrap();
    let rate = || Sgd::new(Setting::leaf("rate").exp());
    let (few, between, many) = (16, 64, 256);
    let reverse = |steps: usize, checkpoint| {
        let method = Unroll::new(rate(), steps).unwrap().checkpoint(checkpoint).unwrap();
        let states = method.hypergradient(&problem, &x, &z, &batches).unwrap().certificate.stored_states;
        (states as f64, trees(|| drop(method.hypergradient(&problem, &x, &z, &batches).unwrap())))
    };
    // What is not states is the same for any number of steps: the two passes of a step.
    for (checkpoint, at_most) in [
        (Checkpoint::All, 1.0 * many as f64),
        (Checkpoint::Sqrt, 2.0 * (many as f64).sqrt()),
        (Checkpoint::Kary(2), 2.0 * (many as f64).log2() + 2.0),
    ] {
        let [(states, small), (_, middle), (more, large)] =
            [few, between, many].map(|steps| reverse(steps, checkpoint));
        println!("reverse, {checkpoint:?}: {small:.1}, {middle:.1}, {large:.1} trees");
        let (grown, counted) = (large - small, more - states);
        assert!(grown < counted + 3.0, "{checkpoint:?}: {small} {large} for {states} {more}");
        // Halves share the states that they begin with, which count for each.
        let shared = matches!(checkpoint, Checkpoint::Kary(_));
        assert!(shared || grown > counted - 3.0, "{checkpoint:?}: {small} {large} for {states} {more}");
        assert!(more <= at_most, "{checkpoint:?}: {more}");
    }
    let forward = |steps: usize| {
        let method = Forward::new(rate(), steps).unwrap();
        trees(|| drop(method.hypergradient(&problem, &x, &z, &batches).unwrap()))
    };
    let implicit = |steps: usize| {
        let run = Unroll::new(rate(), steps).unwrap();
        let method = Implicit::new(ConjugateGradient::new(5).unwrap());
        trees(|| {
            let z = run.run(&problem, &x, &z, &batches.inner).unwrap();
            drop(method.hypergradient(&problem, &x, &z, &batches).unwrap());
        })
    };
    for (name, of) in [("forward", &forward as &dyn Fn(usize) -> f64), ("implicit", &implicit)] {
        let [small, middle, large] = [few, between, many].map(of);
        println!("{name}: {small:.1}, {middle:.1}, {large:.1} trees");
        assert!((large - small).abs() < 3.0 && large < 40.0, "{name}: {small} {large}");
    }
}
