//! Proptest strategies for trees.

use std::ops::RangeInclusive;

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::tree::with_rank;
use crate::{LeafName, Tree};

/// A recipe for trees: one to four leaves of rank 0 to 4 (rank 0 has shape `[1]`) with up to a few
/// hundred elements, now and then none, of magnitudes from 1e-30 to 1e30, on flex in `f32`.
///
/// ```
/// use core_tensor::testing::{Trees, property};
///
/// property(8, Trees::new().strategy(), |tree| {
///     assert!(tree.norm().value() >= tree.norm_inf().value());
/// });
/// ```
#[derive(Clone, Debug)]
pub struct Trees {
    leaves: RangeInclusive<usize>,
    dtypes: Vec<FloatDType>,
    exponents: RangeInclusive<i32>,
    non_finite: bool,
    device: Device,
}

impl Default for Trees {
    fn default() -> Self {
        Self {
            leaves: 1..=4,
            dtypes: vec![FloatDType::F32],
            exponents: -30..=30,
            non_finite: false,
            device: super::host_devices().swap_remove(0),
        }
    }
}

impl Trees {
    /// The default recipe.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trees with this many leaves.
    pub fn leaves(self, leaves: RangeInclusive<usize>) -> Self {
        Self { leaves, ..self }
    }

    /// Leaves of these dtypes, each of its own. Half precision stays between 1e-3 and 1e3.
    pub fn dtypes(self, dtypes: impl IntoIterator<Item = FloatDType>) -> Self {
        let dtypes = dtypes.into_iter().collect();
        Self { dtypes, ..self }
    }

    /// Magnitudes between these powers of ten.
    pub fn exponents(self, exponents: RangeInclusive<i32>) -> Self {
        Self { exponents, ..self }
    }

    /// Some elements NaN or infinite.
    pub fn non_finite(self) -> Self {
        Self { non_finite: true, ..self }
    }

    /// Leaves on this device.
    pub fn device(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// Single trees.
    pub fn strategy(&self) -> impl Strategy<Value = Tree> + use<> {
        self.several(1).prop_map(|mut trees| trees.swap_remove(0))
    }

    /// `count` trees of one structure.
    pub fn several(&self, count: usize) -> impl Strategy<Value = Vec<Tree>> + use<> {
        let (recipe, dtypes) = (self.clone(), self.dtypes.clone());
        let shape = prop_oneof![
            9 => vec(1..=4usize, 0..=4),
            1 => Just(vec![2, 0]),
        ];
        let leaf = (shape, proptest::sample::select(dtypes));
        vec(leaf, self.leaves.clone()).prop_flat_map(move |structure| {
            let trees: Vec<_> = (0..count).map(|_| recipe.values(&structure)).collect();
            let recipe = recipe.clone();
            trees.prop_map(move |trees| trees.into_iter().map(|values| recipe.tree(&structure, values)).collect())
        })
    }

    fn values(&self, structure: &[(Vec<usize>, FloatDType)]) -> Vec<impl Strategy<Value = Vec<f64>> + use<>> {
        let leaf = |(shape, dtype): &(Vec<usize>, FloatDType)| {
            let length = shape.iter().product::<usize>();
            let (low, high) = (*self.exponents.start(), *self.exponents.end());
            let exponents = match dtype {
                FloatDType::F16 | FloatDType::BF16 => low.max(-3)..=high.min(3),
                _ => low..=high,
            };
            let odd = match self.non_finite {
                true => 1,
                false => 0,
            };
            let element = prop_oneof![
                14 => -1.0..=1.0f64,
                1 => Just(0.0),
                1 => Just(-0.0),
                odd => Just(f64::NAN),
                odd => Just(f64::INFINITY),
                odd => Just(f64::NEG_INFINITY),
            ];
            let elements = vec(element, length);
            (exponents, elements).prop_map(|(exponent, elements)| {
                let scale = 10f64.powi(exponent);
                elements.into_iter().map(|x| x * scale).collect()
            })
        };
        structure.iter().map(leaf).collect()
    }

    fn tree(&self, structure: &[(Vec<usize>, FloatDType)], values: Vec<Vec<f64>>) -> Tree {
        let leaves = structure.iter().zip(values).enumerate();
        let leaves = leaves.map(|(i, ((shape, dtype), values))| {
            let shape = match shape.is_empty() {
                true => vec![1],
                false => shape.clone(),
            };
            let rank = shape.len();
            let data = TensorData::new(values, shape);
            let options = (&self.device, DType::from(*dtype));
            let leaf = with_rank!(
                rank,
                D => Tensor::<D>::from_data(data, options).into_dispatch(),
                unreachable!("ranks are at most 4")
            );
            (LeafName::new(format!("leaf{}", "x".repeat(i))), leaf)
        });
        match Tree::from_leaves(leaves) {
            Ok(tree) => tree,
            Err(error) => unreachable!("{error}"),
        }
    }
}
