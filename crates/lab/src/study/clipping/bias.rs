//! The bias of clipping under skewed noise, against its closed form.
//!
//! `f(x) = x²/2` with noise +9 (probability 0.1) or −1 (0.9), whose mean is 0. Clipping at `c` settles where
//! `E[clip(x + ξ)] = 0`, which is `x* = 1 − c/9` for `c <= 9` and 0 above, whatever the step. A. Koloskova, H. Hendrikx,
//! S. Stich, "Revisiting gradient clipping: stochastic bias and tight convergence guarantees", ICML 2023.

use ::clipping::ClipByValue;
use serde::Serialize;

use crate::error::Result;
use crate::report::plot::{Line, Plot, fixed, number, significant};
use crate::study::toolkit::{OnHost, largest, parallel};
use crate::study::{Part, Setting};

const LIMITS: [f64; 10] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0];
pub const UNITS: u64 = LIMITS.len() as u64;

/// Two steps, ten times apart.
const STEP_SIZES: [f64; 2] = [0.1, 0.01];
/// Independent runs at once. Of a single number the value and the norm are clipped alike.
const CHAINS: usize = 256;
const MEASURED: usize = 4000;

/// What came of one limit.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Limit {
    /// The limit `c`.
    pub limit: f64,
    /// `x*` in closed form.
    pub closed_form: f64,
    /// The root of the expected clipped gradient, found by bisection with the crate's rule.
    pub root: f64,
    /// The mean of the iterates after settling, for each step size.
    pub means: [f64; 2],
    /// The standard errors of those.
    pub errors: [f64; 2],
}

/// What came of all limits.
#[derive(Clone, Debug, Serialize)]
pub struct Bias {
    pub limits: Vec<Limit>,
}

pub fn run(setting: &Setting<'_>) -> Result<Bias> {
    let limits = parallel(&LIMITS, |&limit| {
        let mut means = [0.0; 2];
        let mut errors = [0.0; 2];
        for (at, &step_size) in STEP_SIZES.iter().enumerate() {
            (means[at], errors[at]) = simulate(setting, limit, step_size)?;
        }
        setting.progress.unit()?;
        let closed_form = (1.0 - limit / 9.0).max(0.0);
        Ok(Limit { limit, closed_form, root: root(setting, limit)?, means, errors })
    })?;
    Ok(Bias { limits })
}

/// Where `0.1·clip(x + 9) + 0.9·clip(x − 1)` changes its sign.
fn root(setting: &Setting<'_>, limit: f64) -> Result<f64> {
    let mut rule = OnHost::new(ClipByValue::new(limit)?, setting.device);
    let (mut low, mut high) = (-2.0, 2.0);
    for _ in 0..60 {
        let x = 0.5 * (low + high);
        let clipped = rule.apply(vec![x + 9.0, x - 1.0])?;
        match 0.1 * clipped[0] + 0.9 * clipped[1] < 0.0 {
            true => low = x,
            false => high = x,
        }
    }
    Ok(0.5 * (low + high))
}

/// The mean iterate of clipped stochastic descent and its standard error over the chains.
fn simulate(setting: &Setting<'_>, limit: f64, step_size: f64) -> Result<(f64, f64)> {
    let mut random = setting.random.fork(format!("bias {limit} {step_size}"));
    let mut rule = OnHost::new(ClipByValue::new(limit)?, setting.device);
    let mut x = vec![0.0; CHAINS];
    let mut sums = vec![0.0; CHAINS];
    let settling = (10.0 / step_size) as usize;
    for step in 0..settling + MEASURED {
        let noisy = x.iter().map(|x| x + if random.next_f64() < 0.1 { 9.0 } else { -1.0 }).collect();
        for (x, g) in x.iter_mut().zip(rule.apply(noisy)?) {
            *x -= step_size * g;
        }
        if step >= settling {
            sums.iter_mut().zip(&x).for_each(|(sum, x)| *sum += x / MEASURED as f64);
        }
    }
    let count = CHAINS as f64;
    let mean = sums.iter().sum::<f64>() / count;
    let variance = sums.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Ok((mean, (variance / count).sqrt()))
}

impl Bias {
    /// The largest distance of a simulated mean from the closed form.
    pub fn worst(&self) -> f64 {
        largest(self.limits.iter().flat_map(|l| l.means.map(|mean| (mean - l.closed_form).abs())))
    }

    /// Whether the closed form holds at both step sizes, up to a few hundredths of the distance without clipping at the limit 0.
    pub fn holds(&self) -> bool {
        self.worst() < 0.05
    }

    /// The largest distance of a root from the closed form.
    pub fn worst_root(&self) -> f64 {
        largest(self.limits.iter().map(|l| (l.root - l.closed_form).abs()))
    }

    pub fn part(&self) -> Part {
        let points = |of: &dyn Fn(&Limit) -> f64| self.limits.iter().map(|l| (l.limit, of(l))).collect();
        let plot = Plot {
            title: "Where clipped descent settles",
            x_axis: "limit c",
            x_range: (0.0, 12.0),
            y_axis: "mean iterate x; the minimum is at 0",
            logarithmic: false,
            lines: vec![
                Line::new("closed form 1 − c/9, 0 from 9 on", "quiet", vec![(0.0, 1.0), (9.0, 0.0), (12.0, 0.0)]),
                Line::marks("step 0.1", "s2", points(&|l| l.means[0])),
                Line::marks("step 0.01", "s1", points(&|l| l.means[1])),
            ],
        };
        let cells = |l: &Limit| {
            let mean = |at: usize| format!("{} ± {:.0e}", significant(l.means[at]), l.errors[at]);
            vec![number(l.limit), significant(l.closed_form), fixed(l.root, 12), mean(0), mean(1)]
        };
        Part {
            title: "What it costs: bias under skewed noise",
            text: format!(
                "f = x²/2, noise +9 with probability 0.1 and −1 with 0.9 (Koloskova et al. 2023). The rare large gradients are cut, the \
                 frequent small ones are not, so clipped descent settles beside the minimum. The root of the expected clipped gradient \
                 differs from 1 − c/9 by at most {:.0e}; the mean of {CHAINS} simulated runs over {MEASURED} steps by at most {} \
                 {}.",
                self.worst_root(),
                number(self.worst()),
                match self.holds() {
                    true => "at either step size: a shorter step does not help",
                    false => "at one of the step sizes",
                },
            ),
            figures: vec![plot.html()],
            table: (
                vec!["limit c", "closed form", "root", "mean, step 0.1", "mean, step 0.01"],
                self.limits.iter().map(cells).collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::clipping::tests::with_setting;

    #[test]
    fn descent_settles_at_the_closed_form() {
        let bias = with_setting(7, run);
        assert!(bias.worst_root() < 1e-12, "{}", bias.worst_root());
        for l in &bias.limits {
            // The long step leaves the region of the closed form now and then.
            assert!((l.means[1] - l.closed_form).abs() < 5.0 * l.errors[1] + 1e-3, "{l:?}");
            assert!((l.means[0] - l.closed_form).abs() < 0.03, "{l:?}");
            assert!(l.errors.iter().all(|error| *error > 0.0 && *error < 0.02), "{l:?}");
        }
    }
}
