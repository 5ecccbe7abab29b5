//! A transform for part of the parameters.

use std::fmt;

use super::{Context, GradientTransform, State, Update};
use crate::{LeafName, Result, Tree};

/// Applies a transform to the leaves a predicate selects and passes the others on unchanged.
///
/// The inner transform sees gradient and parameters as if the model had no other leaves; if it
/// skips, the whole step is skipped. Cost: that of the inner transform on its part.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use core_tensor::transform::{Context, GradientTransform, Identity, Masked, Update};
/// use core_tensor::Tree;
///
/// let mut weights_only = Masked::new(Identity, |name| name.path.ends_with("weight"));
/// let grads = Tree::empty().push("bias", Tensor::<1>::from_data([1.0], &Device::flex()))?;
/// assert!(matches!(weights_only.apply(grads, &Context::new(0))?, Update::Apply(_)));
/// # Ok::<(), core_tensor::Error>(())
/// ```
pub struct Masked<T> {
    inner: T,
    name: String,
    select: Box<dyn Fn(&LeafName) -> bool + Send>,
}

impl<T: GradientTransform> Masked<T> {
    /// Apply `inner` to the leaves for which `select` holds.
    pub fn new(inner: T, select: impl Fn(&LeafName) -> bool + Send + 'static) -> Self {
        Self { name: format!("masked {}", inner.name()), inner, select: Box::new(select) }
    }

    /// The transform behind the mask.
    pub fn inner(&self) -> &T {
        &self.inner
    }
}

impl<T: GradientTransform> GradientTransform for Masked<T> {
    fn name(&self) -> &str {
        &self.name
    }

    /// Errors of the inner transform, and [`Error::Structure`](crate::Error::Structure) or
    /// [`Error::Shape`](crate::Error::Shape) if it changes the structure of its part.
    fn apply(&mut self, grads: Tree, context: &Context<'_>) -> Result<Update> {
        let names = grads.shared_names();
        let mask: Vec<bool> = names.iter().map(&self.select).collect();
        let mut sides = mask.iter().copied();
        let (part, rest) = grads.partition(|_| sides.next() == Some(true));
        let outline = part.outline();
        let params = context.params.map(|params| params.filter(&self.select));
        let context = Context { params: params.as_ref(), ..*context };
        let part = match self.inner.apply(part, &context)? {
            Update::Apply(part) => part,
            skip => return Ok(skip),
        };
        outline.check(&part)?;
        let mut part = part.into_parts().1.into_iter();
        let mut rest = rest.into_parts().1.into_iter();
        let leaves = mask.into_iter().map(|selected| match selected {
            true => part.next(),
            false => rest.next(),
        });
        match leaves.collect() {
            Some(leaves) => Ok(Update::Apply(Tree::from_parts(names, leaves))),
            None => unreachable!("every leaf is on one side"),
        }
    }

    fn state(&self) -> State {
        self.inner.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.inner.load_state(state)
    }
}

impl<T: fmt::Debug> fmt::Debug for Masked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masked").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod conformance {
    use crate::transform::{Identity, Masked};

    crate::transform_conformance!(masked, || Masked::new(Identity, |name| name.path.len() > 4));
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    /// Doubles what it sees and remembers the names of it.
    #[derive(Default)]
    struct Double(Vec<String>, Vec<String>);

    impl GradientTransform for Double {
        fn name(&self) -> &str {
            "double"
        }
        fn apply(&mut self, grads: Tree, context: &Context<'_>) -> Result<Update> {
            fn paths(tree: &Tree) -> Vec<String> {
                tree.names().iter().map(|name| name.path.clone()).collect()
            }
            self.0 = paths(&grads);
            self.1 = context.params.map(paths).unwrap_or_default();
            match grads.is_finite().value() == 0.0 {
                true => Ok(Update::Skip { why: "not finite".into() }),
                false => Ok(Update::Apply(grads.scale(2.0))),
            }
        }
    }

    fn tree(values: [f32; 4]) -> Tree {
        ["a.weight", "a.bias", "b.weight", "b.bias"]
            .iter()
            .zip(values)
            .try_fold(Tree::empty(), |tree, (path, x)| tree.push(*path, Tensor::<1>::from_data([x], &Device::flex())))
            .unwrap()
    }

    #[test]
    fn only_selected_leaves_change_and_the_order_stays() {
        let mut masked = Masked::new(Double::default(), |name| name.path.ends_with("weight"));
        let params = tree([0.0; 4]);
        let context = Context::new(0).with_params(&params);
        let grads = tree([1.0, 2.0, 3.0, 4.0]);
        let Update::Apply(out) = masked.apply(grads.clone(), &context).unwrap() else {
            panic!("skipped");
        };
        out.same_structure(&grads).unwrap();
        let values: Vec<f32> = out.flatten().unwrap().try_into_vec_as().unwrap();
        assert_eq!(values, [2.0, 2.0, 6.0, 4.0]);
        assert_eq!(masked.inner().0, ["a.weight", "b.weight"]);
        assert_eq!(masked.inner().1, ["a.weight", "b.weight"]);
        assert_eq!(masked.name(), "masked double");
    }

    #[test]
    fn a_skip_inside_skips_all() {
        let mut masked = Masked::new(Double::default(), |name| name.path.starts_with('a'));
        let apply = |masked: &mut Masked<Double>, values| {
            let update = masked.apply(tree(values), &Context::new(0)).unwrap();
            matches!(update, Update::Skip { .. })
        };
        assert!(apply(&mut masked, [f32::NAN, 0.0, 0.0, 0.0]));
        assert!(!apply(&mut masked, [0.0, 0.0, f32::NAN, 0.0]));
    }
}
