//! Differentiable architecture search over small cells.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, activation};
use core_tensor::{Batch, Tree};

use crate::error::{Error, Result, at_least_one, positive, refuse};
use crate::problem::{Batches, Problem};
use crate::single_loop::{Loop, LoopState};
use crate::solver::from_elements;
use crate::unroll::Unroll;
use crate::update::Sgd;

type Run<const D: usize> = dyn Fn(&Tree, &str, Tensor<D>) -> Tensor<D> + Send + Sync;

/// A candidate for an edge: a name, and what it makes of a tensor. All candidates of a space keep the tensor's shape.
#[derive(Clone)]
pub struct Operation<const D: usize> {
    name: String,
    run: Arc<Run<D>>,
    none: bool,
}

impl<const D: usize> Operation<D> {
    /// An operation of the weights, the edge's name (`FROM-TO`, to find its own among them), and the input.
    pub fn new(
        name: impl Into<String>,
        run: impl Fn(&Tree, &str, Tensor<D>) -> Tensor<D> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), run: Arc::new(run), none: false }
    }

    /// No connection: zero. It competes in the search and is never kept.
    pub fn none() -> Self {
        Self { none: true, ..Self::new("none", |_, _, input| input.zeros_like()) }
    }

    /// The identity.
    pub fn skip() -> Self {
        Self::new("skip", |_, _, input| input)
    }
}

/// A cell's search space: nodes in a row after the inputs, each the sum of mixed operations on everything before it.
///
/// Node `j = Σ_{i<j} Σ_o softmax(α_{ij})_o·o(node i)`. The outer variable has a leaf `alpha/FROM-TO` for each edge, one number an operation;
/// the inputs are nodes `0..inputs`.
///
/// ```
/// use bilevel::darts::{CellSpace, Operation};
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// # fn main() -> bilevel::Result<()> {
/// let double = Operation::new("double", |_, _, input: Tensor<2>| input * 2.0);
/// let space = CellSpace::new(1, 1, vec![Operation::none(), Operation::skip(), double])?;
/// let alpha = space.alphas(&Device::default())?;
/// let input = Tensor::<2>::ones([1, 1], &alpha.device().unwrap());
/// // All alike: (0 + 1 + 2)/3.
/// let nodes = space.forward(&alpha, &Tree::empty(), vec![input.clone()])?;
/// assert_eq!(nodes[1].clone().into_scalar::<f32>(), 1.0);
/// // Taken apart, the first of the two that are alike stays.
/// let cell = space.discretise(&alpha, 1)?;
/// assert_eq!(cell.edges()[0].operation, "skip");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CellSpace<const D: usize> {
    inputs: usize,
    nodes: usize,
    operations: Vec<Operation<D>>,
}

/// An edge that was kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    /// Node it comes from.
    pub from: usize,
    /// Node it goes to.
    pub to: usize,
    /// The operation's name.
    pub operation: String,
    /// Its weight in the mixture.
    pub weight: f64,
    index: usize,
}

/// A cell with one operation an edge.
#[derive(Clone)]
pub struct Cell<const D: usize> {
    space: CellSpace<D>,
    edges: Vec<Edge>,
}

impl<const D: usize> CellSpace<D> {
    /// So many inputs and nodes after them.
    ///
    /// # Errors
    /// A parameter error for 0 inputs or nodes, or unless at least two operations are given, one of which is not `none`.
    pub fn new(inputs: usize, nodes: usize, operations: Vec<Operation<D>>) -> Result<Self> {
        let (inputs, nodes) = (at_least_one("inputs", inputs)?, at_least_one("nodes", nodes)?);
        if operations.len() < 2 || operations.iter().all(|operation| operation.none) {
            return refuse("operations", operations.len() as f64, "at least two, not all of them none");
        }
        Ok(Self { inputs, nodes, operations })
    }

    /// All edges, by the node they go to.
    pub fn edges(&self) -> Vec<(usize, usize)> {
        (self.inputs..self.inputs + self.nodes).flat_map(|to| (0..to).map(move |from| (from, to))).collect()
    }

    /// The architecture to start from: all zero, every operation alike.
    ///
    /// # Errors
    /// None for a space that was built.
    pub fn alphas(&self, device: &Device) -> Result<Tree> {
        let mut tree = Tree::empty();
        for (from, to) in self.edges() {
            tree = tree.push(format!("alpha/{from}-{to}"), Tensor::<1>::zeros([self.operations.len()], device))?;
        }
        Ok(tree)
    }

    /// The nodes, inputs first, with mixed operations.
    ///
    /// # Errors
    /// Another number of inputs; an architecture of another space.
    pub fn forward(&self, alpha: &Tree, weights: &Tree, inputs: Vec<Tensor<D>>) -> core_tensor::Result<Vec<Tensor<D>>> {
        let mut nodes = self.check(inputs)?;
        for to in self.inputs..self.inputs + self.nodes {
            let mut sum: Option<Tensor<D>> = None;
            for (from, node) in nodes.iter().enumerate() {
                let share = activation::softmax(self.alpha(alpha, from, to)?, 0);
                let edge = format!("{from}-{to}");
                for (index, operation) in self.operations.iter().enumerate() {
                    if operation.none {
                        continue; // Zero whatever its share.
                    }
                    let part = (operation.run)(weights, &edge, node.clone());
                    let part = part * share.clone().slice_dim(0, index..index + 1).reshape([1; D]);
                    sum = Some(match sum {
                        None => part,
                        Some(sum) => sum + part,
                    });
                }
            }
            nodes.push(sum.expect("an operation that is not none"));
        }
        Ok(nodes)
    }

    /// For each node the `keep` edges whose best operation other than `none` has the largest share, with that operation; of equal ones the
    /// first.
    ///
    /// # Errors
    /// A parameter error for `keep` of 0; an architecture of another space, or one that is not finite.
    pub fn discretise(&self, alpha: &Tree, keep: usize) -> Result<Cell<D>> {
        at_least_one("keep", keep)?;
        let mut edges = Vec::new();
        for to in self.inputs..self.inputs + self.nodes {
            let mut into = Vec::new();
            for from in 0..to {
                let raw: Vec<f64> = self.alpha(alpha, from, to)?.into_data().iter::<f64>().collect();
                let shares = crate::Domain::Simplex.to_value(&raw)?;
                let mut best: Option<Edge> = None;
                for (index, (operation, weight)) in self.operations.iter().zip(shares).enumerate() {
                    if !operation.none && best.as_ref().is_none_or(|best| weight > best.weight) {
                        best = Some(Edge { from, to, operation: operation.name.clone(), weight, index });
                    }
                }
                into.extend(best);
            }
            into.sort_by(|a, b| b.weight.total_cmp(&a.weight));
            into.truncate(keep);
            into.sort_by_key(|edge| edge.from);
            edges.extend(into);
        }
        Ok(Cell { space: self.clone(), edges })
    }

    fn alpha(&self, alpha: &Tree, from: usize, to: usize) -> core_tensor::Result<Tensor<1>> {
        let path = format!("alpha/{from}-{to}");
        let found = alpha.get::<1>(&path)?;
        match found.dims() == [self.operations.len()] {
            true => Ok(found),
            false => {
                let (left, right) = (found.dims().to_vec(), vec![self.operations.len()]);
                Err(core_tensor::Error::Shape { path, left, right })
            }
        }
    }

    fn check(&self, inputs: Vec<Tensor<D>>) -> core_tensor::Result<Vec<Tensor<D>>> {
        let (expected, actual) = (self.inputs, inputs.len());
        match expected == actual {
            true => Ok(inputs),
            false => Err(core_tensor::Error::Length { what: "the cell's inputs", expected, actual }),
        }
    }
}

impl<const D: usize> Cell<D> {
    /// The edges, by node.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// The nodes, inputs first.
    ///
    /// # Errors
    /// Another number of inputs.
    pub fn forward(&self, weights: &Tree, inputs: Vec<Tensor<D>>) -> core_tensor::Result<Vec<Tensor<D>>> {
        let mut nodes = self.space.check(inputs)?;
        for to in self.space.inputs..self.space.inputs + self.space.nodes {
            let mut sum: Option<Tensor<D>> = None;
            for edge in self.edges.iter().filter(|edge| edge.to == to) {
                let operation = &self.space.operations[edge.index];
                let part = (operation.run)(weights, &format!("{}-{to}", edge.from), nodes[edge.from].clone());
                sum = Some(match sum {
                    None => part,
                    Some(sum) => sum + part,
                });
            }
            nodes.push(sum.expect("at least one edge a node is kept"));
        }
        Ok(nodes)
    }

    /// The architecture in which these operations have nearly all of the mixture, by a logit that much above the others: its mixed forward pass tends
    /// to this cell's where every edge is kept.
    ///
    /// # Errors
    /// A logit that is not finite; an architecture of another space.
    pub fn sharpened(&self, like: &Tree, logit: f64) -> Result<Tree> {
        let logit = crate::error::finite("the logit", logit)?;
        let mut values = Vec::new();
        for (from, to) in self.space.edges() {
            let kept = self.edges.iter().find(|edge| (edge.from, edge.to) == (from, to)).map(|edge| edge.index);
            values.extend((0..self.space.operations.len()).map(|index| if Some(index) == kept { logit } else { 0.0 }));
        }
        let (expected, actual) = (values.len(), like.num_elements());
        match expected == actual {
            true => from_elements(like, values),
            false => Err(core_tensor::Error::Length { what: "the architecture", expected, actual }.into()),
        }
    }
}

/// How the architecture's gradient sees the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// `∇α L_val(z, α)`: as if the weights did not depend on it.
    First,
    /// `∇α L_val(z − ξ∇z L_train(z, α), α)`: through one virtual step of rate `ξ`.
    Second {
        /// `ξ`, usually the rate of the weights.
        xi: f64,
    },
}

/// DARTS: architecture and weights descend in turn, the one on validation batches, the other on training batches. For choosing among operations at the
/// price of training all of them once.
///
/// `α ← α − γ·∇α L_val(z − ξ∇z L_train(z, α), α)`, then `z ← z − ρ∇z L_train(z, α)`.
///
/// | parameter | range | effect |
/// |---|---|---|
/// | `order` | | `ξ = 0` is first order |
/// | `rate` `ρ` | > 0 | of the weights |
/// | `architecture_rate` `γ` | > 0 | of the architecture |
///
/// Guarantees: second order equals central differences of the validation loss after the virtual step (test `second_order_is_exact`); its product is exact,
/// where the paper's is a central difference, which [`Products::CentralDifference`](crate::Products::CentralDifference) on the problem gives. Cost a
/// step: one gradient of each objective; second order two more, a linearisation and a product.
///
/// Errors: [`Error::Detached`] for an edge that the objectives do not read.
///
/// H. Liu, K. Simonyan, Y. Yang, "DARTS: differentiable architecture search", 2019 (arXiv:1806.09055), algorithm 1.
pub struct Darts {
    virtual_step: Option<Unroll<Sgd>>,
    rate: f64,
    architecture_rate: f64,
}

impl Darts {
    /// Order, rate of the weights, rate of the architecture.
    ///
    /// # Errors
    /// A parameter error unless all rates are above zero and finite.
    pub fn new(order: Order, rate: f64, architecture_rate: f64) -> Result<Self> {
        let virtual_step = match order {
            Order::First => None,
            Order::Second { xi } => Some(Unroll::new(Sgd::new(positive("xi", xi)?), 1)?),
        };
        let (rate, architecture_rate) = (positive("rate", rate)?, positive("architecture_rate", architecture_rate)?);
        Ok(Self { virtual_step, rate, architecture_rate })
    }

    /// The architecture's gradient at a point.
    ///
    /// # Errors
    /// As the type says.
    pub fn gradient<I: Batch, O: Batch>(
        &self,
        problem: &Problem<I, O>,
        alpha: &Tree,
        z: &Tree,
        batches: &Batches<I, O>,
    ) -> Result<Tree> {
        match &self.virtual_step {
            Some(unroll) => Ok(unroll.differentiate(problem, alpha, z, batches)?.hypergradient.gradient),
            None => match problem.outer_absent().x.first() {
                Some(leaf) => Err(Error::Detached { leaf: leaf.clone(), place: "the outer objective" }),
                None => Ok(problem.outer_gradient(alpha, z, &batches.outer)?.x),
            },
        }
    }
}

impl<I: Batch, O: Batch> Loop<I, O> for Darts {
    fn step(&self, problem: &Problem<I, O>, mut state: LoopState, batches: &Batches<I, O>) -> Result<LoopState> {
        let h = self.gradient(problem, &state.x, &state.z, batches)?;
        state.x = state.x.axpy(-self.architecture_rate, &h)?;
        let gradient = problem.inner_gradient(&state.x, &state.z, &batches.inner)?;
        state.z = state.z.axpy(-self.rate, &gradient.z)?;
        state.steps += 1;
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Products, diagnose};
    use core_tensor::Random;
    use core_tensor::testing::assert_close;

    const WIDTH: usize = 8;

    fn product(name: &'static str, bend: fn(Tensor<2>) -> Tensor<2>) -> Operation<2> {
        Operation::new(name, move |weights, edge, input| {
            bend(input.matmul(weights.get::<2>(&format!("{name}/{edge}")).unwrap()))
        })
    }

    /// No connection, the identity, a layer, and one that throws all but the mean away.
    fn space() -> CellSpace<2> {
        let mean = Operation::new("mean", |_, _, input: Tensor<2>| {
            let shape = input.dims();
            input.mean_dim(1).expand(shape)
        });
        CellSpace::new(1, 2, vec![Operation::none(), Operation::skip(), product("layer", Tensor::tanh), mean]).unwrap()
    }

    fn weights(seed: u64) -> Tree {
        let mut random = Random::new(seed);
        let mut tree = Tree::empty();
        for (from, to) in space().edges() {
            let weight = random.normal::<2>([WIDTH, WIDTH], 0.0, (1.0 / WIDTH as f64).sqrt(), &device());
            tree = tree.push(format!("layer/{from}-{to}"), weight).unwrap();
        }
        tree.push("stem", random.normal::<2>([64, WIDTH], 0.0, 0.125, &device()))
            .and_then(|tree| tree.push("head", random.normal::<2>([WIDTH, 10], 0.0, 0.35, &device())))
            .unwrap()
    }

    fn stem(z: &Tree, (input, _): &Examples) -> Vec<Tensor<2>> {
        vec![input.clone().matmul(z.get::<2>("stem").unwrap())]
    }

    fn head(z: &Tree, mut nodes: Vec<Tensor<2>>) -> Tensor<2> {
        let last = nodes.pop().unwrap();
        last.matmul(z.get::<2>("head").unwrap())
    }

    fn loss(alpha: &Tree, z: &Tree, batch: &Examples) -> Tensor<1> {
        let nodes = space().forward(alpha, z, stem(z, batch)).unwrap();
        cross_entropies(head(z, nodes), &batch.1).mean()
    }

    fn problem(batches: &Batches<Examples, Examples>, z: &Tree) -> (Problem<Examples, Examples>, Tree) {
        let alpha = space().alphas(&device()).unwrap();
        (Problem::from_functions(&alpha, z, batches, loss, loss).unwrap(), alpha)
    }

    fn f64s(tree: &Tree) -> Tree {
        tree.clone().cast(burn::tensor::FloatDType::F64)
    }

    #[test]
    fn second_order_is_exact() {
        let digits = Digits::load();
        let wide = |(input, hot): Examples| (input.cast(burn::tensor::DType::F64), hot.cast(burn::tensor::DType::F64));
        let batches = Batches::new(wide(digits.examples(0..20)), wide(digits.examples(20..40)));
        let z = f64s(&weights(1));
        let alpha = Random::new(3).normal_like(&f64s(&space().alphas(&device()).unwrap()), 0.5);
        let problem = Problem::from_functions(&alpha, &z, &batches, loss, loss).unwrap();
        let second = Darts::new(Order::Second { xi: 0.7 }, 0.7, 1.0).unwrap();
        let unroll = second.virtual_step.as_ref().unwrap();
        let found = diagnose(unroll, &problem, (&alpha, &z), &batches, (3, 1e-5, 1)).unwrap();
        assert!(found.error < 1e-7 && found.hypergradient.gradient.norm().value() > 1e-3, "{:e}", found.error);
        let exact = second.gradient(&problem, &alpha, &z, &batches).unwrap();
        // First order is the limit of a small step, and not the same.
        let first = Darts::new(Order::First, 0.7, 1.0).unwrap().gradient(&problem, &alpha, &z, &batches).unwrap();
        let tiny = Darts::new(Order::Second { xi: 1e-7 }, 0.7, 1.0).unwrap();
        assert_close(&first, &tiny.gradient(&problem, &alpha, &z, &batches).unwrap(), 1e-6);
        assert!(first.sub(&exact).unwrap().norm().value() > 1e-2 * exact.norm().value());
        // The paper's central difference is near.
        let problem = problem.with_products(Products::CentralDifference { scale: 0.01 });
        assert_close(&exact, &second.gradient(&problem, &alpha, &z, &batches).unwrap(), 1e-5);
    }

    #[test]
    fn a_sharp_mixture_is_its_cell() {
        let digits = Digits::load();
        let (z, batch) = (weights(2), digits.examples(0..5));
        let alpha = Random::new(5).normal_like(&space().alphas(&device()).unwrap(), 1.0);
        let cell = space().discretise(&alpha, 2).unwrap();
        assert_eq!(cell.edges().len(), 3);
        let sharp = cell.sharpened(&alpha, 40.0).unwrap();
        let mixed = space().forward(&sharp, &z, stem(&z, &batch)).unwrap().pop().unwrap();
        let discrete = cell.forward(&z, stem(&z, &batch)).unwrap().pop().unwrap();
        let tree = |t: Tensor<2>| Tree::empty().push("t", t).unwrap();
        assert_close(&tree(mixed), &tree(discrete), 1e-5);
    }

    #[test]
    fn discretisation_by_hand() {
        // Operations none, skip, layer, mean; edges 0-1, 0-2, 1-2.
        let rows = [("0-1", [9.0, 0.0, 1.0, 0.5]), ("0-2", [0.0, 2.0, 0.0, 0.0]), ("1-2", [0.0, 0.0, 0.0, 3.0])];
        let alpha = rows
            .iter()
            .fold(Tree::empty(), |alpha, (edge, values)| alpha.merge(leaf(&format!("alpha/{edge}"), values)).unwrap());
        let names = |keep| -> Vec<(usize, usize, String)> {
            let cell = space().discretise(&alpha, keep).unwrap();
            cell.edges().iter().map(|edge| (edge.from, edge.to, edge.operation.clone())).collect()
        };
        // `none` has nearly all of 0-1 and is not kept.
        assert_eq!(names(1), [(0, 1, "layer".into()), (1, 2, "mean".into())]);
        assert_eq!(names(2), [(0, 1, "layer".into()), (0, 2, "skip".into()), (1, 2, "mean".into())]);
        assert!(space().discretise(&alpha, 0).is_err() && space().discretise(&Tree::empty(), 1).is_err());
        let broken = alpha.clone().scale(f64::NAN);
        assert!(space().discretise(&broken, 1).is_err());
        assert!(space().forward(&alpha, &Tree::empty(), vec![]).is_err());
        assert!(CellSpace::<2>::new(0, 1, vec![Operation::skip(), Operation::none()]).is_err());
        assert!(CellSpace::<2>::new(1, 0, vec![Operation::skip(), Operation::none()]).is_err());
        assert!(CellSpace::<2>::new(1, 1, vec![Operation::none(), Operation::none()]).is_err());
        assert!(CellSpace::<2>::new(1, 1, vec![Operation::skip()]).is_err());
        assert!(
            Darts::new(Order::Second { xi: 0.0 }, 1.0, 1.0).is_err()
                && Darts::new(Order::First, f64::NAN, 1.0).is_err()
        );
        assert!(space().discretise(&alpha, 1).unwrap().sharpened(&alpha, f64::NAN).is_err());
    }

    /// The mean accuracy over three starts of a cell that is trained by itself.
    fn trained(cell: &Cell<2>, train: &Examples, test: &Examples) -> f64 {
        let of = cell.clone();
        let program = core_tensor::Program::record_tree(&weights(7), train, move |z, batch| {
            cross_entropies(head(z, of.forward(z, stem(z, batch)).unwrap()), &batch.1).mean()
        })
        .unwrap();
        let accuracies = [7, 8, 9].map(|seed| {
            let mut z = weights(seed);
            for _ in 0..120 {
                let present = program.value_and_grad(&z, train).unwrap().gradient;
                // Leaves of edges that were dropped are absent.
                let gradient = z.zeros_like().map(|name, zero| match present.position(&name.path) {
                    Some(at) => present.leaf(at).1.clone(),
                    None => zero,
                });
                z = z.axpy(-0.7, &gradient.unwrap()).unwrap();
            }
            accuracy(head(&z, cell.forward(&z, stem(&z, test)).unwrap()), &test.1)
        });
        accuracies.iter().sum::<f64>() / 3.0
    }

    /// The cell that either order finds, trained by itself, against all eighteen with one edge a node.
    #[test]
    fn a_cell_for_digits() {
        let digits = Digits::load();
        let batches = Batches::new(digits.examples(0..300), digits.examples(300..600));
        let test = digits.examples(600..1797);
        let z = weights(1);
        let (problem, alpha) = problem(&batches, &z);
        let mut all = Vec::new();
        for first in 1..4 {
            for (from, second) in [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)] {
                let row = |edge: &str, op: usize| {
                    leaf(&format!("alpha/{edge}"), &[0, 1, 2, 3].map(|i| if i == op { 5.0 } else { 0.0 }))
                };
                let into_second = format!("{from}-2");
                let alpha = ["0-1", "0-2", "1-2"].iter().fold(Tree::empty(), |alpha, edge| {
                    let op = if *edge == "0-1" {
                        first
                    } else if *edge == into_second {
                        second
                    } else {
                        0
                    };
                    alpha.merge(row(edge, op)).unwrap()
                });
                all.push(trained(&space().discretise(&alpha, 1).unwrap(), &batches.inner[0], &test));
            }
        }
        all.sort_by(f64::total_cmp);
        for order in [Order::First, Order::Second { xi: 0.5 }] {
            let search = Darts::new(order, 0.5, 2.0).unwrap();
            let mut state = LoopState::new(&alpha, &z);
            for _ in 0..100 {
                state = search.step(&problem, state, &batches).unwrap();
            }
            let cell = space().discretise(&state.x, 1).unwrap();
            let found = trained(&cell, &batches.inner[0], &test);
            println!("{order:?}: {:?} {found:.3}, all {all:.3?}", cell.edges());
            assert!(cell.edges().iter().all(|edge| edge.operation != "mean"));
            assert!(found > all[8] && found > all[17] - 0.1, "{found} {all:?}");
        }
    }
}
