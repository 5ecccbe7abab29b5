//! For tests, of this crate and of those that build on it (feature `testing`).
//!
//! - [`Trees`]: proptest strategies for trees of all ranks, dtypes and magnitudes;
//! - [`laws`]: the laws of a vector space, an inner product and norms, as asserts;
//! - [`conformance`] and [`transform_conformance!`](crate::transform_conformance): what every
//!   gradient transform must do;
//! - [`host_devices`], [`assert_close`], [`assert_same_bits`], [`property`].

pub mod conformance;
pub mod laws;
mod strategies;

pub use strategies::Trees;

use std::fmt::Debug;

use burn::tensor::Device;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::Tree;

/// The CPU devices compiled in: flex, ndarray.
pub fn host_devices() -> Vec<Device> {
    vec![
        #[cfg(feature = "flex")]
        Device::flex(),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)] // Supported as long as Burn ships it.
        Device::ndarray(),
    ]
}

/// Check a property for a number of generated values, the same ones in every run. With the variable
/// `PROPTEST_CASES` set, for that many new ones.
///
/// # Panics
/// With the smallest value found for which `check` panics.
pub fn property<S: Strategy<Value: Debug>>(cases: u32, strategy: S, check: impl Fn(S::Value)) {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => TestRunner::new(config),
        None => {
            config.cases = cases;
            let generator = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
            TestRunner::new_with_rng(config, generator)
        }
    };
    let result = runner.run(&strategy, |value| {
        check(value);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Check that trees differ by at most `tolerance` in every element.
///
/// # Panics
/// With the element that differs most, or the structures if they differ.
pub fn assert_close(left: &Tree, right: &Tree, tolerance: f64) {
    if let Err(error) = left.same_structure(right) {
        panic!("{error}");
    }
    for ((path, x), (_, y)) in left.to_data().into_iter().zip(right.to_data()) {
        for (i, (x, y)) in x.iter::<f64>().zip(y.iter::<f64>()).enumerate() {
            let same = x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= tolerance;
            assert!(same, "`{path}`[{i}]: {x:e} and {y:e} differ by more than {tolerance:e}");
        }
    }
}

/// Check that trees have the same names, ids, shapes, dtypes and bits.
///
/// # Panics
/// With the first leaf that differs.
pub fn assert_same_bits(left: &Tree, right: &Tree) {
    assert_eq!(left.names(), right.names());
    for ((path, x), (_, y)) in left.to_data().iter().zip(&right.to_data()) {
        assert_eq!((x.dtype(), x.shape()), (y.dtype(), y.shape()), "`{path}`");
        assert!(x.as_bytes() == y.as_bytes(), "`{path}`: {x} and {y}");
    }
}
