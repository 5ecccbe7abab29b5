//! Every kind of bad or borderline input has one named outcome, the same on every backend.

#![forbid(unsafe_code)]

use burn::module::{Module, Param};
use burn::nn::loss::CrossEntropyLoss;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use core_tensor::{Error, Frozen, LeafName, Program, ProgramError, Tree, central_difference};
use crucible_tests::draw::Draw;

fn device() -> Device {
    Device::default()
}

fn draw(seed: u64) -> Draw {
    Draw::new(seed, &device())
}

fn vector(data: &[f32]) -> Tensor<1> {
    Tensor::from_data(TensorData::new(data.to_vec(), [data.len()]), &device())
}

fn tree(data: &[f32]) -> Tree {
    Tree::empty().push("x", vector(data)).unwrap()
}

fn numbers(tree: &Tree) -> Vec<f64> {
    tree.to_data().into_iter().flat_map(|(_, data)| data.iter::<f64>().collect::<Vec<_>>()).collect()
}

fn number(tensor: Tensor<1>) -> f64 {
    tensor.into_data().iter::<f64>().next().expect("one element")
}

/// `Σ x²` of the leaf `x`, whatever the batch.
fn squares(point: &Tree) -> Program<()> {
    Program::record_tree(point, &(), |point, _| point.get::<1>("x").expect("the leaf").square().sum()).unwrap()
}

fn program_error<T>(result: core_tensor::Result<T>) -> ProgramError {
    match result {
        Err(Error::Program(error)) => error,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("no error"),
    }
}

// ---- numbers that are not finite ------------------------------------------------------------------------------

#[test]
fn nan_and_infinity_are_values_to_look_at_not_errors() {
    let good = tree(&[1.0, -2.0]);
    assert_eq!(good.is_finite().value(), 1.0);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let point = tree(&[1.0, bad]);
        assert_eq!(point.is_finite().value(), 0.0, "{bad}");
        let norm = point.norm().value();
        assert!(if bad.is_nan() { norm.is_nan() } else { norm == f64::INFINITY }, "{bad}: norm {norm}");

        let out = squares(&good).value_and_grad(&point, &()).unwrap();
        assert!(!number(out.value).is_finite(), "{bad}");
        assert_eq!(out.gradient.is_finite().value(), 0.0, "{bad}");
        let gradient = numbers(&out.gradient);
        assert_eq!(gradient[0], 2.0, "the finite element keeps its derivative");
        assert!(!gradient[1].is_finite(), "{bad}: {gradient:?}");
    }
}

#[test]
fn a_non_finite_direction_gives_a_non_finite_product() {
    let point = tree(&[1.0, 2.0]);
    let product = squares(&point).hvp(&point, &(), &tree(&[1.0, f32::NAN])).unwrap();
    let product = numbers(&product);
    assert!(product[0] == 2.0 && product[1].is_nan(), "{product:?}");
}

// ---- nothing at all -------------------------------------------------------------------------------------------

#[test]
fn the_empty_tree_is_a_point_of_no_dimensions() {
    let empty = Tree::empty();
    assert_eq!((empty.len(), empty.num_elements(), empty.norm().value(), empty.is_finite().value()), (0, 0, 0.0, 1.0));
    assert_eq!(empty.clone().scale(2.0).axpy(1.0, &empty).unwrap().len(), 0);
    assert_eq!(empty.dot(&empty).unwrap().value(), 0.0);
    let program = Program::record_tree(&empty, &vector(&[1.0, 2.0]), |_, x| x.clone().sum()).unwrap();
    let out = program.value_and_grad(&empty, &vector(&[3.0, 4.0])).unwrap();
    assert_eq!((number(out.value), out.gradient.len(), out.absent.len()), (7.0, 0, 0));
    let out = program.jvp(&empty, &vector(&[3.0, 4.0]), &empty).unwrap();
    assert_eq!((out.directional().value(), out.hessian_vector.len()), (0.0, 0));
}

#[test]
fn a_frozen_module_is_an_empty_point() {
    let model = LinearConfig::new(2, 1).init(&device()).no_grad();
    assert!(Tree::from_module(&model).is_empty());
    let x = draw(1).tensor([3, 2], -1.0, 1.0);
    let program = Program::record(&model, &x, |model: &Linear, x| model.forward(x.clone()).sum()).unwrap();
    let out = program.value_and_grad(&Tree::empty(), &x).unwrap();
    let eager = number(model.forward(x).sum());
    assert!((number(out.value) - eager).abs() <= 1e-5 * (1.0 + eager.abs()));
    assert!(out.gradient.is_empty() && out.absent.is_empty());
}

#[test]
fn a_batch_of_no_rows_sums_to_nothing_and_has_no_mean() {
    let point = Tree::empty().push("scale", draw(2).tensor([1, 2], -1.0, 1.0)).unwrap();
    let none = Tensor::<2>::from_data(TensorData::new(Vec::<f32>::new(), [0, 2]), &device());
    let squares = |point: &Tree, x: &Tensor<2>| (x.clone() * point.get::<2>("scale").expect("the leaf")).square();
    let program = Program::record_tree(&point, &none, move |point, x| squares(point, x).sum()).unwrap();
    let out = program.jvp(&point, &none, &point.ones_like()).unwrap();
    assert_eq!(number(out.value), 0.0);
    assert_eq!((numbers(&out.gradient), numbers(&out.hessian_vector)), (vec![0.0; 2], vec![0.0; 2]));
    // The same program serves the next batch that has rows.
    let some = draw(3).tensor([4, 2], 0.5, 1.0);
    assert!(number(program.value(&point, &some).unwrap()) > 0.0);

    let mean = Program::record_tree(&point, &none, move |point, x| squares(point, x).mean()).unwrap();
    assert!(number(mean.value(&point, &none).unwrap()).is_nan(), "a mean over nothing is NaN, as in Burn");
}

#[test]
fn leaves_without_elements_are_carried_along() {
    let point = Tree::empty().push("none", vector(&[])).unwrap().push("x", vector(&[3.0])).unwrap();
    assert_eq!((point.len(), point.num_elements(), point.norm().value()), (2, 1, 3.0));
    let flat = point.flatten().unwrap();
    assert_eq!(flat.dims(), [1]);
    point.unflatten(flat).unwrap().same_structure(&point).unwrap();
    let out = squares(&point).value_and_grad(&point, &()).unwrap();
    assert_eq!((numbers(&out.gradient), out.absent), (vec![6.0], vec!["none".to_string()]));
}

#[test]
fn a_scalar_is_a_leaf_of_shape_one() {
    // Burn's scalars have rank 1: there is no tensor of rank 0 to make a leaf of.
    let scalar = vector(&[1.0, 2.0]).sum();
    let point = Tree::empty().push("x", scalar).unwrap();
    assert_eq!((point.len(), point.num_elements(), point.norm().value()), (1, 1, 3.0));
    assert_eq!(point.get::<1>("x").unwrap().dims(), [1]);
    let error = point.get::<0>("x").unwrap_err();
    assert_eq!(error.to_string(), "leaf `x` has rank 1 (shape [1]), asked for as rank 0");
    assert_eq!(numbers(&point.clone().scale(2.0).axpy(1.0, &point).unwrap()), [9.0]);
    let out = squares(&point).jvp(&point, &(), &tree(&[1.0])).unwrap();
    assert_eq!((number(out.value), numbers(&out.gradient), numbers(&out.hessian_vector)), (9.0, vec![6.0], vec![2.0]));
}

// ---- element types --------------------------------------------------------------------------------------------

#[test]
fn leaves_of_several_precisions_live_together() {
    let wide = match device().supports_dtype(DType::F64) {
        true => DType::F64,
        false => DType::F16,
    };
    if !device().supports_dtype(wide) {
        // ndarray's only other float type is f64 and wgpu's is f16: one of them is always there.
        panic!("no second float type on {:?}", device());
    }
    let second = Tensor::<1>::from_data(TensorData::new(vec![4.0f32], [1]), (&device(), wide));
    let point = tree(&[3.0]).push("y", second).unwrap();
    assert_eq!(point.norm().value(), 5.0);
    assert_eq!(point.dot(&point.ones_like()).unwrap().value(), 7.0);
    let dtypes: Vec<DType> = point.to_data().iter().map(|(_, data)| data.dtype()).collect();
    assert_eq!(dtypes, [DType::F32, wide]);
    // Arithmetic keeps each leaf's own type, also with a tree of other types.
    let sum = point.clone().axpy(2.0, &tree(&[1.0]).push("y", vector(&[1.0])).unwrap()).unwrap();
    assert_eq!(numbers(&sum), [5.0, 6.0]);
    assert_eq!(sum.to_data().iter().map(|(_, data)| data.dtype()).collect::<Vec<_>>(), dtypes);
    let back = point.unflatten(point.flatten().unwrap()).unwrap();
    assert_eq!(numbers(&back), [3.0, 4.0]);
}

#[test]
fn a_function_that_mixes_precisions_is_refused_or_exact() {
    let other = if device().supports_dtype(DType::F64) { DType::F64 } else { DType::F16 };
    let x = Tensor::<1>::from_data(TensorData::new(vec![2.0f32, 1.0], [2]), (&device(), other));
    let point = tree(&[3.0, 4.0]);
    let recorded =
        Program::record_tree(&point, &x, |point, x| (point.get::<1>("x").expect("the leaf") * x.clone()).sum());
    match recorded {
        Err(Error::Program(ProgramError::Panicked { message })) => assert!(!message.is_empty()),
        Err(error) => panic!("another error: {error}"),
        Ok(program) => assert_eq!(number(program.value(&point, &x).unwrap()), 10.0),
    }
}

#[test]
fn integers_are_no_leaves() {
    let integers = Tensor::<1, Int>::from_data([1, 2], &device()).into_dispatch();
    let error = Tree::from_leaves([(LeafName::new("steps"), integers)]).unwrap_err();
    assert!(error.to_string().starts_with("leaf `steps` has dtype "), "{error}");
    let error = tree(&[1.0]).push("x", vector(&[2.0])).unwrap_err();
    assert_eq!(error.to_string(), "leaf `x` appears twice; paths within a tree must differ");
}

// ---- parameters that play no part -----------------------------------------------------------------------------

#[derive(Module, Debug)]
struct TwoHeads {
    used: Linear,
    ignored: Linear,
    detached: Param<Tensor<1>>,
}

fn two_heads() -> TwoHeads {
    let mut draw = draw(3);
    let linear = || LinearConfig::new(2, 1).with_bias(false).init(&device());
    let (used, ignored) = (draw.module(linear()), draw.module(linear()));
    TwoHeads { used, ignored, detached: draw.param([1]) }
}

#[test]
fn an_ignored_parameter_is_absent_not_zero() {
    let model = two_heads();
    let x = draw(4).tensor([3, 2], -1.0, 1.0);
    let program = Program::record(&model, &x, |model: &TwoHeads, x| {
        let scale = model.detached.val().detach();
        (model.used.forward(x.clone()) * scale.unsqueeze()).square().mean()
    })
    .unwrap();
    let point = Tree::from_module(&model);
    assert_eq!(point.len(), 3);
    let first = program.value_and_grad(&point, &x).unwrap();
    let all = program.jvp(&point, &x, &point.ones_like()).unwrap();
    let at = program.linearize(&point, &x).unwrap();
    for (gradient, absent) in
        [(&first.gradient, &first.absent), (&all.gradient, &all.absent), (&at.gradient, &at.absent)]
    {
        assert_eq!(gradient.names().iter().map(|name| name.path.as_str()).collect::<Vec<_>>(), ["used.weight"]);
        assert_eq!(*absent, ["ignored.weight", "detached"]);
    }
    assert_eq!(all.hessian_vector.names()[0].path, "used.weight");
    // What the direction says about an ignored leaf has no influence.
    let elsewhere =
        point.ones_like().map_flat(|name, x| if name.path == "ignored.weight" { x * 1e6 } else { x }).unwrap();
    assert_eq!(numbers(&program.hvp(&point, &x, &elsewhere).unwrap()), numbers(&all.hessian_vector));
    // An optimizer step from such a gradient leaves the others alone.
    assert!(first.gradient.into_params().is_ok());
}

#[test]
fn a_function_of_the_batch_alone_has_no_gradient() {
    let point = tree(&[1.0, 2.0]);
    let program = Program::record_tree(&point, &vector(&[2.0]), |_, x| x.clone().square()).unwrap();
    let out = program.jvp(&point, &vector(&[3.0]), &point).unwrap();
    assert_eq!((number(out.value.clone()), out.directional().value()), (9.0, 0.0));
    assert!(out.gradient.is_empty() && out.hessian_vector.is_empty());
    assert_eq!(out.absent, ["x"]);
}

// ---- functions that cannot be recorded ------------------------------------------------------------------------

#[test]
fn control_flow_on_values_is_refused_with_a_way_out() {
    let point = tree(&[0.5, 2.0]);
    type Function = fn(&Tree, &()) -> Tensor<1>;
    let reads: [(Function, &str); 3] = [
        (
            |point, _| {
                let x = point.get::<1>("x").expect("the leaf");
                if x.clone().sum().into_scalar::<f32>() > 0.0 { x.square().sum() } else { x.sum() }
            },
            "`NumericFloat(Sum)`",
        ),
        (
            |point, _| {
                let x = point.get::<1>("x").expect("the leaf");
                let largest = x.clone().exp().into_data().iter::<f32>().fold(0.0, f32::max);
                (x / largest).sum()
            },
            "`Float(Exp)`",
        ),
        (
            |point, _| {
                let x = point.get::<1>("x").expect("the leaf");
                if x.clone().greater_scalar(1.0).any().into_scalar::<bool>() { x.square().sum() } else { x.sum() }
            },
            "`BaseBool(Any)`",
        ),
    ];
    for (read, operation) in reads {
        let error = program_error(Program::record_tree(&point, &(), read));
        assert!(matches!(error, ProgramError::DataDependent { .. }), "{error:?}");
        for part in [operation, "after parameter `x`", "`central_difference`"] {
            assert!(error.to_string().contains(part), "{error} should contain {part}");
        }
    }
    // The way out: an eager gradient, differenced. Here f = Σ x², so H·v = 2v.
    let gradient = |at: &Tree| {
        let x = at.get::<1>("x")?.autodiff().require_grad();
        let loss = if x.clone().sum().into_scalar::<f32>() > 0.0 { x.clone().square().sum() } else { x.clone().sum() };
        let gradient = x.grad(&loss.backward()).expect("the loss depends on x");
        Tree::empty().push("x", gradient)
    };
    let product = central_difference(gradient, &point, &tree(&[1.0, -1.0]), 1e-2).unwrap();
    let error = numbers(&product).iter().zip([2.0, -2.0]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(error < 1e-3, "{:?}", numbers(&product));
    for step in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = program_error(central_difference(gradient, &point, &point, step));
        assert!(matches!(error, ProgramError::Step { .. }), "{error}");
    }
}

#[test]
fn the_thread_records_again_after_a_refusal() {
    let point = tree(&[1.0]);
    let refused = Program::record_tree(&point, &(), |point, _| {
        let x = point.get::<1>("x").expect("the leaf");
        x.clone() * x.into_scalar::<f32>()
    });
    assert!(refused.is_err());
    assert_eq!(number(squares(&point).value(&tree(&[4.0]), &()).unwrap()), 16.0);
}

#[test]
fn a_panic_in_the_function_is_an_error_with_its_message() {
    let point = tree(&[1.0, 2.0]);
    let error = program_error(Program::record_tree(&point, &(), |_, _| panic!("the dataset ran out")));
    assert!(matches!(&error, ProgramError::Panicked { message } if message == "the dataset ran out"), "{error:?}");
    let misfit = vector(&[1.0, 2.0, 3.0]);
    let error = program_error(Program::record_tree(&point, &misfit, |point, x| {
        (point.get::<1>("x").expect("the leaf") * x.clone()).sum()
    }));
    assert!(matches!(&error, ProgramError::Panicked { message } if !message.is_empty()), "{error:?}");
}

#[test]
fn a_captured_tensor_is_refused_and_belongs_into_the_batch() {
    let point = tree(&[1.0, 2.0]);
    let captured = vector(&[3.0, 4.0]);
    let outside = captured.clone();
    let result = Program::record_tree(&point, &(), move |point, _| {
        (point.get::<1>("x").expect("the leaf") * outside.clone()).sum()
    });
    let error = program_error(result);
    assert!(matches!(error, ProgramError::ForeignTensor { .. }), "{error:?}");
    assert!(error.to_string().contains("hand it in with the batch"), "{error}");
    let result = Program::record_tree(&point, &(), move |_, _| vector(&[1.0]));
    assert!(matches!(program_error(result), ProgramError::ForeignResult { .. }));
    let program =
        Program::record_tree(&point, &captured, |point, x| (point.get::<1>("x").expect("the leaf") * x.clone()).sum());
    assert_eq!(number(program.unwrap().value(&point, &captured).unwrap()), 11.0);
}

#[test]
fn a_captured_module_is_refused_and_belongs_into_the_batch_frozen() {
    let model = draw(5).module(LinearConfig::new(2, 1).init(&device()));
    let point = Tree::empty().push("x", draw(6).tensor([1, 2], -1.0, 1.0)).unwrap();
    let captured = model.clone();
    let result = Program::record_tree(&point, &(), move |point, _| {
        captured.forward(point.get::<2>("x").expect("the leaf")).sum()
    });
    let error = program_error(result);
    assert!(matches!(error, ProgramError::ForeignTensor { .. }), "{error:?}");
    let frozen = Frozen(model.clone());
    let program = Program::record_tree(&point, &frozen, |point, model| {
        model.0.forward(point.get::<2>("x").expect("the leaf")).sum()
    });
    let out = program.unwrap().value_and_grad(&point, &frozen).unwrap();
    let weight: Vec<f64> = model.weight.val().into_data().iter::<f64>().collect();
    assert_eq!(numbers(&out.gradient), weight);
}

// ---- shapes and structures ------------------------------------------------------------------------------------

#[test]
fn other_batch_shapes_are_recorded_when_first_met() {
    let model = draw(7).module(LinearConfig::new(3, 2).init(&device()));
    let point = Tree::from_module(&model);
    let batch = |rows: usize| {
        let mut draw = draw(rows as u64);
        (draw.tensor([rows, 3], -1.0, 1.0), draw.ints([rows], &[0, 1]))
    };
    let function = |model: &Linear, (x, y): &(Tensor<2>, Tensor<1, Int>)| {
        CrossEntropyLoss::new(None, &x.device()).forward(model.forward(x.clone()), y.clone())
    };
    let program = Program::record(&model, &batch(4), function).unwrap();
    for rows in [4, 1, 7, 4] {
        let batch = batch(rows);
        let shared = program.jvp(&point, &batch, &point).unwrap();
        let own = Program::record(&model, &batch, function).unwrap().jvp(&point, &batch, &point).unwrap();
        assert_eq!(number(shared.value), number(own.value));
        assert_eq!(numbers(&shared.hessian_vector), numbers(&own.hessian_vector));
    }
}

#[test]
fn a_shape_that_does_not_fit_is_an_error_when_it_is_met() {
    let model = draw(8).module(LinearConfig::new(3, 2).init(&device()));
    let point = Tree::from_module(&model);
    let x = draw(9).tensor([2, 3], -1.0, 1.0);
    let program = Program::record(&model, &x, |model: &Linear, x: &Tensor<2>| model.forward(x.clone()).sum()).unwrap();
    let narrow = draw(9).tensor([2, 2], -1.0, 1.0);
    let error = program_error(program.value(&point, &narrow));
    assert!(matches!(error, ProgramError::Panicked { .. }), "{error:?}");
    assert!(number(program.value(&point, &x).unwrap()).is_finite(), "the program still serves what fits");
}

#[test]
fn trees_of_another_structure_are_named_leaf_by_leaf() {
    let x = vector(&[1.0, 2.0]);
    let point = Tree::empty().push("weight", x.clone()).unwrap().push("bias", vector(&[3.0])).unwrap();
    let program = Program::record_tree(&point, &(), |point, _| {
        let (weight, bias) = (point.get::<1>("weight"), point.get::<1>("bias"));
        (weight.expect("the leaf") * bias.expect("the leaf")).sum()
    })
    .unwrap();
    let missing = point.filter(|name| name.path == "weight");
    let renamed = missing.clone().push("offset", vector(&[1.0])).unwrap();
    let reshaped = missing.clone().push("bias", vector(&[1.0, 2.0])).unwrap();
    let swapped = Tree::empty().push("bias", vector(&[3.0])).unwrap().push("weight", x).unwrap();
    for (wrong, named) in [(&missing, "`bias`"), (&renamed, "`offset`"), (&reshaped, "`bias`"), (&swapped, "`bias`")] {
        for error in [
            program.jvp(&point, &(), wrong).map(drop).unwrap_err(),
            program.hvp(&point, &(), wrong).map(drop).unwrap_err(),
            program.value_and_grad(wrong, &()).map(drop).unwrap_err(),
            program.linearize(&point, &()).unwrap().hvp(wrong).map(drop).unwrap_err(),
            point.dot(wrong).map(drop).unwrap_err(),
        ] {
            assert!(matches!(error, Error::Structure { .. } | Error::Shape { .. }), "{error:?}");
            assert!(error.to_string().contains(named), "{error} should name {named}");
        }
    }
    // The shape of a point may change as the shape of a batch may, if the function allows it; its leaves may not.
    let model = LinearConfig::new(3, 2).init(&device());
    let error = missing.write_into(model.clone()).map(drop).unwrap_err();
    assert!(error.to_string().contains("`weight`"), "{error}");
    let error = renamed.filter(|name| name.path == "offset").write_into(model).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "leaf `offset` is not in the module");
}

#[test]
fn a_direction_of_another_precision_is_taken_in_that_of_the_point() {
    let other = if device().supports_dtype(DType::F64) { DType::F64 } else { DType::F16 };
    let direction = Tensor::<1>::from_data(TensorData::new(vec![1.0f32, -1.0], [2]), (&device(), other));
    let direction = Tree::empty().push("x", direction).unwrap();
    let point = tree(&[1.0, 2.0]);
    let program = squares(&point);
    let product = program.jvp(&point, &(), &direction).unwrap().hessian_vector;
    let again = program.linearize(&point, &()).unwrap().hvp(&direction).unwrap();
    for product in [product, again] {
        assert_eq!(numbers(&product), [2.0, -2.0]);
        assert_eq!(product.to_data()[0].1.dtype(), DType::F32);
    }
}

#[cfg(all(feature = "flex", feature = "ndarray"))]
#[allow(deprecated)] // Burn deprecates ndarray; this project supports it.
#[test]
fn point_batch_and_direction_are_on_one_device() {
    let on = |device: &Device| Tensor::<1>::from_data([1.0, 2.0], device);
    let (here, there) = (Device::flex(), Device::ndarray());
    let at = |device: &Device| Tree::empty().push("x", on(device)).unwrap();
    let product = |point: &Tree, x: &Tensor<1>| (point.get::<1>("x").expect("the leaf") * x.clone()).square().sum();
    let program = Program::record_tree(&at(&here), &on(&here), product).unwrap();
    for error in [
        program.value(&at(&here), &on(&there)).map(drop),
        program.jvp(&at(&here), &on(&here), &at(&there)).map(drop),
        Program::record_tree(&at(&here), &on(&there), product).map(drop),
    ] {
        let error = program_error(error);
        assert!(matches!(error, ProgramError::Device { .. }), "{error:?}");
        assert!(error.to_string().contains("`to_device`"), "{error}");
    }
    // All of it on the other device is another matter.
    let out = program.jvp(&at(&there), &on(&there), &at(&there)).unwrap();
    assert_eq!(numbers(&out.hessian_vector), [2.0, 16.0]);
}

#[test]
fn an_operation_without_an_executor_is_named_at_record_time() {
    let point = Tree::empty().push("image", draw(10).tensor([1, 1, 3, 3], -1.0, 1.0)).unwrap();
    let error = program_error(Program::record_tree(&point, &(), |point, _| {
        let image = point.get::<4>("image").expect("the leaf");
        interpolate(image, InterpolateOptions::new(InterpolateMode::Lanczos3).with_output_size([5, 5])).square().sum()
    }));
    assert!(matches!(error, ProgramError::NotExecutable { .. }), "{error:?}");
    assert!(error.to_string().contains("Interpolate") && error.to_string().contains("`image`"), "{error}");
}

#[test]
fn losses_have_one_output_and_cotangents_fit() {
    let point = tree(&[1.0, 2.0]);
    let program =
        Program::record_tree(&point, &(), |point, _| point.get::<1>("x").expect("the leaf").square()).unwrap();
    let errors = [
        program.value_and_grad(&point, &()).map(drop),
        program.jvp(&point, &(), &point).map(drop),
        program.linearize(&point, &()).map(drop),
    ];
    for error in errors.map(program_error) {
        assert!(matches!(error, ProgramError::NotScalar { outputs: 2, .. }), "{error:?}");
        assert!(error.to_string().contains("use `vjp` or `jacobian`"), "{error}");
    }
    let short = program_error(program.vjp(&point, &(), &[vector(&[1.0, 1.0]), vector(&[1.0])]));
    assert!(matches!(short, ProgramError::Cotangent { index: 1, found: 1, expected: 2 }), "{short:?}");
    let (value, rows) = program.vjp(&point, &(), &[]).unwrap();
    assert_eq!((value.dims(), rows.len()), ([2], 0));
    let (_, rows) = program.jacobian(&point, &()).unwrap();
    assert_eq!((numbers(&rows[0]), numbers(&rows[1])), (vec![2.0, 0.0], vec![0.0, 4.0]));
}

// ---- kernels that panic ---------------------------------------------------------------------------------------

#[test]
fn a_kernel_that_panics_is_an_error_and_the_program_lives_on() {
    let point = tree(&[1.0, 2.0, 4.0]);
    let picks = |picks: [i64; 2]| Tensor::<1, Int>::from_data(TensorData::new(picks.to_vec(), [2]), &device());
    let program = Program::record_tree(&point, &picks([0, 2]), |point, picks: &Tensor<1, Int>| {
        point.get::<1>("x").expect("the leaf").select(0, picks.clone()).sum()
    });
    let program = program.unwrap();
    // An entry that the table does not have.
    match program_error(program.value(&point, &picks([0, 7]))) {
        ProgramError::Execution { message } => assert!(!message.is_empty()),
        other => panic!("another error: {other}"),
    }
    assert_eq!(number(program.value(&point, &picks([1, 2])).unwrap()), 6.0);
}
