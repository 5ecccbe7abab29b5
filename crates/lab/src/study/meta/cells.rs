//! An architecture found by DARTS, against every other of its space.

use ::bilevel::darts::{Cell, CellSpace, Darts, Operation, Order};
use ::bilevel::{Batches, Loop, LoopState, Problem};
use burn::tensor::activation::{relu, softmax};
use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::{Program, Random, Tree};
use serde::Serialize;

use super::digits::{Digits, Examples, PIXELS, accuracy, cross_entropies, mean_and_error};
use super::{percent, percent_with_error};
use crate::data::CLASSES;
use crate::error::Result;
use crate::report::plot::{Line, Plot, fixed, number};
use crate::study::toolkit::{host_device, parallel};
use crate::study::{Part, Setting};

const TRAIN: usize = 400;
const VALIDATION: usize = 400;
const WIDTH: usize = 10;
const NODES: usize = 2;
const OPERATIONS: [&str; 5] = ["none", "skip", "tanh layer", "relu layer", "mean"];
const SEARCH: usize = 200;
const RATE: f64 = 0.3;
const ARCHITECTURE_RATE: f64 = 2.0;
/// Training of a cell by itself.
const STEPS: usize = 300;
const ALONE: f64 = 0.5;
const SEEDS: usize = 4;

/// Ways to every cell with one edge a node: node 1 has four operations on the input, node 2 four on each of two.
const CELLS: usize = 4 * 8;

pub const UNITS: u64 = (CELLS + ORDERS.len()) as u64;

const ORDERS: [(&str, Order, &str); 2] =
    [("first order", Order::First, "s1"), ("second order", Order::Second { xi: RATE }, "s2")];

#[derive(Clone, Debug, Serialize)]
pub struct Trained {
    /// Such as `0-1 tanh layer, 1-2 relu layer`.
    pub cell: String,
    /// Test accuracy trained by itself, with its standard error over seeds.
    pub accuracy: (f64, f64),
}

#[derive(Clone, Debug, Serialize)]
pub struct Found {
    pub order: &'static str,
    pub cell: String,
    /// For each edge the shares of the operations after each step.
    pub shares: Vec<(String, Vec<Vec<f64>>)>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Cells {
    /// Every cell of the space, best first.
    pub all: Vec<Trained>,
    pub found: Vec<Found>,
}

fn product(name: &'static str, bend: fn(Tensor<2>) -> Tensor<2>) -> Operation<2> {
    Operation::new(name, move |weights, edge, input| {
        let weight = weights.get::<2>(&format!("{name}/{edge}")).expect("a weight for each edge");
        bend(input.matmul(weight))
    })
}

fn space() -> Result<CellSpace<2>> {
    let mean = Operation::new("mean", |_, _, input: Tensor<2>| {
        let shape = input.dims();
        input.mean_dim(1).expand(shape)
    });
    let layers = [product("tanh layer", Tensor::tanh), product("relu layer", relu)];
    let [tanh, relu] = layers;
    Ok(CellSpace::new(1, NODES, vec![Operation::none(), Operation::skip(), tanh, relu, mean])?)
}

fn weights(random: &Random, device: &Device) -> Result<Tree> {
    let mut tree = Tree::empty();
    let mut random = random.fork("weights");
    for (from, to) in space()?.edges() {
        for name in ["tanh layer", "relu layer"] {
            let weight = random.normal::<2>([WIDTH, WIDTH], 0.0, (1.0 / WIDTH as f64).sqrt(), device);
            tree = tree.push(format!("{name}/{from}-{to}"), weight)?;
        }
    }
    let stem = random.normal::<2>([PIXELS, WIDTH], 0.0, (1.0 / PIXELS as f64).sqrt(), device);
    Ok(tree.push("stem", stem)?.push("head", random.normal::<2>([NODES * WIDTH, CLASSES], 0.0, 0.2, device))?)
}

fn stem(z: &Tree, (inputs, _): &Examples) -> Vec<Tensor<2>> {
    vec![inputs.clone().matmul(z.get::<2>("stem").expect("the stem's weight"))]
}

/// Of all nodes after the input, side by side.
fn head(z: &Tree, mut nodes: Vec<Tensor<2>>) -> Tensor<2> {
    nodes.remove(0);
    Tensor::cat(nodes, 1).matmul(z.get::<2>("head").expect("the head's weight"))
}

/// An architecture with these operations, one for each edge, as numbers that make it the clear choice.
fn architecture(choice: &[(String, usize)], device: &Device) -> Result<Tree> {
    let mut tree = Tree::empty();
    for (from, to) in space()?.edges() {
        let edge = format!("{from}-{to}");
        let chosen = choice.iter().find(|(name, _)| *name == edge).map_or(0, |(_, operation)| *operation);
        let values: Vec<f32> = (0..OPERATIONS.len()).map(|i| if i == chosen { 5.0 } else { 0.0 }).collect();
        let values = Tensor::<1>::from_data(TensorData::new(values, [OPERATIONS.len()]), device);
        tree = tree.push(format!("alpha/{edge}"), values)?;
    }
    Ok(tree)
}

fn name(cell: &Cell<2>) -> String {
    let edges = cell.edges().iter().map(|edge| format!("{}→{} {}", edge.from, edge.to, edge.operation));
    edges.collect::<Vec<_>>().join(", ")
}

/// The test accuracy of a cell that is trained by itself from each seed's weights.
fn alone(cell: &Cell<2>, train: &Examples, test: &Examples, random: &Random, device: &Device) -> Result<Vec<f64>> {
    let of = cell.clone();
    let program = Program::record_tree(&weights(&random.fork("0"), device)?, train, move |z, batch| {
        let nodes = of.forward(z, stem(z, batch)).expect("one input");
        cross_entropies(head(z, nodes), &batch.1).mean()
    })?;
    (0..SEEDS)
        .map(|seed| {
            let mut z = weights(&random.fork(format!("{seed}")), device)?;
            for _ in 0..STEPS {
                let present = program.value_and_grad(&z, train)?.gradient;
                // Leaves of edges that were dropped are absent.
                let gradient = z.zeros_like().map(|name, zero| match present.position(&name.path) {
                    Some(at) => present.leaf(at).1.clone(),
                    None => zero,
                })?;
                z = z.axpy(-ALONE, &gradient)?;
            }
            Ok(accuracy(head(&z, cell.forward(&z, stem(&z, test))?), &test.1))
        })
        .collect()
}

fn search(
    (order_name, order): (&'static str, Order),
    batches: &Batches<Examples, Examples>,
    random: &Random,
    device: &Device,
) -> Result<Found> {
    let (space, z) = (space()?, weights(&random.fork("search"), device)?);
    let alpha = space.alphas(device)?;
    let mixed = space.clone();
    let loss = move |alpha: &Tree, z: &Tree, batch: &Examples| {
        let nodes = mixed.forward(alpha, z, stem(z, batch)).expect("the architecture is of this space");
        cross_entropies(head(z, nodes), &batch.1).mean()
    };
    let problem = Problem::from_functions(&alpha, &z, batches, loss.clone(), loss)?;
    let darts = Darts::new(order, RATE, ARCHITECTURE_RATE)?;
    let mut state = LoopState::new(&alpha, &z);
    let edges: Vec<String> = space.edges().iter().map(|(from, to)| format!("{from}-{to}")).collect();
    let mut shares: Vec<(String, Vec<Vec<f64>>)> = edges.iter().map(|edge| (edge.clone(), Vec::new())).collect();
    for step in 0..=SEARCH {
        for (edge, path) in &mut shares {
            let numbers = state.x.get::<1>(&format!("alpha/{edge}"))?;
            path.push(softmax(numbers, 0).into_data().iter::<f64>().collect());
        }
        if step < SEARCH {
            state = darts.step(&problem, state, batches)?;
        }
    }
    Ok(Found { order: order_name, cell: name(&space.discretise(&state.x, 1)?), shares })
}

pub fn run(setting: &Setting<'_>) -> Result<Cells> {
    let device = host_device();
    let random = setting.random.fork("cells");
    let digits = Digits::load(random.fork("digits"), &device)?;
    let batches = Batches::new(digits.part(0..TRAIN), digits.part(TRAIN..TRAIN + VALIDATION));
    let test = digits.test();
    let found = parallel(&ORDERS, |(name, order, _)| {
        let found = search((*name, *order), &batches, &random, &device)?;
        setting.progress.unit()?;
        Ok(found)
    })?;
    let mut choices = Vec::new();
    for first in 1..OPERATIONS.len() {
        for from in 0..NODES {
            for second in 1..OPERATIONS.len() {
                choices.push(vec![("0-1".to_string(), first), (format!("{from}-2"), second)]);
            }
        }
    }
    let space = space()?;
    let mut all = parallel(&choices, |choice| {
        let cell = space.discretise(&architecture(choice, &device)?, 1)?;
        let accuracies = alone(&cell, &batches.inner[0], &test, &random.fork("alone"), &device)?;
        setting.progress.unit()?;
        Ok(Trained { cell: name(&cell), accuracy: mean_and_error(&accuracies) })
    })?;
    all.sort_by(|a, b| b.accuracy.0.total_cmp(&a.accuracy.0));
    Ok(Cells { all, found })
}

impl Cells {
    /// The place of a found cell among all, from 1, and its accuracy.
    pub fn place(&self, found: &Found) -> (usize, (f64, f64)) {
        let at = self.all.iter().position(|trained| trained.cell == found.cell).expect("the space holds every cell");
        (at + 1, self.all[at].accuracy)
    }

    /// The mean accuracy of a cell drawn at random.
    pub fn drawn(&self) -> f64 {
        self.all.iter().map(|trained| trained.accuracy.0).sum::<f64>() / self.all.len() as f64
    }

    pub fn part(&self) -> Part {
        let second = &self.found[1];
        let mut figures = Vec::new();
        for (edge, path) in &second.shares {
            let lines =
                OPERATIONS.iter().zip(["quiet", "s4", "s1", "s2", "s3"]).enumerate().map(|(i, (name, class))| {
                    let points = path.iter().enumerate().map(|(step, shares)| (step as f64, shares[i])).collect();
                    Line::new(name, class, points)
                });
            let title = format!("Operations of edge {}", edge.replace('-', "→"));
            let plot = Plot {
                title: &title,
                x_axis: "step of the search",
                x_range: (0.0, SEARCH as f64),
                y_axis: "share in the mixture",
                logarithmic: false,
                lines: lines.collect(),
            };
            figures.push(plot.html());
        }
        let points = self.all.iter().enumerate().map(|(at, t)| ((at + 1) as f64, 100.0 * t.accuracy.0)).collect();
        let mut lines = vec![Line::marks("every cell of the space", "quiet", points)];
        for (found, (_, _, class)) in self.found.iter().zip(ORDERS) {
            let (place, accuracy) = self.place(found);
            let name = format!("found, {}", found.order);
            lines.push(Line::marks(&name, class, vec![(place as f64, 100.0 * accuracy.0)]));
        }
        let plot = Plot {
            title: "All cells, each trained by itself",
            x_axis: "place of the cell",
            x_range: (1.0, CELLS as f64),
            y_axis: "test accuracy, %",
            logarithmic: false,
            lines,
        };
        figures.push(plot.html());
        let mut rows: Vec<Vec<String>> = self
            .found
            .iter()
            .map(|found| {
                let (place, accuracy) = self.place(found);
                vec![
                    format!("DARTS, {}", found.order),
                    found.cell.clone(),
                    percent_with_error(accuracy),
                    place.to_string(),
                ]
            })
            .collect();
        let mut row = |what: &str, at: usize| {
            let trained = &self.all[at];
            let place = (at + 1).to_string();
            rows.push(vec![what.into(), trained.cell.clone(), percent_with_error(trained.accuracy), place]);
        };
        row("best of all", 0);
        row("middle", CELLS / 2);
        row("worst", CELLS - 1);
        rows.push(vec!["drawn at random".into(), "mean of all".into(), percent(self.drawn()), "–".into()]);
        Part {
            title: "A cell of two nodes",
            text: format!(
                "Pixels go through a layer of {WIDTH} into a cell of two nodes, both of which a softmax sees. Each edge is a mixture of {} operations: no connection, the identity, a \
                 layer with tanh, one with ReLU, the mean. DARTS moves the mixtures ({} a step on {VALIDATION} validation digits) and the weights ({} on {TRAIN} others) in turn for \
                 {SEARCH} steps; then each node keeps its best edge. There are {CELLS} such cells; each was trained by itself, {STEPS} steps from {SEEDS} drawn starts. Edges \
                 and mixtures of the second order are shown. Mean ± standard error over the starts.",
                OPERATIONS.len(),
                number(ARCHITECTURE_RATE),
                fixed(RATE, 1),
            ),
            figures,
            table: (vec!["cell", "its edges", "test accuracy", "place of 32"], rows),
        }
    }
}
