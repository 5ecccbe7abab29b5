//! One example under attack.

use std::sync::Arc;

use core_tensor::Random;

use crate::goal::Goal;
use crate::projection::toward_f32;
use crate::threat::{Norm, Threat};

/// What an attack looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Search {
    /// Any success inside the threat; an example is done with at the first one.
    First,
    /// The success nearest to the unperturbed input, anywhere in the box.
    Nearest,
    /// The point inside the threat where the attack's loss is largest, for the full number of steps.
    Worst,
}

/// One of the runs that an attack makes on an example: a restart, a target, or one of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Run {
    /// Number of the restart, from 0.
    pub restart: usize,
    /// The class that the run heads for, whatever the goal is.
    pub target: Option<usize>,
}

/// An example, what is wanted of it, and what may be done to it.
///
/// Points are `f32` slices in row-major order, all of the length of [`x0`](Self::x0).
#[derive(Clone, Debug)]
pub struct Case {
    pub(crate) x0: Arc<[f32]>,
    pub(crate) shape: Arc<[usize]>,
    pub(crate) logits: Arc<[f32]>,
    pub(crate) goal: Goal,
    pub(crate) threat: Threat,
    pub(crate) search: Search,
    pub(crate) run: Run,
    pub(crate) random: Random,
    /// The ball and the box as bounds of each element, for `Linf`.
    pub(crate) interval: Option<Arc<[[f32; 2]]>>,
}

impl Case {
    /// The unperturbed input.
    pub fn x0(&self) -> &[f32] {
        &self.x0
    }

    /// The example's shape, without the axis of examples: `[channels, height, width]` for images.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Logits of the unperturbed input.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.logits.len()
    }

    /// What counts as success.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// What may be changed and how far. For [`Search::Nearest`] the radius is that of the whole box.
    pub fn threat(&self) -> Threat {
        self.threat
    }

    /// What is looked for.
    pub fn search(&self) -> Search {
        self.search
    }

    /// Which of the attack's runs this is.
    pub fn run(&self) -> Run {
        self.run
    }

    /// The run's own random numbers. They depend on the seed, the example and the run, not on the batch.
    pub fn random(&self) -> Random {
        self.random.clone()
    }

    /// Brings a point back into ball and box, exactly; what is inside stays bit for bit. See [`Threat::project`].
    pub fn project(&self, x: &mut [f32]) {
        match &self.interval {
            Some(interval) => {
                for ((x, [low, high]), x0) in x.iter_mut().zip(interval.iter()).zip(self.x0.iter()) {
                    *x = if x.is_nan() { *x0 } else { x.clamp(*low, *high) };
                }
            }
            None => {
                let x0: Vec<f64> = self.x0.iter().map(|x| f64::from(*x)).collect();
                let mut y: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                self.threat.project_row(&x0, &mut y, toward_f32);
                x.iter_mut().zip(y).for_each(|(x, y)| *x = y as f32);
            }
        }
    }

    /// Whether a point is inside ball and box.
    pub fn allows(&self, x: &[f32]) -> bool {
        match &self.interval {
            Some(interval) => x.iter().zip(interval.iter()).all(|(x, [low, high])| x >= low && x <= high),
            None => self.in_box(x) && self.distance(x) <= self.threat.epsilon(),
        }
    }

    /// Clamps a point to the box.
    pub fn clamp(&self, x: &mut [f32]) {
        let (low, high) = (self.threat.low() as f32, self.threat.high() as f32);
        for (x, x0) in x.iter_mut().zip(self.x0.iter()) {
            *x = if x.is_nan() { *x0 } else { x.clamp(low, high) };
        }
    }

    /// How far a point is from [`x0`](Self::x0), in the threat's norm.
    pub fn distance(&self, x: &[f32]) -> f64 {
        self.threat.norm().of(x.iter().zip(self.x0.iter()).map(|(x, x0)| f64::from(*x) - f64::from(*x0)))
    }

    fn in_box(&self, x: &[f32]) -> bool {
        x.iter().all(|x| f64::from(*x) >= self.threat.low() && f64::from(*x) <= self.threat.high())
    }
}

/// For `Linf`, the allowed values of each element: the outermost `f32` inside ball and box.
pub(crate) fn interval(threat: &Threat, x0: &[f32]) -> Option<Arc<[[f32; 2]]>> {
    if threat.norm() != Norm::Linf {
        return None;
    }
    let bound = |x0: &f32, sign: f64| {
        let x0 = f64::from(*x0);
        let mut x = toward_f32((x0 + sign * threat.epsilon()).clamp(threat.low(), threat.high()), x0) as f32;
        // The sum rounds too.
        while (f64::from(x) - x0).abs() > threat.epsilon() && f64::from(x) != x0 {
            x = if f64::from(x) > x0 { x.next_down() } else { x.next_up() };
        }
        x
    };
    Some(x0.iter().map(|x0| [bound(x0, -1.0), bound(x0, 1.0)]).collect())
}

/// The radius of the whole box around any of its points.
pub(crate) fn diameter(norm: Norm, elements: usize, side: f64) -> f64 {
    match norm {
        Norm::Linf => side,
        Norm::L2 => side * (elements as f64).sqrt() * (1.0 + 1e-6),
        Norm::L1 => side * elements as f64 * (1.0 + 1e-6),
        Norm::L0 => elements as f64,
    }
}
