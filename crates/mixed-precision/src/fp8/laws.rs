//! What the layers have to keep, for every recipe and on every host backend.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use core_tensor::testing::host_devices;

use super::tiles::{Tiles, round_tiles};
use super::{AmaxChoice, Fp8Conv2d, Fp8Linear, Recipe};
use crate::{Format, sqnr};

fn recipes() -> [Recipe; 5] {
    let delayed = Recipe::delayed().history(4).unwrap();
    let block = Recipe::per_block().block(3).unwrap();
    [delayed, delayed.choice(AmaxChoice::MostRecent), Recipe::current(), Recipe::per_row(), block]
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

fn bits<const D: usize>(x: Tensor<D>) -> Vec<u32> {
    values(x).into_iter().map(f32::to_bits).collect()
}

/// Whole numbers from −2 to 2 without a pattern.
fn whole<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let count = shape.iter().product::<usize>() as u64;
    let data = (0..count).map(|i| (crate::word(seed, i) % 5) as f32 - 2.0).collect();
    Tensor::from_data(TensorData::new(data, shape), device)
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn set<const D: usize>(param: burn::module::Param<Tensor<D>>, value: Tensor<D>) -> burn::module::Param<Tensor<D>> {
    param.map(|old| value.set_require_grad(old.is_require_grad()))
}

#[test]
fn what_is_a_number_of_the_format_goes_through_a_linear_layer_unchanged() {
    for device in host_devices() {
        let device = device.autodiff();
        for recipe in recipes().map(|recipe| recipe.power_of_two_scales(true)) {
            let linear: Linear = LinearConfig::new(7, 5).init(&device);
            let linear = Linear {
                weight: set(linear.weight, whole([7, 5], 1, &device)),
                bias: linear.bias.map(|bias| set(bias, whole([5], 2, &device))),
            };
            let layer = Fp8Linear::new(linear.clone(), recipe);
            let x = whole([2, 3, 7], 3, &device).require_grad();
            let up = whole([2, 3, 5], 4, &device);
            let (y, want) = (layer.forward(x.clone()).unwrap(), linear.forward(x.clone()));
            assert_eq!(values(y.clone()), values(want.clone()), "{recipe:?}");
            let (grads, wanted) = ((y * up.clone()).sum().backward(), (want * up).sum().backward());
            assert_eq!(values(x.grad(&grads).unwrap()), values(x.grad(&wanted).unwrap()));
            assert_eq!(values(layer.weight.grad(&grads).unwrap()), values(linear.weight.grad(&wanted).unwrap()));
            let bias =
                |layer: &Option<burn::module::Param<Tensor<1>>>, grads| layer.as_ref().unwrap().grad(grads).unwrap();
            assert_eq!(values(bias(&layer.bias, &grads)), values(bias(&linear.bias, &wanted)));
            // A vector, and nothing at all.
            assert_eq!(values(layer.forward(whole([7], 5, &device)).unwrap()).len(), 5);
            assert_eq!(layer.forward(Tensor::<3>::zeros([2, 0, 7], &device)).unwrap().dims(), [2, 0, 5]);
        }
    }
}

#[test]
fn what_is_a_number_of_the_format_goes_through_a_convolution_unchanged() {
    let configs = [
        Conv2dConfig::new([4, 6], [3, 3]).with_padding(PaddingConfig2d::Same),
        Conv2dConfig::new([4, 6], [2, 4]).with_padding(PaddingConfig2d::Same),
        Conv2dConfig::new([4, 6], [3, 2]).with_groups(2).with_stride([2, 1]).with_bias(false),
        Conv2dConfig::new([4, 4], [2, 2])
            .with_groups(4)
            .with_dilation([2, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 2, 1, 2)),
    ];
    for device in host_devices() {
        let device = device.autodiff();
        for recipe in recipes().map(|recipe| recipe.power_of_two_scales(true)) {
            for config in &configs {
                let conv: Conv2d = config.init(&device);
                let shape = conv.weight.dims();
                let conv = Conv2d { weight: set(conv.weight.clone(), whole(shape, 1, &device)), ..conv };
                let layer = Fp8Conv2d::new(conv.clone(), recipe);
                let x = whole([2, 4, 5, 6], 2, &device).require_grad();
                let want = conv.forward(x.clone());
                let y = layer.forward(x.clone()).unwrap();
                let up = whole(want.dims(), 3, &device);
                assert_eq!(bits(y.clone()), bits(want.clone()), "{recipe:?} {config}");
                let (grads, wanted) = ((y * up.clone()).sum().backward(), (want * up).sum().backward());
                assert_eq!(values(x.grad(&grads).unwrap()), values(x.grad(&wanted).unwrap()), "{recipe:?} {config}");
                assert_eq!(values(layer.weight.grad(&grads).unwrap()), values(conv.weight.grad(&wanted).unwrap()));
                assert_eq!(layer.into_conv2d().stride, conv.stride);
            }
        }
    }
}

/// Products of operands rounded by hand: where the rounding matters.
#[test]
fn each_product_rounds_its_operands_along_its_own_sum() {
    for device in host_devices() {
        device.seed(5);
        let (plain, device) = (device.clone(), device.autodiff());
        for recipe in [Recipe::current(), Recipe::per_row(), Recipe::per_block().block(4).unwrap()] {
            let linear: Linear = LinearConfig::new(9, 6).with_bias(false).init(&device);
            let layer = Fp8Linear::new(linear.clone(), recipe);
            let (x, up) = (random::<2>([8, 9], &plain), random::<2>([8, 6], &plain) * 1e-4);
            let w = linear.weight.val().inner();
            let round = |x: &Tensor<2>, format, sum, weight| {
                let [rows, columns] = x.dims();
                let view = [rows, columns, 1];
                round_tiles(x.clone(), recipe, format, Tiles::new(view, recipe.tile(view, sum, weight))).unwrap()
            };
            let (e4m3, e5m2) = (Format::E4M3FN, Format::E5M2);
            let leaf = Tensor::from_inner(x.clone()).require_grad();
            let y = layer.forward(leaf.clone()).unwrap();
            assert_eq!(bits(y.clone().inner()), bits(round(&x, e4m3, 1, false).matmul(round(&w, e4m3, 0, true))));
            let grads = (y * Tensor::from_inner(up.clone())).sum().backward();
            let dx = round(&up, e5m2, 1, false).matmul(round(&w, e4m3, 1, true).transpose());
            assert_eq!(bits(leaf.grad(&grads).unwrap()), bits(dx));
            let dw = round(&x, e4m3, 0, false).transpose().matmul(round(&up, e5m2, 0, false));
            assert_eq!(bits(layer.weight.grad(&grads).unwrap()), bits(dw.clone()));
            let exact = x.clone().transpose().matmul(up.clone());
            assert!(values(dw.clone()) != values(exact.clone()), "the gradient is rounded");
            assert!(sqnr(&exact, &dw).unwrap() > 15.0, "and near");
        }
    }
}

#[test]
fn histories_move_in_training_only_and_the_gradients_with_the_backward_pass() {
    let device = Device::flex().autodiff();
    let recipe = Recipe::delayed().history(2).unwrap();
    let linear: Linear = LinearConfig::new(2, 1).with_bias(false).init(&device);
    let linear = Linear { weight: set(linear.weight, Tensor::from_data([[0.5], [0.25]], &device)), ..linear };
    let layer = Fp8Linear::new(linear, recipe);
    let scales = |layer: &Fp8Linear| {
        let s = layer.scaling.as_ref().unwrap();
        [s.input.scale(), s.weight.scale(), s.gradient.scale()]
    };
    let x = |a: f32, b: f32| Tensor::<2>::from_data([[a, b]], &device);
    assert_eq!(scales(&layer), [1.0; 3]);
    // 0.017 is 0.0175781 with the scale 1, 1000 saturates.
    let y = layer.forward(x(0.017, 1000.0)).unwrap();
    assert_eq!(values(y.clone()), [0.5 * 0.017_578_125 + 0.25 * 448.0]);
    assert_eq!(scales(&layer), [0.448, 896.0, 1.0]);
    let grads = (y * 4.0).sum().backward();
    assert_eq!(values(layer.weight.grad(&grads).unwrap()), [4.0 * 0.017_578_125, 4.0 * 448.0]);
    assert_eq!(scales(&layer), [0.448, 896.0, 14336.0]);
    let valid = layer.valid();
    let _ = valid.forward(x(1.0, 2.0).inner()).unwrap();
    assert_eq!(scales(&valid), scales(&layer), "nothing moves without autodiff");
    // The next step uses the scale of this one.
    let next = layer.forward(x(1000.0, 0.0)).unwrap();
    assert!((values(next)[0] / 500.0 - 1.0).abs() < 1e-6);
}

#[test]
fn records_of_the_plain_layer_load() {
    let device = Device::flex();
    let linear: Linear = LinearConfig::new(4, 3).init(&device);
    for recipe in [Recipe::current(), Recipe::delayed()] {
        let other: Linear = LinearConfig::new(4, 3).init(&device);
        let layer = Fp8Linear::new(other, recipe);
        let record = linear.clone().into_record().allow_partial(recipe == Recipe::delayed());
        let layer = layer.try_load_record(record).unwrap();
        assert_eq!((bits(layer.weight.val()), layer.weight.id), (bits(linear.weight.val()), linear.weight.id));
        assert_eq!(bits(layer.into_linear().weight.val()), bits(linear.weight.val()));
    }
    let layer = Fp8Linear::new(linear, Recipe::delayed().history(3).unwrap());
    let text = layer.to_string();
    assert!(text.starts_with("Fp8Linear {d_input: 4, d_output: 3, bias: true, recipe: Recipe"), "{text}");
    let other = Fp8Linear::new(LinearConfig::new(4, 3).init(&device), Recipe::delayed().history(5).unwrap());
    assert!(other.try_load_record(layer.into_record()).is_err(), "histories of another length");
}

#[test]
fn what_is_not_finite_reaches_the_gradients() {
    let device = Device::flex().autodiff();
    for recipe in recipes() {
        let layer = Fp8Linear::new(LinearConfig::new(2, 2).init(&device), recipe);
        let x = Tensor::<2>::ones([1, 2], &device).require_grad();
        let y = layer.forward(x.clone()).unwrap();
        let up = Tensor::<2>::from_data([[f32::INFINITY, 1.0]], &device);
        let grads = (y * up).sum().backward();
        assert!(values(x.grad(&grads).unwrap()).iter().all(|g| g.is_nan()), "{recipe:?}");
        let bad = layer.forward(Tensor::<2>::from_data([[f32::NAN, 1.0]], &device)).unwrap();
        assert!(values(bad).iter().all(|y| y.is_nan()));
    }
}
