//! Number formats and block formats on tensors in `f32`, traces of the loss scale.
//!
//! Expected numbers are `f32` written in decimal: they are read as such, for the parser's `f64` may be off in its last bit.

use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::Tree;
use mixed_precision::{Element, Format, LossScale, Mx, Overflow, Quantizer, Rounding, ScaleRule};

use super::json::Field;
use super::{Case, Trouble};

impl From<mixed_precision::Error> for Trouble {
    fn from(error: mixed_precision::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Compares `y` or `y_bits` with `inputs.x_bits` rounded to `params.format`, and with the bytes it packs to.
pub fn quantize(case: &mut Case<'_>) -> Result<(), Trouble> {
    fields(case, &["format", "rounding", "overflow"], &["x_bits"], &["y", "y_bits"])?;
    let rounding = match case.params.get("rounding")?.text()? {
        "nearest_even" => Rounding::NearestEven,
        "nearest_away" => Rounding::NearestAway,
        "toward_zero" => Rounding::TowardZero,
        "toward_positive" => Rounding::TowardPositive,
        "toward_negative" => Rounding::TowardNegative,
        other => return Err(Trouble::Unsupported(format!("rounding `{other}`"))),
    };
    let overflow = match case.params.get("overflow")?.text()? {
        "ieee" => Overflow::Ieee,
        "saturate" => Overflow::Saturate,
        other => return Err(Trouble::Unsupported(format!("overflow `{other}`"))),
    };
    let quantizer = Quantizer::new(format(&case.params.get("format")?)?).rounding(rounding).overflow(overflow);
    let x = bits(&case.inputs.get("x_bits")?)?;
    let (key, want) = match (case.expect.find("y_bits")?, case.expect.find("y")?) {
        (Some(field), None) => ("y_bits", (bits(&field)?, field)),
        (None, Some(field)) => ("y", (reals(&field)?, field)),
        (None, None) => return Err(case.expect.malformed("neither `y` nor `y_bits`").into()),
        (Some(_), Some(_)) => return Err(case.expect.malformed("both `y` and `y_bits`").into()),
    };
    let (want, field) = want;
    if want.len() != x.len() {
        return Err(field.malformed(format!("{} numbers for {}", want.len(), x.len())).into());
    }
    let device = Device::default();
    let length = x.len();
    let x = Tensor::<1>::from_data(TensorData::new(x, [length]), &device);
    let packed: Tensor<1> = quantizer.pack(&x)?.unpack(&device)?;
    let want: Vec<f64> = want.into_iter().map(f64::from).collect();
    for (what, got) in [(key, quantizer.fake_quantize(x)?), ("unpacked", packed)] {
        case.check_all(what, &got.into_data().iter::<f64>().collect::<Vec<_>>(), &want);
    }
    Ok(())
}

/// Compares `y` and `scale_exponent` of `inputs.x` in blocks of `params.block` of `params.element`.
pub fn mx_quantize(case: &mut Case<'_>) -> Result<(), Trouble> {
    fields(case, &["element", "scale_rule", "block"], &["x"], &["y", "scale_exponent"])?;
    let field = case.params.get("element")?;
    let element = match field.text()? {
        "int8" => Element::Int8,
        _ => Element::Float(format(&field)?),
    };
    let rule = match case.params.get("scale_rule")?.text()? {
        "floor" => ScaleRule::Floor,
        "ceil" => ScaleRule::Ceil,
        "rceil" => ScaleRule::RoundCeil,
        "even" => ScaleRule::Even,
        other => return Err(Trouble::Unsupported(format!("scale_rule `{other}`"))),
    };
    let mx = Mx::new(element)?.scale_rule(rule).block(case.params.get("block")?.count()?)?;
    let x = case.inputs.get("x")?.numbers()?;
    let values: Vec<f32> = x.data.iter().map(|x| *x as f32).collect();
    let device = Device::default();
    let data = TensorData::new(values, x.shape.clone());
    let (y, exponents) = match x.shape.len() {
        1 => blocks::<1>(&mx, data, &device)?,
        2 => blocks::<2>(&mx, data, &device)?,
        3 => blocks::<3>(&mx, data, &device)?,
        4 => blocks::<4>(&mx, data, &device)?,
        rank => return Err(Trouble::Unsupported(format!("a tensor of rank {rank}"))),
    };
    let field = case.expect.get("y")?;
    let want = field.numbers()?;
    if want.shape != x.shape {
        return Err(field.malformed(format!("shape {:?} for {:?}", want.shape, x.shape)).into());
    }
    case.check_all("y", &y, &want.data.iter().map(|y| f64::from(*y as f32)).collect::<Vec<_>>());
    let want = case.expect.get("scale_exponent")?.items()?;
    let want = want.iter().map(Field::number).collect::<Result<Vec<_>, _>>()?;
    case.check_all("scale_exponent", &exponents, &want);
    Ok(())
}

/// The values, which storage has to agree with, and the exponents.
fn blocks<const D: usize>(mx: &Mx, data: TensorData, device: &Device) -> Result<(Vec<f64>, Vec<f64>), Trouble> {
    let x = Tensor::<D>::from_data(data, device);
    let stored = mx.quantize(&x)?;
    let values = |x: Tensor<D>| x.into_data().iter::<f64>().collect::<Vec<_>>();
    let (y, back) = (values(mx.fake_quantize(x)?), values(stored.dequantize(device)?));
    let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    match y.iter().zip(&back).all(same) {
        true => Ok((y, stored.scale_exponents().into_iter().map(f64::from).collect())),
        false => Err(Trouble::Failed("the stored tensor has other values".to_string())),
    }
}

/// Compares `scale` and `growth_tracker` after each step, whose gradient is finite unless `inputs.found_inf` says otherwise.
pub fn loss_scale_trace(case: &mut Case<'_>) -> Result<(), Trouble> {
    let params = ["init_scale", "growth_factor", "backoff_factor", "growth_interval"];
    fields(case, &params, &["found_inf"], &["scale", "growth_tracker"])?;
    let number = |key: &str| case.params.get(key)?.number();
    let mut scale = LossScale::dynamic()
        .init_scale(number("init_scale")?)?
        .growth_factor(number("growth_factor")?)?
        .backoff_factor(number("backoff_factor")?)?
        .growth_interval(case.params.get("growth_interval")?.count()? as u64)?;
    let found: Vec<bool> = case.inputs.get("found_inf")?.items()?.iter().map(flag).collect::<Result<_, _>>()?;
    let device = Device::default();
    let (mut scales, mut trackers) = (Vec::new(), Vec::new());
    for found in found {
        let element = if found { f32::INFINITY } else { 1.0 };
        let grads = Tree::empty().push("grad", Tensor::<1>::from_data([element], &device))?;
        scale.unscale("optimizer", grads)?;
        scale.step("optimizer", || ())?;
        scale.update()?;
        scales.push(f64::from(scale.scale()));
        trackers.push(scale.growth_tracker() as f64);
    }
    for (key, got) in [("scale", scales), ("growth_tracker", trackers)] {
        let list = case.expect.get(key)?;
        let want: Vec<f64> = reals(&list)?.into_iter().map(f64::from).collect();
        if want.len() != got.len() {
            return Err(list.malformed(format!("{} numbers for {} steps", want.len(), got.len())).into());
        }
        case.check_all(key, &got, &want);
    }
    Ok(())
}

fn format(field: &Field<'_>) -> Result<Format, Trouble> {
    let name = field.text()?;
    Format::by_name(name).ok_or_else(|| Trouble::Unsupported(format!("format `{name}`")))
}

/// `f32` by their bits.
fn bits(list: &Field<'_>) -> Result<Vec<f32>, Trouble> {
    let value = |field: &Field<'_>| match u32::try_from(field.count()?) {
        Ok(bits) => Ok(f32::from_bits(bits)),
        Err(_) => Err(field.malformed("more than 32 bits").into()),
    };
    list.items()?.iter().map(value).collect()
}

fn reals(list: &Field<'_>) -> Result<Vec<f32>, Trouble> {
    Ok(list.items()?.iter().map(|field| Ok(field.number()? as f32)).collect::<Result<_, super::json::Malformed>>()?)
}

/// `true` or `false`, or 1 or 0.
fn flag(field: &Field<'_>) -> Result<bool, Trouble> {
    match field.truth() {
        Ok(flag) => Ok(flag),
        Err(malformed) => match field.count() {
            Ok(number @ 0..=1) => Ok(number == 1),
            _ => Err(malformed.into()),
        },
    }
}

/// Refuses a setting that is not known as unsupported, other unknown fields as malformed.
fn fields(case: &Case<'_>, params: &[&str], inputs: &[&str], expect: &[&str]) -> Result<(), Trouble> {
    // An error for anything but an object.
    case.params.find("")?;
    if let Err(unknown) = case.params.only(params) {
        return Err(Trouble::Unsupported(format!("setting `{}`", unknown.field)));
    }
    case.inputs.only(inputs)?;
    Ok(case.expect.only(expect)?)
}

#[cfg(test)]
mod tests {
    use super::super::json::{Field, Json};
    use super::super::{OPERATIONS, Report, run as run_document};

    fn outcome(text: &str) -> Result<Report, String> {
        let json: Json = serde_json::from_str(text).unwrap();
        run_document(&Field::root("precision.json", &json), OPERATIONS).map_err(|e| e.to_string())
    }

    fn document(op: &str, params: &str, inputs: &str, expect: &str, tol: &str) -> String {
        format!(
            r#"{{"op": "{op}", "source": "by hand", "cases": [{{"name": "one", "params": {params}, "inputs": {inputs},
            "expect": {expect}, "tol": {tol}}}]}}"#
        )
    }

    /// 1.25, −1.25 and 100 in e2m1fn: halfway between 1 and 1.5, and beyond 6.
    fn rounded() -> String {
        document(
            "quantize",
            r#"{"format": "e2m1fn", "rounding": "nearest_even", "overflow": "ieee"}"#,
            r#"{"x_bits": [1067450368, 3214934016, 1120403456]}"#,
            r#"{"y": [1, -1, 6]}"#,
            r#"{"abs": 0}"#,
        )
    }

    /// 2¹⁶ in f16, beyond 65504.
    fn beyond() -> String {
        document(
            "quantize",
            r#"{"format": "f16", "rounding": "nearest_even", "overflow": "ieee"}"#,
            r#"{"x_bits": [1199570944, 2147483648]}"#,
            r#"{"y_bits": [2139095040, 2147483648]}"#,
            r#"{"bits": 0}"#,
        )
    }

    /// The largest of the first block is 7, between 6 and 8.
    fn blocks() -> String {
        document(
            "mx_quantize",
            r#"{"element": "e2m1fn", "scale_rule": "floor", "block": 2}"#,
            r#"{"x": {"shape": [1, 3], "data": [7, 1.5, 0]}}"#,
            r#"{"y": {"shape": [1, 3], "data": [6, 1.5, 0]}, "scale_exponent": [0, -127]}"#,
            r#"{"abs": 0}"#,
        )
    }

    fn trace() -> String {
        document(
            "loss_scale_trace",
            r#"{"init_scale": 8, "growth_factor": 3, "backoff_factor": 0.25, "growth_interval": 2}"#,
            r#"{"found_inf": [false, false, true]}"#,
            r#"{"scale": [8, 24, 6], "growth_tracker": [1, 0, 0]}"#,
            r#"{"abs": 0}"#,
        )
    }

    #[test]
    fn cases_by_hand_pass_and_wrong_numbers_fail() {
        for (case, right, wrong, place) in [
            (rounded(), "-1,", "-1.5,", "y[1] is -1"),
            (beyond(), "[2139095040", "[1199562752", "y_bits[0] is inf"),
            (beyond(), "2147483648]}, \"tol", "0]}, \"tol", "y_bits[1] is -0"),
            (blocks(), "[6,", "[8,", "y[0] is 6"),
            (blocks(), "[0, -127]", "[0, 0]", "scale_exponent[1] is -1.27"),
            (trace(), "[8, 24", "[8, 16", "scale[1] is 2.4"),
            (trace(), "[1, 0, 0]", "[1, 2, 0]", "growth_tracker[1] is 0"),
        ] {
            let case = case.replace(",\n            \"expect\"", ", \"expect\"");
            let report = outcome(&case).unwrap();
            assert!(report.is_green() && report.passed == 1, "{report}");
            assert!(case.contains(right), "{right}");
            let report = outcome(&case.replacen(right, wrong, 1)).unwrap();
            assert_eq!(report.failed, 1, "{wrong}");
            let failure = report.first_failure.unwrap().1;
            assert!(failure.starts_with(place), "{failure}");
        }
    }

    #[test]
    fn every_setting_counts() {
        for (case, before, after) in [
            (rounded(), "e2m1fn", "e4m3fn"),
            (rounded(), "nearest_even", "nearest_away"),
            (rounded(), "nearest_even", "toward_positive"),
            (beyond(), "ieee", "saturate"),
            (beyond(), "nearest_even", "toward_zero"),
            (blocks(), "e2m1fn", "int8"),
            (blocks(), "floor", "ceil"),
            (blocks(), "floor", "rceil"),
            (blocks(), "floor", "even"),
            (blocks(), "\"block\": 2", "\"block\": 1"),
            (trace(), "\"init_scale\": 8", "\"init_scale\": 4"),
            (trace(), "\"growth_factor\": 3", "\"growth_factor\": 2"),
            (trace(), "0.25", "0.5"),
            (trace(), "\"growth_interval\": 2", "\"growth_interval\": 3"),
        ] {
            assert!(case.contains(before), "{before}");
            let report = outcome(&case.replacen(before, after, 1)).unwrap();
            assert_eq!(report.failed, 1, "{after}");
        }
    }

    #[test]
    fn what_is_unknown_is_unsupported_and_what_is_broken_is_malformed() {
        for (case, before, after) in [
            (rounded(), "e2m1fn", "e9m9"),
            (rounded(), "nearest_even", "to_odd"),
            (rounded(), "ieee", "wrap"),
            (blocks(), "floor", "round"),
            (trace(), "growth_factor", "growth"),
        ] {
            let report = outcome(&case.replacen(before, after, 1)).unwrap();
            assert_eq!(report.unsupported, 1, "{after}");
        }
        for (case, before, after, complaint) in [
            (rounded(), "1067450368", "4294967296", "field `inputs.x_bits[0]`: more than 32 bits"),
            (rounded(), "[1, -1, 6]", "[1, -1]", "field `expect.y`: 2 numbers for 3"),
            (rounded(), "\"y\"", "\"y_bits\"", "field `expect.y_bits[1]`: -1, expected"),
            (blocks(), "\"y\": {\"shape\": [1, 3]", "\"y\": {\"shape\": [3]", "field `expect.y`: shape [3] for [1, 3]"),
            (trace(), "[false,", "[2,", "field `inputs.found_inf[0]`: 2, expected true or false"),
            (trace(), "[8, 24, 6]", "[8, 24]", "field `expect.scale`: 2 numbers for 3 steps"),
        ] {
            let error = outcome(&case.replacen(before, after, 1)).unwrap_err();
            assert!(error.contains(complaint), "{error}\nshould contain\n{complaint}");
        }
    }
}
