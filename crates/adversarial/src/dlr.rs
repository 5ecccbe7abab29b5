//! The difference of logits ratio, a loss that does not vanish where a model is sure.

use burn::tensor::{Int, Tensor};

use crate::error::{Error, Result};

/// What keeps the denominators from zero.
const TINY: f64 = 1e-12;

/// `−(z_y − max_{i≠y} z_i) / (z_π1 − z_π3)` of every example, shape `[examples]`, to be maximised: positive where the
/// example is misclassified. `logits` have shape `[examples, classes]`, `π` orders them from the largest.
///
/// Cross-entropy's gradient vanishes in `f32` where a model is sure of itself; this ratio is invariant to shifts and scales of
/// the logits, and so is the sign of its gradient. Differentiable wherever the order of the logits is strict.
///
/// Cost: a sort of each row; no host synchronisation but that of reading the labels.
///
/// F. Croce, M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
/// ICML 2020, arXiv:2003.01690, equation 6.
///
/// # Errors
/// [`Error::TooFewClasses`] below three classes, [`Error::Shape`] for another number of labels, [`Error::Label`] for one that is
/// no class.
///
/// ```
/// use adversarial::dlr_loss;
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::flex();
/// let logits = Tensor::<2>::from_data([[4.0, 1.0, 3.0, 2.0]], &device);
/// let y = Tensor::<1, Int>::from_data([0], &device);
/// // −(4 − 3) / (4 − 2)
/// assert_eq!(dlr_loss(logits, &y)?.into_scalar::<f32>(), -0.5);
/// # Ok::<(), adversarial::Error>(())
/// ```
pub fn dlr_loss(logits: Tensor<2>, y: &Tensor<1, Int>) -> Result<Tensor<1>> {
    classes("the DLR loss", 3, &logits)?;
    labels("the label", &logits, y)?;
    let at = y.clone().unsqueeze_dim::<2>(1);
    let own = logits.clone().gather(1, at.clone());
    let [examples, count] = logits.dims();
    let others = Tensor::<1, Int>::arange(0..count as i64, &logits.device()).unsqueeze_dim::<2>(0);
    let is_own = others.expand([examples, count]).equal(at.expand([examples, count]));
    let best = logits.clone().mask_fill(is_own, f64::NEG_INFINITY).max_dim(1);
    let sorted = logits.sort_descending(1);
    let spread = sorted.clone().slice_dim(1, 0..1) - sorted.slice_dim(1, 2..3);
    Ok(((best - own) / (spread + TINY)).squeeze_dim(1))
}

/// `−(z_y − z_t) / (z_π1 − ½(z_π3 + z_π4))` of every example for target classes `t`, as [`dlr_loss`]; equation 7 of the same paper.
///
/// # Errors
/// As [`dlr_loss`], from four classes on, and for targets too.
///
/// ```
/// use adversarial::dlr_loss_targeted;
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::flex();
/// let logits = Tensor::<2>::from_data([[4.0, 1.0, 3.0, 2.0]], &device);
/// let class = |class: i64| Tensor::<1, Int>::from_data([class], &device);
/// // −(4 − 1) / (4 − ½(2 + 1))
/// let loss = dlr_loss_targeted(logits, &class(0), &class(1))?.into_scalar::<f32>();
/// assert!((loss + 1.2).abs() < 1e-6);
/// # Ok::<(), adversarial::Error>(())
/// ```
pub fn dlr_loss_targeted(logits: Tensor<2>, y: &Tensor<1, Int>, target: &Tensor<1, Int>) -> Result<Tensor<1>> {
    classes("the targeted DLR loss", 4, &logits)?;
    labels("the label", &logits, y)?;
    labels("the target", &logits, target)?;
    let at = |classes: &Tensor<1, Int>| logits.clone().gather(1, classes.clone().unsqueeze_dim::<2>(1));
    let margin = at(target) - at(y);
    let sorted = logits.sort_descending(1);
    let place = |i: usize| sorted.clone().slice_dim(1, i..i + 1);
    let spread = place(0) - (place(2) + place(3)) * 0.5;
    Ok((margin / (spread + TINY)).squeeze_dim(1))
}

fn classes(what: &'static str, needed: usize, logits: &Tensor<2>) -> Result<()> {
    match logits.dims()[1] {
        classes if classes < needed => Err(Error::TooFewClasses { what, needed, classes }),
        _ => Ok(()),
    }
}

fn labels(what: &'static str, logits: &Tensor<2>, labels: &Tensor<1, Int>) -> Result<()> {
    let ([examples, classes], [count]) = (logits.dims(), labels.dims());
    if count != examples {
        let expected = format!("[{examples}], one for each example");
        return Err(Error::Shape { what, actual: vec![count], expected });
    }
    let data = labels.to_data();
    match data.iter::<i64>().enumerate().find(|(_, label)| *label < 0 || *label >= classes as i64) {
        None => Ok(()),
        Some((example, label)) => Err(Error::Label { what, example, label, classes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    fn tensors(logits: &[f64], y: &[i64], device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
        let classes = logits.len() / y.len();
        let options = (device, burn::tensor::DType::F64);
        let logits = Tensor::from_data(TensorData::new(logits.to_vec(), [y.len(), classes]), options);
        (logits, Tensor::from_data(TensorData::new(y.to_vec(), [y.len()]), device))
    }

    fn numbers(x: Tensor<1>) -> Vec<f64> {
        x.into_data().iter::<f64>().collect()
    }

    proptest! {
        #[test]
        fn positive_where_misclassified_and_invariant_to_shift_and_scale(
            z in proptest::collection::vec(-5.0f64..5.0, 12), y in proptest::collection::vec(0i64..4, 3),
            shift in -3.0f64..3.0, scale in 0.1f64..10.0,
        ) {
            for device in core_tensor::testing::host_devices() {
                let (logits, labels) = tensors(&z, &y, &device);
                let loss = numbers(dlr_loss(logits, &labels).unwrap());
                for (i, row) in z.chunks(4).enumerate() {
                    let best = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    prop_assert_eq!(loss[i] > 0.0, row[y[i] as usize] < best);
                }
                let moved: Vec<f64> = z.iter().map(|z| z * scale + shift).collect();
                let again = numbers(dlr_loss(tensors(&moved, &y, &device).0, &labels).unwrap());
                prop_assert!(loss.iter().zip(&again).all(|(a, b)| (a - b).abs() <= 1e-6 * (1.0 + a.abs())));
            }
        }
    }

    #[test]
    fn the_gradient_is_that_of_central_differences() {
        let device = Device::flex();
        let (z, y, t) = ([0.3, -1.2, 2.0, 0.9, 1.5], [3], [1]);
        let target = Tensor::<1, Int>::from_data([1], &device);
        let both = |z: &[f64]| {
            let (logits, y) = tensors(z, &y, &device);
            let targeted = dlr_loss_targeted(logits.clone(), &y, &target).unwrap();
            [numbers(dlr_loss(logits, &y).unwrap())[0], numbers(targeted)[0]]
        };
        let tracked = |number: usize| {
            let (logits, y) = tensors(&z, &y, &device);
            let logits = Tensor::<2>::from_inner(logits).require_grad();
            let autodiff = Device::flex().autodiff();
            let (y, t) = (y.to_device(&autodiff), Tensor::<1, Int>::from_data(t, &autodiff));
            let loss = match number {
                0 => dlr_loss(logits.clone(), &y),
                _ => dlr_loss_targeted(logits.clone(), &y, &t),
            };
            let grads = loss.unwrap().sum().backward();
            logits.grad(&grads).unwrap().into_data().iter::<f64>().collect::<Vec<_>>()
        };
        for number in 0..2 {
            for (i, slope) in tracked(number).into_iter().enumerate() {
                let at = |h: f64| {
                    let mut z = z;
                    z[i] += h;
                    both(&z)[number]
                };
                assert!((slope - (at(1e-6) - at(-1e-6)) / 2e-6).abs() < 1e-7, "{number} {i}");
            }
        }
    }

    #[test]
    fn few_classes_and_wrong_labels_are_errors() {
        let device = Device::flex();
        let (two, y) = tensors(&[1.0, 2.0], &[0], &device);
        assert_eq!(
            dlr_loss(two, &y).unwrap_err().to_string(),
            "the DLR loss needs at least 3 classes, the model has 2"
        );
        let (three, y) = tensors(&[1.0, 2.0, 3.0], &[0], &device);
        assert!(matches!(dlr_loss_targeted(three.clone(), &y, &y), Err(Error::TooFewClasses { needed: 4, .. })));
        let (_, wrong) = tensors(&[1.0, 2.0, 3.0], &[3], &device);
        let error = dlr_loss(three.clone(), &wrong).unwrap_err().to_string();
        assert_eq!(error, "the label of example 0 is 3, the model has 3 classes");
        let (_, many) = tensors(&[0.0; 6], &[0, 1], &device);
        assert_eq!(
            dlr_loss(three, &many).unwrap_err().to_string(),
            "the label has shape [2], expected [1], one for each example"
        );
    }
}
