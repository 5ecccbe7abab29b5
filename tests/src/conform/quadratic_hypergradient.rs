//! `quadratic_hypergradient`: the hypergradient of a quadratic bilevel problem given as differentiable closures.

use bilevel::update::Sgd;
use bilevel::{Batches, ConjugateGradient, Implicit, Method, Neumann, Problem, Unroll};
use burn::tensor::{Device, Tensor, TensorData};
use core_tensor::Tree;

use super::json::Field;
use super::{Case, Trouble};

/// What both objectives are given: `A`, `C`, `a` and `F`, `d`, `K`.
type Constants = (Vec<Tensor<2>>, Tensor<1>);

impl From<bilevel::Error> for Trouble {
    fn from(error: bilevel::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Compares `hypergradient` of `g = ½zᵀAz + zᵀ(a + Cx)` and `f = ½zᵀFz + dᵀz + ½xᵀKx`, in `f32` on the default device.
pub fn run(case: &mut Case<'_>) -> Result<(), Trouble> {
    case.inputs.only(&["A", "C", "a", "F", "d", "K", "x", "z0"])?;
    case.expect.only(&["hypergradient"])?;
    let device = Device::default();
    let vector = |key: &str, length: Option<usize>| -> Result<Tensor<1>, Trouble> {
        let field = case.inputs.get(key)?;
        let ([n], data) = field.ranked::<1>()?;
        match length {
            Some(length) if length != n => Err(field.malformed(format!("{n} numbers, expected {length}")).into()),
            _ => Ok(Tensor::from_data(TensorData::new(data, [n]), &device)),
        }
    };
    let x = vector("x", None)?;
    let z = vector("z0", None)?;
    let (nx, nz) = (x.dims()[0], z.dims()[0]);
    let matrix = |key: &str, shape: [usize; 2]| -> Result<Tensor<2>, Trouble> {
        let field = case.inputs.get(key)?;
        let (found, data) = field.ranked::<2>()?;
        match found == shape {
            true => Ok(Tensor::from_data(TensorData::new(data, shape), &device)),
            false => Err(field.malformed(format!("shape {found:?}, expected {shape:?}")).into()),
        }
    };
    let inner: Constants = (vec![matrix("A", [nz, nz])?, matrix("C", [nz, nx])?], vector("a", Some(nz))?);
    let outer: Constants = (vec![matrix("F", [nz, nz])?, matrix("K", [nx, nx])?], vector("d", Some(nz))?);
    let (x, z) = (Tree::empty().push("x", x)?, Tree::empty().push("z", z)?);
    let batches = Batches::new(inner, outer);
    let method = method(&case.params)?;

    let problem = Problem::from_functions(
        &x,
        &z,
        &batches,
        |x: &Tree, z: &Tree, (m, a): &Constants| {
            let (x, z) = (column(x, "x"), column(z, "z"));
            let linear = a.clone().unsqueeze_dim::<2>(1) + m[1].clone().matmul(x);
            (z.clone() * m[0].clone().matmul(z.clone()) * 0.5 + z * linear).sum()
        },
        |x: &Tree, z: &Tree, (m, d): &Constants| {
            let (x, z) = (column(x, "x"), column(z, "z"));
            let of_z = z.clone() * m[0].clone().matmul(z.clone()) * 0.5 + z * d.clone().unsqueeze_dim::<2>(1);
            of_z.sum() + (x.clone() * m[1].clone().matmul(x)).sum() * 0.5
        },
    )?;
    let h = method.hypergradient(&problem, &x, &z, &batches)?;
    let got: Vec<f64> = h.gradient.to_data()[0].1.iter().collect();
    let field = case.expect.get("hypergradient")?;
    let ([n], want) = field.ranked::<1>()?;
    if n != nx {
        return Err(field.malformed(format!("{n} numbers for {nx} outer variables")).into());
    }
    case.check_all("hypergradient", &got, &want);
    Ok(())
}

fn column(tree: &Tree, path: &str) -> Tensor<2> {
    tree.get::<1>(path).expect("the leaf this problem was recorded with").unsqueeze_dim(1)
}

/// The method that `params` name.
fn method(params: &Field<'_>) -> Result<Box<dyn Method<Constants, Constants>>, Trouble> {
    let known = |keys: &[&str]| match params.only(keys) {
        Ok(()) => Ok(()),
        Err(unknown) => Err(Trouble::Unsupported(unknown.to_string())),
    };
    match params.get("method")?.text()? {
        "implicit" => match params.get("solver")?.text()? {
            "cg" => {
                known(&["method", "solver", "iterations"])?;
                let iterations = params.get("iterations")?.count()?;
                Ok(Box::new(Implicit::new(ConjugateGradient::new(iterations)?)))
            }
            "neumann" => {
                known(&["method", "solver", "iterations", "step"])?;
                let (iterations, step) = (params.get("iterations")?.count()?, params.get("step")?.number()?);
                Ok(Box::new(Implicit::new(Neumann::new(iterations, step)?)))
            }
            other => Err(Trouble::Unsupported(format!("solver `{other}`"))),
        },
        "unroll" => {
            known(&["method", "steps", "learning_rate"])?;
            let (steps, rate) = (params.get("steps")?.count()?, params.get("learning_rate")?.number()?);
            Ok(Box::new(Unroll::new(Sgd::new(rate), steps)?))
        }
        other => Err(Trouble::Unsupported(format!("method `{other}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::{Field, Json};
    use super::super::{OPERATIONS, Report, run as run_document};

    /// `z* = −(1 + 3x)/2 = −2` at `x = 1`; `v = (4z* + 1)/2 = −3.5`; `0.5x − 3v = 11`.
    const ONE: &str = r#"{"op": "quadratic_hypergradient", "source": "by hand", "cases": [{"name": "one",
        "params": {"method": "implicit", "solver": "cg", "iterations": 3},
        "inputs": {"A": {"shape": [1, 1], "data": [2]}, "C": {"shape": [1, 1], "data": [3]}, "a": {"shape": [1], "data": [1]},
            "F": {"shape": [1, 1], "data": [4]}, "d": {"shape": [1], "data": [1]}, "K": {"shape": [1, 1], "data": [0.5]},
            "x": {"shape": [1], "data": [1]}, "z0": {"shape": [1], "data": [-2]}},
        "expect": {"hypergradient": {"shape": [1], "data": [11]}}, "tol": {"abs": 1e-5}}]}"#;

    const CG: &str = r#""method": "implicit", "solver": "cg", "iterations": 3"#;

    fn outcome(text: &str) -> Result<Report, String> {
        let json: Json = serde_json::from_str(text).unwrap();
        run_document(&Field::root("q.json", &json), OPERATIONS).map_err(|e| e.to_string())
    }

    #[test]
    fn cases_by_hand_pass_and_wrong_numbers_fail() {
        // Neumann with two terms of step ¼: v = ¼(1 + ½)·(−7) = −2.625, so 0.5 + 7.875.
        let neumann = r#""method": "implicit", "solver": "neumann", "iterations": 1, "step": 0.25"#;
        // One step of ¼ from −2, the solution: v = ¼·(−7), so 0.5 + 5.25.
        let unroll = r#""method": "unroll", "steps": 1, "learning_rate": 0.25"#;
        for (params, answer) in [(CG, "[11]"), (neumann, "[8.375]"), (unroll, "[5.75]")] {
            let case = ONE.replace(CG, params);
            assert!(outcome(&case.replace("[11]", answer)).unwrap().is_green(), "{params}");
            assert_eq!(outcome(&case.replace("[11]", "[11.5]")).unwrap().failed, 1, "{params}");
        }
    }

    #[test]
    fn the_unknown_and_the_misfits_are_named() {
        for (known, unknown) in
            [("implicit", "evolution"), ("cg", "jacobi"), ("\"iterations\"", "\"warm\": 1, \"iterations\"")]
        {
            assert_eq!(outcome(&ONE.replacen(known, unknown, 1)).unwrap().unsupported, 1, "{unknown}");
        }
        assert_eq!(outcome(&ONE.replace("\"iterations\": 3", "\"iterations\": 0")).unwrap().failed, 1);
        for (before, after, complaint) in [
            (r#""A": {"shape": [1, 1]"#, r#""A": {"shape": [1]"#, "field `inputs.A.shape`: rank 1, expected 2"),
            (
                r#""a": {"shape": [1], "data": [1]"#,
                r#""a": {"shape": [2], "data": [1, 1]"#,
                "field `inputs.a`: 2 numbers",
            ),
            (r#""d": "#, r#""e": "#, "field `inputs.e`: unknown"),
            (r#"{"shape": [1], "data": [11]}"#, r#"{"shape": [2], "data": [1, 1]}"#, "2 numbers for 1 outer"),
        ] {
            assert!(ONE.contains(before), "{before}");
            let error = outcome(&ONE.replace(before, after)).unwrap_err();
            assert!(error.contains(complaint), "{error}\nshould contain\n{complaint}");
        }
    }
}
