//! `hvp`: loss, gradient and Hessian-vector product of a small classifier or regressor.

use burn::nn::loss::CrossEntropyLoss;
use burn::tensor::{Device, Int, Tensor, TensorData};
use core_tensor::{Program, Tree};

use super::model;
use super::{Case, Trouble};

/// Compares `loss`, `grad` and `hv` for `params.model`, `params.loss`, `inputs.x`, `inputs.y` and the direction
/// `inputs.v`, everything in `f32` on the default device. Gradient and direction list a layer's weight, then its bias.
pub fn run(case: &mut Case<'_>) -> Result<(), Trouble> {
    let device = Device::default();
    let layers = model::layers(&case.params.get("model")?)?;
    let x = case.inputs.get("x")?;
    let rows = model::matrix(&x)?;
    if rows.shape[1] != layers[0].weight.shape[0] {
        let problem = format!("{} columns for a model of {} inputs", rows.shape[1], layers[0].weight.shape[0]);
        return Err(x.malformed(problem).into());
    }
    let point = model::tree(&layers, &device)?;
    let direction = direction(case, &point)?;
    case.expect.only(&["loss", "grad", "hv"])?;

    let (batch, outputs) = (rows.shape[0], layers[layers.len() - 1].weight.shape[1]);
    let x = rows.tensor(&device);
    let out = match case.params.get("loss")?.text()? {
        "cross_entropy" => {
            let y = labels(case, batch, outputs, &device)?;
            let program = Program::record_tree(&point, &(x.clone(), y.clone()), move |tree, (x, y)| {
                let logits = model::forward(&layers, tree, x.clone());
                CrossEntropyLoss::new(None, &logits.device()).forward(logits, y.clone())
            })?;
            program.jvp(&point, &(x, y), &direction)?
        }
        "mse" => {
            let y = targets(case, [batch, outputs], &device)?;
            let program = Program::record_tree(&point, &(x.clone(), y.clone()), move |tree, (x, y)| {
                (model::forward(&layers, tree, x.clone()) - y.clone()).square().mean()
            })?;
            program.jvp(&point, &(x, y), &direction)?
        }
        other => return Err(Trouble::Unsupported(format!("loss `{other}`"))),
    };

    let loss = out.value.into_data().iter::<f64>().next().unwrap_or(f64::NAN);
    let want = case.expect.get("loss")?.number()?;
    case.check("loss", loss, want);
    compare(case, "grad", &point, &out.gradient)?;
    compare(case, "hv", &point, &out.hessian_vector)
}

fn direction(case: &Case<'_>, point: &Tree) -> Result<Tree, Trouble> {
    let list = case.inputs.get("v")?;
    let fields = list.items()?;
    if fields.len() != point.len() {
        return Err(list.malformed(format!("{} tensors for {} parameters", fields.len(), point.len())).into());
    }
    let mut tree = Tree::empty();
    for (field, (path, data)) in fields.iter().zip(point.to_data()) {
        let numbers = field.numbers()?;
        if numbers.shape != data.shape().to_vec() {
            let problem = format!("shape {:?} for the parameter {path} of {:?}", numbers.shape, data.shape().to_vec());
            return Err(field.malformed(problem).into());
        }
        let device = Device::default();
        tree = match numbers.shape.len() {
            1 => tree.push(path, model::vector(&numbers.data, &device))?,
            _ => tree.push(path, model::matrix(field)?.tensor(&device))?,
        };
    }
    Ok(tree)
}

fn labels(case: &Case<'_>, batch: usize, classes: usize, device: &Device) -> Result<Tensor<1, Int>, Trouble> {
    let field = case.inputs.get("y")?;
    let labels = field.counts()?;
    if labels.len() != batch {
        return Err(field.malformed(format!("{} labels for {batch} rows", labels.len())).into());
    }
    if let Some(label) = labels.iter().find(|label| **label >= classes) {
        return Err(field.malformed(format!("label {label} of {classes} classes")).into());
    }
    let labels: Vec<i64> = labels.into_iter().map(|label| label as i64).collect();
    Ok(Tensor::from_data(TensorData::new(labels, [batch]), device))
}

fn targets(case: &Case<'_>, shape: [usize; 2], device: &Device) -> Result<Tensor<2>, Trouble> {
    let field = case.inputs.get("y")?;
    let targets = model::matrix(&field)?;
    if targets.shape != shape {
        return Err(field.malformed(format!("shape {:?} for outputs of {shape:?}", targets.shape)).into());
    }
    Ok(targets.tensor(device))
}

/// Compares `expect.key`, a list of tensors in the order of `point`, with `got`, whose absent leaves fail.
fn compare(case: &mut Case<'_>, key: &str, point: &Tree, got: &Tree) -> Result<(), Trouble> {
    let list = case.expect.get(key)?;
    let wanted = list.items()?;
    if wanted.len() != point.len() {
        return Err(list.malformed(format!("{} tensors for {} parameters", wanted.len(), point.len())).into());
    }
    let got = got.to_data();
    for (field, (path, _)) in wanted.iter().zip(point.to_data()) {
        let want = field.numbers()?;
        let Some((_, data)) = got.iter().find(|(name, _)| *name == path) else {
            return Err(Trouble::Failed(format!("{key} has no leaf {path}")));
        };
        if data.shape().to_vec() != want.shape {
            let problem = format!("shape {:?} for the parameter {path} of {:?}", want.shape, data.shape().to_vec());
            return Err(field.malformed(problem).into());
        }
        case.check_all(&format!("{key}.{path}"), &data.iter::<f64>().collect::<Vec<_>>(), &want.data);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::json::{Field, Json};
    use super::super::{OPERATIONS, Report, run as run_document};

    /// Least squares with one weight: `L = mean (xw − y)²` has `L' = 2 mean x(xw − y)` and `L'' = 2 mean x²`.
    const ONE_WEIGHT: &str = r#"{"op": "hvp", "source": "by hand", "cases": [{"name": "one",
        "params": {"loss": "mse", "model": {"layers": [
            {"type": "linear", "weight": {"shape": [1, 1], "data": [3]}, "activation": "none"}]}},
        "inputs": {"x": {"shape": [2, 1], "data": [1, 2]}, "y": {"shape": [2, 1], "data": [1, 1]},
            "v": [{"shape": [1, 1], "data": [0.5]}]},
        "expect": {"loss": 14.5, "grad": [{"shape": [1, 1], "data": [12]}], "hv": [{"shape": [1, 1], "data": [2.5]}]},
        "tol": {"abs": 1e-5}}]}"#;

    fn outcome(text: &str) -> Result<Report, String> {
        let json: Json = serde_json::from_str(text).unwrap();
        run_document(&Field::root("hvp.json", &json), OPERATIONS).map_err(|e| e.to_string())
    }

    #[test]
    fn a_case_by_hand_passes_and_a_wrong_number_fails() {
        assert!(outcome(ONE_WEIGHT).unwrap().is_green());
        for (right, wrong, place) in
            [("14.5", "14.6", "loss"), ("[12]", "[12.1]", "grad.0.weight[0]"), ("[2.5]", "[2.6]", "hv.0.weight[0]")]
        {
            let report = outcome(&ONE_WEIGHT.replace(right, wrong)).unwrap();
            assert_eq!(report.failed, 1);
            assert!(report.first_failure.unwrap().1.starts_with(place));
        }
    }

    #[test]
    fn what_is_not_there_is_unsupported() {
        for (known, unknown) in [("mse", "hinge"), ("none", "maxout"), ("\"linear\"", "\"conv\"")] {
            assert_eq!(outcome(&ONE_WEIGHT.replace(known, unknown)).unwrap().unsupported, 1, "{unknown}");
        }
    }

    #[test]
    fn misfits_are_malformed_and_named() {
        let x = r#""x": {"shape": [2, 1], "data": [1, 2]}"#;
        for (before, after, complaint) in [
            (x, r#""x": {"shape": [1, 2], "data": [1, 2]}"#, "field `inputs.x`: 2 columns for a model of 1 inputs"),
            (
                r#""y": {"shape": [2, 1]"#,
                r#""y": {"shape": [1, 2]"#,
                "field `inputs.y`: shape [1, 2] for outputs of [2, 1]",
            ),
            (
                r#""v": [{"shape": [1, 1], "data": [0.5]}]"#,
                r#""v": []"#,
                "field `inputs.v`: 0 tensors for 1 parameters",
            ),
            (r#""data": [3]"#, r#""data": ["three"]"#, "field `params.model.layers[0].weight.data[0]`"),
            (r#""hv""#, r#""hessian""#, "field `expect.hessian`: unknown"),
        ] {
            assert!(ONE_WEIGHT.contains(before), "{before}");
            let error = outcome(&ONE_WEIGHT.replace(before, after)).unwrap_err();
            assert!(error.contains("hvp.json: case `one`: ") && error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn labels_have_to_be_classes() {
        let text = ONE_WEIGHT
            .replace("mse", "cross_entropy")
            .replace(r#""y": {"shape": [2, 1], "data": [1, 1]}"#, r#""y": [0, 1]"#);
        assert!(outcome(&text).unwrap_err().ends_with("field `inputs.y`: label 1 of 1 classes"));
    }
}
