//! Developer commands of Crucible: `cargo xtask COMMAND`.
//!
//! Depends on no Burn crate, so that it builds in seconds. Exit status: 0 success, 1 a check failed, 2 something the
//! command needs is missing (it names what, and how to get it) or the command line is wrong.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod backends;
mod bench;
mod book;
mod ci;
mod files;
mod invariants;
mod licences;
mod metadata;
mod process;
mod study;
mod suite;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of Crucible.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the unit, integration, property and doc tests and the conformance vectors; the last line counts them
    Test,
    /// Checks format, design, licences, book, lints and docs, then runs the tests
    Ci {
        /// Leave the tests out
        #[arg(long)]
        no_test: bool,
    },
    /// Runs the test suite on each backend (wgpu: its smoke test)
    Backends {
        /// Only this backend; may be given again
        #[arg(long, value_name = "NAME")]
        only: Vec<backends::Backend>,
    },
    /// Builds and tests the examples, which have dependencies of their own (burn-train)
    Examples,
    /// Runs conformance vectors: files, or folders of *.json
    Conform {
        /// Vector files or folders
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Measures speed and memory, as ratios of one run
    Bench {
        /// Measure JAX, PyTorch, optax and Opacus too, in a virtual environment that the first such run makes (a download of
        /// some GB)
        #[arg(long)]
        peers: bool,
        /// Threads that every side may use
        #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        threads: u16,
        /// Arguments for the bench program
        #[arg(last = true, value_name = "ARG")]
        rest: Vec<String>,
    },
    /// Runs the studies of the techniques' questions (lab study all) and writes their report
    Study {
        /// Arguments for lab study: another study's name, --out DIR, --seed N
        #[arg(last = true, value_name = "ARG")]
        rest: Vec<String>,
    },
    /// Renders docs/ to target/book and checks its links
    Book {
        /// Then serve it on this machine, rendered anew at every page load
        #[arg(long)]
        serve: bool,
        /// Port for --serve
        #[arg(long, default_value_t = 3000, value_name = "PORT")]
        port: u16,
    },
}

/// Something this command needs is not on the machine. Leads to exit status 2.
#[derive(Debug)]
struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Test => suite::run(),
        Command::Ci { no_test } => ci::run(!no_test),
        Command::Backends { only } => backends::run(&only),
        Command::Examples => suite::examples(),
        Command::Conform { paths } => suite::conform(&paths),
        Command::Bench { peers, threads, rest } => bench::run(peers, threads, &rest),
        Command::Study { rest } => study::run(&rest),
        Command::Book { serve, port } => book::run(serve.then_some(port)),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(if error.is::<Missing>() { 2 } else { 1 })
    })
}

#[cfg(test)]
mod cli_tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
