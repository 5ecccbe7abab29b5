//! The rules that promise to wait for no device do not: on a device that records operations instead of running them there is
//! nothing to read, and whoever tries to panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::backend::DispatchTensorKind;
use burn::tensor::{DType, Device, Tensor};
use core_tensor::Tree;
use core_tensor::transform::{Context, GradientTransform, Update};

use crate::{
    AcClip, AdaptiveGradientClip, AutoClip, ClipByBlockRms, ClipByGlobalNorm, ClipByGroupNorm, ClipByTensorNorm,
    ClipByValue, NonFinite, NonFinitePolicy, NormaliseGradient, Reports, Spam, StableAdamW, UnitAxes, ZClip,
};

/// What applying a rule to a recorded gradient gives, or whether it tried to read.
fn record<T>(f: impl FnOnce(Tree) -> T) -> Result<T, ()> {
    let device = Device::capture();
    let mut outcome = Err(());
    let _ = device.clone().capture_scope(|scope| {
        let grads = Tree::empty()
            .push("weight", Tensor::<2>::ones([3, 4], (&device, DType::F32)))
            .and_then(|tree| tree.push("bias", Tensor::<1>::ones([4], (&device, DType::F32))))
            .unwrap();
        outcome = catch_unwind(AssertUnwindSafe(|| f(grads))).map_err(drop);
        scope.complete([], [])
    });
    outcome
}

/// Two steps.
fn apply(mut rule: impl GradientTransform) -> Result<(), ()> {
    record(|grads| {
        for step in 0..2 {
            let context = Context::new(step).with_params(&grads);
            let Update::Apply(clipped) = rule.apply(grads.clone(), &context).unwrap() else { panic!("applied") };
            clipped.same_structure(&grads).unwrap();
            assert!(clipped.iter().all(|(_, leaf)| matches!(leaf.kind, DispatchTensorKind::Capture(_))));
        }
    })
}

#[test]
fn rules_without_synchronisation_read_nothing() {
    for order in [1.0, 2.0, 3.0, f64::INFINITY] {
        let rule = || ClipByGlobalNorm::new(0.5).unwrap().with_p(order).unwrap();
        apply(rule()).unwrap();
        apply(rule().exact()).unwrap();
    }
    apply(ClipByValue::new(0.5).unwrap()).unwrap();
    apply(ClipByTensorNorm::new(0.5).unwrap()).unwrap();
    apply(ClipByGroupNorm::new(0.5, |name| Some(name.path.clone())).unwrap()).unwrap();
    apply(ClipByBlockRms::new(0.5).unwrap()).unwrap();
    apply(NormaliseGradient::new()).unwrap();
    apply(AdaptiveGradientClip::new(0.1, UnitAxes::default()).unwrap()).unwrap();
    apply(AcClip::new(0.9, 0.99, 1.0).unwrap()).unwrap();
    apply(Spam::new(5000.0, 0.999, 500).unwrap()).unwrap();
    apply(StableAdamW::new(0.9, 0.99, 1e-8, 0.1).unwrap()).unwrap();
    apply(NonFinite::new(NonFinitePolicy::Zero)).unwrap();
    apply(NonFinite::new(NonFinitePolicy::Propagate)).unwrap();
}

#[test]
fn folding_and_reporting_read_nothing() {
    let reports = Reports::default();
    let known = record(|grads| {
        let clip = ClipByGlobalNorm::new(0.5).unwrap().measure(&grads).unwrap();
        grads.clone().axpy_by(&clip.fold(-0.1), &grads).unwrap();
        let mut rule = ClipByGlobalNorm::new(0.5).unwrap().report_to(&reports);
        rule.apply(grads, &Context::new(0)).unwrap();
        let clip = reports.last().unwrap();
        (clip.norm.known(), clip.coefficient.known(), clip.threshold.known())
    });
    assert_eq!(known, Ok((None, None, Some(0.5))));
}

#[test]
fn rules_with_a_synchronisation_and_readers_are_caught() {
    assert!(apply(ZClip::default()).is_err());
    assert!(apply(AutoClip::new(50.0).unwrap()).is_err());
    assert!(apply(NonFinite::new(NonFinitePolicy::Error)).is_err());
    assert!(record(|grads| ClipByGlobalNorm::new(0.5).unwrap().measure(&grads).unwrap().clipped()).is_err());
}
