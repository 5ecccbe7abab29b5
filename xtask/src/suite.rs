//! `test` and `conform`: runs the test suite and counts what ran, over every test binary.

use std::ops::AddAssign;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::process;

/// The conformance vectors of this repository.
const VECTORS: &str = "tests/vectors";

/// How many tests passed, failed and were left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
}

impl Totals {
    /// Reads libtest's closing line: `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`.
    fn of_test_binary(line: &str) -> Option<Self> {
        let counts = line.trim_start().strip_prefix("test result: ")?.split_once(". ")?.1;
        Some(Self {
            passed: count(counts, ';', "passed")?,
            failed: count(counts, ';', "failed")?,
            ignored: count(counts, ';', "ignored")?,
        })
    }

    /// Reads a line of the conformance runner: `OP: 3 passed, 0 failed, 1 unsupported …`.
    fn of_vector_file(line: &str) -> Option<Self> {
        // The worst error and the first failure follow behind a semicolon.
        let line = line.split(';').next()?;
        let counts = line.split_once(": ")?.1;
        Some(Self {
            passed: count(counts, ',', "passed")?,
            failed: count(counts, ',', "failed")?,
            ignored: count(counts, ',', "unsupported")?,
        })
    }

    /// Whether something ran and nothing failed.
    pub fn green(&self) -> bool {
        self.passed > 0 && self.failed == 0
    }

    /// The closing line that says how a run of tests ended.
    pub fn closing_line(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed)
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// `N` of the part `N what` of a list; what follows `what` in its part is ignored.
fn count(list: &str, separator: char, what: &str) -> Option<u64> {
    list.split(separator).find_map(|part| {
        let (number, rest) = part.trim().split_once(' ')?;
        (rest.split_whitespace().next() == Some(what)).then(|| number.parse().ok())?
    })
}

/// `cargo xtask test`: everything; the last line printed is `N passed, N failed`.
pub fn run() -> Result<ExitCode> {
    let (totals, green) = everything()?;
    println!("{}", totals.closing_line());
    Ok(if green { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs all tests and the repository's conformance vectors. The totals count tests; the flag covers the vectors too.
pub fn everything() -> Result<(Totals, bool)> {
    // xtask in its own profile, which is built already.
    let mut totals = cargo_test(process::cargo().args(["test", "--no-fail-fast", "-p", "xtask"]))?;
    totals += cargo_test(process::cargo().args(["test", "--no-fail-fast"]).args(process::WORKSPACE))?;

    let vectors_green = vectors().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        false
    });
    if totals.ignored > 0 {
        println!("ignored tests: {}", totals.ignored);
    }
    Ok((totals, totals.green() && vectors_green))
}

/// `cargo xtask examples`: lints and tests what is left out of the workspace's own builds, not optimised, as that is built sooner.
pub fn examples() -> Result<ExitCode> {
    let mut clippy = process::cargo();
    clippy.args(["clippy", "--all-targets"]).args(process::EXAMPLES).args(["--", "-D", "warnings"]);
    if !process::run(&mut clippy)?.success() {
        return Ok(ExitCode::FAILURE);
    }
    let totals = cargo_test(process::cargo().arg("test").args(process::EXAMPLES))?;
    println!("{}", totals.closing_line());
    Ok(if totals.green() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the repository's conformance vectors; whether all of them passed.
fn vectors() -> Result<bool> {
    let mut totals = Totals::default();
    let mut conform = Command::new(process::build_program("conform")?);
    let status = process::stream(conform.arg(VECTORS).current_dir(process::root()), |line| {
        totals += Totals::of_vector_file(line).unwrap_or_default();
    })?;
    let Totals { passed, failed, ignored } = totals;
    println!("conformance cases: {passed} passed, {failed} failed, {ignored} unsupported");
    Ok(status.success() && totals.green())
}

/// Runs a `cargo test` and counts. A failure that no test owns up to, such as a crash or a build error, counts as one.
pub fn cargo_test(command: &mut Command) -> Result<Totals> {
    let mut totals = Totals::default();
    let status = process::stream(command, |line| totals += Totals::of_test_binary(line).unwrap_or_default())?;
    if !status.success() && totals.failed == 0 {
        eprintln!("error: cargo test failed outside of a test ({status}): it did not build, or a test binary died");
        totals.failed = 1;
    }
    Ok(totals)
}

/// `cargo xtask conform PATH...`, with the runner's own exit status. The paths are the caller's: it runs where they are.
pub fn conform(paths: &[PathBuf]) -> Result<ExitCode> {
    let program = process::build_program("conform")?;
    let status = Command::new(program).args(paths).status().context("cannot start the conformance runner")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_over_all_test_binaries() {
        let output = "
running 2 tests
test a ... ok
test b ... FAILED
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s

running 12 tests
test result: ok. 10 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 1.20s
   Doc-tests core_tensor
test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
all doctests ran in 0.30s; merged doctests compilation took 0.20s
";
        let mut totals = Totals::default();
        for line in output.lines() {
            totals += Totals::of_test_binary(line).unwrap_or_default();
        }
        assert_eq!(totals, Totals { passed: 11, failed: 1, ignored: 2 });
        assert_eq!(totals.closing_line(), "11 passed, 1 failed");
        assert!(!totals.green());
    }

    #[test]
    fn a_run_without_tests_is_not_green() {
        assert!(!Totals::default().green());
        assert!(Totals { passed: 1, ..Totals::default() }.green());
    }

    #[test]
    fn counts_conformance_lines_whatever_follows_the_counts() {
        let line = "hvp: 5 passed, 2 failed, 0 unsupported, worst error 1e-6, first failure: mlp 3 layers";
        assert_eq!(Totals::of_vector_file(line), Some(Totals { passed: 5, failed: 2, ignored: 0 }));
        let line = "hvp: 6 passed, 0 failed, 0 unsupported; worst error 3.2e-7 in least_squares";
        assert_eq!(Totals::of_vector_file(line), Some(Totals { passed: 6, failed: 0, ignored: 0 }));
        let line = "attack: 0 passed, 0 failed, 4 unsupported";
        assert_eq!(Totals::of_vector_file(line), Some(Totals { passed: 0, failed: 0, ignored: 4 }));
        assert_eq!(Totals::of_vector_file("error: no such file"), None);
        assert_eq!(Totals::of_vector_file(""), None);
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in ["test result", "test result: ok", "test a::b ... ok", "5 passed; 0 failed", "note: test result: x"]
        {
            assert_eq!(Totals::of_test_binary(line), None, "{line}");
        }
    }

    #[test]
    fn a_failure_outside_of_a_test_counts_as_one() -> Result<()> {
        assert_eq!(cargo_test(&mut Command::new("false"))?, Totals { failed: 1, ..Totals::default() });
        let died_late = r"printf 'test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured\n'; exit 101";
        let totals = cargo_test(Command::new("sh").args(["-c", died_late]))?;
        assert_eq!(totals, Totals { passed: 3, failed: 1, ignored: 0 });
        Ok(())
    }
}
