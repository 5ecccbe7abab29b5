//! Groups of leaves, aggregated apart.

use std::collections::BTreeMap;
use std::fmt;

use core_tensor::transform::State;
use core_tensor::{LeafName, Tree};

use crate::aggregator::no_weights;
use crate::{Aggregated, Aggregator, Error, Gramian, GramianAggregator, Jacobian, Method, Report, Result};

/// Aggregates groups of parameters apart, each with its own weights and its own state.
///
/// Tasks that conflict in one layer may agree in another: GradVac's paper works layer by layer, and heads that belong
/// to one task
/// need no bargaining. `group` names the group of a leaf, `make` makes the aggregator of a group when it is first met.
///
/// A row that is not finite in one group is dropped from all. A result that does not conflict in any group does not
/// conflict as a whole.
/// Cost: that of the aggregators; the Gramians together read each row once. Report: those of the groups by name, and
/// the
/// Gramian of all leaves. State: those of the groups. Errors: those of the aggregators; the groups before
/// the failing one have then made their step.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::Tree;
/// use multitask::{Aggregator, Mgda, PerGroup};
///
/// let leaf = |x: f32| Tensor::<1>::from_data([x], &Device::flex());
/// let row = |a: f32, b: f32| Tree::empty().push("conv1.weight", leaf(a)).and_then(|tree| tree.push("conv2.weight", leaf(b)));
/// let layer = |path: &str| path.split('.').next().unwrap_or_default().to_string();
/// let mut per_layer = PerGroup::new(move |name| layer(&name.path), |_| Mgda::new());
/// let out = per_layer.aggregate(&[row(1.0, 1.0)?, row(-1.0, 3.0)?])?;
/// let d: Vec<f32> = out.gradient.flatten()?.try_into_vec_as().unwrap();
/// assert_eq!(d, [0.0, 1.0], "opposite in the first layer, agreeing in the second");
/// # Ok::<(), multitask::Error>(())
/// ```
pub struct PerGroup<A> {
    group: Box<dyn Fn(&LeafName) -> String + Send>,
    make: Box<dyn Fn(&str) -> A + Send>,
    groups: BTreeMap<String, A>,
}

impl<A: GramianAggregator> PerGroup<A> {
    /// Groups by name, and the aggregator of each.
    pub fn new(
        group: impl Fn(&LeafName) -> String + Send + 'static,
        make: impl Fn(&str) -> A + Send + 'static,
    ) -> Self {
        Self { group: Box::new(group), make: Box::new(make), groups: BTreeMap::new() }
    }

    /// The aggregators of the groups met so far, by name.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &A)> {
        self.groups.iter().map(|(name, aggregator)| (name.as_str(), aggregator))
    }
}

impl<A: GramianAggregator> Method for PerGroup<A> {
    fn name(&self) -> &'static str {
        "per_group"
    }

    fn state(&self) -> State {
        let groups = self.groups.iter();
        // With the length, for names may hold any character.
        groups.fold(State::new(), |state, (name, inner)| {
            state.with_nested(&format!("{}:{name}", name.len()), inner.state())
        })
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let mut groups = BTreeMap::new();
        loop {
            let first = state.iter().next().map(|(key, _)| key.to_string());
            let Some(key) = first else { break };
            let name = key.split_once(':').and_then(|(length, rest)| rest.get(..length.parse().ok()?));
            let Some(name) = name.filter(|name| key.starts_with(&format!("{}:{name}/", name.len()))) else { break };
            let mut inner = (self.make)(name);
            inner.load_state(state.take_nested(&format!("{}:{name}", name.len())))?;
            groups.insert(name.to_string(), inner);
        }
        state.finish()?;
        self.groups = groups;
        Ok(())
    }
}

impl<A: GramianAggregator> Aggregator for PerGroup<A> {
    fn aggregate(&mut self, rows: &[Tree]) -> Result<Aggregated> {
        let Some(first) = rows.first() else { return Err(Error::NoTasks) };
        rows.iter().try_for_each(|row| first.same_structure(row))?;
        let names: Vec<String> = first.names().iter().map(&self.group).collect();
        let mut parts: BTreeMap<&str, (Vec<Tree>, Gramian)> = BTreeMap::new();
        for name in &names {
            if !parts.contains_key(name.as_str()) {
                let part: Vec<Tree> = rows.iter().map(|row| row.filter(|leaf| (self.group)(leaf) == *name)).collect();
                let gramian = Gramian::of(&part)?;
                parts.insert(name, (part, gramian));
            }
        }
        let mut gramians = parts.values().map(|(_, gramian)| gramian.clone());
        let whole = match gramians.next() {
            Some(first) => gramians.try_fold(first, |sum, gramian| sum.add(&gramian))?,
            None => Gramian::of(rows)?,
        };
        let (mut gradient, mut reports) = (Tree::empty(), vec![]);
        for (name, (part, gramian)) in parts {
            let gramian = gramian.only(whole.tasks());
            let aggregator = self.groups.entry(name.to_string()).or_insert_with(|| (self.make)(name));
            let weights = if gramian.size() == 0 { vec![] } else { aggregator.weights(&gramian)? };
            if weights.iter().any(|w| !w.is_finite()) {
                return Err(no_weights(aggregator.name(), "a weight is not finite", &gramian, f64::NAN, 0));
            }
            let weights = gramian.spread(&weights);
            gradient = gradient.merge(part.combine(&weights)?)?;
            reports.push((name.to_string(), Report { weights: Some(weights), gramian, groups: vec![] }));
        }
        // In the order of the rows.
        let gradient = gradient.restrict(first)?;
        Ok(Aggregated { gradient, report: Report { weights: None, gramian: whole, groups: reports } })
    }
}

impl<A: fmt::Debug> fmt::Debug for PerGroup<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerGroup").field("groups", &self.groups).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GradVac, Mean, NashMtl};
    use burn::tensor::{Device, Tensor};

    fn row(values: [f32; 4]) -> Tree {
        let leaf = |x: &[f32]| Tensor::<1>::from_data(x, &Device::flex());
        let tree = Tree::empty().push("b/1", leaf(&values[..1])).unwrap();
        let tree = tree.push("a", leaf(&values[1..3])).unwrap();
        tree.push("b/2", leaf(&values[3..])).unwrap()
    }

    fn by_letter(name: &LeafName) -> String {
        format!("{}:/", &name.path[..1])
    }

    #[test]
    fn groups_have_weights_and_states_of_their_own() {
        let mut nash = PerGroup::new(by_letter, |_| NashMtl::new());
        let rows = [row([1.0, 0.0, 2.0, 0.0]), row([0.0, 3.0, 0.0, 5.0])];
        let out = nash.aggregate(&rows).unwrap();
        out.gradient.same_structure(&rows[0]).unwrap();
        let d: Vec<f32> = out.gradient.flatten().unwrap().try_into_vec_as().unwrap();
        assert!(d.iter().all(|x| (x - 1.0).abs() < 1e-6), "orthogonal rows of each group become unit ones: {d:?}");
        let names: Vec<&str> = out.report.groups.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a:/", "b:/"]);
        assert!((out.report.groups[0].1.weights.as_ref().unwrap()[0] - 0.5).abs() < 1e-12);
        assert!((out.report.gramian.norm(0) - 5f64.sqrt()).abs() < 1e-15);
        // Names may hold what states use as marks.
        let mut vac = PerGroup::new(by_letter, |_| GradVac::new(3));
        vac.aggregate(&rows).unwrap();
        let mut resumed = PerGroup::new(by_letter, |_| GradVac::new(3));
        resumed.load_state(vac.state()).unwrap();
        assert_eq!((resumed.state(), resumed.groups().count()), (vac.state(), 2));
        assert!(resumed.load_state(State::new().with("9:b/x", 1u64)).is_err());
        assert!(resumed.load_state(State::new().with("x", 1u64)).is_err());
    }

    #[test]
    fn a_row_broken_in_one_group_is_dropped_from_all() {
        let mut mean = PerGroup::new(by_letter, |_| Mean::new());
        let out = mean.aggregate(&[row([1.0; 4]), row([3.0, f32::NAN, 3.0, 3.0])]).unwrap();
        let d: Vec<f32> = out.gradient.flatten().unwrap().try_into_vec_as().unwrap();
        assert_eq!((d, out.report.dropped()), (vec![1.0; 4], vec![1]));
        let empty = mean.aggregate(&[Tree::empty(), Tree::empty()]).unwrap();
        assert!(empty.gradient.is_empty() && empty.report.groups.is_empty());
    }
}
