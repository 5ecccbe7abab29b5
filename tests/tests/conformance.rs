//! The vectors of this repository pass, and the `conform` program reports and exits as documented.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crucible_tests::conform::{files, run_file};

fn vectors() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn conform(paths: &[&Path]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_conform")).args(paths).output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

#[test]
fn own_vectors_pass() {
    for file in files(&vectors()).unwrap() {
        let report = run_file(&file).unwrap();
        assert!(report.is_green() && report.passed > 0, "{}: {report}", file.display());
    }
}

#[test]
fn a_line_a_file_and_status_0_if_all_is_green() {
    let (status, out, err) = conform(&[&vectors()]);
    assert_eq!((status, err.as_str()), (0, ""));
    assert_eq!(out.lines().count(), files(&vectors()).unwrap().len());
    assert!(out.contains("hvp: 6 passed, 0 failed, 0 unsupported; worst error "), "{out}");
}

#[test]
fn status_1_for_failed_or_unsupported_and_2_for_malformed() {
    let folder = tempfile::tempdir().unwrap();
    let good = std::fs::read_to_string(vectors().join("hvp.json")).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let failing = write("failing.json", &good.replace("12.916666666666666", "13"));
    let (status, out, _) = conform(&[&failing]);
    assert_eq!(status, 1);
    assert!(out.starts_with("hvp: 5 passed, 1 failed, 0 unsupported; worst error 8.3e-2 in least_squares"), "{out}");
    assert!(out.contains("; first failing least_squares: loss is 1.29"), "{out}");

    let unknown = write("unknown.json", &good.replacen("\"hvp\"", "\"third_derivative\"", 1));
    let (status, out, _) = conform(&[&unknown]);
    assert_eq!(status, 1);
    assert!(out.starts_with("third_derivative: 0 passed, 0 failed, 6 unsupported"), "{out}");

    let malformed = write("malformed.json", &good.replace("[7.333333333333333, -8.666666666666666]", "[7.3]"));
    let (status, out, err) = conform(&[&malformed, &vectors()]);
    assert_eq!(status, 2);
    assert!(err.contains("malformed.json: case `least_squares`: field `expect.grad[0].data`: 1 numbers for"), "{err}");
    assert!(out.contains("hvp: 6 passed"), "the other files are still run: {out}");

    let (status, _, err) = conform(&[&folder.path().join("missing.json")]);
    assert_eq!(status, 2);
    assert!(err.contains("missing.json") && err.contains("cannot be read"), "{err}");
    let (status, _, err) = conform(&[]);
    assert_eq!(status, 2);
    assert!(err.starts_with("usage: conform PATH..."), "{err}");
}
