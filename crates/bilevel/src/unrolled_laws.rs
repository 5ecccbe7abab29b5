//! Laws of unrolled differentiation.

use burn::tensor::Tensor;
use core_tensor::Tree;
use core_tensor::testing::{assert_close, assert_same_bits};

use crate::parameterise::Domain;
use crate::testing::*;
use crate::update::{Adam, Momentum, Setting, Sgd, Update};
use crate::*;

#[test]
fn ridge_unrolled_by_hand() {
    let (problem, x, z, batches) = ridge();
    let x = x.merge(leaf("lr", &[0.25])).unwrap();
    let problem_x = rerecord(&x, &z);
    let h = Unroll::new(Sgd::new(Setting::leaf("lr")), 3).unwrap().hypergradient(&problem_x, &x, &z, &batches).unwrap();
    let gradient = values(&h.gradient);
    assert!((gradient[0] + 0.09375).abs() < 1e-15 && (gradient[1] - 0.5625).abs() < 1e-15, "{gradient:?}");
    assert_eq!((h.certificate.hessian_vector_products, h.certificate.stored_states), (3, 3));
    // Long runs reach the implicit answer.
    let (lambda, long) = (leaf("lambda", &[0.0]), Unroll::new(Sgd::new(0.25), 500).unwrap());
    let h = long.hypergradient(&problem, &lambda, &z, &batches).unwrap();
    assert!((h.gradient.sum().value() + 0.25).abs() < 1e-14 && h.certificate.inner_residual < 1e-14);
    // The rate is read by the update alone, which counts; without it, it is detached.
    let fixed = Unroll::new(Sgd::new(0.25), 3).unwrap().hypergradient(&problem_x, &x, &z, &batches);
    assert!(matches!(fixed, Err(Error::Detached { leaf, .. }) if leaf == "lr"));
}

/// The ridge problem with an outer variable of more leaves.
fn rerecord(x: &Tree, z: &Tree) -> Unit {
    Problem::from_functions(
        x,
        z,
        &Batches::new((), ()),
        |x: &Tree, z: &Tree, _: &()| {
            let (lambda, w) = (x.get::<1>("lambda").unwrap(), z.get::<1>("w").unwrap());
            ((w.clone() - 2.0).square() + lambda.exp() * w.square()) * 0.5
        },
        |_: &Tree, z: &Tree, _: &()| (z.get::<1>("w").unwrap() - 0.5).square() * 0.5,
    )
    .unwrap()
}

#[test]
fn the_rate_of_gradient_descent_in_closed_form() {
    // g = h/2(w − w*)², f = w: w_T = (1 − ρᵀ)w*, so dw_T/dη = T·h·ρ^{T−1}·w*.
    let (h, target, rate, steps) = (1.5, 2.0, 0.3, 6);
    let (x, z, batches) = (leaf("lr", &[rate]), leaf("w", &[0.0]), Batches::new((), ()));
    let problem = Problem::from_functions(
        &x,
        &z,
        &batches,
        move |_: &Tree, z: &Tree, _: &()| (z.get::<1>("w").unwrap() - target).square() * (0.5 * h),
        |_: &Tree, z: &Tree, _: &()| z.get::<1>("w").unwrap(),
    )
    .unwrap();
    let expected = steps as f64 * h * (1.0 - rate * h).powi(steps as i32 - 1) * target;
    let update = || Sgd::new(Setting::leaf("lr"));
    let reverse = Unroll::new(update(), steps).unwrap().hypergradient(&problem, &x, &z, &batches).unwrap();
    let forward = Forward::new(update(), steps).unwrap().hypergradient(&problem, &x, &z, &batches).unwrap();
    assert!((reverse.gradient.sum().value() - expected).abs() < 1e-14);
    assert!((forward.gradient.sum().value() - expected).abs() < 1e-14);
}

/// The network's problem with rates of the inner optimizer among the outer variables.
fn with_rates() -> (Problem<Tensor<2>, Tensor<2>>, Tree, Tree, Batches<Tensor<2>, Tensor<2>>) {
    network_with(rates())
}

fn rates() -> Tree {
    ["log_lr", "mu", "steps", "rate/w1", "rate/b1", "rate/w2"].iter().fold(Tree::empty(), |tree, name| {
        let leaf = match *name {
            "steps" => leaf(name, &[-2.0, -2.5, -1.5, -2.2, -2.0]),
            "mu" => leaf(name, &[0.2]),
            "rate/w1" => Tree::empty().push(*name, tensor([3, 4], (0..12).map(|i| 0.02 * i as f64).collect())).unwrap(),
            "rate/b1" => leaf(name, &[0.1, 0.2, 0.3, 0.1]),
            "rate/w2" => Tree::empty().push(*name, tensor([4, 1], vec![0.1, 0.2, 0.3, 0.1])).unwrap(),
            _ => leaf(name, &[-1.5]),
        };
        tree.merge(leaf).unwrap()
    })
}

/// An update of the user's own, which reads every rate: `m ← m/2 + tanh(∇g)`, `z ← z − rates·m`.
struct Everything;

impl Update for Everything {
    fn memories(&self) -> usize {
        1
    }
    fn step(
        &self,
        x: &Tree,
        z: Tree,
        g: Tree,
        mut m: Vec<Tree>,
        step: &Tensor<1>,
    ) -> core_tensor::Result<(Tree, Vec<Tree>)> {
        let m = Setting::leaf("mu").sigmoid().times(x, m.remove(0), step)?.add(&g.map_flat(|_, g| g.tanh())?)?;
        let rated = [Setting::leaf("log_lr").exp(), Setting::per_step("steps").exp(), Setting::per_element("rate")];
        let mut z = z;
        for rate in rated {
            z = z.axpy(-1.0, &rate.times(x, m.clone(), step)?)?;
        }
        Ok((z, vec![m]))
    }
}

fn check<U: Update>(name: &str, make: impl Fn() -> U) {
    let (problem, x, z, batches) = network();
    check_on(name, make, (&problem, &x, &z, &batches));
}

type Case<'a> = (&'a Problem<Tensor<2>, Tensor<2>>, &'a Tree, &'a Tree, &'a Batches<Tensor<2>, Tensor<2>>);

fn check_on<U: Update>(name: &str, make: impl Fn() -> U, (problem, x, z, batches): Case<'_>) {
    let reverse = Unroll::new(make(), 5).unwrap();
    let found = diagnose(&reverse, problem, (x, z), batches, (2, 1e-5, 7)).unwrap();
    assert!(found.error < 1e-7, "{name}: {:e}", found.error);
    let forward = Forward::new(make(), 5).unwrap().hypergradient(problem, x, z, batches).unwrap();
    assert_close(&found.hypergradient.gradient, &forward.gradient, 1e-12);
    assert_eq!(forward.certificate.stored_states, 1);
}

/// Also `reverse_is_forward`.
#[test]
fn unrolled_matches_central_differences() {
    check("sgd", || Sgd::new(0.2));
    check("momentum", || Momentum::new(0.1, 0.8));
    check("adam", || Adam::new(0.05));
    check("sgd with decay", || Sgd::new(0.2).weight_decay(0.3));
    check("momentum with decay", || Momentum::new(0.1, 0.8).weight_decay(0.3));
    check("adam with decay", || Adam::new(0.05).weight_decay(0.3));
    let (problem, x, z, batches) = with_rates();
    check_on("everything", || Everything, (&problem, &x, &z, &batches));
    let features = [("f/w1", vec![-1.0, -2.0, -1.5]), ("f/b1", vec![-1.0; 4]), ("f/w2", vec![-2.0, -1.0, -1.4, -3.0])];
    let features = features.iter().fold(Tree::empty(), |tree, (name, raw)| tree.merge(leaf(name, raw)).unwrap());
    let (problem, x, z, batches) = network_with(features);
    let learned = || Momentum::new(0.1, 0.8).weight_decay(Setting::per_feature("f").within(Domain::Softplus));
    check_on("a decay for each feature", learned, (&problem, &x, &z, &batches));
}

#[test]
fn the_start_has_a_derivative_too() {
    let (problem, x, z, batches) = network();
    let unroll = Unroll::new(Momentum::new(0.1, 0.8), 4).unwrap();
    let start = unroll.differentiate(&problem, &x, &z, &batches).unwrap().start;
    let u = core_tensor::Random::new(2).normal_like(&z, 1.0);
    let phi = |step: f64| {
        let z = unroll.run(&problem, &x, &z.clone().axpy(step, &u).unwrap(), &batches.inner).unwrap();
        problem.outer_value(&x, &z, &batches.outer).unwrap()
    };
    let difference = (phi(1e-5) - phi(-1e-5)) / 2e-5;
    assert!((start.dot(&u).unwrap().value() - difference).abs() < 1e-8 * difference.abs().max(1.0));
}

#[test]
fn truncated_is_neumann() {
    let (problem, x, start, batches) = network();
    let z = NewtonCg::new(50, 1e-13).unwrap().solve(&problem, &x, &start, &batches.inner).unwrap();
    for terms in [1, 2, 7] {
        let unroll = Unroll::new(Sgd::new(0.2), 10).unwrap().truncate(terms);
        let unrolled = unroll.hypergradient(&problem, &x, &z, &batches).unwrap();
        let neumann = Implicit::new(Neumann::new(terms - 1, 0.2).unwrap());
        let neumann = neumann.hypergradient(&problem, &x, &z, &batches).unwrap();
        assert_close(&unrolled.gradient, &neumann.gradient, 1e-11);
        assert_eq!(unrolled.certificate.hessian_vector_products, terms);
    }
    // Nothing differentiated: the direct gradient.
    let direct = Unroll::new(Sgd::new(0.2), 3).unwrap().truncate(0);
    let direct = direct.differentiate(&problem, &x, &z, &batches).unwrap();
    let outer = problem.outer_gradient(&x, &direct.hypergradient.z, &batches.outer).unwrap();
    assert_same_bits(&direct.start, &outer.z);
    assert_same_bits(&direct.hypergradient.gradient, &outer.x);
}

#[test]
fn checkpoints_change_nothing() {
    let (problem, x, z, batches) = network();
    let rows = batches.inner[0].clone();
    let turned = Tensor::cat(vec![rows.clone().slice_dim(0, 4..9), rows.clone().slice_dim(0, 0..4)], 0);
    let batches = Batches { inner: vec![rows, turned], outer: batches.outer };
    for steps in [1usize, 2, 13, 30] {
        let run = |checkpoint| {
            let unroll = Unroll::new(Adam::new(0.02), steps).unwrap().checkpoint(checkpoint).unwrap();
            unroll.hypergradient(&problem, &x, &z, &batches).unwrap()
        };
        let all = run(Checkpoint::All);
        assert_eq!(all.certificate.stored_states, steps);
        let (root, log) = ((steps as f64).sqrt().ceil() as usize, (steps as f64).log2().ceil() as usize);
        for (checkpoint, states) in
            [(Checkpoint::Sqrt, 2 * root.max(2)), (Checkpoint::Kary(2), 2 * log + 2), (Checkpoint::Kary(3), 12)]
        {
            let other = run(checkpoint);
            assert_same_bits(&all.gradient, &other.gradient);
            assert!(
                other.certificate.stored_states <= states,
                "{checkpoint:?} {steps}: {}",
                other.certificate.stored_states
            );
        }
    }
    assert!(Unroll::new(Sgd::new(0.1), 3).unwrap().checkpoint(Checkpoint::Kary(1)).is_err());
    assert!(Unroll::new(Sgd::new(0.1), 0).is_err());
}

#[test]
fn a_zero_gradient_is_no_trouble_for_adam() {
    let (problem, x, _, batches) = ridge();
    // At the solution every gradient is zero.
    let h = Unroll::new(Adam::new(0.01), 3).unwrap().hypergradient(&problem, &x, &leaf("w", &[1.0]), &batches).unwrap();
    assert!(h.gradient.sum().value().is_finite());
}

#[test]
fn settings_that_do_not_fit_are_errors() {
    let (problem, x, z, batches) = ridge();
    let missing = Unroll::new(Sgd::new(Setting::leaf("rate")), 2).unwrap();
    let error = missing.hypergradient(&problem, &x, &z, &batches).unwrap_err().to_string();
    assert!(error.contains("rate"), "{error}");
    assert!(Adam::new(0.1).betas(1.0, 0.9).is_err() && Adam::new(0.1).epsilons(0.0, 0.0).is_err());
}
