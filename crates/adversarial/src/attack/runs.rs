//! Restarts and targets.

use crate::engine::{Case, Run};
use crate::loss::descending;

/// The runs of an attack with restarts and targets: every target in turn, then the next restart.
pub(crate) fn runs(case: &Case, restarts: usize, targets: usize) -> Vec<Run> {
    let heading: Vec<Option<usize>> = match (targets, case.goal().target()) {
        // A goal with a target leaves nothing to choose.
        (0, _) | (_, Some(_)) => vec![None],
        (count, None) => {
            let others = descending(case.logits()).into_iter().filter(|class| *class != case.goal().label());
            others.take(count).map(Some).collect()
        }
    };
    (0..restarts).flat_map(|restart| heading.iter().map(move |target| Run { restart, target: *target })).collect()
}
