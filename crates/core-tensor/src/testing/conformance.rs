//! What every gradient transform must do, as functions; [`transform_conformance!`] makes tests of
//! them.
//!
//! [`transform_conformance!`]: crate::transform_conformance

use super::{Trees, assert_same_bits, property};
use crate::transform::{Context, GradientTransform, State, Update};
use crate::{Scalar, Tree};

/// Tests that a gradient transform keeps its promises, one line a transform:
///
/// ```
/// # fn main() {}
/// #[cfg(test)]
/// mod tests {
///     use core_tensor::transform::Identity;
///
///     core_tensor::transform_conformance!(identity, || Identity);
/// }
/// ```
///
/// The first argument names the test module, the second is a function that makes a fresh transform,
/// always of the same configuration and seed.
#[macro_export]
macro_rules! transform_conformance {
    ($name:ident, $make:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            use $crate::testing::conformance;

            #[test]
            fn has_a_name() {
                conformance::has_a_name($make);
            }
            #[test]
            fn keeps_the_structure() {
                conformance::keeps_the_structure($make);
            }
            #[test]
            fn takes_the_empty_tree() {
                conformance::takes_the_empty_tree($make);
            }
            #[test]
            fn takes_non_finite_gradients() {
                conformance::takes_non_finite_gradients($make);
            }
            #[test]
            fn is_deterministic() {
                conformance::is_deterministic($make);
            }
            #[test]
            fn resumes_from_a_file() {
                conformance::resumes_from_a_file($make);
            }
            #[test]
            fn refuses_the_state_of_another() {
                conformance::refuses_the_state_of_another($make);
            }
        }
    };
}

const CASES: u32 = 12;

/// The name is not empty.
pub fn has_a_name<T: GradientTransform>(make: impl Fn() -> T) {
    assert!(!make().name().is_empty());
}

/// The update has the names, shapes, order and dtypes of the gradient; a skip gives a reason.
pub fn keeps_the_structure<T: GradientTransform>(make: impl Fn() -> T) {
    property(CASES, gradients().several(3), |gradients| {
        let mut transform = make();
        for (step, gradient) in gradients.iter().enumerate() {
            if let Some(update) = run(&mut transform, step, gradient) {
                if let Err(error) = update.same_structure(gradient) {
                    panic!("{error}");
                }
                assert_eq!(dtypes(&update), dtypes(gradient));
            }
        }
    });
}

/// A gradient without leaves is not a failure.
pub fn takes_the_empty_tree<T: GradientTransform>(make: impl Fn() -> T) {
    if let Some(update) = run(&mut make(), 0, &Tree::empty()) {
        assert!(update.is_empty());
    }
}

/// NaN and infinite gradients are not a failure.
pub fn takes_non_finite_gradients<T: GradientTransform>(make: impl Fn() -> T) {
    property(CASES, gradients().non_finite().several(2), |gradients| {
        let mut transform = make();
        for (step, gradient) in gradients.iter().enumerate() {
            run(&mut transform, step, gradient);
        }
    });
}

/// Two of a kind give the same bits.
pub fn is_deterministic<T: GradientTransform>(make: impl Fn() -> T) {
    property(CASES, gradients().several(3), |gradients| {
        let (mut one, mut two) = (make(), make());
        for (step, gradient) in gradients.iter().enumerate() {
            same(run(&mut one, step, gradient), run(&mut two, step, gradient));
        }
        assert_eq!(one.state(), two.state());
    });
}

/// A state survives a file bit for bit, and a fresh transform goes on from it as the old one does.
pub fn resumes_from_a_file<T: GradientTransform>(make: impl Fn() -> T) {
    let folder =
        std::env::temp_dir().join(format!("core-tensor-{}-{:?}", std::process::id(), std::thread::current().id()));
    if let Err(error) = std::fs::create_dir_all(&folder) {
        panic!("{}: {error}", folder.display());
    }
    let path = folder.join("state.bpk");
    let device = super::host_devices().swap_remove(0);
    property(CASES, gradients().several(4), |gradients| {
        let (early, late) = gradients.split_at(2);
        let mut old = make();
        for (step, gradient) in early.iter().enumerate() {
            run(&mut old, step, gradient);
        }
        let state = old.state();
        if let Err(error) = state.save(&path) {
            panic!("{error}");
        }
        let loaded = match State::load(&path, &device) {
            Ok(loaded) => loaded,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(loaded, state);
        let mut resumed = make();
        if let Err(error) = resumed.load_state(loaded) {
            panic!("{error}");
        }
        assert_eq!(resumed.state(), state);
        for (step, gradient) in late.iter().enumerate() {
            same(run(&mut old, 2 + step, gradient), run(&mut resumed, 2 + step, gradient));
        }
        assert_eq!(resumed.state(), old.state());
    });
    // Left to the system if it cannot be removed.
    let _ = std::fs::remove_dir_all(&folder);
}

/// A state with an entry that is not its own is refused, and changes nothing.
pub fn refuses_the_state_of_another<T: GradientTransform>(make: impl Fn() -> T) {
    let mut transform = make();
    let before = transform.state();
    let other = before.clone().with("an entry of no one", 1u64);
    assert!(transform.load_state(other).is_err());
    assert_eq!(transform.state(), before);
}

/// Gradients of the sizes that training meets.
fn gradients() -> Trees {
    Trees::new().exponents(-6..=6)
}

/// The update with parameters of ones and a loss of one; `None` if skipped.
fn run<T: GradientTransform>(transform: &mut T, step: usize, gradient: &Tree) -> Option<Tree> {
    let (params, loss) = (gradient.ones_like(), Scalar::from(1.0));
    let context = Context::new(step as u64).with_params(&params).with_loss(&loss);
    match transform.apply(gradient.clone(), &context) {
        Ok(Update::Apply(update)) => Some(update),
        Ok(Update::Skip { why }) => {
            assert!(!why.is_empty(), "a skip has a reason");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn same(left: Option<Tree>, right: Option<Tree>) {
    match (left, right) {
        (Some(left), Some(right)) => assert_same_bits(&left, &right),
        (None, None) => {}
        _ => panic!("one skipped, the other did not"),
    }
}

fn dtypes(tree: &Tree) -> Vec<burn::tensor::DType> {
    use burn::backend::TensorMetadata;
    tree.iter().map(|(_, leaf)| leaf.dtype()).collect()
}
