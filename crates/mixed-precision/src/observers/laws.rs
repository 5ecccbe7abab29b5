//! What observers have to keep.

use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::testing::{host_devices, property};
use core_tensor::transform::State;
use proptest::prelude::*;

use super::*;
use crate::{Granularity, Rounding};

fn tensor(data: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(data.to_vec(), [data.len()]), device)
}

fn seen<O: Observer>(mut observer: O, batches: &[Vec<f32>]) -> O {
    for batch in batches {
        observer.observe(&tensor(batch, &Device::flex())).unwrap();
    }
    observer
}

fn batches() -> impl Strategy<Value = Vec<Vec<f32>>> {
    let number = prop_oneof![8 => -1f32..1.0, 1 => -1e3f32..1e3, 1 => Just(0.0), 1 => -1e-20f32..1e-20];
    proptest::collection::vec(proptest::collection::vec(number, 1..40), 1..4)
}

#[test]
fn min_max_holds_all() {
    property(100, batches(), |batches| {
        let range = seen(MinMax::new(), &batches).range().unwrap();
        let all: Vec<f32> = batches.concat();
        assert!(all.iter().all(|x| (range.low..=range.high).contains(x)));
        assert!(all.contains(&range.low) && all.contains(&range.high));
        let first = seen(MovingAverageMinMax::new(0.01).unwrap(), &batches[..1]).range().unwrap();
        assert_eq!(first, seen(MinMax::new(), &batches[..1]).range().unwrap());
        let average = seen(MovingAverageMinMax::new(0.3).unwrap(), &batches).range().unwrap();
        assert!(range.low <= average.low && average.low <= average.high && average.high <= range.high);
    });
}

#[test]
fn percentiles_are_monotone() {
    property(100, (batches(), 0.5f64..=1.0, 0.5f64..=1.0), |(batches, p, q)| {
        let range = |p| seen(Percentile::new(p).unwrap(), &batches).range().unwrap();
        let (inner, outer) = (range(p.min(q)), range(p.max(q)));
        assert!(outer.low <= inner.low && inner.low <= inner.high && inner.high <= outer.high);
        assert_eq!(range(1.0), seen(MinMax::new(), &batches).range().unwrap());
        let all: Vec<f32> = batches.concat();
        let at_most = all.iter().filter(|x| **x <= inner.high).count() as f64;
        assert!(at_most >= p.min(q) * all.len() as f64 - 1e-9);
    });
}

#[test]
fn mse_is_at_most_that_of_min_max() {
    let target = prop_oneof![
        (2usize..=8, any::<bool>()).prop_map(|(bits, affine)| {
            let uniform = if affine { Uniform::affine(bits) } else { Uniform::symmetric(bits) };
            Target::Uniform(uniform.unwrap())
        }),
        Just(Target::Float(Format::E2M1FN)),
        Just(Target::Float(Format::E4M3FN)),
    ];
    property(60, (batches(), target), |(batches, target)| {
        let observer = seen(MseOptimal::new(target).candidates(40).unwrap(), &batches);
        let all = seen(MinMax::new(), &batches).range().unwrap();
        let best = observer.range().unwrap();
        let (least, most) = (observer.error(best).unwrap(), observer.error(all).unwrap());
        assert!(least <= most, "{least} {most}");
        assert!(all.low.min(0.0) <= best.low && best.high <= all.high.max(0.0));
        // The error is that of the quantiser itself.
        let x = tensor(&batches.concat(), &Device::flex());
        let y = match target {
            Target::Uniform(uniform) => best.apply(uniform).unwrap().fake_quantize(x.clone()).unwrap(),
            Target::Float(format) => {
                let scale = best.scale(format);
                let quantiser = crate::Quantizer::new(format).overflow(crate::Overflow::Saturate);
                quantiser.fake_quantize(x.clone() * scale).unwrap() * (1.0 / scale)
            }
        };
        let pairs =
            x.into_data().iter::<f64>().zip(y.into_data().iter::<f64>().collect::<Vec<_>>()).collect::<Vec<_>>();
        let mean = pairs.iter().map(|(x, y)| (x - y).powi(2)).sum::<f64>() / pairs.len() as f64;
        assert!((mean - least).abs() <= 1e-9 * least + 1e-60, "{mean} {least}");
    });
}

#[test]
fn clipping_pays_with_few_bits_and_outliers() {
    // 1000 values in ±1 and one of 6: with three bits a step of 2 makes all but it zero.
    let mut data: Vec<f32> = (0..1000).map(|i| (i as f32 / 500.0) - 1.0).collect();
    data.push(6.0);
    let batches = [data];
    let observer = seen(MseOptimal::new(Uniform::symmetric(3).unwrap()), &batches);
    let best = observer.range().unwrap();
    assert!(best.high < 2.0, "{best:?}");
    let all = seen(MinMax::new(), &batches).range().unwrap();
    assert!(observer.error(best).unwrap() < 0.2 * observer.error(all).unwrap());
    let cut = seen(Percentile::new(0.999).unwrap(), &batches).range().unwrap();
    assert!(cut.high <= 1.0 && cut.low >= -1.0, "{cut:?}");
    // Granularity and rounding of the target count for nothing.
    let other = Uniform::symmetric(3).unwrap().rounding(Rounding::Stochastic(1)).granularity(Granularity::Group(2));
    assert_eq!(seen(MseOptimal::new(other), &batches).range().unwrap(), best);
}

/// The same for every observer.
fn check<O: Observer + Clone + PartialEq + std::fmt::Debug>(new: O) {
    for device in host_devices() {
        let mut observer = new.clone();
        assert_eq!(observer.range().unwrap_err().to_string(), "no value was observed");
        observer.observe(&Tensor::<2>::zeros([3, 0], &device)).unwrap();
        assert!(matches!(observer.range(), Err(Error::NothingObserved)));
        let mut empty = new.clone();
        empty.load_state(observer.state()).unwrap();
        assert_eq!(empty, observer);

        observer.observe(&Tensor::<2>::zeros([3, 2], &device)).unwrap();
        assert_eq!(observer.range().unwrap(), Range { low: 0.0, high: 0.0 });
        assert_eq!(observer.range().unwrap().scale(Format::E4M3FN), 1.0);
        let uniform = observer.range().unwrap().apply(Uniform::affine(4).unwrap()).unwrap();
        assert_eq!(uniform.quantize(&tensor(&[0.0, 0.2], &device)).unwrap().scales(), [1.0]);

        let mut constant = new.clone();
        constant.observe(&tensor(&[-2.5; 7], &device)).unwrap();
        assert_eq!(constant.range().unwrap(), Range { low: -2.5, high: -2.5 });
        assert_eq!(constant.range().unwrap().scale(Format::E4M3FN), 448.0 / 2.5);

        let before = constant.clone();
        for (bad, what) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
            let error = constant.observe(&tensor(&[1.0, bad, 9.0], &device)).unwrap_err();
            assert_eq!(error.to_string(), format!("element 1 is {what}, an observer needs finite values"));
            assert_eq!(constant, before, "and nothing changed");
        }

        // Saved in the middle, resumed elsewhere.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("observer.bpk");
        let mut old = new.clone();
        old.observe(&tensor(&[0.1, -0.7, 3.0], &device)).unwrap();
        old.state().save(&path).unwrap();
        let mut resumed = new.clone();
        resumed.load_state(State::load(&path, &device).unwrap()).unwrap();
        assert_eq!(resumed, old);
        for observer in [&mut old, &mut resumed] {
            observer.observe(&tensor(&[-1.3, 0.2], &device)).unwrap();
        }
        assert_eq!(resumed, old);
        assert!(resumed.load_state(old.state().with("other", 1u64)).is_err());
        assert_eq!(resumed, old);
    }
}

#[test]
fn every_observer_treats_odd_input_alike() {
    check(MinMax::new());
    check(MovingAverageMinMax::new(0.1).unwrap());
    check(Percentile::new(0.99).unwrap());
    check(Percentile::new(0.5).unwrap().capacity(4).unwrap());
    check(MseOptimal::new(Uniform::affine(8).unwrap()));
    check(MseOptimal::new(Format::E4M3FN));
}

#[test]
fn parameters_are_checked() {
    for p in [0.49, 1.01, f64::NAN] {
        assert!(matches!(Percentile::new(p), Err(Error::Parameter { parameter: "p", .. })));
    }
    for c in [0.0, 1.5, f64::NAN] {
        assert!(matches!(MovingAverageMinMax::new(c), Err(Error::Parameter { parameter: "averaging", .. })));
    }
    assert!(Percentile::new(0.9).unwrap().capacity(0).is_err());
    assert!(
        MseOptimal::new(Format::E4M3FN).candidates(0).is_err() && MseOptimal::new(Format::E4M3FN).capacity(0).is_err()
    );
    let wrong = MseOptimal::new(Format::E4M3FN).error(Range { low: 0.0, high: 1.0 });
    assert!(matches!(wrong, Err(Error::NothingObserved)));
}
