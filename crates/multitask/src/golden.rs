//! One matrix through every aggregator, against the values that TorchJD prints in its documentation (PyTorch, f32; ECOS
//! and CLARABEL for Nash-MTL and CAGrad), to their four decimals.

use burn::tensor::Tensor;
use core_tensor::Tree;
use core_tensor::testing::host_devices;

use crate::*;

fn check(name: &str, aggregator: &mut dyn Aggregator, expected: [f64; 3], tolerance: f64) {
    for device in host_devices() {
        let row = |x: [f32; 3]| Tree::empty().push("w", Tensor::<1>::from_data(x, &device)).unwrap();
        let out = aggregator.aggregate(&[row([-4.0, 1.0, 1.0]), row([6.0, 1.0, 1.0])]).unwrap();
        let got: Vec<f64> = out.gradient.to_data()[0].1.iter().collect();
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() <= tolerance, "{name}: {got} and {expected}");
        }
    }
}

#[test]
fn the_golden_table() {
    let digits = 0.5e-4 + 1e-6;
    check("upgrad", &mut UpGrad::new(), [0.2929, 1.9004, 1.9004], digits);
    check("dualproj", &mut DualProj::new(), [0.5563, 1.1109, 1.1109], digits);
    check("mgda", &mut Mgda::new(), [0.0, 1.0, 1.0], 1e-6);
    check("cagrad", &mut CaGrad::new(0.5).unwrap(), [0.1835, 1.2041, 1.2041], digits);
    // ECOS stops early: its weights are some 10⁻⁴ off.
    check("nash_mtl", &mut NashMtl::new().max_norm(1.0).unwrap(), [0.0542, 0.7061, 0.7061], 2e-4);
    check("fairgrad", &mut FairGrad::new(1.0).unwrap(), [0.0766, 0.9985, 0.9985], digits);
    check("imtl_g", &mut ImtlG::new(), [0.0767, 1.0, 1.0], digits);
    check("aligned_mtl", &mut AlignedMtl::new(), [0.2133, 0.9673, 0.9673], digits);
    check("config", &mut ConFig::new(), [0.1588, 2.0706, 2.0706], digits);
    check("pcgrad", &mut PcGrad::new(1), [0.5848, 3.8012, 3.8012], digits);
    check("mean", &mut Mean::new(), [1.0, 1.0, 1.0], 0.0);
    check("sum", &mut Sum::new(), [2.0, 2.0, 2.0], 0.0);
    check("constant", &mut Constant::new(&[1.0, 2.0]).unwrap(), [8.0, 3.0, 3.0], 0.0);
    check("trimmed_mean", &mut TrimmedMean::new(0), [1.0, 1.0, 1.0], 0.0);
    // Averages that stay at 0, for the table is run on several devices.
    check("gradvac", &mut GradVac::new(1).beta(0.0).unwrap(), [0.5848, 3.8012, 3.8012], digits);
}
