//! Closed forms on quadratics, and sinusoids.

use burn::tensor::{DType, Tensor};
use core_tensor::Tree;
use core_tensor::testing::{assert_close, assert_same_bits};

use super::*;
use crate::testing::*;
use crate::update::{Adam, Point, Recorder, Setting, Sgd};
use crate::{Batches, ConjugateGradient, Implicit, NewtonCg, Problem};

type Data = Tensor<2>;
type Learn<'a> = dyn Fn(&Tree, &[Batches<Data, Data>]) -> Tree + 'a;

/// `L = ½Σ aᵢ(θᵢ − cᵢ)²` with rows `a` and `c` in the batch.
fn quadratic(theta: &Tree, data: &Data) -> Tensor<1> {
    let n = data.dims()[1];
    let row = |i: usize| data.clone().slice([i..i + 1, 0..n]).reshape([n]);
    (row(0) * (theta.get::<1>("theta").unwrap() - row(1)).square()).sum() * 0.5
}

fn tasks() -> Vec<Batches<Data, Data>> {
    let task = |shift: f64| {
        let support = tensor([2, 3], vec![1.0, 0.5, 2.0, 1.0 + shift, -1.0, 0.5]);
        let query = tensor([2, 3], vec![0.7, 1.5, 1.0, 0.5, -0.5 + shift, 1.0]);
        Batches::new(support, query)
    };
    vec![task(0.0), task(0.6), task(-1.1), task(2.0), task(0.3)]
}

fn problem(x: &Tree, start: &Tree, tasks: &[Batches<Data, Data>]) -> Problem<Data, Data> {
    Problem::from_functions(
        x,
        start,
        &tasks[0],
        |_: &Tree, z: &Tree, b: &Data| quadratic(z, b),
        |_: &Tree, z: &Tree, b: &Data| quadratic(z, b),
    )
    .unwrap()
}

/// `(I − αA)ᵏ∇L_q(θ_k)` element by element; without the factor for FOMAML.
fn maml_by_hand(task: &Batches<Data, Data>, theta: &Tree, alpha: f64, steps: i32, first_order: bool) -> Vec<f64> {
    let read = |t: &Data| t.to_data().iter::<f64>().collect::<Vec<_>>();
    let (s, q, theta) = (read(&task.inner[0]), read(&task.outer[0]), values(theta));
    (0..3)
        .map(|i| {
            let shrink = (1.0 - alpha * s[i]).powi(steps);
            let adapted = s[3 + i] + shrink * (theta[i] - s[3 + i]);
            (if first_order { 1.0 } else { shrink }) * q[i] * (adapted - q[3 + i])
        })
        .collect()
}

#[test]
fn maml_of_quadratics_in_closed_form() {
    let (tasks, start, x) = (tasks(), leaf("theta", &[0.3, -2.0, 1.0]), Tree::empty());
    let problem = problem(&x, &start, &tasks);
    for (first_order, steps) in [(false, 1), (false, 4), (true, 4)] {
        let maml = Maml::new(Sgd::new(0.2), steps).unwrap();
        let maml = if first_order { maml.first_order() } else { maml };
        let found = maml.gradient(&problem, &x, &start, &tasks).unwrap();
        let mut expected = vec![0.0; 3];
        for task in &tasks {
            let one = maml_by_hand(task, &start, 0.2, steps as i32, first_order);
            expected.iter_mut().zip(one).for_each(|(sum, part)| *sum += part / tasks.len() as f64);
        }
        assert_close(&found.start, &leaf("theta", &expected), 1e-13);
        let adapted = tasks.iter().map(|task| {
            let z = maml.adapt(&problem, &x, &start, &task.inner).unwrap();
            problem.outer_value(&x, &z, &task.outer).unwrap()
        });
        assert!((found.loss - adapted.sum::<f64>() / tasks.len() as f64).abs() < 1e-13);
    }
    assert!(Maml::new(Sgd::new(0.2), 1).unwrap().gradient(&problem, &x, &start, &[]).is_err());
}

/// One step of Meta-SGD: `dL/dαᵢ = −∇L_qᵢ·∇L_sᵢ`.
#[test]
fn meta_sgd_by_hand() {
    let (tasks, start) = (tasks(), leaf("theta", &[0.3, -2.0, 1.0]));
    let x = leaf("rate/theta", &[0.1, 0.2, 0.3]);
    let problem = problem(&x, &start, &tasks);
    let maml = Maml::new(Sgd::new(Setting::per_element("rate")), 1).unwrap();
    let found = maml.gradient(&problem, &x, &start, &tasks[..1]).unwrap();
    let at = maml.adapt(&problem, &x, &start, &tasks[0].inner).unwrap();
    let query = problem.outer_gradient(&x, &at, &tasks[0].outer).unwrap().z;
    let support = problem.inner_gradient(&x, &start, &tasks[0].inner).unwrap().z;
    let expected: Vec<f64> = values(&query).iter().zip(values(&support)).map(|(q, s)| -q * s).collect();
    assert_close(&found.x, &leaf("rate/theta", &expected), 1e-13);
}

#[test]
fn imaml_of_quadratics_in_closed_form() {
    let (tasks, start, lambda) = (tasks(), leaf("theta", &[0.3, -2.0, 1.0]), 0.7);
    let problem = proximal(&start, &tasks[0], lambda, quadratic, quadratic).unwrap();
    let z = NewtonCg::default().solve(&problem, &start, &start, &tasks[0].inner).unwrap();
    let h = Implicit::new(ConjugateGradient::new(5).unwrap()).hypergradient(&problem, &start, &z, &tasks[0]).unwrap();
    let query = values(&problem.outer_gradient(&start, &z, &tasks[0].outer).unwrap().z);
    let expected: Vec<f64> = query.iter().zip([1.0, 0.5, 2.0]).map(|(q, a)| lambda / (a + lambda) * q).collect();
    assert_close(&h.gradient, &leaf("theta", &expected), 1e-12);
    assert!(proximal(&start, &tasks[0], 0.0, quadratic, quadratic).is_err());
}

#[test]
fn reptile_of_quadratics_in_closed_form() {
    let (tasks, start, x) = (tasks(), leaf("theta", &[0.3, -2.0, 1.0]), Tree::empty());
    let problem = problem(&x, &start, &tasks);
    let moved = Reptile::new(Sgd::new(0.2), 5, 0.4).unwrap().step(&problem, &x, start.clone(), &tasks).unwrap();
    let mut expected = vec![0.0; 3];
    for task in &tasks {
        let support: Vec<f64> = task.inner[0].to_data().iter().collect();
        for (i, (sum, theta)) in expected.iter_mut().zip(values(&start)).enumerate() {
            let target = support[3 + i];
            let adapted = target + (1.0 - 0.2 * support[i]).powi(5) * (theta - target);
            *sum += (theta + 0.4 * (adapted - theta)) / tasks.len() as f64;
        }
    }
    assert_close(&moved, &leaf("theta", &expected), 1e-13);
    assert!(Reptile::new(Sgd::new(0.2), 5, 0.0).is_err());
}

fn network(z: &Tree, data: &Data) -> Tensor<1> {
    let rows = data.dims()[0];
    let column = |i: usize| data.clone().slice([0..rows, i..i + 1]);
    let layer = |x: Data, i: usize| {
        x.matmul(z.get::<2>(&format!("w{i}")).unwrap()) + z.get::<1>(&format!("b{i}")).unwrap().unsqueeze_dim::<2>(0)
    };
    let relu = burn::tensor::activation::relu;
    (layer(relu(layer(relu(layer(column(0), 0)), 1)), 2) - column(1)).square().mean()
}

fn start(width: usize) -> Tree {
    let mut random = core_tensor::Random::new(1);
    [(1, width), (width, width), (width, 1)].into_iter().enumerate().fold(Tree::empty(), |tree, (i, (from, to))| {
        let weight = normal(&mut random, [from, to]) * (1.0 / from as f64).sqrt();
        let tree = tree.push(format!("w{i}"), weight).unwrap();
        tree.push(format!("b{i}"), Tensor::<1>::zeros([to], (&device(), DType::F64))).unwrap()
    })
}

fn sinusoids(from: u64, count: u64) -> Vec<Batches<Data, Data>> {
    let tasks = Sinusoids::new(5);
    let task = |index| {
        let points = tasks.task(index, 20);
        let data = |points: &[(f64, f64)]| tensor([10, 2], points.iter().flat_map(|(x, y)| [*x, *y]).collect());
        Batches::new(data(&points[..10]), data(&points[10..]))
    };
    (from..from + count).map(task).collect()
}

#[test]
fn threads_do_not_matter() {
    let (tasks, theta, x) = (sinusoids(0, 7), start(8), Tree::empty());
    let problem = Problem::from_functions(
        &x,
        &theta,
        &tasks[0],
        |_: &Tree, z: &Tree, b: &Data| network(z, b),
        |_: &Tree, z: &Tree, b: &Data| network(z, b),
    )
    .unwrap();
    let maml = Maml::new(Sgd::new(0.01), 2).unwrap();
    let reptile = Reptile::new(Sgd::new(0.01), 2, 0.5).unwrap();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let gradient = maml.gradient(&problem, &x, &theta, &tasks).unwrap();
            (gradient, reptile.step(&problem, &x, theta.clone(), &tasks).unwrap())
        })
    };
    let one = run(1);
    for threads in [2, 3, 4, 9] {
        let many = run(threads);
        assert_same_bits(&one.0.start, &many.0.start);
        assert_same_bits(&one.1, &many.1);
        assert_eq!(one.0.loss, many.0.loss);
    }
}

/// A start learned on some sinusoids adapts to new ones in one step; one trained on all of them together does not, whatever the rate.
#[test]
fn maml_learns_to_learn_sinusoids() {
    let (theta, x) = (start(40), Tree::empty());
    let fresh = sinusoids(1_000_000, 40);
    let problem = Problem::from_functions(
        &x,
        &theta,
        &fresh[0],
        |_: &Tree, z: &Tree, b: &Data| network(z, b),
        |_: &Tree, z: &Tree, b: &Data| network(z, b),
    )
    .unwrap();
    let train = |steps: u64, learn: &Learn<'_>| {
        let recorder = Recorder::new(Adam::new(2e-3));
        let mut at = Point::start(&theta, 2);
        let zero = Point::start(&theta.zeros_like(), 2);
        for step in 0..steps {
            let gradient = learn(&at.z, &sinusoids(step * 8, 8));
            at = recorder.get(&x, &theta).unwrap().run(&x, &at, &gradient, &zero, step as usize).unwrap().0;
        }
        at.z
    };
    let maml = Maml::new(Sgd::new(0.02), 1).unwrap();
    let adapted_loss = |theta: &Tree| maml.gradient(&problem, &x, theta, &fresh).unwrap().loss;
    let meta = train(4000, &|theta, tasks| maml.gradient(&problem, &x, theta, tasks).unwrap().start);
    let joint = train(1000, &|theta, tasks| {
        let gradients = tasks.iter().map(|task| problem.inner_gradient(&x, theta, &task.inner).unwrap().z);
        gradients.reduce(|sum, next| sum.add(&next).unwrap()).unwrap().scale(1.0 / tasks.len() as f64)
    });
    let meta = adapted_loss(&meta);
    let joint = [1e-6, 1e-3, 5e-3, 0.02].map(|rate| {
        let adapt = Maml::new(Sgd::new(rate), 1).unwrap().first_order();
        adapt.gradient(&problem, &x, &joint, &fresh).unwrap().loss
    });
    let joint = joint.into_iter().fold(f64::INFINITY, f64::min);
    println!("query error after one step: MAML {meta:.3}, joint training {joint:.3}");
    assert!(meta < 0.6 * joint, "{meta} {joint}");
}

/// `L = ½(h·b − y)²` with the head `h` adapted and the body `b` not: `h' = h − αb(hb − s)`.
#[test]
fn anil_in_closed_form() {
    let (b, h, s, q, alpha) = (1.3, -0.4, 0.8, -1.1, 0.2);
    let (body, head) = (leaf("b", &[b]), leaf("h", &[h]));
    let task = Batches::new(tensor([1, 1], vec![s]), tensor([1, 1], vec![q]));
    let loss = |x: &Tree, z: &Tree, y: &Data| {
        (x.get::<1>("b").unwrap() * z.get::<1>("h").unwrap() - y.clone().reshape([1])).square() * 0.5
    };
    let problem = Problem::from_functions(&body, &head, &task, loss, loss).unwrap();
    let anil = Maml::new(Sgd::new(alpha), 1).unwrap();
    let found = anil.gradient(&problem, &body, &head, std::slice::from_ref(&task)).unwrap();
    let adapted = h - alpha * b * (h * b - s);
    let error = adapted * b - q;
    assert!((found.loss - 0.5 * error * error).abs() < 1e-15);
    assert!((found.start.sum().value() - error * b * (1.0 - alpha * b * b)).abs() < 1e-14);
    assert!((found.x.sum().value() - error * (adapted - alpha * b * (2.0 * h * b - s))).abs() < 1e-14);
    // Only the head is adapted.
    let z = anil.adapt(&problem, &body, &head, &task.inner).unwrap();
    assert!(z.names() == head.names() && (z.sum().value() - adapted).abs() < 1e-15);
    // First order leaves the way to the head out, in both.
    let first = Maml::new(Sgd::new(alpha), 1).unwrap().first_order();
    let found = first.gradient(&problem, &body, &head, &[task]).unwrap();
    assert!((found.x.sum().value() - error * adapted).abs() < 1e-14);
    assert!((found.start.sum().value() - error * b).abs() < 1e-14);
}

/// MAML++'s rate for each step: `dL/dα_t = −Σᵢ qᵢ(θ_k − c')ᵢ·aᵢ(θ − c)ᵢ·∏_{s≠t}(1 − α_s·aᵢ)`, and learning them lowers the loss.
#[test]
fn per_step_rates_in_closed_form_and_learned() {
    let (tasks, start) = (tasks(), leaf("theta", &[0.3, -2.0, 1.0]));
    let rates = [0.1, 0.3, 0.05];
    let x = leaf("rates", &rates);
    let problem = problem(&x, &start, &tasks);
    let maml = Maml::new(Sgd::new(Setting::per_step("rates")), 3).unwrap();
    let found = maml.gradient(&problem, &x, &start, &tasks).unwrap();
    let mut expected = [0.0; 3];
    for task in &tasks {
        let read = |t: &Data| t.to_data().iter::<f64>().collect::<Vec<_>>();
        let (s, q, theta) = (read(&task.inner[0]), read(&task.outer[0]), values(&start));
        for i in 0..3 {
            let factor = |skip: usize| -> f64 {
                (0..3).filter(|step| *step != skip).map(|step| 1.0 - rates[step] * s[i]).product()
            };
            let far = theta[i] - s[3 + i];
            let slope = q[i] * (s[3 + i] + factor(9) * far - q[3 + i]);
            for (step, sum) in expected.iter_mut().enumerate() {
                *sum -= slope * s[i] * far * factor(step) / tasks.len() as f64;
            }
        }
    }
    assert_close(&found.x, &leaf("rates", &expected), 1e-13);
    let mut learned = x.clone();
    for _ in 0..100 {
        let gradient = maml.gradient(&problem, &learned, &start, &tasks).unwrap().x;
        learned = learned.axpy(-0.02, &gradient).unwrap();
    }
    let after = maml.gradient(&problem, &learned, &start, &tasks).unwrap().loss;
    assert!(after < 0.9 * found.loss, "{after} {}", found.loss);
}

/// Characters to learn on, and others; where Omniglot is not there, digits, which are too few for others: new tasks of them.
fn few_shot_sets() -> (Omniglot, Omniglot) {
    match Omniglot::find().and_then(|path| Omniglot::load(&path, 14)) {
        Ok(set) => (set.keep(|class| class < 100), set.keep(|class| class >= 100)),
        Err(error) => {
            println!("{error}; the digits are used instead");
            let digits = Digits::load();
            let classes = (0..10).map(|digit| format!("digit/{digit}")).collect();
            let set = Omniglot { pixels: digits.pixels, side: 8, labels: digits.labels, classes };
            (set.keep(|_| true), set)
        }
    }
}

/// 5-way 1-shot on characters never met in training, by a start that learned on others.
#[test]
fn a_learned_start_tells_new_characters_apart() {
    let (train, test) = few_shot_sets();
    let (of_train, of_test) = (train.episodes(5, 1, 5, 1).unwrap(), test.episodes(5, 1, 5, 2).unwrap());
    let inputs = train.side * train.side;
    let task = |set: &Omniglot, episodes: &Episodes, index: u64| {
        let [support, query] = set.batches(&episodes.task(index), &device());
        Batches::new(support, query)
    };
    let mut random = core_tensor::Random::new(3);
    let mut layer = |from: usize, to: usize| random.normal::<2>([from, to], 0.0, (2.0 / from as f64).sqrt(), &device());
    let theta = Tree::empty()
        .push("w0", layer(inputs, 32))
        .and_then(|z| z.push("w1", layer(32, 5)))
        .and_then(|z| z.push("b0", Tensor::<1>::zeros([32], &device())))
        .and_then(|z| z.push("b1", Tensor::<1>::zeros([5], &device())))
        .unwrap();
    fn logits(z: &Tree, input: &Tensor<2>) -> Tensor<2> {
        let layer = |x: Tensor<2>, i: usize| {
            let bias = z.get::<1>(&format!("b{i}")).unwrap().unsqueeze_dim::<2>(0);
            x.matmul(z.get::<2>(&format!("w{i}")).unwrap()) + bias
        };
        layer(burn::tensor::activation::relu(layer(input.clone(), 0)), 1)
    }
    let loss = |_: &Tree, z: &Tree, (input, hot): &Examples| cross_entropies(logits(z, input), hot).mean();
    let x = Tree::empty();
    let problem = Problem::from_functions(&x, &theta, &task(&train, &of_train, 0), loss, loss).unwrap();
    let maml = Maml::new(Sgd::new(0.4), 2).unwrap();
    let right = |theta: &Tree| {
        let share = (0..60).map(|index| {
            let task = task(&test, &of_test, index);
            let z = maml.adapt(&problem, &x, theta, &task.inner).unwrap();
            accuracy(logits(&z, &task.outer[0].0), &task.outer[0].1)
        });
        share.sum::<f64>() / 60.0
    };
    let recorder = Recorder::new(Adam::new(3e-3));
    let mut at = Point::start(&theta, 2);
    let zero = Point::start(&theta.zeros_like(), 2);
    for step in 0..1000u64 {
        let tasks: Vec<_> = (step * 4..step * 4 + 4).map(|index| task(&train, &of_train, index)).collect();
        let gradient = maml.gradient(&problem, &x, &at.z, &tasks).unwrap().start;
        at = recorder.get(&x, &theta).unwrap().run(&x, &at, &gradient, &zero, step as usize).unwrap().0;
    }
    let (before, after) = (right(&theta), right(&at.z));
    println!("5-way 1-shot accuracy on new classes: drawn start {before:.3}, learned start {after:.3}");
    // Chance is a fifth.
    assert!(after > before + 0.1 && after > 0.4, "{before} {after}");
}
