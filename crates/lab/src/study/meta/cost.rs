//! Error of a hypergradient over its cost, for every method, where the answer is known.

use std::time::Instant;

use ::bilevel::parameterise::weight_decay;
use ::bilevel::update::{Momentum, Setting as Decay, Sgd};
use ::bilevel::{
    Batches, ConjugateGradient, Dense, FixedPoint, Forward, Gmres, Hypergradient, Identity, Implicit, LinearSolver,
    Method, Neumann, NewtonCg, Nystrom, Penalty, Problem, Unroll,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use core_tensor::{Random, Tree};
use serde::Serialize;

use super::cost_of;
use super::digits::{Digits, cross_entropies, layer};
use crate::data::CLASSES;
use crate::error::Result;
use crate::report::plot::{Line, Plot, number};
use crate::study::toolkit::{host_device, median};
use crate::study::{Part, Setting};
use crate::summary::grouped;

/// Of the ridge regression.
const ROWS: usize = 80;
const FEATURES: usize = 40;
/// Of the network: pixels averaged to so many, hidden units, examples.
const POOLED: usize = 16;
const HIDDEN: usize = 6;
const EXAMPLES: usize = 100;
/// Iterations, steps, ranks that are tried.
const BUDGETS: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
/// Errors that the table asks for.
pub const WANTED: [f64; 2] = [1e-2, 1e-4];
/// Steps of a run whose last ones only are differentiated.
const LAST: usize = 10;

pub const UNITS: u64 = 2;

type Data = (Tensor<2>, Tensor<2>);

#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    pub name: String,
    #[serde(skip)]
    class: &'static str,
    /// Whether it begins at a solved inner problem.
    pub solved: bool,
    /// Cost in gradients and relative error.
    pub points: Vec<(f64, f64)>,
    /// Inner states stored at once, at most.
    pub states: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct Case {
    pub name: &'static str,
    /// Numbers of the inner and of the outer variable.
    pub inner: usize,
    pub outer: usize,
    /// Largest over smallest curvature that was met.
    pub condition: f64,
    /// Time of a product with second derivatives over that of a gradient.
    pub product: f64,
    pub curves: Vec<Curve>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Costs {
    pub cases: Vec<Case>,
}

/// A problem, where to begin, its inner solution and hypergradient.
struct Bench {
    problem: Problem<Data, Data>,
    batches: Batches<Data, Data>,
    x: Tree,
    start: Tree,
    solution: Tree,
    exact: Tree,
    /// Largest curvature of the inner and the outer objective.
    largest: (f64, f64),
    smallest: f64,
}

fn dtype(device: &Device) -> DType {
    if device.supports_dtype(DType::F64) { DType::F64 } else { DType::F32 }
}

fn tensor<const D: usize>(values: Vec<f64>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, dtype(device)))
}

/// `Av = b` by elimination with pivots; rows of `A` in order.
fn eliminate(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|i, j| a[*i][column].abs().total_cmp(&a[*j][column].abs())).unwrap_or(column);
        a.swap(column, pivot);
        b.swap(column, pivot);
        for row in column + 1..n {
            let factor = a[row][column] / a[column][column];
            let pivot = a[column].clone();
            a[row].iter_mut().zip(&pivot).skip(column).for_each(|(entry, of_pivot)| *entry -= factor * of_pivot);
            b[row] -= factor * b[column];
        }
    }
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|k| a[row][k] * b[k]).sum();
        b[row] = (b[row] - known) / a[row][row];
    }
    b
}

/// `g = ½·mean (Xw − y)² + ½Σ e^{xᵢ}wᵢ²`, `f = ½·mean (Xw − y)²` on other rows: solution and hypergradient by elimination.
fn ridge(random: &Random, device: &Device) -> Result<Bench> {
    let mut random = random.fork("ridge");
    let mut normal = |count: usize| -> Vec<f64> {
        random.draw(burn::tensor::Distribution::Normal(0.0, 1.0), [count].into()).iter::<f64>().collect()
    };
    // Features of sizes from 1 to 0.1.
    let scale = |feature: usize| 10f64.powf(-(feature as f64) / (FEATURES - 1) as f64);
    let truth = normal(FEATURES);
    let mut rows = || -> (Vec<Vec<f64>>, Vec<f64>) {
        let rows: Vec<Vec<f64>> =
            (0..ROWS).map(|_| normal(FEATURES).iter().enumerate().map(|(i, v)| v * scale(i)).collect()).collect();
        let noise = normal(ROWS);
        let y =
            rows.iter().zip(noise).map(|(row, e)| row.iter().zip(&truth).map(|(a, b)| a * b).sum::<f64>() + 0.5 * e);
        let y = y.collect();
        (rows, y)
    };
    let (train, validation) = (rows(), rows());
    let x: Vec<f64> = (0..FEATURES).map(|i| -4.0 + 2.0 * ((i % 5) as f64 / 4.0)).collect();

    let count = ROWS as f64;
    let gram = |i: usize, j: usize| train.0.iter().map(|row| row[i] * row[j]).sum::<f64>() / count;
    let matrix: Vec<Vec<f64>> = (0..FEATURES)
        .map(|i| (0..FEATURES).map(|j| gram(i, j) + if i == j { x[i].exp() } else { 0.0 }).collect())
        .collect();
    let right = (0..FEATURES).map(|i| train.0.iter().zip(&train.1).map(|(row, y)| row[i] * y).sum::<f64>() / count);
    let w = eliminate(matrix.clone(), right.collect());
    let errors = validation.0.iter().zip(&validation.1);
    let errors: Vec<f64> = errors.map(|(row, y)| row.iter().zip(&w).map(|(a, b)| a * b).sum::<f64>() - y).collect();
    let slope = (0..FEATURES).map(|i| validation.0.iter().zip(&errors).map(|(row, e)| row[i] * e).sum::<f64>() / count);
    let v = eliminate(matrix, slope.collect());
    let exact: Vec<f64> = (0..FEATURES).map(|i| -x[i].exp() * w[i] * v[i]).collect();

    let leaf = |name: &str, values: Vec<f64>| {
        let count = values.len();
        Tree::empty().push(name, tensor(values, [count], device))
    };
    let batch = |(rows, y): &(Vec<Vec<f64>>, Vec<f64>)| {
        (tensor(rows.concat(), [ROWS, FEATURES], device), tensor(y.clone(), [ROWS, 1], device))
    };
    let batches = Batches::new(batch(&train), batch(&validation));
    let (x, solution, exact) = (leaf("decay/w", x)?, leaf("w", w)?, leaf("decay/w", exact)?);
    fn squares(z: &Tree, (rows, y): &Data) -> Tensor<1> {
        let w = z.get::<1>("w").expect("the weights").unsqueeze_dim::<2>(1);
        (rows.clone().matmul(w) - y.clone()).square().mean() * 0.5
    }
    let problem = Problem::from_functions(
        &x,
        &solution,
        &batches,
        |x: &Tree, z: &Tree, batch: &Data| {
            let decay = weight_decay(&Decay::per_feature("decay").exp(), x, z).expect("a decay for each weight");
            squares(z, batch) + decay
        },
        |_: &Tree, z: &Tree, batch: &Data| squares(z, batch),
    )?;
    let start = solution.zeros_like();
    Bench::new(problem, batches, x, start, solution, exact)
}

/// A network of one hidden layer on small digits, `x` the logarithm of a decay for each of its four leaves. The solution is found by Newton's method, the
/// hypergradient there by a dense solve; the start lies near it.
fn network(random: &Random, device: &Device) -> Result<Bench> {
    let random = random.fork("network");
    let digits = Digits::load(random.fork("digits"), device)?;
    let pool = |part: std::ops::Range<usize>| -> Data {
        let (inputs, hot) = digits.part(part);
        let count = inputs.dims()[0];
        let inputs = inputs.reshape([count, 4, 2, 4, 2]).mean_dim(4).mean_dim(2).reshape([count, POOLED]);
        (inputs.cast(dtype(device)), hot.cast(dtype(device)))
    };
    let batches = Batches::new(pool(0..EXAMPLES), pool(EXAMPLES..2 * EXAMPLES));
    let start = super::digits::layers(&[POOLED, HIDDEN, CLASSES], random.fork("start"), device)?;
    let start = start.iter().try_fold(Tree::empty(), |tree, (name, _)| match name.path.starts_with('w') {
        true => tree.push(name.path.clone(), start.get::<2>(&name.path)?.cast(dtype(device))),
        false => tree.push(name.path.clone(), start.get::<1>(&name.path)?.cast(dtype(device))),
    })?;
    let x = start
        .names()
        .iter()
        .try_fold(Tree::empty(), |x, name| x.push(format!("decay/{}", name.path), tensor(vec![-4.0], [1], device)))?;
    fn loss(z: &Tree, (inputs, hot): &Data) -> Tensor<1> {
        cross_entropies(layer(z, 1, layer(z, 0, inputs.clone()).tanh()), hot).mean()
    }
    let problem = Problem::from_functions(
        &x,
        &start,
        &batches,
        |x: &Tree, z: &Tree, batch: &Data| {
            let decay = Decay::per_leaf(|name| format!("decay/{}", name.path)).exp();
            loss(z, batch) + weight_decay(&decay, x, z).expect("a decay for each leaf")
        },
        |_: &Tree, z: &Tree, batch: &Data| loss(z, batch),
    )?;
    let near = Unroll::new(Momentum::new(0.3, 0.9), 1000)?.run(&problem, &x, &start, &batches.inner)?;
    let tolerance = if dtype(device) == DType::F64 { 1e-11 } else { 1e-5 };
    let solution = NewtonCg::new(50, tolerance)?.solve(&problem, &x, &near, &batches.inner)?;
    let exact = Implicit::new(Dense::new(1000)).hypergradient(&problem, &x, &solution, &batches)?.gradient;
    let start = solution.clone().add(&random.fork("away").normal_like(&solution, 0.1))?;
    Bench::new(problem, batches, x, start, solution, exact)
}

/// The largest eigenvalue of a symmetric map by power iteration.
fn largest(like: &Tree, map: impl Fn(&Tree) -> Result<Tree>) -> Result<f64> {
    let mut v = Random::new(1).normal_like(like, 1.0);
    let mut size = 0.0;
    for _ in 0..100 {
        v = map(&v.scale(1.0))?;
        size = v.norm().value();
        v = v.scale(1.0 / size);
    }
    Ok(size)
}

impl Bench {
    fn new(
        problem: Problem<Data, Data>,
        batches: Batches<Data, Data>,
        x: Tree,
        start: Tree,
        solution: Tree,
        exact: Tree,
    ) -> Result<Self> {
        let linear = problem.linearize(&x, &solution, &batches.inner)?;
        let inner = largest(&solution, |v| Ok(linear.along_z(v)?.hessian))?;
        // The outer objective has no decay and its curvature is of the same size: a difference of gradients is enough for a step.
        let at = problem.outer_gradient(&x, &solution, &batches.outer)?.z;
        let outer = largest(&solution, |v| {
            let step = 1e-4 / v.norm().value();
            let moved = solution.clone().axpy(step, v)?;
            Ok(problem.outer_gradient(&x, &moved, &batches.outer)?.z.sub(&at)?.scale(1.0 / step))
        })?;
        let shifted = largest(&solution, |v| Ok(linear.along_z(v)?.hessian.neg().axpy(inner, v)?))?;
        drop(linear);
        Ok(Self { problem, batches, x, start, solution, exact, largest: (inner, outer), smallest: inner - shifted })
    }

    fn error(&self, h: &Hypergradient) -> Result<f64> {
        let error = h.gradient.clone().sub(&self.exact)?.norm().value() / self.exact.norm().value();
        // What rounding leaves is not told apart.
        Ok(error.max(1e-14))
    }

    fn curve(
        &self,
        name: &str,
        class: &'static str,
        solved: bool,
        budgets: impl IntoIterator<Item = usize>,
        of: impl Fn(usize) -> Result<(f64, Hypergradient)>,
    ) -> Result<Curve> {
        let mut curve = Curve { name: name.into(), class, solved, points: Vec::new(), states: 0 };
        for budget in budgets {
            // A method that fails here (negative curvature, numbers that are not finite) has no point.
            let Ok((before, h)) = of(budget) else { continue };
            curve.points.push((before + cost_of(&h.certificate), self.error(&h)?));
            curve.states = curve.states.max(h.certificate.stored_states);
        }
        Ok(curve)
    }

    /// Implicit differentiation at the solution.
    fn implicit<S: LinearSolver>(&self, solver: S) -> Result<(f64, Hypergradient)> {
        Ok((0.0, Implicit::new(solver).hypergradient(&self.problem, &self.x, &self.solution, &self.batches)?))
    }

    /// So many steps of an update from the start, then a method there: their gradients, and what it gives.
    fn after<M: Method<Data, Data>>(&self, steps: usize, method: &M) -> Result<(f64, Hypergradient)> {
        let z =
            Unroll::new(Sgd::new(self.rate()), steps)?.run(&self.problem, &self.x, &self.start, &self.batches.inner)?;
        Ok((steps as f64, method.hypergradient(&self.problem, &self.x, &z, &self.batches)?))
    }

    fn rate(&self) -> f64 {
        1.0 / self.largest.0
    }

    /// Momentum and rate that are best for a quadratic of this condition.
    fn momentum(&self) -> Momentum {
        let (low, high) = (self.smallest.max(1e-6 * self.largest.0).sqrt(), self.largest.0.sqrt());
        let momentum = ((high - low) / (high + low)).powi(2);
        Momentum::new(4.0 / (high + low).powi(2), momentum.min(0.99))
    }

    fn curves(&self) -> Result<Vec<Curve>> {
        let size = self.solution.num_elements();
        let up_to = |most: usize| BUDGETS.into_iter().filter(move |budget| *budget <= most);
        let (rate, whole) = (self.rate(), (&self.problem, &self.x, &self.start, &self.batches));
        let penalty =
            |lambda: f64, steps| Penalty::new(lambda, steps, 1.0 / (self.largest.0 + self.largest.1 / lambda));
        let start =
            |method: &dyn Method<Data, Data>| Ok((0.0, method.hypergradient(whole.0, whole.1, whole.2, whole.3)?));
        let mut curves = vec![
            self.curve("conjugate gradients", "s1", true, up_to(size), |k| {
                self.implicit(ConjugateGradient::new(k)?.tolerance(0.0)?)
            })?,
            self.curve("GMRES", "s2", true, up_to(size), |k| self.implicit(Gmres::new(k)?.memory(k)?.tolerance(0.0)?))?,
            self.curve("Neumann series", "s3", true, BUDGETS, |k| self.implicit(Neumann::new(k, rate)?))?,
            self.curve("fixed point", "s3 dashed", true, BUDGETS, |k| {
                self.implicit(FixedPoint::new(k, rate)?.tolerance(0.0)?)
            })?,
            self.curve("Nyström, ρ = √(μL)", "s4", true, up_to(size).chain([size]), |k| {
                self.implicit(Nystrom::new(k, (self.smallest.max(1e-6) * self.largest.0).sqrt(), 1)?)
            })?,
            self.curve("Nyström, ρ = μ/10", "s4 dashed", true, up_to(size).chain([size]), |k| {
                self.implicit(Nystrom::new(k, 0.1 * self.smallest.max(1e-6), 1)?)
            })?,
            self.curve("identity", "s5", true, [1], |_| self.implicit(Identity::new(rate)?))?,
            self.curve("dense", "s6", true, [1], |_| self.implicit(Dense::new(1000)))?,
            self.curve("penalty, λ = 100", "s7", true, BUDGETS, |k| {
                let method = penalty(100.0, k)?;
                Ok((0.0, method.hypergradient(&self.problem, &self.x, &self.solution, &self.batches)?))
            })?,
            self.curve("penalty, λ = 10⁴", "s7 dashed", true, BUDGETS, |k| {
                let method = penalty(1e4, k)?;
                Ok((0.0, method.hypergradient(&self.problem, &self.x, &self.solution, &self.batches)?))
            })?,
        ];
        let unsolved = [
            self.curve("steps, then conjugate gradients", "s1", false, BUDGETS, |steps| {
                let solver = ConjugateGradient::new(steps.min(size))?.tolerance(1e-8)?;
                let solver = solver.on_negative_curvature(::bilevel::NegativeCurvature::Stop);
                self.after(steps, &Implicit::new(solver))
            })?,
            self.curve("unrolled", "s2", false, BUDGETS, |steps| start(&Unroll::new(Sgd::new(rate), steps)?))?,
            self.curve("unrolled, with momentum", "s2 dashed", false, BUDGETS, |steps| {
                start(&Unroll::new(self.momentum(), steps)?)
            })?,
            self.curve("unrolled, last ten steps", "s3", false, BUDGETS, |steps| {
                start(&Unroll::new(Sgd::new(rate), steps)?.truncate(LAST))
            })?,
            self.curve("unrolled, √T states", "s4", false, BUDGETS, |steps| {
                start(&Unroll::new(Sgd::new(rate), steps)?.checkpoint(::bilevel::Checkpoint::Sqrt)?)
            })?,
            self.curve("forward", "s5", false, BUDGETS.into_iter().filter(|steps| *steps <= 256), |steps| {
                start(&Forward::new(Sgd::new(rate), steps)?)
            })?,
            self.curve("steps, then a penalty, λ = 10⁴", "s7 dashed", false, BUDGETS, |steps| {
                self.after(steps, &penalty(1e4, steps)?)
            })?,
        ];
        curves.extend(unsolved);
        Ok(curves)
    }

    /// Time of a product over that of a gradient.
    fn product(&self) -> Result<f64> {
        let linear = self.problem.linearize(&self.x, &self.solution, &self.batches.inner)?;
        let v = Random::new(2).normal_like(&self.solution, 1.0);
        let time = |work: &dyn Fn() -> Result<f64>| -> Result<f64> {
            let times = (0..60).map(|_| {
                let clock = Instant::now();
                work()?;
                Ok(clock.elapsed().as_secs_f64())
            });
            Ok(median(times.collect::<Result<Vec<f64>>>()?))
        };
        let gradient = time(&|| {
            let found = self.problem.inner_gradient(&self.x, &self.solution, &self.batches.inner)?;
            Ok(found.z.norm().value())
        })?;
        let product = time(&|| Ok(linear.along_z(&v)?.hessian.norm().value()))?;
        Ok(product / gradient)
    }

    fn case(&self, name: &'static str) -> Result<Case> {
        Ok(Case {
            name,
            inner: self.solution.num_elements(),
            outer: self.x.num_elements(),
            condition: self.largest.0 / self.smallest,
            product: self.product()?,
            curves: self.curves()?,
        })
    }
}

pub fn run(setting: &Setting<'_>) -> Result<Costs> {
    let device = host_device();
    let random = setting.random.fork("cost");
    // One after the other: times are taken.
    let mut cases = Vec::new();
    for (name, make) in
        [("ridge regression", ridge as fn(&Random, &Device) -> Result<Bench>), ("small network", network)]
    {
        cases.push(make(&random, &device)?.case(name)?);
        setting.progress.unit()?;
    }
    Ok(Costs { cases })
}

impl Curve {
    /// The least cost at which the error is at most this.
    pub fn cost(&self, error: f64) -> Option<f64> {
        let good = self.points.iter().filter(|point| point.1 <= error).map(|point| point.0);
        good.min_by(f64::total_cmp)
    }

    /// The smallest error, and its cost.
    fn best(&self) -> (f64, f64) {
        let best = self.points.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
        best.map_or((f64::NAN, f64::NAN), |(cost, error)| (error, cost))
    }
}

impl Case {
    pub fn curve(&self, name: &str) -> &Curve {
        self.curves.iter().find(|curve| curve.name == name).expect("a method of the list")
    }

    fn part(&self, title: &'static str, text: String) -> Part {
        let plot = |title, solved: bool| {
            let curves = self.curves.iter().filter(|curve| curve.solved == solved);
            let lines = curves.map(|curve| match curve.points.len() {
                1 => Line::marks(&curve.name, curve.class, curve.points.clone()),
                _ => Line::new(&curve.name, curve.class, curve.points.clone()),
            });
            Plot {
                title,
                x_axis: "cost in gradients (a product counts two)",
                x_range: (2.0, 1000.0),
                y_axis: "relative error of the hypergradient",
                logarithmic: true,
                lines: lines.collect(),
            }
            .html_log_x()
        };
        let rows = self.curves.iter().map(|curve| {
            let cost = |error| curve.cost(error).map_or("–".into(), |cost| grouped(cost.round() as usize));
            let (error, cost_of_best) = curve.best();
            let mut row = vec![curve.name.clone(), if curve.solved { "the solution" } else { "the start" }.into()];
            row.extend(WANTED.map(cost));
            let least = if error <= 1e-14 { "rounding".into() } else { number(error) };
            row.extend([least, grouped(cost_of_best.round() as usize), curve.states.to_string()]);
            row
        });
        Part {
            title,
            text,
            figures: vec![plot("At the inner solution", true), plot("From a start that is not solved", false)],
            table: (
                vec![
                    "method",
                    "begins at",
                    "gradients to 1 %",
                    "to 0.01 %",
                    "least error",
                    "its gradients",
                    "states stored",
                ],
                rows.collect(),
            ),
        }
    }
}

impl Costs {
    pub fn parts(&self) -> Vec<Part> {
        let [ridge, network] = self.cases.as_slice() else { return Vec::new() };
        let numbers = |case: &Case| {
            format!(
                "{} inner numbers, {} outer ones, largest curvature {} times the smallest. A product takes {} times the time of a gradient here; it counts two.",
                case.inner,
                case.outer,
                number(case.condition),
                number(case.product)
            )
        };
        vec![
            ridge.part(
                "Ridge regression with a decay for each feature",
                format!(
                    "{} The solution and its hypergradient are known by elimination. All rates are 1/L, L being the largest and μ the smallest curvature; momentum and \
                     its rate are those best for the condition. From the start, which is zero, every method takes 1 to 512 steps; conjugate gradients then take at most as many iterations.",
                    numbers(ridge)
                ),
            ),
            network.part(
                "A network of 172 numbers with four decays",
                format!(
                    "{} {POOLED}-{HIDDEN}-{CLASSES} with tanh on {EXAMPLES} digits of {POOLED} pixels. The solution is found by Newton's method, the reference is a dense solve there; \
                     the start is that point with noise of deviation 0.1 added.",
                    numbers(network)
                ),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_answer_is_one() {
        let bench = ridge(&Random::new(3), &host_device()).unwrap();
        let dense = bench.implicit(Dense::new(1000)).unwrap().1;
        assert!(dense.certificate.inner_residual < 1e-12, "{:e}", dense.certificate.inner_residual);
        assert!(bench.error(&dense).unwrap() < 1e-10);
        assert!(bench.smallest > 0.0 && bench.largest.0 > bench.smallest);
        let v = eliminate(vec![vec![0.0, 2.0], vec![4.0, 2.0]], vec![2.0, 6.0]);
        assert_eq!(v, [1.0, 1.0]);
    }

    #[test]
    fn costs_are_the_least() {
        let curve = Curve {
            name: "c".into(),
            class: "s1",
            solved: true,
            points: vec![(5.0, 0.1), (9.0, 1e-3), (17.0, 1e-5)],
            states: 0,
        };
        assert_eq!((curve.cost(1e-2), curve.cost(1e-9), curve.best()), (Some(9.0), None, (1e-5, 17.0)));
    }
}
