//! Clipping rules on trees of any shape in `f32`, thresholds of traces of norms and privacy budgets in `f64`.

use clipping::accountant::{Accountant, Ledger, Mechanism};
use clipping::{AdaptiveGradientClip, AutoClip, ClipByGlobalNorm, ClipByValue, Reports, UnitAxes, ZClip};
use core_tensor::Tree;
use core_tensor::transform::{Context, GradientTransform, Update};

use super::json::Field;
use super::{Case, Trouble, leaves};

/// Compares `norm` before clipping and the clipped `grads` for `params.max_norm`, `params.norm` and `params.eps`.
pub fn clip_by_global_norm(case: &mut Case<'_>) -> Result<(), Trouble> {
    fields(case, &["max_norm", "norm", "eps"], &["grads"], &["norm", "grads"])?;
    let order = case.params.get("norm")?.number()?;
    if order < 1.0 {
        return Err(Trouble::Unsupported(format!("norm {order}")));
    }
    let clip = ClipByGlobalNorm::new(case.params.get("max_norm")?.number()?)?.with_p(order)?;
    let clip = match case.params.get("eps")?.text()? {
        "torch" => clip,
        "exact" => clip.exact(),
        other => return Err(Trouble::Unsupported(format!("eps `{other}`"))),
    };
    let grads = leaves::tree(&case.inputs.get("grads")?)?;
    let want = case.expect.get("norm")?.number()?;
    let reports = Reports::default();
    let clipped = apply(clip.report_to(&reports), grads, &Context::new(0))?;
    let Some(report) = reports.last() else { return Err(Trouble::Failed("no report".to_string())) };
    case.check("norm", report.norm.value(), want);
    leaves::compare(case, "grads", &clipped)
}

/// Compares the `grads` moved into `±params.limit`.
pub fn clip_by_value(case: &mut Case<'_>) -> Result<(), Trouble> {
    fields(case, &["limit"], &["grads"], &["grads"])?;
    let clip = ClipByValue::new(case.params.get("limit")?.number()?)?;
    let grads = leaves::tree(&case.inputs.get("grads")?)?;
    leaves::compare(case, "grads", &apply(clip, grads, &Context::new(0))?)
}

/// Compares the `grads` clipped relative to `inputs.params`, `params.unit_axis` saying which axis of each counts its units.
pub fn adaptive_gradient_clip(case: &mut Case<'_>) -> Result<(), Trouble> {
    fields(case, &["lambda", "eps", "unit_axis"], &["params", "grads"], &["grads"])?;
    let params = leaves::tree(&case.inputs.get("params")?)?;
    let grads = leaves::tree_like(&case.inputs.get("grads")?, &params)?;
    let clip = AdaptiveGradientClip::new(case.params.get("lambda")?.number()?, unit_axes(case, &params)?)?;
    let clip = clip.with_epsilon(case.params.get("eps")?.number()?)?;
    leaves::compare(case, "grads", &apply(clip, grads, &Context::new(0).with_params(&params))?)
}

fn unit_axes(case: &Case<'_>, params: &Tree) -> Result<UnitAxes, Trouble> {
    let list = case.params.get("unit_axis")?;
    let fields = list.items()?;
    if fields.len() != params.len() {
        return Err(list.malformed(format!("{} axes for {} tensors", fields.len(), params.len())).into());
    }
    let mut axes = UnitAxes::default();
    for (field, (path, data)) in fields.iter().zip(params.to_data()) {
        let (axis, rank) = (field.count()?, data.shape().to_vec().len());
        if axis >= rank {
            return Err(field.malformed(format!("axis {axis} of a tensor of rank {rank}")).into());
        }
        axes = axes.with(path, axis);
    }
    Ok(axes)
}

/// Compares `thresholds` after each of `inputs.norms`, clipping at the percentile `params.percentile`.
pub fn autoclip_trace(case: &mut Case<'_>) -> Result<(), Trouble> {
    fields(case, &["percentile"], &["norms"], &["thresholds"])?;
    let mut clip = AutoClip::new(case.params.get("percentile")?.number()?)?;
    trace(case, "thresholds", |norm| clip.threshold(norm))
}

/// Compares `clipped_norms`, what each of `inputs.norms` is brought to.
pub fn zclip_trace(case: &mut Case<'_>) -> Result<(), Trouble> {
    fields(case, &["alpha", "z", "warmup"], &["norms"], &["clipped_norms"])?;
    let (alpha, z) = (case.params.get("alpha")?.number()?, case.params.get("z")?.number()?);
    let mut clip = ZClip::new(alpha, z, case.params.get("warmup")?.count()?)?;
    trace(case, "clipped_norms", |norm| clip.clipped_norm(norm))
}

/// Compares `epsilon` after `params.steps` steps of DP-SGD. For `prv` it is the upper bound with the bounds 0.01 from the
/// estimate, as Opacus reports it.
pub fn dp_epsilon(case: &mut Case<'_>) -> Result<(), Trouble> {
    fields(case, &["accountant", "noise_multiplier", "sample_rate", "steps", "delta"], &[], &["epsilon"])?;
    let accountant = match case.params.get("accountant")?.text()? {
        "rdp" => Accountant::Rdp,
        "gdp" => Accountant::Gdp,
        "prv" => Accountant::Prv { epsilon_error: 0.01 },
        other => return Err(Trouble::Unsupported(format!("accountant `{other}`"))),
    };
    let number = |key: &str| case.params.get(key)?.number();
    let mut ledger = Ledger::new();
    let mechanism = Mechanism::new(number("noise_multiplier")?, number("sample_rate")?)?;
    ledger.record(mechanism, case.params.get("steps")?.count()? as u64);
    let (got, want) = (accountant.epsilon(&ledger, number("delta")?)?, case.expect.get("epsilon")?.number()?);
    case.check("epsilon", got, want);
    Ok(())
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

fn apply(mut rule: impl GradientTransform, grads: Tree, context: &Context<'_>) -> Result<Tree, Trouble> {
    match rule.apply(grads.clone(), context)? {
        Update::Apply(clipped) => {
            clipped.same_structure(&grads)?;
            Ok(clipped)
        }
        Update::Skip { why } => Err(Trouble::Failed(format!("skipped: {why}"))),
    }
}

/// Compares what `rule` makes of each of `inputs.norms`, in turn, with `expect.key`.
fn trace(case: &mut Case<'_>, key: &str, rule: impl FnMut(f64) -> f64) -> Result<(), Trouble> {
    let got: Vec<f64> = numbers(&case.inputs.get("norms")?)?.into_iter().map(rule).collect();
    let list = case.expect.get(key)?;
    let want = numbers(&list)?;
    if want.len() != got.len() {
        return Err(list.malformed(format!("{} numbers for {} norms", want.len(), got.len())).into());
    }
    case.check_all(key, &got, &want);
    Ok(())
}

fn numbers(list: &Field<'_>) -> Result<Vec<f64>, Trouble> {
    Ok(list.items()?.iter().map(Field::number).collect::<Result<Vec<_>, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::super::json::{Field, Json};
    use super::super::{OPERATIONS, Report, run as run_document};

    fn outcome(text: &str) -> Result<Report, String> {
        let json: Json = serde_json::from_str(text).unwrap();
        run_document(&Field::root("clip.json", &json), OPERATIONS).map_err(|e| e.to_string())
    }

    fn document(op: &str, params: &str, inputs: &str, expect: &str) -> String {
        format!(
            r#"{{"op": "{op}", "source": "by hand", "cases": [{{"name": "one", "params": {params}, "inputs": {inputs},
            "expect": {expect}, "tol": {{"abs": 1e-6, "rel": 1e-6}}}}]}}"#
        )
    }

    /// 3, 4 and 12 in three tensors, one of them without axes: a norm of 13.
    fn global() -> String {
        document(
            "clip_by_global_norm",
            r#"{"max_norm": 6.5, "norm": 2, "eps": "exact"}"#,
            r#"{"grads": [{"shape": [2, 1], "data": [3, -4]}, {"shape": [0, 3], "data": []}, {"shape": [], "data": [12]}]}"#,
            r#"{"norm": 13, "grads": [{"shape": [2, 1], "data": [1.5, -2]}, {"shape": [0, 3], "data": []},
            {"shape": [], "data": [6]}]}"#,
        )
    }

    fn value() -> String {
        document(
            "clip_by_value",
            r#"{"limit": 0.5}"#,
            r#"{"grads": [{"shape": [2, 2], "data": [0.25, "-inf", "nan", 3]}]}"#,
            r#"{"grads": [{"shape": [2, 2], "data": [0.25, -0.5, "nan", 0.5]}]}"#,
        )
    }

    /// Columns are units: the first may have 0.1·5, the second 0.1·1.
    fn adaptive() -> String {
        document(
            "adaptive_gradient_clip",
            r#"{"lambda": 0.1, "eps": 1, "unit_axis": [1]}"#,
            r#"{"params": [{"shape": [2, 2], "data": [3, 0, 4, 0]}], "grads": [{"shape": [2, 2], "data": [30, 0.05, 40, 0]}]}"#,
            r#"{"grads": [{"shape": [2, 2], "data": [0.3, 0.05, 0.4, 0]}]}"#,
        )
    }

    fn auto() -> String {
        let expect = r#"{"thresholds": [4, 2.5, 3]}"#;
        document("autoclip_trace", r#"{"percentile": 25}"#, r#"{"norms": [4, 2, 8]}"#, expect)
    }

    /// After a warm-up of mean 2 and deviation 1 the score of 6 is 4, but for the 10⁻⁶: 2 + 1/4.
    fn z() -> String {
        let expect = r#"{"clipped_norms": [1, 3, 2.25000025]}"#;
        document("zclip_trace", r#"{"alpha": 0.9, "z": 1, "warmup": 2}"#, r#"{"norms": [1, 3, 6]}"#, expect)
    }

    /// Two steps of `σ = √2` without sampling are one Gaussian of `μ = 1`, for which `δ(1) = Φ(−½) − e·Φ(−3/2)`.
    fn epsilon() -> String {
        let params = r#"{"accountant": "gdp", "noise_multiplier": 1.4142135623730951, "sample_rate": 1, "steps": 2,
            "delta": 0.12693673750664397}"#;
        document("dp_epsilon", params, "{}", r#"{"epsilon": 1}"#)
    }

    #[test]
    fn cases_by_hand_pass_and_wrong_numbers_fail() {
        for (case, right, wrong, place) in [
            (global(), "\"norm\": 13", "\"norm\": 13.1", "norm is 1.3"),
            (global(), "[1.5, -2]", "[1.5, 2]", "grads[0][1] is -2"),
            (global(), "[6]", "[6.01]", "grads[2][0] is 6"),
            (value(), "-0.5", "-0.51", "grads[0][1] is -5"),
            (value(), "\"nan\", 0.5", "0, 0.5", "grads[0][2] is NaN"),
            (adaptive(), "[0.3,", "[0.31,", "grads[0][0] is "),
            (auto(), "2.5", "2.6", "thresholds[1] is 2.5"),
            (z(), "2.25000025", "2.2501", "clipped_norms[2] is 2.25"),
            (epsilon(), "\"epsilon\": 1", "\"epsilon\": 1.01", "epsilon is"),
        ] {
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
        // A changed setting changes the result.
        for (case, before, after) in [
            (global(), "6.5", "6"),
            (global(), "\"norm\": 2", "\"norm\": \"inf\""),
            (global(), "\"norm\": 2", "\"norm\": 1.5"),
            (value(), "0.5", "0.4"),
            (adaptive(), "\"lambda\": 0.1", "\"lambda\": 0.2"),
            (adaptive(), "\"eps\": 1", "\"eps\": 0.1"),
            (adaptive(), "[1]", "[0]"),
            (auto(), "25", "50"),
            (z(), "\"z\": 1", "\"z\": 2"),
            (z(), "\"warmup\": 2", "\"warmup\": 1"),
            (epsilon(), "gdp", "rdp"),
            (epsilon(), "\"sample_rate\": 1", "\"sample_rate\": 0.5"),
        ] {
            assert!(case.contains(before), "{before}");
            assert_eq!(outcome(&case.replacen(before, after, 1)).unwrap().failed, 1, "{after}");
        }
        // PyTorch's epsilon shows where the norm is as small.
        let expect = r#"{"norm": 5e-6, "grads": [{"shape": [2], "data": [0.6e-6, 0.8e-6]}]}"#;
        let grads = r#"{"grads": [{"shape": [2], "data": [3e-6, 4e-6]}]}"#;
        let small = document("clip_by_global_norm", r#"{"max_norm": 1e-6, "norm": 2, "eps": "exact"}"#, grads, expect);
        let small = small.replace(r#""abs": 1e-6"#, r#""abs": 0"#);
        assert!(outcome(&small).unwrap().is_green());
        assert_eq!(outcome(&small.replace("exact", "torch")).unwrap().failed, 1);
        let torch = small.replace("exact", "torch").replace("0.6e-6, 0.8e-6", "0.5e-6, 0.6666666666666667e-6");
        assert!(outcome(&torch).unwrap().is_green());
        // The tight accountant agrees within the bounds 0.01 that it adds.
        let tight = epsilon().replace("gdp", "prv").replace("\"epsilon\": 1", "\"epsilon\": 1.01");
        assert!(outcome(&tight.replace("1e-6", "1e-3")).unwrap().is_green());
        assert_eq!(outcome(&tight.replace("1e-6", "1e-3").replace("1.01", "1")).unwrap().failed, 1);
    }

    #[test]
    fn what_is_not_there_is_unsupported() {
        for (case, known, unknown) in [
            (global(), "exact", "keras"),
            (global(), "\"norm\": 2", "\"norm\": 0.5"),
            (global(), "\"max_norm\"", "\"per_group\": true, \"max_norm\""),
            (value(), "\"limit\"", "\"low\": 1, \"limit\""),
            (z(), "\"warmup\"", "\"rule\": \"max\", \"warmup\""),
            (epsilon(), "gdp", "zcdp"),
        ] {
            let report = outcome(&case.replacen(known, unknown, 1)).unwrap();
            assert_eq!((report.failed, report.unsupported), (0, 1), "{unknown}: {report}");
        }
    }

    #[test]
    fn what_the_library_refuses_fails() {
        for (case, before, after, complaint) in [
            (global(), "6.5", "-1", "max_norm"),
            (value(), "{\"limit\": 0.5}", "{\"limit\": \"nan\"}", "limit"),
            (adaptive(), "\"lambda\": 0.1", "\"lambda\": -1", "lambda"),
            (auto(), "25", "101", "percentile"),
            (z(), "\"warmup\": 2", "\"warmup\": 0", "warmup"),
            (epsilon(), "\"sample_rate\": 1", "\"sample_rate\": 1.5", "sample_rate"),
        ] {
            let report = outcome(&case.replacen(before, after, 1)).unwrap();
            assert_eq!(report.failed, 1, "{after}: {report}");
            assert!(report.first_failure.as_ref().unwrap().1.contains(complaint), "{report}");
        }
    }

    #[test]
    fn misfits_are_malformed_and_named() {
        for (case, before, after, complaint) in [
            (global(), "\"max_norm\": 6.5, ", "", "field `params.max_norm`: missing"),
            (global(), "[3, -4]", "[3]", "field `inputs.grads[0].data`: 1 numbers for shape [2, 1]"),
            (global(), "\"data\": [6]", "\"data\": [\"six\"]", "field `expect.grads[2].data[0]`"),
            (
                global(),
                "\"grads\": [{\"shape\": [2, 1], \"data\": [1.5",
                "\"grads\": [{\"shape\": [1, 2], \"data\": [1.5",
                "field `expect.grads[0]`: shape [1, 2] for a tensor of [2, 1]",
            ),
            (global(), "\"inputs\": {", "\"inputs\": {\"rest\": 1, ", "field `inputs.rest`: unknown"),
            (
                global(),
                "{\"max_norm\": 6.5, \"norm\": 2, \"eps\": \"exact\"}",
                "[1]",
                "field `params`: an array of 1, expected an object",
            ),
            (
                value(),
                "[{\"shape\": [2, 2], \"data\": [0.25, -0.5, \"nan\", 0.5]}]",
                "[]",
                "field `expect.grads`: 0 tensors for 1",
            ),
            (adaptive(), "[1]", "[2]", "field `params.unit_axis[0]`: axis 2 of a tensor of rank 2"),
            (adaptive(), "[1]", "[1, 0]", "field `params.unit_axis`: 2 axes for 1 tensors"),
            (adaptive(), "[30, 0.05, 40, 0]", "[30]", "field `inputs.grads[0].data`: 1 numbers"),
            (
                adaptive(),
                "\"grads\": [{\"shape\": [2, 2]",
                "\"grads\": [{\"shape\": [4]",
                "field `inputs.grads[0]`: shape [4] for a tensor of [2, 2]",
            ),
            (auto(), "[4, 2, 8]", "[4, 2]", "field `expect.thresholds`: 3 numbers for 2 norms"),
            (z(), "\"warmup\": 2", "\"warmup\": 2.5", "field `params.warmup`: 2.5, expected a whole number"),
            (epsilon(), "\"epsilon\"", "\"eps\"", "field `expect.eps`: unknown"),
            (epsilon(), "\"gdp\"", "7", "field `params.accountant`: 7, expected a string"),
        ] {
            assert!(case.contains(before), "{before}");
            let error = outcome(&case.replacen(before, after, 1)).unwrap_err();
            assert!(
                error.contains("clip.json: case `one`: ") && error.contains(complaint),
                "{error}\nshould contain\n{complaint}"
            );
        }
    }
}
