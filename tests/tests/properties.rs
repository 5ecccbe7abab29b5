//! Laws of programs, over random multilayer perceptrons.
//!
//! The default device is set to `f64` where it has it, and tolerances follow the precision.

#![forbid(unsafe_code)]

use std::sync::OnceLock;

use burn::tensor::{DType, Device, FloatDType, Tensor, activation};
use core_tensor::{Program, Tree};
use crucible_tests::draw::Draw;
use proptest::prelude::*;

/// Inputs and targets.
type Pair = (Tensor<2>, Tensor<2>);

/// A random perceptron and a batch for it.
#[derive(Clone, Debug)]
struct Problem {
    /// Inputs, hidden layers, outputs.
    widths: Vec<usize>,
    activation: usize,
    rows: usize,
    seed: u64,
}

const ACTIVATIONS: [fn(Tensor<2>) -> Tensor<2>; 5] = [
    activation::tanh,
    activation::gelu,
    activation::sigmoid,
    |x| activation::softplus(x, 1.0),
    |x| activation::softmax(x, 1),
];

fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE
        .get_or_init(|| {
            let mut device = Device::default();
            if device.supports_dtype(DType::F64) {
                device.configure(FloatDType::F64).expect("no tensor was made before");
            }
            device
        })
        .clone()
}

/// Rounding of the device, with room for sums of a few hundred terms.
fn tolerance() -> f64 {
    if device().supports_dtype(DType::F64) { 1e-11 } else { 1e-3 }
}

impl Problem {
    fn draw(&self) -> Draw {
        Draw::new(self.seed, &device())
    }

    fn point(&self, draw: &mut Draw) -> Tree {
        self.widths.windows(2).enumerate().fold(Tree::empty(), |tree, (i, width)| {
            tree.push(format!("{i}.weight"), draw.tensor([width[0], width[1]], -0.8, 0.8))
                .and_then(|tree| tree.push(format!("{i}.bias"), draw.tensor([1, width[1]], -0.8, 0.8)))
                .expect("different paths")
        })
    }

    fn batch(&self, draw: &mut Draw) -> Pair {
        let outputs = self.widths[self.widths.len() - 1];
        (draw.tensor([self.rows, self.widths[0]], -1.0, 1.0), draw.tensor([self.rows, outputs], -1.0, 1.0))
    }

    fn residuals(&self, tree: &Tree, (x, y): &Pair) -> Tensor<2> {
        let last = self.widths.len() - 2;
        let out = (0..=last).fold(x.clone(), |x, i| {
            let weight = tree.get::<2>(&format!("{i}.weight")).expect("a weight");
            let bias = tree.get::<2>(&format!("{i}.bias")).expect("a bias");
            let z = x.matmul(weight) + bias;
            if i < last { ACTIVATIONS[self.activation](z) } else { z }
        });
        out - y.clone()
    }

    /// Mean of squares.
    fn loss(&self, point: &Tree, batch: &Pair) -> Program<Pair> {
        let problem = self.clone();
        Program::record_tree(point, batch, move |tree, batch| problem.residuals(tree, batch).square().mean()).unwrap()
    }

    /// A loss a row.
    fn losses(&self, point: &Tree, batch: &Pair) -> Program<Pair> {
        let problem = self.clone();
        Program::record_tree(point, batch, move |tree, batch| {
            problem.residuals(tree, batch).square().mean_dim(1).squeeze_dim(1)
        })
        .unwrap()
    }
}

fn problems() -> impl Strategy<Value = Problem> {
    let hidden = prop::collection::vec(1..=4usize, 0..=2);
    (1..=4usize, hidden, 1..=3usize, 0..ACTIVATIONS.len(), 1..=5usize, any::<u64>()).prop_map(
        |(inputs, hidden, outputs, activation, rows, seed)| {
            let widths = [vec![inputs], hidden, vec![outputs]].concat();
            Problem { widths, activation, rows, seed }
        },
    )
}

fn numbers(tree: &Tree) -> Vec<f64> {
    tree.to_data().into_iter().flat_map(|(_, data)| data.iter::<f64>().collect::<Vec<_>>()).collect()
}

fn values(tensor: &Tensor<1>) -> Vec<f64> {
    tensor.to_data().iter::<f64>().collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// `‖a − b‖ ≤ tolerance · (scale + ‖b‖)`.
fn close(a: &[f64], b: &[f64], scale: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.len(), b.len());
    let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let allowed = tolerance() * (scale + norm(b));
    prop_assert!(norm(&difference) <= allowed, "{a:?}\n{b:?}\ndiffer by {:e} > {allowed:e}", norm(&difference));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn hessian_products_are_symmetric_and_linear(problem in problems(), a in -2.0..2.0f64, b in -2.0..2.0f64) {
        let mut draw = problem.draw();
        let (point, batch) = (problem.point(&mut draw), problem.batch(&mut draw));
        let program = problem.loss(&point, &batch);
        let (u, v) = (draw.direction(&point), draw.direction(&point));
        let hu = program.hvp(&point, &batch, &u).unwrap();
        let hv = program.hvp(&point, &batch, &v).unwrap();
        let (nu, nv, nhu, nhv) = (numbers(&u), numbers(&v), numbers(&hu), numbers(&hv));
        let scale = norm(&nu) * norm(&nhv) + norm(&nv) * norm(&nhu);
        close(&[dot(&nu, &nhv)], &[dot(&nv, &nhu)], scale)?;

        let mixed = u.clone().scale(a).axpy(b, &v).unwrap();
        let together = numbers(&program.hvp(&point, &batch, &mixed).unwrap());
        let apart: Vec<f64> = nhu.iter().zip(&nhv).map(|(hu, hv)| a * hu + b * hv).collect();
        close(&together, &apart, norm(&nhu) + norm(&nhv))?;
        prop_assert_eq!(numbers(&program.hvp(&point, &batch, &point.zeros_like()).unwrap()), vec![0.0; nhu.len()]);
    }

    #[test]
    fn jvp_agrees_with_its_parts(problem in problems()) {
        let mut draw = problem.draw();
        let (point, batch) = (problem.point(&mut draw), problem.batch(&mut draw));
        let program = problem.loss(&point, &batch);
        let v = draw.direction(&point);
        let all = program.jvp(&point, &batch, &v).unwrap();
        let first = program.value_and_grad(&point, &batch).unwrap();
        prop_assert!(first.absent.is_empty() && all.absent.is_empty());
        prop_assert_eq!(values(&all.value), values(&first.value));
        prop_assert_eq!(values(&program.value(&point, &batch).unwrap()), values(&first.value));
        prop_assert_eq!(numbers(&all.gradient), numbers(&first.gradient));
        let (g, v) = (numbers(&first.gradient), numbers(&v));
        close(&[all.directional().value()], &[dot(&g, &v)], norm(&g) * norm(&v))?;
    }

    #[test]
    fn linearizing_gives_what_one_pass_gives(problem in problems()) {
        let mut draw = problem.draw();
        let (point, batch) = (problem.point(&mut draw), problem.batch(&mut draw));
        let program = problem.loss(&point, &batch);
        let at = program.linearize(&point, &batch).unwrap();
        for _ in 0..2 {
            let v = draw.direction(&point);
            let direct = program.jvp(&point, &batch, &v).unwrap();
            prop_assert_eq!(values(&at.value), values(&direct.value));
            prop_assert_eq!(numbers(&at.gradient), numbers(&direct.gradient));
            let hv = numbers(&direct.hessian_vector);
            close(&numbers(&at.hvp(&v).unwrap()), &hv, norm(&hv))?;
        }
    }

    #[test]
    fn jacobian_rows_are_gradients_of_outputs(problem in problems()) {
        let mut draw = problem.draw();
        let (point, batch) = (problem.point(&mut draw), problem.batch(&mut draw));
        let program = problem.losses(&point, &batch);
        let (outputs, rows) = program.jacobian(&point, &batch).unwrap();
        prop_assert_eq!(rows.len(), problem.rows);
        let rows: Vec<Vec<f64>> = rows.iter().map(numbers).collect();
        for (i, row) in rows.iter().enumerate() {
            // The row's loss alone, as a program of its own.
            let one = |x: &Tensor<2>| x.clone().slice([i..i + 1, 0..x.dims()[1]]);
            let single = (one(&batch.0), one(&batch.1));
            let alone = problem.loss(&point, &single).value_and_grad(&point, &single).unwrap();
            close(&[values(&outputs)[i]], &values(&alone.value), 0.0)?;
            close(row, &numbers(&alone.gradient), norm(row))?;
        }
        // Cotangents combine rows, several from one forward pass.
        let cotangents: Vec<Tensor<1>> = (0..2).map(|_| draw.tensor([problem.rows], -1.0, 1.0)).collect();
        let (again, pulled) = program.vjp(&point, &batch, &cotangents).unwrap();
        prop_assert_eq!(values(&again), values(&outputs));
        for (cotangent, pulled) in cotangents.iter().zip(&pulled) {
            let weights = values(cotangent);
            let expected: Vec<f64> = (0..rows[0].len())
                .map(|j| rows.iter().zip(&weights).map(|(row, c)| c * row[j]).sum())
                .collect();
            close(&numbers(pulled), &expected, rows.iter().map(|row| norm(row)).sum())?;
        }
        // The mean loss has the mean of the rows as gradient.
        let mean = problem.loss(&point, &batch).value_and_grad(&point, &batch).unwrap();
        let average: Vec<f64> =
            (0..rows[0].len()).map(|j| rows.iter().map(|row| row[j]).sum::<f64>() / rows.len() as f64).collect();
        close(&numbers(&mean.gradient), &average, norm(&average))?;
    }

    #[test]
    fn running_leaves_every_input_unchanged(problem in problems()) {
        let mut draw = problem.draw();
        let (point, batch) = (problem.point(&mut draw), problem.batch(&mut draw));
        let v = draw.direction(&point);
        let bits = |tree: &Tree, batch: &Pair| {
            let pair = [batch.0.to_data(), batch.1.to_data()];
            let numbers = numbers(tree).into_iter().chain(pair.iter().flat_map(|x| x.iter::<f64>().collect::<Vec<_>>()));
            numbers.map(f64::to_bits).collect::<Vec<_>>()
        };
        let (before, direction) = (bits(&point, &batch), numbers(&v));
        let program = problem.loss(&point, &batch);
        let first = numbers(&program.jvp(&point, &batch, &v).unwrap().hessian_vector);
        program.value_and_grad(&point, &batch).unwrap();
        let at = program.linearize(&point, &batch).unwrap();
        let kept = numbers(&at.hvp(&v).unwrap());
        prop_assert_eq!(&kept, &numbers(&at.hvp(&v).unwrap()));
        let losses = problem.losses(&point, &batch);
        let pullback = losses.pullback(&point, &batch).unwrap();
        let cotangent = draw.tensor([problem.rows], -1.0, 1.0);
        prop_assert_eq!(numbers(&pullback.apply(&cotangent).unwrap()), numbers(&pullback.apply(&cotangent).unwrap()));
        prop_assert_eq!(before, bits(&point, &batch));
        prop_assert_eq!(direction, numbers(&v));
        prop_assert_eq!(first, numbers(&program.jvp(&point, &batch, &v).unwrap().hessian_vector));
    }

    #[test]
    fn a_program_serves_batches_of_every_size(problem in problems(), rows in 1..=5usize) {
        let mut draw = problem.draw();
        let (point, batch) = (problem.point(&mut draw), problem.batch(&mut draw));
        let program = problem.loss(&point, &batch);
        let other = Problem { rows, ..problem.clone() };
        let second = other.batch(&mut draw);
        let v = draw.direction(&point);
        let shared = program.jvp(&point, &second, &v).unwrap();
        let own = other.loss(&point, &second).jvp(&point, &second, &v).unwrap();
        prop_assert_eq!(values(&shared.value), values(&own.value));
        prop_assert_eq!(numbers(&shared.gradient), numbers(&own.gradient));
        prop_assert_eq!(numbers(&shared.hessian_vector), numbers(&own.hessian_vector));
    }
}
