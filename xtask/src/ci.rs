//! `ci`: every check that a change has to pass.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::licences::Policy;
use crate::metadata::Metadata;
use crate::process::{Steps, WORKSPACE, cargo, root, run as execute, succeeds};
use crate::suite::Totals;
use crate::{book, files, invariants, suite};

const XTASK: [&str; 2] = ["-p", "xtask"];

/// Runs all steps, prints a table of them and, after tests, their totals on the last line.
pub fn run(test: bool) -> Result<ExitCode> {
    let mut steps = Steps::default();
    steps.step("format", || passes(&["fmt", "--all", "--check"], &[], &[]));
    steps.step("design invariants", || {
        let metadata = Metadata::load()?;
        let breaches = [invariants::dependencies(&metadata), invariants::sources(&metadata)?].concat();
        report("the design's invariants", &breaches)
    });
    steps.step("licences, sources, versions", || {
        let policy = Policy::parse(&files::read(&root().join("deny.toml"))?)?;
        report("deny.toml's rules", &policy.check(&Metadata::load()?.only_what_is_built()?))
    });
    if succeeds("cargo-deny", &["--version"]) {
        steps.step("cargo-deny", || {
            passes(&["deny", "--all-features", "check", "licenses", "bans", "sources"], &[], &[])
        });
    }
    steps.step("packages", || {
        let metadata = Metadata::load()?;
        let mut command = cargo();
        // What would be uploaded, with its metadata and dependencies; not built, as it is what is built here.
        command.args(["package", "--quiet", "--no-verify", "--allow-dirty", "--offline"]);
        for name in invariants::published(&metadata) {
            command.args(["-p", name]);
        }
        Ok(execute(&mut command)?.success())
    });
    steps.step("book", || book::build().map(|_| true));
    for (title, scope) in [("clippy", &WORKSPACE[..]), ("clippy of xtask", &XTASK)] {
        steps.step(title, || passes(&["clippy", "--all-targets"], scope, &["--", "-D", "warnings"]));
    }
    for (title, scope) in [("docs", &WORKSPACE[..]), ("docs of xtask", &XTASK)] {
        steps.step(title, || {
            let mut command = cargo();
            command.env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--no-deps"]).args(scope);
            Ok(execute(&mut command)?.success())
        });
    }
    let mut totals = None;
    if test {
        steps.step("tests", || {
            let (counted, green) = suite::everything()?;
            totals = Some(counted);
            Ok(green)
        });
    }
    print!("\n{}", steps.summary());
    if let Some(line) = totals.as_ref().map(Totals::closing_line) {
        println!("{line}");
    }
    Ok(if steps.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn passes(first: &[&str], scope: &[&str], last: &[&str]) -> Result<bool> {
    Ok(execute(cargo().args(first).args(scope).args(last))?.success())
}

fn report(what: &str, breaches: &[String]) -> Result<bool> {
    for breach in breaches {
        println!("{breach}");
    }
    if !breaches.is_empty() {
        bail!("breaches of {what}: {}", breaches.len());
    }
    Ok(true)
}
