//! Running other programs, and timed steps with a summary.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The folder of the workspace.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest = PathBuf::from(manifest);
    manifest.parent().map(Path::to_path_buf).unwrap_or(manifest)
}

/// The folder that builds go to.
pub fn target_dir() -> PathBuf {
    // Relative to the workspace: that is where the commands of this program run.
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// `cargo` in the workspace's folder.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command to its end, its output passed through; shows the command first.
pub fn run(command: &mut Command) -> Result<ExitStatus> {
    announce(command);
    command.status().with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// Runs a command to its end; every line of its standard output is passed through and handed to `on_line`.
pub fn stream(command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<ExitStatus> {
    announce(command);
    let program = command.get_program().to_os_string();
    let describe = || format!("cannot run {}", program.display());
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(describe)?;
    let mut lines = BufReader::new(child.stdout.take().context("standard output was not captured")?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).with_context(describe)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        on_line(text.trim_end());
        line.clear();
    }
    child.wait().with_context(describe)
}

/// The whole workspace less xtask and the examples with dependencies of their own, in the profile that users run.
///
/// Every build here selects all of it, whatever it needs of it: cargo unifies features over the selected packages, and
/// another selection would be another set of features and a second build of Burn.
pub const WORKSPACE: [&str; 6] = ["--release", "--workspace", "--exclude", "xtask", "--exclude", "learner"];

/// The examples with dependencies that no crate here has: a build of their own, as they would change the features of the others'.
pub const EXAMPLES: [&str; 2] = ["-p", "learner"];

/// Builds one of the workspace's programs and returns the file to run.
pub fn build_program(name: &str) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--message-format", "json-render-diagnostics", "--bin", name]).args(WORKSPACE);
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo build")?;
    if !output.status.success() {
        bail!("the program {name} does not build");
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    executable(&messages, name).with_context(|| format!("cargo build named no file for the program {name}"))
}

/// The file that cargo's JSON messages name for a program.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == name && message["target"]["kind"][0] == "bin";
        message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
    })
}

/// Whether a program starts and succeeds, its output thrown away.
pub fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let quiet = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet(Command::new(program).args(arguments)).is_ok_and(|status| status.success())
}

fn announce(command: &Command) {
    let words: Vec<OsString> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(OsString::from).collect();
    let name = Path::new(&words[0]).file_name().unwrap_or(&words[0]).display().to_string();
    let rest: Vec<String> = words[1..].iter().map(|word| word.display().to_string()).collect();
    eprintln!("$ {name} {}", rest.join(" "));
}

/// Steps run one after the other, each with a title, a result and its seconds.
#[derive(Default)]
pub struct Steps {
    rows: Vec<(String, bool, Duration)>,
}

impl Steps {
    /// Runs one step. A failed step does not stop the next ones: one run shows everything that is wrong.
    pub fn step(&mut self, title: &str, work: impl FnOnce() -> Result<bool>) {
        println!("\n== {title}");
        let start = Instant::now();
        let passed = work().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            false
        });
        let spent = start.elapsed();
        println!("== {title}: {} in {:.1} s", verdict(passed), spent.as_secs_f64());
        self.rows.push((title.to_string(), passed, spent));
    }

    /// Whether every step passed.
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|(_, passed, _)| *passed)
    }

    /// The table of all steps.
    pub fn summary(&self) -> String {
        let width = self.rows.iter().map(|(title, ..)| title.len()).max().unwrap_or(0).max(5);
        let row = |title: &str, passed, spent: Duration| {
            format!("{title:width$}  {:6}  {:>8.1} s\n", verdict(passed), spent.as_secs_f64())
        };
        let mut table: String = self.rows.iter().map(|(title, passed, spent)| row(title, *passed, *spent)).collect();
        table += &row("total", self.passed(), self.rows.iter().map(|(.., spent)| *spent).sum());
        table
    }
}

fn verdict(passed: bool) -> &'static str {
    if passed { "ok" } else { "FAILED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_fails_the_whole_and_the_later_ones_still_run() {
        let mut steps = Steps::default();
        steps.step("first", || Ok(false));
        steps.step("second step", || Ok(true));
        steps.step("third", || anyhow::bail!("no such file"));
        assert!(!steps.passed());
        let table = steps.summary();
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0][..2], ["first", "FAILED"]);
        assert_eq!(rows[1][..3], ["second", "step", "ok"]);
        assert_eq!(rows[2][..2], ["third", "FAILED"]);
        assert_eq!(rows[3][..2], ["total", "FAILED"]);
    }

    #[test]
    fn the_program_is_told_from_the_library_of_the_same_name() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"bench"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"conform"},"executable":"/t/release/conform"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"bench"},"executable":"/t/release/bench"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "bench"), Some(PathBuf::from("/t/release/bench")));
        assert_eq!(executable(messages, "lab"), None);
    }

    #[test]
    fn streaming_hands_over_every_line_even_an_unfinished_last_one() {
        let mut lines = Vec::new();
        let status = stream(Command::new("printf").arg(r"one\ntwo\nthree"), |line| lines.push(line.to_string()));
        assert!(status.is_ok_and(|status| status.success()));
        assert_eq!(lines, ["one", "two", "three"]);
    }
}
