//! Laws that relate the methods to closed forms, to each other and to central differences.

use burn::tensor::Tensor;
use core_tensor::Tree;
use core_tensor::testing::{assert_close, property};

use crate::testing::*;
use crate::*;

fn solvers(d: usize) -> Vec<(&'static str, Box<dyn LinearSolver>)> {
    vec![
        ("cg", Box::new(ConjugateGradient::new(4 * d).unwrap())),
        ("gmres", Box::new(Gmres::new(4 * d).unwrap().memory(d).unwrap())),
        ("dense", Box::new(Dense::default())),
        ("nystrom", Box::new(Nystrom::new(d, 1e-9, 1).unwrap())),
        ("neumann", Box::new(Neumann::new(1500, 0.2).unwrap())),
        ("fixed point", Box::new(FixedPoint::new(1500, 0.2).unwrap())),
    ]
}

impl LinearSolver for Box<dyn LinearSolver> {
    fn solve(&self, operator: &mut Operator<'_>, b: &Tree) -> Result<Tree> {
        (**self).solve(operator, b)
    }
}

#[test]
fn ridge_by_hand() {
    let (problem, x, _, batches) = ridge();
    // w* = 1 at λ = 0.
    let z = leaf("w", &[1.0]);
    let h = Implicit::new(ConjugateGradient::new(5).unwrap()).hypergradient(&problem, &x, &z, &batches).unwrap();
    assert!((h.gradient.sum().value() + 0.25).abs() < 1e-15);
    assert!((h.value - 0.125).abs() < 1e-15);
    let certificate = h.certificate;
    assert!(certificate.inner_residual < 1e-15 && certificate.linear_residual.unwrap() < 1e-15);
    assert_eq!((certificate.hessian_vector_products, certificate.curvature.smallest), (2, 2.0));
    // Identity: −¼ would be (Hv = b); with η = 1 it is −½.
    let h = Implicit::new(Identity::new(1.0).unwrap()).hypergradient(&problem, &x, &z, &batches).unwrap();
    assert!((h.gradient.sum().value() + 0.5).abs() < 1e-15);
    assert_eq!(h.certificate.hessian_vector_products, 1);
    assert!((h.certificate.linear_residual.unwrap() - 1.0).abs() < 1e-15);
    // Damping δ: −½/(2 + δ).
    let damped = Implicit::new(Dense::default()).damping(3.0).unwrap();
    let h = damped.hypergradient(&problem, &x, &z, &batches).unwrap();
    assert!((h.gradient.sum().value() + 0.1).abs() < 1e-15 && h.certificate.damping == 3.0);
}

#[test]
fn solvers_agree() {
    property(6, (0u64..1000, 2usize..7, 1usize..4), |(seed, nz, nx)| {
        let quadratic = Quadratic::new(seed, nz, nx);
        let z = quadratic.inner(&quadratic.x);
        let exact = quadratic.exact(&quadratic.x);
        let size = exact.norm().value().max(1.0);
        for (name, solver) in solvers(nz) {
            let h =
                Implicit::new(solver).hypergradient(&quadratic.problem, &quadratic.x, &z, &quadratic.batches).unwrap();
            let error = h.gradient.clone().sub(&exact).unwrap().norm().value();
            assert!(error < 2e-6 * size, "{name}: {error:e}");
            assert!(h.certificate.linear_residual.unwrap() < 1e-6 && h.certificate.curvature.is_positive(), "{name}");
            assert!(h.certificate.inner_residual < 1e-9);
        }
    });
}

#[test]
fn the_hessian_is_symmetric() {
    let (problem, x, z, batches) = network();
    let linear = problem.linearize(&x, &z, &batches.inner).unwrap();
    property(8, 0u64..1000, |seed| {
        let mut random = core_tensor::Random::new(seed);
        let (u, v) = (random.normal_like(&z, 1.0), random.normal_like(&z, 1.0));
        let hv = linear.along_z(&v).unwrap().hessian.dot(&u).unwrap().value();
        let hu = linear.along_z(&u).unwrap().hessian.dot(&v).unwrap().value();
        assert!((hv - hu).abs() < 1e-12 * (1.0 + hv.abs()));
        // The mixed product is the transpose of the tangent along x.
        let w = random.normal_like(&x, 1.0);
        let mixed = linear.along_z(&v).unwrap().mixed.dot(&w).unwrap().value();
        let tangent = linear.tangent(&w, &z.zeros_like()).unwrap().dot(&v).unwrap().value();
        assert!((mixed - tangent).abs() < 1e-12 * (1.0 + mixed.abs()));
    });
}

#[test]
fn methods_match_central_differences() {
    let (problem, x, start, batches) = network();
    let z = NewtonCg::default().solve(&problem, &x, &start, &batches.inner).unwrap();
    for (name, solver) in solvers(z.num_elements()) {
        let method = Implicit::new(solver);
        let found = diagnose(&method, &problem, (&x, &z), &batches, (2, 1e-5, 3)).unwrap();
        assert!(found.error < 1e-6, "{name}: {:e}", found.error);
        assert!(found.slopes.iter().any(|(slope, _)| slope.abs() > 1e-3), "{name}");
    }
    // A wrong multiple is seen.
    let wrong = Implicit::new(Identity::new(0.3).unwrap());
    assert!(diagnose(&wrong, &problem, (&x, &z), &batches, (2, 1e-5, 3)).unwrap().error > 1e-2);
}

#[test]
fn central_difference_products_are_near() {
    let (problem, x, start, batches) = network();
    let z = NewtonCg::default().solve(&problem, &x, &start, &batches.inner).unwrap();
    let method = Implicit::new(Dense::default());
    let exact = method.hypergradient(&problem, &x, &z, &batches).unwrap().gradient;
    let problem = problem.with_products(Products::CentralDifference { scale: 1e-4 });
    let near = method.hypergradient(&problem, &x, &z, &batches).unwrap().gradient;
    assert_close(&exact, &near, 1e-6);
}

#[test]
fn several_batches_are_their_mean() {
    let (problem, x, z, batches) = network();
    let part = |from: usize| {
        let rows = batches.inner[0].clone();
        Tensor::cat(vec![rows.clone().slice_dim(0, from..9), rows.slice_dim(0, 0..from)], 0)
    };
    let two = Batches { inner: vec![part(0), part(4)], outer: batches.outer.clone() };
    let linear = problem.linearize(&x, &z, &two.inner).unwrap();
    let apart =
        [part(0), part(4)].map(|batch| problem.linearize(&x, &z, &[batch]).map(|l| l.along_z(&z).unwrap()).unwrap());
    let [first, second] = apart;
    assert_close(&linear.along_z(&z).unwrap().mixed, &first.mixed.lerp(&second.mixed, 0.5).unwrap(), 1e-13);
    let empty = Batches { inner: vec![], outer: two.outer };
    let result = Implicit::new(Dense::default()).hypergradient(&problem, &x, &z, &empty);
    assert!(matches!(result, Err(Error::Core(core_tensor::Error::Length { .. }))));
}

fn scalar(inner: fn(Tensor<1>, Tensor<1>) -> Tensor<1>, first_order: bool) -> Result<Unit> {
    let (x, z, batches) = (leaf("x", &[1.0]), leaf("z", &[1.0]), Batches::new((), ()));
    let g = move |x: &Tree, z: &Tree, _: &()| inner(x.get("x").unwrap(), z.get("z").unwrap());
    let f = |_: &Tree, z: &Tree, _: &()| z.get::<1>("z").unwrap().square();
    match first_order {
        true => Problem::from_functions_first_order(&x, &z, &batches, g, f),
        false => Problem::from_functions(&x, &z, &batches, g, f),
    }
}

#[test]
fn what_would_be_wrong_has_a_name() {
    let (x, z, batches) = (leaf("x", &[1.0]), leaf("z", &[1.0]), Batches::new((), ()));
    let run =
        |problem: &Unit| Implicit::new(ConjugateGradient::new(5).unwrap()).hypergradient(problem, &x, &z, &batches);
    // x detached: its hypergradient would be zero.
    let detached = scalar(|x, z| (z - x.detach()).square(), false).unwrap();
    assert_eq!(detached.inner_absent().x, ["x"]);
    let error = run(&detached).unwrap_err();
    assert!(matches!(&error, Error::Detached { leaf, .. } if leaf == "x"), "{error}");
    // z detached: no inner problem.
    let error = scalar(|x, z| (z.detach() - x).square(), false).err().unwrap();
    assert!(matches!(&error, Error::InnerIndependent { leaf } if leaf == "z"), "{error}");
    // Curved downwards.
    let saddle = scalar(|x, z| (z * x).square().neg(), false).unwrap();
    let error = run(&saddle).unwrap_err();
    assert!(matches!(error, Error::IndefiniteCurvature { iteration: 0, quotient } if quotient == -2.0));
    let damp = ConjugateGradient::new(5).unwrap().on_negative_curvature(NegativeCurvature::Damp);
    let h = Implicit::new(damp).hypergradient(&saddle, &x, &z, &batches).unwrap();
    assert!(h.certificate.damping > 2.0 && !h.certificate.curvature.is_positive());
    let stop = ConjugateGradient::new(5).unwrap().on_negative_curvature(NegativeCurvature::Stop);
    assert!(Implicit::new(stop).hypergradient(&saddle, &x, &z, &batches).is_err());
    // Not curved at all.
    let flat = scalar(|x, z| x * z, false).unwrap();
    assert!(matches!(run(&flat), Err(Error::IndefiniteCurvature { .. })));
    assert!(matches!(
        Implicit::new(Dense::default()).hypergradient(&flat, &x, &z, &batches),
        Err(Error::Singular { .. })
    ));
    // Not at the solution, or not solved.
    let bowl = scalar(|x, z| (z - x * 3.0).square(), false).unwrap();
    let strict = Implicit::new(ConjugateGradient::new(5).unwrap()).inner_tolerance(1e-3).unwrap();
    assert!(
        matches!(strict.hypergradient(&bowl, &x, &z, &batches), Err(Error::InnerNotConverged { residual, .. }) if residual == 4.0)
    );
    let strict = Implicit::new(Neumann::new(1, 0.01).unwrap()).linear_tolerance(1e-3).unwrap();
    assert!(matches!(strict.hypergradient(&bowl, &x, &z, &batches), Err(Error::LinearNotConverged { .. })));
    let diverging = Implicit::new(Neumann::new(5000, 10.0).unwrap()).hypergradient(&bowl, &x, &z, &batches);
    assert!(matches!(diverging, Err(Error::NotFinite { .. })));
    // Another structure.
    assert!(Implicit::new(Dense::default()).hypergradient(&bowl, &z, &x, &batches).is_err());
    assert!(matches!(
        Implicit::new(Dense::new(0)).hypergradient(&bowl, &x, &z, &batches),
        Err(Error::TooLarge { found: 1, limit: 0, .. })
    ));
}

#[test]
fn parameters_are_checked() {
    assert!(ConjugateGradient::new(0).is_err() && Gmres::new(0).is_err() && FixedPoint::new(0, 1.0).is_err());
    assert!(ConjugateGradient::new(1).unwrap().tolerance(f64::NAN).is_err());
    assert!(Neumann::new(3, 0.0).is_err() && Neumann::new(3, f64::NAN).is_err() && Identity::new(-1.0).is_err());
    assert!(Nystrom::new(0, 1.0, 0).is_err() && Nystrom::new(1, 0.0, 0).is_err());
    assert!(Implicit::new(Dense::default()).damping(-1.0).is_err());
    assert!(NewtonCg::new(0, 1.0).is_err() && NewtonCg::new(1, 0.0).is_err());
}

#[test]
fn gmres_solves_what_is_not_symmetric() {
    let b = leaf("b", &[1.0, 2.0, -1.0]);
    let rows = [[0.0, 1.0, 0.5], [-2.0, 0.1, 0.0], [0.3, 0.0, 1.5]];
    for memory in [1, 2, 3, 10] {
        let mut product = |v: &Tree| {
            let v = values(v);
            Ok(leaf("b", &rows.map(|row| row.iter().zip(&v).map(|(a, v)| a * v).sum::<f64>())))
        };
        let mut operator = Operator::new(&mut product, 0.0);
        let solver = Gmres::new(300).unwrap().memory(memory).unwrap();
        let v = solver.solve(&mut operator, &b).unwrap();
        let residual = operator.apply(&v).unwrap().sub(&b).unwrap().norm().value();
        // Restarting after one step can stall; the full space cannot.
        assert!(residual < if memory < 3 { b.norm().value() + 1e-12 } else { 1e-9 }, "{memory}: {residual:e}");
        assert!(operator.products <= 301);
    }
}

/// Two Burn modules: a layer that weighs the inputs, and the layer that is trained. The same as on trees.
struct Modules;

type Pair = (burn::nn::Linear, burn::nn::Linear);

impl Bilevel for Modules {
    type Outer = burn::nn::Linear;
    type Inner = burn::nn::Linear;
    type InnerBatch = Tensor<2>;
    type OuterBatch = Tensor<2>;

    fn inner(&self, x: &burn::nn::Linear, z: &burn::nn::Linear, batch: &Tensor<2>) -> Tensor<1> {
        let fit = (z.forward(x.forward(batch.clone())) - 1.0).square().mean();
        fit + z.weight.val().square().sum() * 0.1 + z.bias.as_ref().unwrap().val().square().sum() * 0.1
    }

    fn outer(&self, _: &burn::nn::Linear, z: &burn::nn::Linear, batch: &Tensor<2>) -> Tensor<1> {
        (z.forward(batch.clone()) + 0.5).square().mean()
    }
}

#[test]
fn modules_are_variables() {
    use burn::nn::LinearConfig;
    let device = device();
    let (x, z): Pair = (LinearConfig::new(3, 3).init(&device), LinearConfig::new(3, 1).init(&device));
    let mut random = core_tensor::Random::new(4);
    let batches = Batches::new(random.normal([8, 3], 0.0, 1.0, &device), random.normal([6, 3], 0.0, 1.0, &device));
    let problem = Problem::record(Modules, &x, &z, &batches).unwrap();
    let (x, z) = (Tree::from_module(&x), Tree::from_module(&z));
    assert_eq!(x.names()[0].path, "weight");
    let forward = |tree: &Tree, input: Tensor<2>| {
        input.matmul(tree.get::<2>("weight").unwrap()) + tree.get::<1>("bias").unwrap().unsqueeze_dim::<2>(0)
    };
    let trees = Problem::from_functions(
        &x,
        &z,
        &batches,
        move |x: &Tree, z: &Tree, batch: &Tensor<2>| {
            let fit = (forward(z, forward(x, batch.clone())) - 1.0).square().mean();
            let squares = z.get::<2>("weight").unwrap().square().sum() + z.get::<1>("bias").unwrap().square().sum();
            fit + squares * 0.1
        },
        move |_: &Tree, z: &Tree, batch: &Tensor<2>| (forward(z, batch.clone()) + 0.5).square().mean(),
    )
    .unwrap();
    let start = NewtonCg::new(20, 1e-5).unwrap().solve(&problem, &x, &z, &batches.inner).unwrap();
    for method in
        [&Implicit::new(Dense::default()) as &dyn Method<_, _>, &Unroll::new(update::Adam::new(0.1), 5).unwrap()]
    {
        let on_modules = method.hypergradient(&problem, &x, &start, &batches).unwrap().gradient;
        let on_trees = method.hypergradient(&trees, &x, &start, &batches).unwrap().gradient;
        assert!(on_trees.norm().value() > 1e-3);
        assert_close(&on_modules, &on_trees, 1e-4);
        // It goes back to a Burn optimizer by the module's parameter ids.
        on_modules.into_params().unwrap();
    }
}

/// An operation without a tangent rule is an error at recording; methods that need none take it.
#[test]
fn a_missing_rule_has_a_name() {
    let bend = |x: Tensor<1>, z: Tensor<1>| (Tensor::cat(vec![z.clone(), z], 0).cummax(0).mean() - x).square();
    let refused = scalar(bend, false).err().unwrap();
    assert!(
        matches!(&refused, Error::Core(core_tensor::Error::Program(core_tensor::ProgramError::NoTangentRule { operation, .. }))
            if operation.contains("CumMax")),
        "{refused}"
    );
    let (x, z, batches) = (leaf("x", &[1.0]), leaf("z", &[1.0]), Batches::new((), ()));
    let problem = scalar(bend, true).unwrap();
    assert!(Implicit::new(Dense::default()).hypergradient(&problem, &x, &z, &batches).is_err());
    // g = (z − x)², f = z²: dΦ/dx = 2x = 2; the penalty's is λ/(1 + λ) of it.
    let penalty = Penalty::new(1e4, 200, 0.2).unwrap().hypergradient(&problem, &x, &z, &batches).unwrap();
    assert!((penalty.gradient.sum().value() - 2.0).abs() < 1e-3);
    let problem = problem.with_products(Products::CentralDifference { scale: 1e-3 });
    let h = Implicit::new(Dense::default()).hypergradient(&problem, &x, &z, &batches).unwrap();
    assert!((h.gradient.sum().value() - 2.0).abs() < 1e-6, "{}", h.gradient.sum().value());
}
