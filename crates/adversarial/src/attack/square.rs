//! Square attack.

use core_tensor::Random;

use super::check::at_least_one;
use super::runs::runs;
use super::{Attack, Setting, Walk};
use crate::engine::{Case, Oracle, Run, Search};
use crate::error::{Error, Result};
use crate::threat::Norm;

/// Square attack: random search over squares of the image, without gradients. The black-box half of
/// [`AutoAttack`](crate::AutoAttack): what it breaks and APGD does not has masked gradients.
///
/// It begins with stripes (`Linf`) or tiles (`L2`) of random signs and in each query changes one square of the perturbation; the change stays if the
/// margin of the goal has grown. Squares cover a share of the image that begins with `p` and is halved at the queries 10, 50,
/// 200, 500, 1000, 2000, 4000, 6000, 8000 of every 10000.
///
/// | parameter | default | range | effect |
/// |---|---|---|---|
/// | [`queries`](Self::queries) | 5000 | ≥ 1 | queries of a run |
/// | [`share`](Self::share) | 0.8 | 0 < p ≤ 1 | `p` |
/// | [`restarts`](Self::restarts) | 1 | ≥ 1 | runs with other random numbers |
///
/// Every place of the image can be reached, its last row and column too (`every_element_is_reached`), and each example has squares of its own.
///
/// Shapes: `[channels, height, width]`, `[height, width]`, or `[elements]` as one row; a square wider than the image is cut to it and made
/// longer.
///
/// Cost: `queries` queries a run; one pass over the changed square, one over the point.
///
/// Errors: [`Error::Unsupported`] for `L1`, `L0`, other shapes and [`Search::Nearest`], [`Error::Parameter`].
///
/// M. Andriushchenko, F. Croce, N. Flammarion, M. Hein, "Square attack: a query-efficient black-box adversarial attack via random search",
/// ECCV 2020, arXiv:1912.00049, algorithms 1 to 3.
///
/// ```
/// use adversarial::{Attack, Goals, Norm, Recorded, Square, Threat};
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let model = LinearConfig::new(16, 3).init(&device);
/// let classifier = Recorded::new(&model, [4, 4], |model, x: Tensor<3>| model.forward(x.flatten::<2>(1, 2)))?;
/// let x = Tensor::<3>::full([2, 4, 4], 0.5, &device);
/// let attacked = Square::new().queries(100).attack(&classifier, Threat::new(Norm::Linf, 0.1)?, x, &Goals::untargeted(&[0, 1]))?;
/// assert_eq!(attacked.gradients(), 0);
/// # Ok::<(), adversarial::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Square {
    queries: usize,
    share: f64,
    restarts: usize,
}

impl Default for Square {
    fn default() -> Self {
        Self::new()
    }
}

impl Square {
    /// 5000 queries.
    pub fn new() -> Self {
        Self { queries: 5000, share: 0.8, restarts: 1 }
    }

    /// Sets the number of queries.
    pub fn queries(self, queries: usize) -> Self {
        Self { queries, ..self }
    }

    /// Sets the share of the image that the first squares cover.
    pub fn share(self, share: f64) -> Self {
        Self { share, ..self }
    }

    /// Sets the number of runs.
    pub fn restarts(self, restarts: usize) -> Self {
        Self { restarts, ..self }
    }

    /// The share of the image that squares cover at a query.
    fn share_at(&self, query: usize) -> f64 {
        let at = query * 10_000 / self.queries;
        let halvings = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000].iter().filter(|from| at > **from).count();
        self.share / f64::from(1u32 << halvings)
    }
}

impl Attack for Square {
    fn name(&self) -> String {
        "Square".into()
    }

    fn check(&self, setting: &Setting) -> Result<()> {
        at_least_one("queries", self.queries)?;
        at_least_one("restarts", self.restarts)?;
        if !(self.share > 0.0 && self.share <= 1.0) {
            return Err(Error::Parameter { parameter: "share", value: self.share, bound: "0 < share <= 1" });
        }
        let unsupported = |what: String| {
            let supported =
                "a fixed ball in Linf or L2, of shapes [channels, height, width], [height, width] and [elements]";
            Err(Error::Unsupported { attack: self.name(), what, supported })
        };
        match (setting.norm, setting.search) {
            (Norm::Linf | Norm::L2, Search::First | Search::Worst) if (1..=3).contains(&setting.shape.len()) => Ok(()),
            (Norm::Linf | Norm::L2, Search::Nearest) => unsupported("the search for the nearest success".into()),
            (Norm::Linf | Norm::L2, _) => unsupported(format!("the shape {:?}", setting.shape)),
            (norm, _) => unsupported(format!("{norm:?}")),
        }
    }

    fn runs(&self, case: &Case) -> Vec<Run> {
        runs(case, self.restarts, 0)
    }

    fn walk(&self, case: Case, oracle: Oracle) -> Walk<'_> {
        Box::pin(async move {
            let grid = Grid::of(case.shape());
            let loss = crate::Loss::margin(&case.goal());
            let mut random = case.random();
            let linf = case.threat().norm() == Norm::Linf;
            let mut x = if linf { stripes(&case, &grid, &mut random) } else { tiles(&case, &grid, &mut random) };
            let mut best = oracle.value(&x, loss.clone()).await.loss;
            for query in 1..self.queries {
                let share = self.share_at(query);
                let proposal = match linf {
                    true => square(&case, &grid, &mut random, &x, share),
                    false => exchange(&case, &grid, &mut random, &x, share),
                };
                let value = oracle.value(&proposal, loss.clone()).await.loss;
                if value > best {
                    (best, x) = (value, proposal);
                }
            }
        })
    }
}

/// An image's axes.
struct Grid {
    channels: usize,
    height: usize,
    width: usize,
}

/// A rectangle of all channels.
struct Window {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Grid {
    fn of(shape: &[usize]) -> Self {
        let [channels, height, width] = match *shape {
            [width] => [1, 1, width],
            [height, width] => [1, height, width],
            [channels, height, width] => [channels, height, width],
            _ => unreachable!("checked before"),
        };
        Self { channels, height, width }
    }

    fn at(&self, channel: usize, row: usize, column: usize) -> usize {
        (channel * self.height + row) * self.width + column
    }

    /// A rectangle that covers about a share of the image, square where the image lets it be; with sides of `least` at least.
    fn window(&self, random: &mut Random, share: f64, least: usize, odd: bool) -> Window {
        let area = share * (self.height * self.width) as f64;
        let round = |side: f64| {
            let side = (side.round() as usize).max(least);
            if odd && side.is_multiple_of(2) { side + 1 } else { side }
        };
        let height = round(area.sqrt()).min(self.height);
        let width = match height == self.height {
            true => round(area / height as f64).min(self.width),
            false => round(area.sqrt()).min(self.width),
        };
        let top = random.below((self.height - height + 1) as u64) as usize;
        let left = random.below((self.width - width + 1) as u64) as usize;
        Window { top, left, height, width }
    }
}

impl Window {
    fn cells(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (self.top..self.top + self.height)
            .flat_map(|row| (self.left..self.left + self.width).map(move |column| (row, column)))
    }

    fn contains(&self, row: usize, column: usize) -> bool {
        (self.top..self.top + self.height).contains(&row) && (self.left..self.left + self.width).contains(&column)
    }
}

fn signs(random: &mut Random) -> f64 {
    if random.below(2) == 0 { -1.0 } else { 1.0 }
}

/// Vertical stripes of `±ε`, each channel with signs of its own.
fn stripes(case: &Case, grid: &Grid, random: &mut Random) -> Vec<f32> {
    let mut x = case.x0().to_vec();
    for channel in 0..grid.channels {
        for column in 0..grid.width {
            let change = (case.threat().epsilon() * signs(random)) as f32;
            (0..grid.height).for_each(|row| x[grid.at(channel, row, column)] += change);
        }
    }
    case.project(&mut x);
    x
}

/// One square moved by `±2ε` in each channel, so that it ends at a bound of the ball.
fn square(case: &Case, grid: &Grid, random: &mut Random, x: &[f32], share: f64) -> Vec<f32> {
    let window = grid.window(random, share, 1, false);
    let mut x = x.to_vec();
    for channel in 0..grid.channels {
        let change = (2.0 * case.threat().epsilon() * signs(random)) as f32;
        window.cells().for_each(|(row, column)| x[grid.at(channel, row, column)] += change);
    }
    case.project(&mut x);
    x
}

/// Tiles of the `L2` pattern with random signs, a fifth of the height each.
fn tiles(case: &Case, grid: &Grid, random: &mut Random) -> Vec<f32> {
    let (height, width) = ((grid.height / 5).max(1), (grid.width / 5).max(1));
    let mut delta = vec![0.0; case.x0().len()];
    let (rows, columns) = (grid.height / height, grid.width / width);
    let (top, left) = ((grid.height - rows * height) / 2, (grid.width - columns * width) / 2);
    for tile in 0..rows * columns {
        let pattern = pattern(height, width, random);
        for channel in 0..grid.channels {
            let sign = signs(random);
            for (place, value) in pattern.iter().enumerate() {
                let row = top + tile / columns * height + place / width;
                let column = left + tile % columns * width + place % width;
                delta[grid.at(channel, row, column)] += sign * value;
            }
        }
    }
    scaled(case, &delta)
}

/// Gives the perturbation's mass in two windows to the first of them, in the pattern's form.
fn exchange(case: &Case, grid: &Grid, random: &mut Random, x: &[f32], share: f64) -> Vec<f32> {
    let to = grid.window(random, share, 3, true);
    let from = grid.window(random, share, 3, true);
    let mut delta: Vec<f64> = x.iter().zip(case.x0()).map(|(x, x0)| f64::from(*x) - f64::from(*x0)).collect();
    let pattern = pattern(to.height, to.width, random);
    let squares = |delta: &[f64]| delta.iter().map(|d| d * d).sum::<f64>();
    let unused = (case.threat().epsilon().powi(2) - squares(&delta)).max(0.0) / grid.channels as f64;
    for channel in 0..grid.channels {
        let at = |(row, column): (usize, usize)| grid.at(channel, row, column);
        let mass = |delta: &[f64], window: &Window| window.cells().map(|cell| delta[at(cell)].powi(2)).sum::<f64>();
        let here = mass(&delta, &to);
        let there: f64 = from.cells().filter(|(r, c)| !to.contains(*r, *c)).map(|cell| delta[at(cell)].powi(2)).sum();
        let sign = signs(random);
        let old = 1.0 / (1e-12 + here.sqrt());
        let mut new: Vec<f64> =
            to.cells().zip(&pattern).map(|(cell, value)| sign * value + old * delta[at(cell)]).collect();
        let size = (here + there + unused).sqrt() / (1e-12 + squares(&new).sqrt());
        new.iter_mut().for_each(|value| *value *= size);
        from.cells().for_each(|cell| delta[at(cell)] = 0.0);
        to.cells().zip(new).for_each(|(cell, value)| delta[at(cell)] = value);
    }
    scaled(case, &delta)
}

/// `x₀` and the perturbation at the full radius, in ball and box.
fn scaled(case: &Case, delta: &[f64]) -> Vec<f32> {
    let size = case.threat().epsilon() / Norm::L2.of(delta.iter().copied()).max(1e-12);
    let mut x: Vec<f32> = case.x0().iter().zip(delta).map(|(x, d)| (f64::from(*x) + size * d) as f32).collect();
    case.project(&mut x);
    x
}

/// Two bumps of opposite sign side by side, of unit length: falling off as `Σ 1/k²` in nested rectangles around their centres.
fn pattern(height: usize, width: usize, random: &mut Random) -> Vec<f64> {
    let across = match (height, width) {
        (1, _) => false,
        (_, 1) => true,
        _ => random.below(2) == 0,
    };
    // The halves lie one above the other, or one beside the other.
    let (rows, columns) = if across { (height / 2, width) } else { (height, width / 2) };
    let mut result = vec![0.0; height * width];
    for row in 0..height {
        for column in 0..width {
            let first = if across { row < rows } else { column < columns };
            let (r, c) = match (first, across) {
                (true, _) => (row, column),
                (false, true) => (row - rows, column),
                (false, false) => (row, column - columns),
            };
            let size = match (first, across) {
                (true, _) => (rows, columns),
                (false, true) => (height - rows, width),
                (false, false) => (height, width - columns),
            };
            result[row * width + column] = if first { bump(size, r, c) } else { -bump(size, r, c) };
        }
    }
    let size = result.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
    result.iter_mut().for_each(|v| *v /= size);
    result
}

/// `Σ_{k > d} 1/k²` up to the outermost rectangle, `d` the distance from the centre in rows or columns, whichever is more.
fn bump((height, width): (usize, usize), row: usize, column: usize) -> f64 {
    let last = height.max(width) / 2 + 1;
    let away = row.abs_diff(height / 2).max(column.abs_diff(width / 2));
    (away + 1..=last.max(away + 1)).map(|k| 1.0 / (k * k) as f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_halved_where_the_paper_says() {
        let square = Square::new().queries(10_000);
        let shares = [0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001].map(|query| square.share_at(query));
        let halvings: Vec<f64> = shares.iter().map(|share| (0.8 / share).log2()).collect();
        assert_eq!(halvings, [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        // Of half as many queries each counts twice.
        assert_eq!(Square::new().share_at(6), square.share_at(12));
    }

    #[test]
    fn every_element_is_reached() {
        let mut random = Random::new(1);
        for shape in [vec![3, 5, 7], vec![4, 6], vec![9]] {
            let grid = Grid::of(&shape);
            let mut seen = vec![false; grid.height * grid.width];
            for _ in 0..500 {
                let window = grid.window(&mut random, 0.1, 1, false);
                window.cells().for_each(|(row, column)| seen[row * grid.width + column] = true);
            }
            assert!(seen.iter().all(|seen| *seen), "{shape:?}");
        }
    }

    #[test]
    fn the_pattern_has_unit_length_and_two_signs() {
        let mut random = Random::new(2);
        for (height, width) in [(3, 3), (5, 5), (1, 4), (4, 1), (7, 3)] {
            let pattern = pattern(height, width, &mut random);
            assert!((pattern.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-12);
            assert!(
                pattern.iter().any(|v| *v > 0.0) && pattern.iter().any(|v| *v < 0.0),
                "{height} {width} {pattern:?}"
            );
        }
    }
}
