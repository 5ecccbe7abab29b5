//! `study`: the studies of the `lab` program.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process::{build_program, run as execute};

/// Runs every study, or with `rest` what it says (`clipping --seed 3`); with the program's own exit status.
pub fn run(rest: &[String]) -> Result<ExitCode> {
    let mut lab = Command::new(build_program("lab")?);
    let status = execute(lab.args(arguments(rest)))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// `study all`, with options behind it; another study where `rest` begins with its name.
fn arguments(rest: &[String]) -> Vec<&str> {
    let named = rest.first().is_some_and(|first| !first.starts_with('-'));
    let all: &[&str] = if named { &["study"] } else { &["study", "all"] };
    all.iter().copied().chain(rest.iter().map(String::as_str)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_what_is_studied_when_nothing_is_named() {
        let words = |rest: &[&str]| -> Vec<String> {
            let rest: Vec<String> = rest.iter().map(|word| word.to_string()).collect();
            arguments(&rest).iter().map(|word| word.to_string()).collect()
        };
        assert_eq!(words(&[]), ["study", "all"]);
        assert_eq!(words(&["--seed", "3"]), ["study", "all", "--seed", "3"]);
        assert_eq!(words(&["clipping", "--out", "x"]), ["study", "clipping", "--out", "x"]);
    }
}
