//! Conformance vectors: small JSON files made with independent oracles, run through the public API.
//!
//! A file is `{"op", "source", "cases": [{"name", "params", "inputs", "expect", "tol"}]}`; a tensor is
//! `{"shape", "data"}` with row-major numbers, where `"nan"`, `"inf"` and `"-inf"` stand for the numbers JSON
//! lacks. [`OPERATIONS`] says which operations are known; a crate that brings a new one adds a line there.

pub mod adversarial;
pub mod aggregate;
pub mod clipping;
pub mod hvp;
pub mod ibp_bounds;
pub mod json;
pub mod leaves;
pub mod model;
pub mod precision;
pub mod quadratic_hypergradient;
pub mod tolerance;

use std::fmt;
use std::path::{Path, PathBuf};

use json::{Field, Json, Malformed};
use tolerance::Tolerance;

/// Runs one case: computes, and compares through [`Case::check`] and its kin.
pub type Operation = fn(&mut Case<'_>) -> Result<(), Trouble>;

/// Every operation that this build can run, by the `op` of the file.
pub const OPERATIONS: &[(&str, Operation)] = &[
    ("adaptive_gradient_clip", clipping::adaptive_gradient_clip),
    ("aggregate", aggregate::run),
    ("attack", adversarial::attack),
    ("autoclip_trace", clipping::autoclip_trace),
    ("clip_by_global_norm", clipping::clip_by_global_norm),
    ("clip_by_value", clipping::clip_by_value),
    ("dlr_loss", adversarial::dlr),
    ("dp_epsilon", clipping::dp_epsilon),
    ("per_sample_clip", clipping::per_sample_clip),
    ("hvp", hvp::run),
    ("ibp_bounds", ibp_bounds::run),
    ("loss_scale_trace", precision::loss_scale_trace),
    ("mx_quantize", precision::mx_quantize),
    ("project", adversarial::project),
    ("quadratic_hypergradient", quadratic_hypergradient::run),
    ("quantize", precision::quantize),
    ("smoothing_certificate", adversarial::smoothing),
    ("zclip_trace", clipping::zclip_trace),
];

/// Why a case gave no result, or a wrong one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The file does not have the format.
    Malformed(Malformed),
    /// The case asks for something that is not there, for example an unknown activation.
    Unsupported(String),
    /// The library refused or computed something of another shape.
    Failed(String),
}

impl From<Malformed> for Trouble {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<core_tensor::Error> for Trouble {
    fn from(error: core_tensor::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// One case of a file, and what its comparisons gave.
pub struct Case<'a> {
    /// `name`, unique in its file.
    pub name: &'a str,
    /// `params`
    pub params: Field<'a>,
    /// `inputs`
    pub inputs: Field<'a>,
    /// `expect`
    pub expect: Field<'a>,
    tolerance: Tolerance,
    worst: f64,
    failure: Option<String>,
}

impl Case<'_> {
    /// Compares one number.
    pub fn check(&mut self, what: &str, got: f64, want: f64) {
        let distance = self.tolerance.compare(got, want);
        self.worst = self.worst.max(distance.error);
        if !distance.within && self.failure.is_none() {
            self.failure = Some(format!("{what} is {got:e}, expected {want:e}"));
        }
    }

    /// Compares many numbers, which have to be as many as expected.
    pub fn check_all(&mut self, what: &str, got: &[f64], want: &[f64]) {
        if got.len() != want.len() {
            self.failure.get_or_insert(format!("{what} has {} numbers, expected {}", got.len(), want.len()));
            return;
        }
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            self.check(&format!("{what}[{i}]"), *got, *want);
        }
    }
}

/// What running a file gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The file's operation.
    pub op: String,
    /// Cases within their tolerance.
    pub passed: usize,
    /// Cases outside it, or refused by the library.
    pub failed: usize,
    /// Cases of an operation, or with a setting, that is not there.
    pub unsupported: usize,
    /// The largest `|got − want|` and its case; none if nothing was compared.
    pub worst: Option<(f64, String)>,
    /// The first failing case and its first wrong number.
    pub first_failure: Option<(String, String)>,
    /// The first unsupported case and what it lacks.
    pub first_unsupported: Option<(String, String)>,
}

impl Report {
    /// Whether nothing failed and nothing was unsupported.
    pub fn is_green(&self) -> bool {
        self.failed == 0 && self.unsupported == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, passed, failed, unsupported, .. } = self;
        write!(f, "{op}: {passed} passed, {failed} failed, {unsupported} unsupported")?;
        if let Some((error, case)) = &self.worst {
            write!(f, "; worst error {error:.1e} in {case}")?;
        }
        if let Some((case, why)) = &self.first_failure {
            write!(f, "; first failing {case}: {why}")?;
        }
        if let Some((case, why)) = &self.first_unsupported {
            write!(f, "; first unsupported {case}: {why}")?;
        }
        Ok(())
    }
}

/// The vector files that `path` means: itself, or every `*.json` directly in a folder, by name.
///
/// # Errors
/// `path` or the folder cannot be read, or the folder has no such file.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, Malformed> {
    let unreadable =
        |why: String| Malformed { file: path.display().to_string(), case: None, field: ".".to_string(), problem: why };
    let kind = std::fs::metadata(path).map_err(|e| unreadable(format!("cannot be read: {e}")))?;
    if !kind.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| unreadable(format!("cannot be listed: {e}")))? {
        let file = entry.map_err(|e| unreadable(format!("cannot be listed: {e}")))?.path();
        if file.extension().is_some_and(|extension| extension == "json") {
            found.push(file);
        }
    }
    if found.is_empty() {
        return Err(unreadable("has no .json file".to_string()));
    }
    found.sort();
    Ok(found)
}

/// Reads and runs one file.
///
/// # Errors
/// The file cannot be read or does not have the format; the error names file, case and field.
pub fn run_file(path: &Path) -> Result<Report, Malformed> {
    let file = path.display().to_string();
    let broken = |problem| Malformed { file: file.clone(), case: None, field: ".".to_string(), problem };
    let text = std::fs::read_to_string(path).map_err(|e| broken(format!("cannot be read: {e}")))?;
    let json: Json = serde_json::from_str(&text).map_err(|e| broken(format!("is not JSON: {e}")))?;
    run(&Field::root(&file, &json), OPERATIONS)
}

/// Runs the document `root` with the operations given.
///
/// # Errors
/// The document does not have the format.
pub fn run(root: &Field<'_>, operations: &[(&str, Operation)]) -> Result<Report, Malformed> {
    root.only(&["op", "source", "cases"])?;
    let op = root.get("op")?.text()?;
    root.get("source")?.text()?;
    let operation = operations.iter().find(|(name, _)| *name == op).map(|(_, operation)| *operation);
    let mut report = Report {
        op: op.to_string(),
        passed: 0,
        failed: 0,
        unsupported: 0,
        worst: None,
        first_failure: None,
        first_unsupported: None,
    };
    let list = root.get("cases")?;
    let cases = list.items()?;
    if cases.is_empty() {
        return Err(list.malformed("empty"));
    }
    let mut names: Vec<&str> = Vec::new();
    for (i, fields) in cases.iter().enumerate() {
        let name = fields.as_case(&format!("#{i}")).get("name")?.text()?;
        let fields = fields.as_case(name);
        fields.only(&["name", "params", "inputs", "expect", "tol"])?;
        if names.contains(&name) {
            return Err(fields.get("name")?.malformed("an earlier case has the same name"));
        }
        names.push(name);
        let mut case = Case {
            name,
            params: fields.get("params")?,
            inputs: fields.get("inputs")?,
            expect: fields.get("expect")?,
            tolerance: Tolerance::parse(&fields.get("tol")?)?,
            worst: 0.0,
            failure: None,
        };
        let outcome = match operation {
            Some(operation) => operation(&mut case),
            None => Err(Trouble::Unsupported("no such operation in this build".to_string())),
        };
        report.add(case, outcome)?;
    }
    Ok(report)
}

impl Report {
    fn add(&mut self, case: Case<'_>, outcome: Result<(), Trouble>) -> Result<(), Malformed> {
        let failure = match outcome {
            Err(Trouble::Malformed(malformed)) => return Err(malformed),
            Err(Trouble::Unsupported(why)) => {
                self.unsupported += 1;
                self.first_unsupported.get_or_insert((case.name.to_string(), why));
                return Ok(());
            }
            Err(Trouble::Failed(why)) => Some(why),
            Ok(()) => case.failure,
        };
        if self.worst.as_ref().is_none_or(|(worst, _)| case.worst > *worst) {
            self.worst = Some((case.worst, case.name.to_string()));
        }
        match failure {
            None => self.passed += 1,
            Some(why) => {
                self.failed += 1;
                self.first_failure.get_or_insert((case.name.to_string(), why));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Doubles `inputs.x` and compares with `expect.y`.
    fn double(case: &mut Case<'_>) -> Result<(), Trouble> {
        if case.params.find("exotic")?.is_some() {
            return Err(Trouble::Unsupported("exotic".to_string()));
        }
        let (got, want) = (2.0 * case.inputs.get("x")?.number()?, case.expect.get("y")?.number()?);
        case.check("y", got, want);
        Ok(())
    }

    fn run_text(text: &str) -> Result<Report, Malformed> {
        let json: Json = serde_json::from_str(text).unwrap();
        run(&Field::root("double.json", &json), &[("double", double)])
    }

    fn with_cases(cases: &str) -> String {
        format!(r#"{{"op": "double", "source": "arithmetic", "cases": [{cases}]}}"#)
    }

    fn case(name: &str, x: f64, y: f64, params: &str) -> String {
        format!(
            r#"{{"name": "{name}", "params": {params}, "inputs": {{"x": {x}}}, "expect": {{"y": {y}}}, "tol": {{"abs": 0.5}}}}"#
        )
    }

    #[test]
    fn a_report_counts_and_names() {
        let text = with_cases(
            &[
                case("good", 1.0, 2.25, "{}"),
                case("odd", 1.0, 2.0, r#"{"exotic": 1}"#),
                case("bad", 1.0, 3.0, "{}"),
                case("worse", 1.0, 6.0, "{}"),
            ]
            .join(","),
        );
        let report = run_text(&text).unwrap();
        assert_eq!((report.passed, report.failed, report.unsupported), (1, 2, 1));
        assert!(!report.is_green());
        assert_eq!(
            report.to_string(),
            "double: 1 passed, 2 failed, 1 unsupported; worst error 4.0e0 in worse; first failing bad: y is 2e0, \
             expected 3e0; first unsupported odd: exotic"
        );
        assert!(run_text(&with_cases(&case("good", 1.0, 2.0, "{}"))).unwrap().is_green());
    }

    #[test]
    fn an_unknown_operation_is_unsupported_case_by_case() {
        let text = with_cases(&case("a", 1.0, 2.0, "{}")).replace("\"double\"", "\"triple\"");
        let report = run_text(&text).unwrap();
        assert_eq!((report.passed, report.failed, report.unsupported), (0, 0, 1));
        assert!(report.worst.is_none() && !report.is_green());
    }

    #[test]
    fn malformed_files_name_their_place() {
        let good = case("good", 1.0, 2.0, "{}");
        for (text, complaint) in [
            (with_cases(""), "double.json: field `cases`: empty"),
            (with_cases(&good).replace("source", "sauce"), "double.json: field `sauce`: unknown"),
            (with_cases(&good.replace("\"name\"", "\"nom\"")), "double.json: case `#0`: field `name`: missing"),
            (with_cases(&format!("{good},{good}")), "case `good`: field `name`: an earlier case has the same name"),
            (with_cases(&good.replace("\"x\": 1", "\"x\": []")), "case `good`: field `inputs.x`: an array of 0"),
            (with_cases(&good.replace("\"tol\"", "\"tolerance\"")), "case `good`: field `tolerance`: unknown"),
            (with_cases(&good.replace("0.5", "-1")), "case `good`: field `tol.abs`: -1, expected"),
            ("[]".to_string(), "double.json: field `.`: an array of 0, expected an object"),
        ] {
            let error = run_text(&text).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}\nshould contain\n{complaint}");
        }
    }

    #[test]
    fn files_are_those_of_a_folder_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(files(folder.path()).unwrap_err().to_string().ends_with("has no .json file"));
        for name in ["b.json", "a.json", "c.txt"] {
            std::fs::write(folder.path().join(name), "{").unwrap();
        }
        let found = files(folder.path()).unwrap();
        assert_eq!(found, [folder.path().join("a.json"), folder.path().join("b.json")]);
        assert!(run_file(&found[0]).unwrap_err().to_string().contains("is not JSON: EOF"));
        assert!(files(&folder.path().join("missing")).unwrap_err().to_string().contains("cannot be read"));
    }
}
