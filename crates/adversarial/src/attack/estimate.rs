//! Differences of a loss over antithetic pairs of points, which gradients are estimated from.

use super::{Attack, Setting};
use crate::engine::{Case, Oracle, Search};
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::threat::Norm;

/// The loss at `x + r·v` less the loss at `x − r·v`, both clamped to the box, for each direction `v`.
pub(crate) struct Pairs {
    /// `x⁺ − x⁻` element by element, one direction after the other.
    pub moved: Vec<f32>,
    /// `L(x⁺) − L(x⁻)`; 0 where that is no finite number.
    pub differences: Vec<f64>,
}

/// Asks about a pair of points for each of the directions, given one after the other: two queries each.
pub(crate) async fn pairs(
    case: &Case,
    oracle: &Oracle,
    x: &[f32],
    loss: &Loss,
    radius: f64,
    directions: &[f64],
) -> Pairs {
    let width = x.len();
    let mut points = Vec::with_capacity(2 * directions.len());
    for direction in directions.chunks(width) {
        for side in [radius, -radius] {
            let mut point: Vec<f32> = x.iter().zip(direction).map(|(x, v)| (f64::from(*x) + side * v) as f32).collect();
            case.clamp(&mut point);
            points.extend(point);
        }
    }
    let moved = points.chunks(2 * width).flat_map(|pair| {
        let (plus, minus) = pair.split_at(width);
        plus.iter().zip(minus).map(|(plus, minus)| plus - minus)
    });
    let moved = moved.collect();
    let losses = vec![loss.clone(); points.len() / width];
    let answers = oracle.values(points, losses).await;
    let difference = |pair: &[crate::engine::Answer]| match pair {
        [plus, minus] => Some(plus.loss - minus.loss).filter(|d| d.is_finite()).unwrap_or(0.0),
        _ => 0.0,
    };
    Pairs { moved, differences: answers.chunks(2).map(difference).collect() }
}

/// Refuses what attacks by estimated gradients are not made for.
pub(crate) fn check_fixed_ball(attack: &dyn Attack, setting: &Setting) -> Result<()> {
    let refuse = |what: String, supported| Err(Error::Unsupported { attack: attack.name(), what, supported });
    if !matches!(setting.norm, Norm::Linf | Norm::L2) {
        return refuse(format!("the norm {:?}", setting.norm), "Linf and L2");
    }
    if setting.search == Search::Nearest {
        return refuse("the search for the nearest".into(), "the first and the worst inside a ball");
    }
    Ok(())
}
