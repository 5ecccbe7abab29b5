//! Where attacks that only see decisions begin: a point that reaches the goal already.

use std::sync::Arc;

use burn::tensor::Distribution;
use core_tensor::Random;

use super::geometry::draw;
use super::{Attack, Setting};
use crate::engine::{Case, Oracle, Search};
use crate::error::{Error, Result};

/// Shares of noise in the points of one round.
const BLENDS: [f64; 4] = [0.25, 0.5, 0.75, 1.0];

/// Points given to begin at, tried on every example.
pub(crate) type Starts = Arc<[Vec<f32>]>;

/// The nearest of the given points that reaches the goal. Where none does, or none is given, the nearest success among blends
/// of the example with uniform noise, `rounds` times four of them; none if there is none.
pub(crate) async fn begin(
    case: &Case,
    oracle: &Oracle,
    starts: &Starts,
    rounds: usize,
    random: &mut Random,
) -> Option<Vec<f32>> {
    let mut given = starts.concat();
    given.chunks_mut(case.x0().len()).for_each(|point| case.clamp(point));
    let found = nearest_reached(case, oracle, given).await;
    if found.is_some() {
        return found;
    }
    let (low, high) = (case.threat().low(), case.threat().high());
    for _ in 0..rounds {
        let noise = draw(random, Distribution::Uniform(low, high), case.x0().len());
        let blend = |share: f64| {
            let mixed =
                case.x0().iter().zip(&noise).map(move |(x, z)| ((1.0 - share) * f64::from(*x) + share * z) as f32);
            let mut mixed: Vec<f32> = mixed.collect();
            case.clamp(&mut mixed);
            mixed
        };
        let found = nearest_reached(case, oracle, BLENDS.into_iter().flat_map(blend).collect()).await;
        if found.is_some() {
            return found;
        }
    }
    None
}

async fn nearest_reached(case: &Case, oracle: &Oracle, points: Vec<f32>) -> Option<Vec<f32>> {
    let answers = oracle.many_logits(points.clone()).await;
    let points = points.chunks(case.x0().len()).zip(answers).filter(|(_, answer)| answer.reached);
    let nearest = points.min_by(|(a, _), (b, _)| case.distance(a).total_cmp(&case.distance(b)));
    nearest.map(|(point, _)| point.to_vec())
}

/// Refuses points of another size, targets without a point to begin at, and the search for the worst.
pub(crate) fn check_decisions(attack: &dyn Attack, setting: &Setting, starts: &Starts) -> Result<()> {
    let width: usize = setting.shape.iter().product();
    if let Some(start) = starts.iter().find(|start| start.len() != width) {
        let expected = format!("[{width}], the elements of an example");
        return Err(Error::Shape { what: "a starting point", actual: vec![start.len()], expected });
    }
    let refuse =
        |what: &str, supported| Err(Error::Unsupported { attack: attack.name(), what: what.into(), supported });
    if setting.targeted && starts.is_empty() {
        return refuse("targets without starting points", "targets with a starting point of each target's class");
    }
    if setting.search == Search::Worst {
        return refuse("the search for the worst loss", "the first and the nearest success");
    }
    Ok(())
}
