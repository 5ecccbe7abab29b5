//! Projections, the difference of logits ratio, and certificates of randomised smoothing.

use adversarial::{Norm, Threat, dlr_loss, dlr_loss_targeted, smoothing_certificate};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::json::Field;
use super::{Case, Trouble};

impl From<adversarial::Error> for Trouble {
    fn from(error: adversarial::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

pub(super) fn norm(field: &Field<'_>) -> Result<Norm, Trouble> {
    match field.text()? {
        "linf" => Ok(Norm::Linf),
        "l2" => Ok(Norm::L2),
        "l1" => Ok(Norm::L1),
        other => Err(Trouble::Unsupported(format!("norm `{other}`"))),
    }
}

pub(super) fn rows(field: &Field<'_>) -> Result<Tensor<2>, Trouble> {
    let (shape, data) = field.ranked::<2>()?;
    Ok(Tensor::from_data(TensorData::new(data, shape), &Device::default()))
}

fn classes(field: &Field<'_>) -> Result<Tensor<1, Int>, Trouble> {
    let labels: Vec<i64> = field.counts()?.into_iter().map(|label| label as i64).collect();
    let count = labels.len();
    Ok(Tensor::from_data(TensorData::new(labels, [count]), &Device::default()))
}

/// Compares `y`, the rows of `inputs.x` projected on the ball round those of `inputs.x0`, without a box that matters.
pub fn project(case: &mut Case<'_>) -> Result<(), Trouble> {
    case.params.only(&["norm", "eps"])?;
    case.inputs.only(&["x0", "x"])?;
    case.expect.only(&["y"])?;
    let threat = Threat::new(norm(&case.params.get("norm")?)?, case.params.get("eps")?.number()?)?;
    let threat = threat.bounds(-1e30, 1e30)?;
    let y = threat.project(&rows(&case.inputs.get("x0")?)?, rows(&case.inputs.get("x")?)?)?;
    let field = case.expect.get("y")?;
    let (shape, want) = field.ranked::<2>()?;
    if shape != y.dims() {
        return Err(field.malformed(format!("shape {shape:?} for inputs of {:?}", y.dims())).into());
    }
    case.check_all("y", &y.into_data().iter::<f64>().collect::<Vec<_>>(), &want);
    Ok(())
}

/// Compares `dlr` and `dlr_targeted` of `inputs.logits`.
pub fn dlr(case: &mut Case<'_>) -> Result<(), Trouble> {
    case.params.only(&[])?;
    case.inputs.only(&["logits", "y", "target"])?;
    case.expect.only(&["dlr", "dlr_targeted"])?;
    let logits = rows(&case.inputs.get("logits")?)?;
    let y = classes(&case.inputs.get("y")?)?;
    let numbers = |loss: Tensor<1>| loss.into_data().iter::<f64>().collect::<Vec<_>>();
    let mut found = vec![("dlr", numbers(dlr_loss(logits.clone(), &y)?))];
    if let Some(target) = case.inputs.find("target")? {
        found.push(("dlr_targeted", numbers(dlr_loss_targeted(logits, &y, &classes(&target)?)?)));
    }
    for (key, got) in found {
        let Some(field) = case.expect.find(key)? else { continue };
        let items = field.items()?;
        if items.len() != got.len() {
            return Err(field.malformed(format!("{} numbers for {} examples", items.len(), got.len())).into());
        }
        let want = items.iter().map(Field::number).collect::<Result<Vec<f64>, _>>()?;
        case.check_all(key, &got, &want);
    }
    Ok(())
}

/// Compares `p_lower`, `radius` and `abstain` of `inputs.k` hits in `inputs.n` draws.
pub fn smoothing(case: &mut Case<'_>) -> Result<(), Trouble> {
    case.params.only(&["sigma", "alpha"])?;
    case.inputs.only(&["n", "k"])?;
    case.expect.only(&["p_lower", "radius", "abstain"])?;
    let (n, k) = (case.inputs.get("n")?.count()? as u64, case.inputs.get("k")?.count()? as u64);
    let (sigma, alpha) = (case.params.get("sigma")?.number()?, case.params.get("alpha")?.number()?);
    let found = smoothing_certificate(n, k, sigma, alpha)?;
    case.check("p_lower", found.p_lower, case.expect.get("p_lower")?.number()?);
    let field = case.expect.get("abstain")?;
    if field.truth()? != found.radius.is_none() {
        return Err(Trouble::Failed(format!("abstain is {}, expected {}", found.radius.is_none(), field.truth()?)));
    }
    if let Some(radius) = case.expect.find("radius")? {
        case.check("radius", found.radius.unwrap_or(0.0), radius.number()?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::json::{Field, Json};
    use super::super::{OPERATIONS, Report, run as run_document};

    fn outcome(text: &str) -> Result<Report, String> {
        let json: Json = serde_json::from_str(text).unwrap();
        run_document(&Field::root("a.json", &json), OPERATIONS).map_err(|e| e.to_string())
    }

    const PROJECT: &str = r#"{"op": "project", "source": "by hand", "cases": [{"name": "one",
        "params": {"norm": "l1", "eps": 2}, "inputs": {"x0": {"shape": [1, 2], "data": [0, 0]},
        "x": {"shape": [1, 2], "data": [3, 1]}}, "expect": {"y": {"shape": [1, 2], "data": [2, 0]}}, "tol": {"abs": 1e-6}}]}"#;
    const DLR: &str = r#"{"op": "dlr_loss", "source": "by hand", "cases": [{"name": "one", "params": {},
        "inputs": {"logits": {"shape": [1, 4], "data": [4, 1, 3, 2]}, "y": [0], "target": [1]},
        "expect": {"dlr": [-0.5], "dlr_targeted": [-1.2]}, "tol": {"abs": 1e-6}}]}"#;
    const SMOOTHING: &str = r#"{"op": "smoothing_certificate", "source": "by hand", "cases": [{"name": "one",
        "params": {"sigma": 1, "alpha": 0.25}, "inputs": {"n": 2, "k": 2},
        "expect": {"p_lower": 0.5, "radius": 0, "abstain": true}, "tol": {"abs": 1e-12}}]}"#;

    #[test]
    fn cases_by_hand_pass_and_wrong_numbers_fail() {
        for (text, right, wrong) in [
            (PROJECT, "[2, 0]", "[2, 0.1]"),
            (DLR, "[-1.2]", "[-1.1]"),
            (SMOOTHING, "\"p_lower\": 0.5", "\"p_lower\": 0.6"),
        ] {
            assert!(outcome(text).unwrap().is_green(), "{text}");
            assert_eq!(outcome(&text.replace(right, wrong)).unwrap().failed, 1, "{wrong}");
        }
        assert_eq!(outcome(&SMOOTHING.replace("true", "false")).unwrap().failed, 1);
    }

    #[test]
    fn other_norms_are_unsupported_and_misfits_malformed() {
        assert_eq!(outcome(&PROJECT.replace("\"l1\"", "\"l3\"")).unwrap().unsupported, 1);
        let short =
            PROJECT.replace(r#""y": {"shape": [1, 2], "data": [2, 0]}"#, r#""y": {"shape": [2, 1], "data": [2, 0]}"#);
        assert!(outcome(&short).unwrap_err().contains("shape [2, 1] for inputs of [1, 2]"));
        let error = outcome(&DLR.replace("\"dlr\": [-0.5]", "\"dlr\": [-0.5, 1]")).unwrap_err();
        assert!(error.contains("2 numbers for 1 examples"), "{error}");
    }
}
