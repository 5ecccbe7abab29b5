//! `conform PATH...`: runs conformance vectors, one line a file.
//!
//! Exit status: 0 if nothing failed and nothing was unsupported, 1 if something did, 2 for a file that cannot be
//! read or does not have the format.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use crucible_tests::conform::{files, run_file};

fn main() -> ExitCode {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if paths.is_empty() {
        eprintln!("usage: conform PATH...   (vector files, or folders of *.json)");
        return ExitCode::from(2);
    }
    let (mut green, mut readable) = (true, true);
    for path in &paths {
        let found = files(path).unwrap_or_else(|error| {
            eprintln!("{error}");
            readable = false;
            Vec::new()
        });
        for file in found {
            match run_file(&file) {
                Ok(report) => {
                    println!("{report}");
                    green &= report.is_green();
                }
                Err(error) => {
                    eprintln!("{error}");
                    readable = false;
                }
            }
        }
    }
    match (readable, green) {
        (false, _) => ExitCode::from(2),
        (true, false) => ExitCode::from(1),
        (true, true) => ExitCode::SUCCESS,
    }
}
