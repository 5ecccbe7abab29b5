//! Aggregation of the rows of a Jacobian in `f32`, one leaf a row.

use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::Tree;
use multitask::{
    Aggregator, AlignedMtl, AlignedScale, CaGrad, ConFig, Constant, DualProj, FairGrad, ImtlG, Krum, KrumDistance,
    Mean, Mgda, NashMtl, PcGrad, Sum, TrimmedMean, UpGrad,
};

use super::json::Field;
use super::{Case, Trouble};

impl From<multitask::Error> for Trouble {
    fn from(error: multitask::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Compares the `direction` that `params.method` makes of `inputs.jacobian`, a row a task. Numbers of the method have
/// TorchJD's names
/// and, where they are not given, its defaults.
pub fn run(case: &mut Case<'_>) -> Result<(), Trouble> {
    case.inputs.only(&["jacobian"])?;
    case.expect.only(&["direction"])?;
    let mut aggregator = aggregator(&case.params)?;
    let (shape, data) = case.inputs.get("jacobian")?.ranked::<2>()?;
    let device = Device::default();
    let row = |i: usize| {
        let row: Vec<f32> = data[i * shape[1]..(i + 1) * shape[1]].iter().map(|x| *x as f32).collect();
        Tree::empty().push("row", Tensor::<1>::from_data(TensorData::new(row, [shape[1]]), &device))
    };
    let rows = (0..shape[0]).map(row).collect::<core_tensor::Result<Vec<_>>>()?;
    let direction = aggregator.aggregate(&rows)?.gradient;
    let field = case.expect.get("direction")?;
    let (width, want) = field.ranked::<1>()?;
    if width != [shape[1]] {
        return Err(field.malformed(format!("{} numbers for rows of {}", width[0], shape[1])).into());
    }
    let got: Vec<f64> = direction.to_data()[0].1.iter::<f64>().collect();
    case.check_all("direction", &got, &want);
    Ok(())
}

fn aggregator(params: &Field<'_>) -> Result<Box<dyn Aggregator>, Trouble> {
    let method = params.get("method")?.text()?;
    let settings: &[&str] = match method {
        "mean" | "sum" | "imtl_g" => &[],
        "upgrad" | "dualproj" => &["pref_vector", "norm_eps", "reg_eps"],
        // Bounds of an iteration that an exact solver has no use for.
        "mgda" => &["epsilon", "max_iters"],
        "aligned_mtl" => &["pref_vector", "scale"],
        "config" => &["pref_vector"],
        "trimmed_mean" => &["trim_number"],
        "krum" => &["n_byzantine", "n_selected"],
        "cagrad" => &["c", "norm_eps"],
        "pcgrad" => &["seed"],
        "constant" => &["weights"],
        "nash_mtl" => &["max_norm"],
        "fairgrad" => &["alpha"],
        other => return Err(Trouble::Unsupported(format!("method `{other}`"))),
    };
    let known: Vec<&str> = settings.iter().copied().chain(["method"]).collect();
    if let Err(unknown) = params.only(&known) {
        return Err(Trouble::Unsupported(format!("setting `{}`", unknown.field)));
    }
    let number = |key: &str| params.find(key)?.map(|field| field.number()).transpose();
    let count = |key: &str| params.find(key)?.map(|field| field.count()).transpose();
    let list = |key: &str| params.find(key)?.map(|field| numbers(&field)).transpose();
    Ok(match method {
        "mean" => Box::new(Mean::new()),
        "sum" => Box::new(Sum::new()),
        "imtl_g" => Box::new(ImtlG::new()),
        "mgda" => Box::new(Mgda::new()),
        "upgrad" => {
            let mut upgrad = UpGrad::new();
            upgrad = number("norm_eps")?.map_or(Ok(upgrad.clone()), |x| upgrad.norm_eps(x))?;
            upgrad = number("reg_eps")?.map_or(Ok(upgrad.clone()), |x| upgrad.reg_eps(x))?;
            Box::new(list("pref_vector")?.map_or(Ok(upgrad.clone()), |x| upgrad.preference(&x))?)
        }
        "dualproj" => {
            let mut dualproj = DualProj::new();
            dualproj = number("norm_eps")?.map_or(Ok(dualproj.clone()), |x| dualproj.norm_eps(x))?;
            dualproj = number("reg_eps")?.map_or(Ok(dualproj.clone()), |x| dualproj.reg_eps(x))?;
            Box::new(list("pref_vector")?.map_or(Ok(dualproj.clone()), |x| dualproj.preference(&x))?)
        }
        "aligned_mtl" => {
            let scale = match params.find("scale")?.map(|field| field.text()).transpose()? {
                None | Some("min") => AlignedScale::Min,
                Some("median") => AlignedScale::Median,
                Some("mean" | "rmse") => AlignedScale::Mean,
                Some(other) => return Err(Trouble::Unsupported(format!("scale `{other}`"))),
            };
            let aligned = AlignedMtl::new().scale(scale);
            Box::new(list("pref_vector")?.map_or(Ok(aligned.clone()), |x| aligned.preference(&x))?)
        }
        "config" => Box::new(list("pref_vector")?.map_or(Ok(ConFig::new()), |x| ConFig::preference(&x))?),
        "trimmed_mean" => Box::new(TrimmedMean::new(params.get("trim_number")?.count()?)),
        "krum" => {
            let krum = Krum::new(params.get("n_byzantine")?.count()?).distance(KrumDistance::Euclidean);
            Box::new(krum.selected(count("n_selected")?.unwrap_or(1))?)
        }
        "cagrad" => {
            let cagrad = CaGrad::new(params.get("c")?.number()?)?;
            Box::new(number("norm_eps")?.map_or(Ok(cagrad), |x| cagrad.norm_eps(x))?)
        }
        "constant" => Box::new(Constant::new(&numbers(&params.get("weights")?)?)?),
        "nash_mtl" => Box::new(number("max_norm")?.map_or(Ok(NashMtl::new()), |x| NashMtl::new().max_norm(x))?),
        "fairgrad" => Box::new(FairGrad::new(params.get("alpha")?.number()?)?),
        // What is left of the list above.
        _ => Box::new(PcGrad::new(count("seed")?.unwrap_or(0) as u64)),
    })
}

/// Numbers as an array or as a tensor.
fn numbers(field: &Field<'_>) -> Result<Vec<f64>, super::json::Malformed> {
    match field.items() {
        Ok(items) => items.iter().map(Field::number).collect(),
        Err(_) => Ok(field.numbers()?.data),
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::{Field, Json};
    use super::super::{OPERATIONS, Report, run as run_document};

    fn outcome(text: &str) -> Result<Report, String> {
        let json: Json = serde_json::from_str(text).unwrap();
        run_document(&Field::root("aggregate.json", &json), OPERATIONS).map_err(|e| e.to_string())
    }

    fn document(params: &str, direction: [f64; 3]) -> String {
        format!(
            r#"{{"op": "aggregate", "source": "by hand", "cases": [{{"name": "one", "params": {params}, "inputs": {{"jacobian":
            {{"shape": [2, 3], "data": [-4, 1, 1, 6, 1, 1]}}}}, "expect": {{"direction": {{"shape": [3], "data": {direction:?}}}}},
            "tol": {{"abs": 5.1e-5, "rel": 0}}}}]}}"#
        )
    }

    #[test]
    fn every_method_passes_and_wrong_numbers_fail() {
        for (params, direction) in [
            (r#"{"method": "mean"}"#, [1.0, 1.0, 1.0]),
            (r#"{"method": "sum"}"#, [2.0, 2.0, 2.0]),
            (r#"{"method": "upgrad"}"#, [0.2929, 1.9004, 1.9004]),
            (r#"{"method": "upgrad", "pref_vector": [1, 1], "reg_eps": 0}"#, [0.5848, 3.8012, 3.8012]),
            (r#"{"method": "upgrad", "norm_eps": 57}"#, [1.0, 1.0, 1.0]),
            (r#"{"method": "dualproj"}"#, [0.5563, 1.1109, 1.1109]),
            (r#"{"method": "dualproj", "reg_eps": 0, "norm_eps": 0}"#, [5.0 / 9.0, 10.0 / 9.0, 10.0 / 9.0]),
            (r#"{"method": "mgda", "epsilon": 0.001, "max_iters": 100}"#, [0.0, 1.0, 1.0]),
            (r#"{"method": "imtl_g"}"#, [0.0767, 1.0, 1.0]),
            (r#"{"method": "aligned_mtl", "scale": "min"}"#, [0.2133, 0.9673, 0.9673]),
            (r#"{"method": "config"}"#, [0.1588, 2.0706, 2.0706]),
            (r#"{"method": "trimmed_mean", "trim_number": 0}"#, [1.0, 1.0, 1.0]),
            (r#"{"method": "cagrad", "c": 0.5}"#, [0.1835, 1.2041, 1.2041]),
            (r#"{"method": "pcgrad"}"#, [0.5848, 3.8012, 3.8012]),
            (r#"{"method": "constant", "weights": [0, 1]}"#, [6.0, 1.0, 1.0]),
            (r#"{"method": "fairgrad", "alpha": 1}"#, [0.0766, 0.9985, 0.9985]),
            (r#"{"method": "nash_mtl", "max_norm": 1}"#, [0.05415, 0.70607, 0.70607]),
        ] {
            let report = outcome(&document(params, direction)).unwrap();
            assert!(report.is_green() && report.passed == 1, "{params}: {report}");
            let report = outcome(&document(params, direction.map(|x| x + 0.01))).unwrap();
            assert_eq!(report.failed, 1, "{params}");
        }
    }

    #[test]
    fn every_setting_counts() {
        for (params, direction, before, after) in [
            (r#"{"method": "upgrad", "reg_eps": 1e-4}"#, [0.2929, 1.9004, 1.9004], "1e-4", "1"),
            (r#"{"method": "cagrad", "c": 0.5}"#, [0.1835, 1.2041, 1.2041], "0.5", "0.4"),
            (r#"{"method": "fairgrad", "alpha": 1}"#, [0.0766, 0.9985, 0.9985], "1}", "2}"),
            (r#"{"method": "aligned_mtl", "scale": "min"}"#, [0.2133, 0.9673, 0.9673], "min", "mean"),
        ] {
            let text = document(params, direction);
            assert!(outcome(&text).unwrap().is_green() && params.contains(before));
            let changed = document(&params.replace(before, after), direction);
            assert_eq!(outcome(&changed).unwrap().failed, 1, "{after}");
        }
    }

    #[test]
    fn what_is_not_there_is_unsupported_and_what_is_refused_fails() {
        for params in [
            r#"{"method": "votes"}"#,
            r#"{"method": "mean", "trim_number": 1}"#,
            r#"{"method": "aligned_mtl", "scale": "max"}"#,
        ] {
            let report = outcome(&document(params, [0.0; 3])).unwrap();
            assert_eq!((report.failed, report.unsupported), (0, 1), "{params}: {report}");
        }
        for (params, complaint) in [
            (r#"{"method": "krum", "n_byzantine": 1}"#, "krum needs at least 4 finite rows, there are 2"),
            (r#"{"method": "trimmed_mean", "trim_number": 1}"#, "trimmed_mean needs at least 3 finite rows"),
            (r#"{"method": "cagrad", "c": -1}"#, "c = -1 is out of range"),
            (r#"{"method": "constant", "weights": [1]}"#, "for 1 tasks, there are 2"),
        ] {
            let report = outcome(&document(params, [0.0; 3])).unwrap();
            assert_eq!(report.failed, 1, "{params}: {report}");
            assert!(report.first_failure.as_ref().unwrap().1.contains(complaint), "{report}");
        }
    }

    #[test]
    fn misfits_are_malformed_and_named() {
        let good = document(r#"{"method": "mean"}"#, [1.0; 3]);
        for (before, after, complaint) in [
            ("\"method\"", "\"rule\"", "field `params.method`: missing"),
            ("\"shape\": [2, 3]", "\"shape\": [6]", "field `inputs.jacobian.shape`: rank 1, expected 2"),
            ("[1.0, 1.0, 1.0]", "[1.0, 1.0]", "field `expect.direction.data`: 2 numbers for shape [3]"),
            ("\"jacobian\"", "\"rows\"", "field `inputs.rows`: unknown"),
        ] {
            assert!(good.contains(before), "{before}");
            let error = outcome(&good.replacen(before, after, 1)).unwrap_err();
            assert!(error.contains(complaint), "{error}\nshould contain\n{complaint}");
        }
        let short = good.replace("\"shape\": [3], \"data\": [1.0, 1.0, 1.0]", "\"shape\": [1], \"data\": [1.0]");
        assert!(outcome(&short).unwrap_err().contains("field `expect.direction`: 1 numbers for rows of 3"));
    }
}
