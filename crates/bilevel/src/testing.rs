//! Problems with known answers, in f64.

use burn::tensor::{DType, Device, Tensor, TensorData};
use core_tensor::{Random, Tree};

use crate::problem::{Batches, Problem};

pub(crate) fn device() -> Device {
    Device::flex()
}

pub(crate) fn tensor<const D: usize>(shape: [usize; D], values: Vec<f64>) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (&device(), DType::F64))
}

pub(crate) fn normal<const D: usize>(random: &mut Random, shape: [usize; D]) -> Tensor<D> {
    let data = random.draw(burn::tensor::Distribution::Normal(0.0, 1.0), shape.into());
    Tensor::from_data(data, (&device(), DType::F64))
}

/// A tree of one leaf.
pub(crate) fn leaf(name: &str, values: &[f64]) -> Tree {
    Tree::empty().push(name, tensor([values.len()], values.to_vec())).unwrap()
}

pub(crate) fn values(tree: &Tree) -> Vec<f64> {
    crate::solver::elements(tree)
}

pub(crate) type Unit = Problem<(), ()>;

/// `g = ½(w − 2)² + ½eˣw²`, `f = ½(w − ½)²`.
pub(crate) fn ridge() -> (Unit, Tree, Tree, Batches<(), ()>) {
    let (x, z, batches) = (leaf("lambda", &[0.0]), leaf("w", &[0.0]), Batches::new((), ()));
    let problem = Problem::from_functions(
        &x,
        &z,
        &batches,
        |x: &Tree, z: &Tree, _: &()| {
            let (lambda, w) = (x.get::<1>("lambda").unwrap(), z.get::<1>("w").unwrap());
            ((w.clone() - 2.0).square() + lambda.exp() * w.square()) * 0.5
        },
        |_: &Tree, z: &Tree, _: &()| (z.get::<1>("w").unwrap() - 0.5).square() * 0.5,
    );
    (problem.unwrap(), x, z, batches)
}

/// `g = ½zᵀAz + zᵀ(a + Cx)`, `f = ½zᵀFz + dᵀz + ½·0.3‖x‖²` with `A` of eigenvalues in about `[0.5, 3]`.
pub(crate) struct Quadratic {
    pub problem: Problem<Constants, Constants>,
    pub x: Tree,
    pub z: Tree,
    pub batches: Batches<Constants, Constants>,
    pub a: [Tensor<2>; 3],
    pub b: [Tensor<2>; 2],
}

pub(crate) type Constants = (Vec<Tensor<2>>, Vec<Tensor<2>>);

impl Quadratic {
    pub fn new(seed: u64, nz: usize, nx: usize) -> Self {
        let mut random = Random::new(seed);
        let eye = Tensor::<2>::eye(nz, &device()).cast(DType::F64);
        let root = normal(&mut random, [nz, nz]);
        let h = root.clone().matmul(root.transpose()) * (0.5 / nz as f64) + eye.clone() * 0.5;
        let root = normal(&mut random, [nz, nz]);
        let f = root.clone().matmul(root.transpose()) * (1.0 / nz as f64) + eye * 0.1;
        let c = normal(&mut random, [nz, nx]);
        let (a, d) = (normal(&mut random, [nz, 1]), normal(&mut random, [nz, 1]));
        let x = Tree::empty().push("x", normal(&mut random, [nx])).unwrap();
        let z = Tree::empty().push("z", Tensor::<1>::zeros([nz], (&device(), DType::F64))).unwrap();
        let constants = || (vec![h.clone(), f.clone(), c.clone()], vec![a.clone(), d.clone()]);
        let batches = Batches::new(constants(), constants());
        let problem = Problem::from_functions(
            &x,
            &z,
            &batches,
            |x: &Tree, z: &Tree, (m, v): &Constants| {
                let (x, z) =
                    (x.get::<1>("x").unwrap().unsqueeze_dim::<2>(1), z.get::<1>("z").unwrap().unsqueeze_dim::<2>(1));
                let linear = v[0].clone() + m[2].clone().matmul(x);
                (z.clone() * m[0].clone().matmul(z.clone()) * 0.5 + z * linear).sum()
            },
            |x: &Tree, z: &Tree, (m, v): &Constants| {
                let (x, z) = (x.get::<1>("x").unwrap(), z.get::<1>("z").unwrap().unsqueeze_dim::<2>(1));
                (z.clone() * m[1].clone().matmul(z.clone()) * 0.5 + z * v[1].clone()).sum() + x.square().sum() * 0.15
            },
        );
        Self { problem: problem.unwrap(), x, z, batches, a: [h, f, c], b: [a, d] }
    }

    /// Where the hypergradient vanishes, by a dense solve on `Φ`'s own gradient.
    pub fn solution(&self) -> Tree {
        use crate::{ConjugateGradient, LinearSolver, Operator};
        let zero = self.x.zeros_like();
        let offset = self.exact(&zero);
        let mut product = |v: &Tree| Ok(self.exact(v).sub(&offset)?);
        let mut operator = Operator::new(&mut product, 0.0);
        ConjugateGradient::new(100)
            .unwrap()
            .tolerance(1e-14)
            .unwrap()
            .solve(&mut operator, &offset.clone().neg())
            .unwrap()
    }

    /// `z*(x)`.
    pub fn inner(&self, x: &Tree) -> Tree {
        let x = x.get::<1>("x").unwrap().unsqueeze_dim::<2>(1);
        let b = self.b[0].clone() + self.a[2].clone().matmul(x);
        Tree::empty().push("z", self.inverse(b.neg()).squeeze_dim::<1>(1)).unwrap()
    }

    /// `dΦ/dx = 0.3x − CᵀA⁻¹(Fz* + d)`.
    pub fn exact(&self, x: &Tree) -> Tree {
        let z = self.inner(x).get::<1>("z").unwrap().unsqueeze_dim::<2>(1);
        let v = self.inverse(self.a[1].clone().matmul(z) + self.b[1].clone());
        let implicit = self.a[2].clone().transpose().matmul(v).squeeze_dim::<1>(1);
        Tree::empty().push("x", x.get::<1>("x").unwrap() * 0.3 - implicit).unwrap()
    }

    /// `A⁻¹b` by elimination.
    fn inverse(&self, b: Tensor<2>) -> Tensor<2> {
        let read = |t: Tensor<2>| t.into_data().iter::<f64>().collect::<Vec<_>>();
        let n = self.a[0].dims()[0];
        let solution = crate::solver::solve_dense(n, read(self.a[0].clone()), read(b)).unwrap();
        tensor([n, 1], solution)
    }
}

/// A network 3-4-1 with tanh, `x` the logarithms of a decay for each leaf and of a weight for each of its nine samples.
pub(crate) fn network() -> (Problem<Tensor<2>, Tensor<2>>, Tree, Tree, Batches<Tensor<2>, Tensor<2>>) {
    network_with(Tree::empty())
}

/// The same with more leaves in `x`, which neither objective reads.
pub(crate) fn network_with(more: Tree) -> (Problem<Tensor<2>, Tensor<2>>, Tree, Tree, Batches<Tensor<2>, Tensor<2>>) {
    let mut random = Random::new(5);
    let z = Tree::empty()
        .push("w1", normal(&mut random, [3, 4]))
        .and_then(|z| z.push("b1", normal(&mut random, [4])))
        .and_then(|z| z.push("w2", normal(&mut random, [4, 1])))
        .unwrap()
        .scale(0.5);
    let x = Tree::empty()
        .push("decay", tensor([3], vec![-2.0, -1.5, -1.0]))
        .and_then(|x| x.push("weight", normal(&mut random, [9]).mul_scalar(0.3)))
        .and_then(|x| x.merge(more))
        .unwrap();
    let batches = Batches::new(normal(&mut random, [9, 4]), normal(&mut random, [7, 4]));
    fn errors(z: &Tree, data: &Tensor<2>) -> Tensor<2> {
        let rows = data.dims()[0];
        let input = data.clone().slice([0..rows, 0..3]);
        let hidden = input.matmul(z.get::<2>("w1").unwrap()) + z.get::<1>("b1").unwrap().unsqueeze_dim::<2>(0);
        hidden.tanh().matmul(z.get::<2>("w2").unwrap()) - data.clone().slice([0..rows, 3..4])
    }
    let problem = Problem::from_functions(
        &x,
        &z,
        &batches,
        |x: &Tree, z: &Tree, data: &Tensor<2>| {
            let weight = x.get::<1>("weight").unwrap().exp().unsqueeze_dim::<2>(1);
            let decay = x.get::<1>("decay").unwrap().exp();
            let squares = [
                z.get::<2>("w1").unwrap().square().sum(),
                z.get::<1>("b1").unwrap().square().sum(),
                z.get::<2>("w2").unwrap().square().sum(),
            ];
            (errors(z, data).square() * weight).mean() + (Tensor::cat(squares.to_vec(), 0) * decay).sum()
        },
        |_: &Tree, z: &Tree, data: &Tensor<2>| errors(z, data).square().mean(),
    );
    (problem.unwrap(), x, z, batches)
}

/// Pixels of `[0, 1]` and one-hot labels.
pub(crate) type Examples = (Tensor<2>, Tensor<2>);

/// The lab's embedded digits: 64 pixels each, and labels.
pub(crate) struct Digits {
    pub pixels: Vec<f32>,
    pub labels: Vec<usize>,
}

impl Digits {
    pub fn load() -> Self {
        use std::io::Read;
        let file: &[u8] = include_bytes!("../../lab/data/digits.csv.gz");
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        let mut digits = Self { pixels: Vec::new(), labels: Vec::new() };
        for line in text.lines() {
            let numbers: Vec<f32> = line.split(',').map(|number| number.parse().unwrap()).collect();
            digits.pixels.extend(numbers[..64].iter().map(|ink| ink / 16.0));
            digits.labels.push(numbers[64] as usize);
        }
        digits
    }

    pub fn examples(&self, rows: std::ops::Range<usize>) -> Examples {
        self.labelled(rows.clone(), &self.labels[rows])
    }

    /// With other labels than their own.
    pub fn labelled(&self, rows: std::ops::Range<usize>, labels: &[usize]) -> Examples {
        let n = rows.len();
        let pixels = self.pixels[rows.start * 64..rows.end * 64].to_vec();
        let hot: Vec<f32> = labels.iter().flat_map(|l| (0..10).map(move |c| f32::from(u8::from(*l == c)))).collect();
        (
            Tensor::from_data(TensorData::new(pixels, [n, 64]), &device()),
            Tensor::from_data(TensorData::new(hot, [n, 10]), &device()),
        )
    }
}

/// The cross-entropy of each row.
pub(crate) fn cross_entropies(logits: Tensor<2>, hot: &Tensor<2>) -> Tensor<2> {
    (burn::tensor::activation::log_softmax(logits, 1) * hot.clone()).sum_dim(1).neg()
}

pub(crate) fn accuracy(logits: Tensor<2>, hot: &Tensor<2>) -> f64 {
    let right = logits.argmax(1).equal(hot.clone().argmax(1));
    right.float().mean().into_data().iter::<f64>().next().unwrap()
}
