//! Property tests of trees, on every host backend.

use burn::backend::DispatchTensor;
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use proptest::prelude::*;

use super::*;
use crate::random::Random;
use crate::testing::{Trees, assert_close, assert_same_bits, host_devices, laws, property};

const ALL: [FloatDType; 4] = [FloatDType::F64, FloatDType::F32, FloatDType::F16, FloatDType::BF16];

/// Recipes for each device and dtype it has, and for a mix of them.
fn recipes() -> Vec<Trees> {
    let recipes = host_devices().into_iter().flat_map(|device| {
        let dtypes = ALL.map(DType::from);
        let dtypes = dtypes.into_iter().filter(|&dtype| {
            // ndarray claims half precision for storage but cannot compute with it.
            device.supports_dtype(dtype) && (device == Device::flex() || matches!(dtype, DType::F64 | DType::F32))
        });
        let dtypes: Vec<FloatDType> = dtypes.map(FloatDType::from).collect();
        let each: Vec<_> = dtypes.iter().map(|&dtype| vec![dtype]).collect();
        let recipe = Trees::new().device(device);
        each.into_iter().chain([dtypes]).map(move |dtypes| recipe.clone().dtypes(dtypes))
    });
    recipes.collect()
}

/// Multiples of 1/8 between -4 and 4: products with them are exact or nearly so.
fn factor() -> impl Strategy<Value = f64> {
    (-32..=32).prop_map(|n| f64::from(n) / 8.0)
}

#[test]
fn trees_are_a_vector_space() {
    for recipe in recipes() {
        let values = (recipe.several(3), factor(), factor());
        property(32, values, |(trees, a, b)| {
            laws::vector_space(&trees[0], &trees[1], &trees[2], a, b);
        });
    }
}

#[test]
fn dot_and_norms_obey_their_laws() {
    for recipe in recipes() {
        property(32, (recipe.several(2), factor()), |(trees, a)| {
            laws::inner_product(&trees[0], &trees[1], a);
            laws::norms(&trees[0], &trees[1], a);
        });
    }
}

#[test]
fn reductions_equal_those_of_f64() {
    for recipe in recipes() {
        property(48, recipe.several(2), |trees| {
            let [x, y] = [0, 1].map(|i| {
                let data = trees[i].to_data().into_iter();
                data.flat_map(|(_, data)| data.iter::<f64>().collect::<Vec<_>>()).collect::<Vec<_>>()
            });
            let near = |value: f64, expected: f64, size: f64| {
                let error = (value - expected).abs();
                assert!(error <= 1e-13 * size, "{value:e} instead of {expected:e}");
            };
            let tree = &trees[0];
            let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            near(tree.norm().value(), norm, norm);
            let size: f64 = x.iter().map(|x| x.abs()).sum();
            near(tree.sum().value(), x.iter().sum(), size);
            near(tree.norm_p(1.0).unwrap().value(), size, size);
            let max = x.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            assert_eq!(tree.norm_inf().value(), max);
            assert_eq!(tree.is_finite().value(), 1.0);
            let products = x.iter().zip(&y).map(|(x, y)| x * y);
            let size = products.clone().map(f64::abs).sum();
            near(tree.dot(&trees[1]).unwrap().value(), products.sum(), size);
            let norms: Vec<f64> = tree.leaf_norms().iter().map(crate::Scalar::value).collect();
            let total = norms.iter().map(|x| x * x).sum::<f64>().sqrt();
            near(total, norm, norm);
        });
    }
}

#[test]
fn a_norm_does_not_depend_on_how_elements_are_grouped() {
    let values = (Trees::new().strategy(), any::<u64>());
    property(64, values, |(tree, seed)| {
        let norm = tree.norm().value();
        let vector = tree.flatten().unwrap();
        let length = vector.dims()[0];
        let near = |tree: Tree| {
            let other = tree.norm().value();
            assert!((other - norm).abs() <= 1e-14 * norm, "{other:e} and {norm:e}");
        };
        near(Tree::empty().push("all", vector.clone()).unwrap());
        let cut = Random::new(seed).below(length as u64 + 1) as usize;
        let parts = [0..cut, cut..length].into_iter().enumerate();
        near(
            parts.filter(|(_, part)| !part.is_empty()).fold(Tree::empty(), |tree, (i, part)| {
                tree.push(format!("{i}"), vector.clone().slice([part])).unwrap()
            }),
        );
        let order = Random::new(seed).permutation(length);
        let values: Vec<f32> = vector.try_into_vec_as().unwrap();
        let values: Vec<f32> = order.into_iter().map(|i| values[i]).collect();
        let shuffled = Tensor::<1>::from_data(TensorData::new(values, [length]), &Device::flex());
        near(Tree::empty().push("shuffled", shuffled).unwrap());
    });
}

#[test]
fn flattening_is_undone() {
    for recipe in recipes() {
        property(32, recipe.non_finite().strategy(), |tree| {
            let vector = tree.flatten().unwrap();
            assert_eq!(vector.dims(), [tree.num_elements()]);
            assert_same_bits(&tree.unflatten(vector).unwrap(), &tree);
        });
    }
}

#[test]
fn files_keep_every_bit_and_the_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    for recipe in recipes() {
        property(16, recipe.non_finite().strategy(), |tree| {
            tree.save(&path).unwrap();
            let device = tree.device().unwrap();
            assert_same_bits(&Tree::load(&path, &device).unwrap(), &tree);
        });
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing else is left in the folder");
}

/// The operations that may work in place, on `x` with `y`.
const IN_PLACE: [fn(Tree, &Tree) -> Tree; 6] = [
    |x, _| x.scale(-0.5),
    |x, y| x.axpy(3.0, y).unwrap(),
    |x, y| x.mul(y).unwrap(),
    |x, y| x.lerp(y, 0.25).unwrap(),
    |x, y| x.sub(y).unwrap(),
    |x, _| x.map_flat(|_, x| x * 2.0).unwrap(),
];

#[test]
fn working_in_place_changes_no_other_handle() {
    for recipe in recipes() {
        property(12, recipe.several(2), |trees| {
            let [x, y] = [&trees[0], &trees[1]];
            let before = [x, y].map(fresh);
            for operation in IN_PLACE {
                // Shared, alone, as a view of another tensor, with itself.
                let shared = operation(x.clone(), y);
                let alone = operation(fresh(x), &fresh(y));
                assert_same_bits(&shared, &alone);
                let vector = x.flatten().unwrap();
                let view = operation(x.unflatten(vector.clone()).unwrap(), y);
                assert_same_bits(&view, &alone);
                assert_same_bits(&x.unflatten(vector).unwrap(), x);
                let itself = operation(x.clone(), x);
                assert_same_bits(&itself, &operation(fresh(x), &fresh(x)));
                assert_same_bits(x, &before[0]);
                assert_same_bits(y, &before[1]);
            }
        });
    }
}

/// The same values in buffers of its own.
fn fresh(tree: &Tree) -> Tree {
    let device = tree.device().unwrap();
    let leaves = tree.iter().zip(tree.to_data());
    let leaves = leaves.map(|((name, _), (_, data))| {
        let rank = data.rank();
        let leaf: DispatchTensor = with_rank!(
            rank,
            D => {
                let options = (&device, data.dtype());
                Tensor::<D>::from_data(data, options).into_dispatch()
            },
            unreachable!("ranks are at most 8")
        );
        (name.clone(), leaf)
    });
    Tree::from_leaves(leaves).unwrap()
}

#[test]
fn dtypes_mix_and_the_left_one_stays() {
    let recipe = Trees::new().exponents(-2..=2).dtypes([FloatDType::F64]);
    property(32, recipe.several(2), |trees| {
        for (left, right) in [(0, 1), (1, 0), (1, 2), (3, 0)] {
            let (left, right) = (ALL[left], ALL[right]);
            let x = trees[0].clone().cast(left);
            let y = trees[1].clone().cast(right);
            let z = x.clone().axpy(2.0, &y).unwrap();
            assert!(z.iter().all(|(_, leaf)| leaf.dtype() == DType::from(left)));
            let exact = x.clone().cast(FloatDType::F64);
            let exact = exact.axpy(2.0, &y.clone().cast(FloatDType::F64)).unwrap();
            let size = x.norm_inf().value() + 2.0 * y.norm_inf().value();
            assert_close(&z.cast(FloatDType::F64), &exact, 0.02 * size);
            let dot = x.dot(&y).unwrap().value();
            let (x, y) = (x.cast(FloatDType::F64), y.cast(FloatDType::F64));
            assert!((dot - x.dot(&y).unwrap().value()).abs() <= 1e-13 * size * size * 1e3);
        }
    });
}

/// On the default device, if it is a GPU: everything stays there until a number is read, and agrees with the host.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
#[test]
fn a_gpu_agrees_with_the_host() {
    let gpu = Device::default();
    if host_devices().contains(&gpu) {
        return;
    }
    let recipe = Trees::new().exponents(-25..=25);
    property(12, (recipe.several(2), factor()), |(trees, a)| {
        let there = |tree: &Tree| tree.clone().to_device(&gpu);
        let [x, y] = [&trees[0], &trees[1]];
        let (gx, gy) = (there(x), there(y));
        let close = |gpu: Tree, host: Tree, size: f64| {
            assert_close(&gpu.to_device(&Device::flex()), &host, 1e-6 * size + 1e-37);
        };
        let size = (1.0 + a.abs()) * (x.norm_inf().value() + y.norm_inf().value());
        let s = gy.norm();
        assert_eq!(s.known(), None);
        let s = s.clone() / s * a;
        close(gx.clone().scale(a), x.clone().scale(a), size);
        close(gx.clone().axpy(a, &gy).unwrap(), x.clone().axpy(a, y).unwrap(), size);
        close(gx.clone().lerp(&gy, a).unwrap(), x.clone().lerp(y, a).unwrap(), 2.0 * size);
        if y.norm().value() > 0.0 {
            close(gx.clone().scale_by(&s), x.clone().scale(a), size);
            close(gx.clone().axpy_by(&s, &gy).unwrap(), x.clone().axpy(a, y).unwrap(), size);
            close(gx.clone().lerp_by(&gy, &s).unwrap(), x.clone().lerp(y, a).unwrap(), 2.0 * size);
        }
        let near = |gpu: crate::Scalar, host: f64, size: f64| {
            assert_eq!(gpu.known(), None);
            let gpu = gpu.value();
            assert!((gpu - host).abs() <= 1e-5 * size, "{gpu:e} instead of {host:e}");
        };
        let norm = x.norm().value();
        near(gx.norm(), norm, norm);
        near(gx.norm_inf(), x.norm_inf().value(), norm);
        let one = x.norm_p(1.0).unwrap().value();
        near(gx.norm_p(1.0).unwrap(), one, one);
        near(gx.sum(), x.sum().value(), one);
        let three = x.norm_p(3.0).unwrap().value();
        near(gx.norm_p(3.0).unwrap(), three, three);
        near(gx.is_finite(), 1.0, 1.0);
        let (dot, bound) = (x.dot(y).unwrap().value(), norm * y.norm().value());
        if (1e-30..1e30).contains(&bound) {
            near(gx.dot(&gy).unwrap(), dot, bound);
        }
        assert_same_bits(&gx.unflatten(gx.flatten().unwrap()).unwrap(), x);
    });
    property(12, Trees::new().non_finite().strategy(), |tree| {
        let finite = tree.is_finite().value();
        assert_eq!(tree.clone().to_device(&gpu).is_finite().value(), finite);
        let norm = tree.to_device(&gpu).norm().value();
        assert!(norm.is_finite() == (finite == 1.0), "{norm}");
    });
}
