//! How the learning rate changes over a run.

use std::f64::consts::PI;

use crate::recipe::{OptimizerRecipe, Schedule};

/// The learning rate of the step after `done` steps of a run of `epochs` epochs with `per_epoch` steps each.
///
/// A warm-up of `W` steps rises as `lr·(t + 1)/(W + 1)`; after it come the constant rate, half a cosine that would reach zero one step after the
/// last, or `lr·factor^k` after `k·step_every` epochs, counted from the beginning of the run.
pub fn learning_rate(recipe: &OptimizerRecipe, done: u64, per_epoch: u64, epochs: u64) -> f64 {
    let warmup = recipe.warmup * per_epoch;
    if done < warmup {
        return recipe.lr * (done + 1) as f64 / (warmup + 1) as f64;
    }
    let steps = epochs * per_epoch;
    match recipe.schedule {
        Schedule::Constant => recipe.lr,
        Schedule::Cosine => {
            let share = (done - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
            recipe.lr * 0.5 * (1.0 + (PI * share).cos())
        }
        Schedule::Step => {
            let falls = done / (recipe.step_every * per_epoch);
            recipe.lr * recipe.step_factor.powi(falls.min(i32::MAX as u64) as i32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(recipe: &OptimizerRecipe) -> Vec<f64> {
        (0..8).map(|done| learning_rate(recipe, done, 2, 4)).collect()
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} {expected:?}");
    }

    #[test]
    fn eight_steps_by_hand() {
        let recipe = OptimizerRecipe { lr: 1.0, step_every: 2, step_factor: 0.5, ..OptimizerRecipe::default() };
        close(&rates(&recipe), &[1.0; 8]);
        let step = OptimizerRecipe { schedule: Schedule::Step, ..recipe.clone() };
        close(&rates(&step), &[1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]);
        let warm = OptimizerRecipe { warmup: 1, ..step };
        close(&rates(&warm), &[1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]);
        let cosine = OptimizerRecipe { schedule: Schedule::Cosine, ..recipe };
        let half = 0.5f64.sqrt();
        let expected = [1.0, 0.0, (1.0 + half) / 2.0, 0.0, 0.5, 0.0, (1.0 - half) / 2.0, 0.0];
        let found = rates(&cosine);
        close(&[found[0], found[2], found[4], found[6]], &[expected[0], expected[2], expected[4], expected[6]]);
        let warm = OptimizerRecipe { warmup: 2, ..cosine };
        close(&rates(&warm)[3..], &[0.8, 1.0, (1.0 + half) / 2.0, 0.5, (1.0 - half) / 2.0]);
    }
}
