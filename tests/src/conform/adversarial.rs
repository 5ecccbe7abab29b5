//! Projections, the difference of logits ratio, certificates of randomised smoothing, and attacks.

use adversarial::{
    Apgd, ApgdL1, Attack, AutoAttack, Ddn, DeepFool, Engine, Fab, Fgsm, Fmn, Goals, Norm, Objective, Pgd, Recorded,
    Search, Square, Threat, dlr_loss, dlr_loss_targeted, smoothing_certificate,
};
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::json::Field;
use super::model::{self, Layer};
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
        "l0" => Ok(Norm::L0),
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

/// The layers' weights as a module, whose gradients the attacks ask for.
#[derive(Module, Debug)]
struct Net {
    linears: Vec<Linear>,
}

impl Net {
    fn new(layers: &[Layer], device: &Device) -> Self {
        let linear = |layer: &Layer| {
            let [from, to] = layer.weight.shape;
            let mut linear = LinearConfig::new(from, to).with_bias(layer.bias.is_some()).init(device);
            linear.weight = Param::from_tensor(layer.weight.tensor(device));
            linear.bias = layer.bias.as_ref().map(|bias| Param::from_tensor(model::vector(bias, device)));
            linear
        };
        Self { linears: layers.iter().map(linear).collect() }
    }
}

/// What `params` say of an attack beside its name; what is not given is the attack's own default.
struct Settings {
    norm: Norm,
    steps: Option<usize>,
    step_size: Option<f64>,
    random_start: Option<bool>,
    restarts: Option<usize>,
    targets: Option<usize>,
}

/// The attack of a name. `steps` are queries for `square`. `step_size` and `random_start` are settings of `pgd`; vectors give them
/// for every attack, and those whose algorithm chooses step and start itself pass them over.
fn attack_named(name: &str, settings: &Settings) -> Result<Box<dyn Attack>, Trouble> {
    /// Applies the settings given, each by the setter of its name.
    macro_rules! with {
        ($attack:expr, $($setting:ident => $setter:ident),*) => {{
            let mut attack = $attack;
            $(if let Some(value) = settings.$setting { attack = attack.$setter(value); })*
            Box::new(attack) as Box<dyn Attack>
        }};
    }
    let targets = settings.targets.unwrap_or(9);
    Ok(match (name, settings.norm) {
        ("fgsm", _) if settings.steps.unwrap_or(1) == 1 => Box::new(Fgsm::new()),
        ("fgsm", _) => return Err(Trouble::Unsupported("attack `fgsm` of more than one step".to_string())),
        ("pgd", _) => {
            with!(Pgd::new(), steps => steps, step_size => step_size, random_start => random_start, restarts => restarts)
        }
        ("apgd_ce", Norm::L1) => with!(ApgdL1::new(), steps => steps, restarts => restarts),
        ("apgd_dlr", Norm::L1) => {
            with!(ApgdL1::new().objective(Objective::Dlr), steps => steps, restarts => restarts)
        }
        ("apgd_t", Norm::L1) => {
            let attack = ApgdL1::new().objective(Objective::Dlr).targets(targets);
            with!(attack, steps => steps, restarts => restarts)
        }
        ("apgd_ce", _) => with!(Apgd::new(), steps => steps, restarts => restarts),
        ("apgd_dlr", _) => with!(Apgd::dlr(), steps => steps, restarts => restarts),
        ("apgd_t", _) => with!(Apgd::targeted(targets), steps => steps, restarts => restarts),
        ("fab", _) => with!(Fab::new(), steps => steps, restarts => restarts),
        ("fab_t", _) => with!(Fab::targeted(targets), steps => steps, restarts => restarts),
        ("square", _) => with!(Square::new(), steps => queries, restarts => restarts),
        ("deepfool", _) => with!(DeepFool::new(), steps => steps),
        ("ddn", _) => with!(Ddn::new(), steps => steps),
        ("fmn", _) => with!(Fmn::new(), steps => steps),
        _ => return Err(Trouble::Unsupported(format!("attack `{name}`"))),
    })
}

/// Attacks `params.model` at `inputs.x` with labels `inputs.y`, and checks that at most `robust_at_most` examples are classified as
/// their label afterwards, and that every point handed back is inside ball and box. Both are counted anew from the points.
pub fn attack(case: &mut Case<'_>) -> Result<(), Trouble> {
    let (params, device) = (&case.params, Device::default());
    params.only(&[
        "attack",
        "norm",
        "eps",
        "steps",
        "step_size",
        "random_start",
        "restarts",
        "targets",
        "box",
        "seed",
        "model",
    ])?;
    case.inputs.only(&["x", "y"])?;
    case.expect.only(&["robust_at_most"])?;
    let count = |key: &str| params.find(key)?.map(|field| field.count()).transpose();
    let norm = norm(&params.get("norm")?)?;
    let settings = Settings {
        norm,
        steps: count("steps")?,
        step_size: params.find("step_size")?.map(|field| field.number()).transpose()?,
        random_start: params.find("random_start")?.map(|field| field.truth()).transpose()?,
        restarts: count("restarts")?,
        targets: count("targets")?,
    };
    let mut threat = Threat::new(norm, params.get("eps")?.number()?)?;
    if let Some(field) = params.find("box")? {
        let bounds = field.items()?.iter().map(Field::number).collect::<Result<Vec<f64>, _>>()?;
        let [low, high] = bounds[..] else {
            return Err(field.malformed(format!("{} numbers, expected low and high", bounds.len())).into());
        };
        threat = threat.bounds(low, high)?;
    }
    let engine = Engine::new().seed(count("seed")?.unwrap_or(0) as u64);

    let layers = model::layers(&params.get("model")?)?;
    let (field, width) = (case.inputs.get("x")?, layers[0].weight.shape[0]);
    let x = rows(&field)?;
    if x.dims()[1] != width {
        return Err(field.malformed(format!("{} columns for a model of {width} inputs", x.dims()[1])).into());
    }
    let field = case.inputs.get("y")?;
    let labels = field.counts()?;
    if labels.len() != x.dims()[0] {
        return Err(field.malformed(format!("{} labels for {} examples", labels.len(), x.dims()[0])).into());
    }
    let classes = layers[layers.len() - 1].weight.shape[1];
    if let Some(label) = labels.iter().find(|label| **label >= classes) {
        return Err(field.malformed(format!("label {label} for a model of {classes} classes")).into());
    }
    let net = Net::new(&layers, &device);
    let forward = move |net: &Net, x: Tensor<2>| {
        net.linears.iter().zip(&layers).fold(x, |x, (linear, layer)| (layer.activation)(linear.forward(x)))
    };
    let classifier = Recorded::new(&net, [width], forward.clone())?;

    let found = match params.get("attack")?.text()? {
        "autoattack" => AutoAttack::standard(threat)?.engine(engine).run(&classifier, x.clone(), &labels)?.inputs,
        name => {
            let attack = attack_named(name, &settings)?;
            let goals = Goals::untargeted(&labels);
            engine.run(attack.as_ref(), &classifier, threat, Search::First, x.clone(), &goals)?.inputs
        }
    };
    if found.dims() != x.dims() {
        return Err(Trouble::Failed(format!("points of shape {:?} for inputs of {:?}", found.dims(), x.dims())));
    }
    let logits: Vec<f64> = forward(&net, found.clone()).into_data().iter::<f64>().collect();
    let [x, found] = [x, found].map(|x| x.into_data().iter::<f64>().collect::<Vec<_>>());
    for (example, (x, found)) in x.chunks(width).zip(found.chunks(width)).enumerate() {
        let size = norm.of(found.iter().zip(x).map(|(found, x)| found - x));
        if size.is_nan() || size > threat.epsilon() {
            return Err(Trouble::Failed(format!("example {example} moved by {size}, above {}", threat.epsilon())));
        }
        if let Some(out) = found.iter().find(|x| !(**x >= threat.low() && **x <= threat.high())) {
            return Err(Trouble::Failed(format!("example {example} has {out}, outside of the box")));
        }
    }
    // A tie, and logits that are no numbers, count as robust.
    let beaten = |z: &[f64], label: usize| z.iter().any(|other| *other > z[label]);
    let robust = logits.chunks(classes).zip(&labels).filter(|(z, label)| !beaten(z, **label)).count();
    let most = case.expect.get("robust_at_most")?.count()?;
    match robust <= most {
        true => Ok(()),
        false => Err(Trouble::Failed(format!("{robust} examples are robust, expected {most} at most"))),
    }
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

    /// Class 1 where `x₀ + x₁ > 1`; the last input needs both elements, by 0.5 each.
    const ATTACK: &str = r#"{"op": "attack", "source": "by hand", "cases": [{"name": "one",
        "params": {"attack": "NAME", "norm": "linf", "eps": 0.3, "steps": 20, "step_size": 0.05, "random_start": false,
            "box": [0, 1], "seed": 3, "model": {"layers": [{"type": "linear", "weight": {"shape": [2, 5],
            "data": [0, 1, -1, -1, -1, 0, 1, -1, -1, -1]}, "bias": {"shape": [5], "data": [0, -1, -5, -5, -5]}, "activation": "none"}]}},
        "inputs": {"x": {"shape": [3, 2], "data": [0.4, 0.4, 0.3, 0.3, 0, 0]}, "y": [0, 0, 0]},
        "expect": {"robust_at_most": 1}, "tol": {}}]}"#;

    #[test]
    fn every_attack_breaks_what_can_be_broken_and_no_more() {
        let names = [
            ("linf", "0.3", "pgd apgd_ce apgd_dlr apgd_t fab fab_t square deepfool fmn autoattack"),
            ("l2", "0.43", "pgd apgd_ce apgd_dlr apgd_t fab fab_t deepfool ddn fmn autoattack"),
            ("l1", "0.6", "pgd apgd_ce apgd_dlr apgd_t fab fab_t fmn autoattack"),
            ("l0", "1", "fmn"),
        ];
        for (norm, epsilon, attacks) in names {
            for name in attacks.split(' ') {
                let text = ATTACK
                    .replace("NAME", name)
                    .replace("linf", norm)
                    .replace("0.3, \"steps\"", &format!("{epsilon}, \"steps\""));
                let report = outcome(&text).unwrap();
                assert!(report.is_green(), "{name} {norm}: {report}");
                let none = outcome(&text.replace("\"robust_at_most\": 1", "\"robust_at_most\": 0")).unwrap();
                assert_eq!(none.failed, 1, "{name} {norm}");
                assert!(none.to_string().contains("1 examples are robust, expected 0 at most"), "{none}");
            }
        }
        let fgsm = ATTACK.replace("NAME", "fgsm");
        assert_eq!(outcome(&fgsm).unwrap().unsupported, 1);
        assert!(outcome(&fgsm.replace("\"steps\": 20", "\"steps\": 1")).unwrap().is_green());
    }

    #[test]
    fn attacks_that_are_not_there_are_unsupported_and_misfits_malformed() {
        let pgd = ATTACK.replace("NAME", "pgd");
        assert_eq!(outcome(&ATTACK.replace("NAME", "guesswork")).unwrap().unsupported, 1);
        // Refused by the library.
        let refused = outcome(&pgd.replace("[0, 1], \"seed\"", "[0.2, 1], \"seed\"")).unwrap();
        assert_eq!(refused.failed, 1, "an input is outside of the box");
        for (from, to, complaint) in [
            ("[0, 0, 0]", "[0, 0]", "field `inputs.y`: 2 labels for 3 examples"),
            ("[0, 0, 0]", "[0, 0, 5]", "field `inputs.y`: label 5 for a model of 5 classes"),
            ("[3, 2]", "[2, 3]", "field `inputs.x`: 3 columns for a model of 2 inputs"),
            ("[0, 1], \"seed\"", "[0, 1, 2], \"seed\"", "field `params.box`: 3 numbers, expected low and high"),
            ("\"seed\"", "\"sead\"", "field `params.sead`: unknown"),
        ] {
            let error = outcome(&pgd.replace(from, to)).unwrap_err();
            assert!(error.contains(complaint), "{error}\nshould contain\n{complaint}");
        }
    }

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
