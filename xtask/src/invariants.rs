//! The design's invariants: which crate may know which, and what no source file may contain.

use std::path::Path;

use anyhow::Result;

use crate::files;
use crate::metadata::{Metadata, Package};

/// The part a workspace member plays, told from where it lies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    /// `core-tensor`: knows no other crate of the workspace.
    Core,
    /// A technique, `crates/NAME`: knows `core-tensor` only.
    Technique,
    /// `lab`: knows the crates that users get.
    Lab,
    /// An example, `examples/NAME`: knows the crates that users get.
    Example,
    /// `tests`: may know everything but this program.
    Tests,
    /// This program: knows none of them, and no Burn.
    Xtask,
}

impl Role {
    fn of(package: &Package, root: &Path) -> Option<Self> {
        let folder = package.manifest_path.parent()?.strip_prefix(root).ok()?;
        let parts: Vec<_> = folder.iter().map(|part| part.to_string_lossy()).collect();
        match parts.iter().map(AsRef::as_ref).collect::<Vec<_>>()[..] {
            ["crates", "core-tensor"] => Some(Self::Core),
            ["crates", "lab"] => Some(Self::Lab),
            ["crates", _] => Some(Self::Technique),
            ["examples", _] => Some(Self::Example),
            ["tests"] => Some(Self::Tests),
            ["xtask"] => Some(Self::Xtask),
            _ => None,
        }
    }

    fn may_know(self, other: Self) -> bool {
        match self {
            Self::Core | Self::Xtask => false,
            Self::Technique => other == Self::Core,
            Self::Lab | Self::Example => matches!(other, Self::Core | Self::Technique),
            Self::Tests => other != Self::Xtask,
        }
    }
}

/// Checks who depends on whom, dev and build dependencies too. A line for each breach.
pub fn dependencies(metadata: &Metadata) -> Vec<String> {
    let mut breaches = Vec::new();
    for package in metadata.members() {
        let Some(role) = Role::of(package, &metadata.workspace_root) else {
            let place = package.manifest_path.display();
            breaches.push(format!("{}: {place} has no place in the design's layout", package.name));
            continue;
        };
        for other in metadata.members().filter(|other| other.id != package.id) {
            let depends = package.dependencies.iter().any(|d| d.source.is_none() && d.name == other.name);
            let other_role = Role::of(other, &metadata.workspace_root);
            if depends && !other_role.is_some_and(|other| role.may_know(other)) {
                breaches.push(format!("{} may not depend on {}", package.name, other.name));
            }
        }
        if role == Role::Xtask
            && let Some(chain) = metadata.chain(package, |name| name == "burn" || name.starts_with("burn-"))
        {
            breaches.push(format!("xtask may not depend on a Burn crate: {}", chain.join(" -> ")));
        }
    }
    breaches
}

/// The crates that users get, by name.
pub fn published(metadata: &Metadata) -> Vec<&str> {
    let role = |package: &&Package| Role::of(package, &metadata.workspace_root);
    let of_users = metadata.members().filter(|package| matches!(role(package), Some(Role::Core | Role::Technique)));
    of_users.map(|package| package.name.as_str()).collect()
}

/// Checks the source files of every member. A line for each breach, with file and line number.
pub fn sources(metadata: &Metadata) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for package in metadata.members() {
        for target in &package.targets {
            let text = files::read(&target.src_path)?;
            breaches.extend(missing_attributes(&target.kind, &text).into_iter().map(|attribute| {
                format!("{}: the crate root lacks {attribute}", shown(&target.src_path, &metadata.workspace_root))
            }));
        }
        for path in files::below(package.manifest_path.parent().unwrap_or(&metadata.workspace_root))? {
            if path.extension().is_some_and(|extension| extension == "rs") {
                breaches.extend(leftovers(&files::read(&path)?).into_iter().map(|(line, what)| {
                    format!("{}:{line}: {what} is not allowed", shown(&path, &metadata.workspace_root))
                }));
            }
        }
    }
    Ok(breaches)
}

/// The attributes that a crate root of this kind must have and that `text` lacks.
fn missing_attributes(kind: &[String], text: &str) -> Vec<&'static str> {
    let is = |names: &[&str]| kind.iter().any(|kind| names.contains(&kind.as_str()));
    let mut wanted = Vec::new();
    if is(&["lib", "rlib", "proc-macro", "bin", "custom-build"]) {
        wanted.push("#![forbid(unsafe_code)]");
    }
    if is(&["lib", "rlib", "proc-macro"]) {
        wanted.push("#![warn(missing_docs)]");
    }
    wanted.retain(|attribute| !text.lines().any(|line| line.trim() == *attribute));
    wanted
}

/// Marks of unfinished code and of examples or tests that do not run, with their line numbers from 1.
fn leftovers(text: &str) -> Vec<(usize, &'static str)> {
    // Put together here so that this file does not contain them.
    const MARKS: [&str; 3] = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[", "ignore")];
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        found.extend(MARKS.iter().filter(|mark| line.contains(**mark)).map(|mark| (number + 1, *mark)));
        let fence = line.trim_start_matches(['/', '!', ' ']).strip_prefix("```").unwrap_or_default();
        if fence.split([',', ' ']).any(|word| word.starts_with("ignore")) {
            found.push((number + 1, "an example that is not compiled"));
        }
    }
    found
}

fn shown(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::sample;

    const CORE: (&str, &str, &[&str]) = ("core-tensor", "crates/core-tensor", &["burn"]);
    const BURN: [(&str, &[&str]); 2] = [("burn", &["burn-core"]), ("burn-core", &[])];

    #[test]
    fn the_design_passes_with_and_without_techniques() {
        let small = [
            CORE,
            ("lab", "crates/lab", &["core-tensor", "burn"]),
            ("shown", "examples/shown", &["core-tensor"]),
            ("xtask", "xtask", &[]),
        ];
        assert_eq!(dependencies(&sample(&small, &BURN)), [""; 0]);
        let whole = [
            ("core-tensor", "crates/core-tensor", &["burn", "core-tensor"][..]),
            ("clipping", "crates/clipping", &["core-tensor", "burn"]),
            ("bilevel", "crates/bilevel", &["core-tensor"]),
            ("lab", "crates/lab", &["core-tensor", "clipping", "bilevel"]),
            ("crucible-tests", "tests", &["core-tensor", "clipping", "bilevel", "lab"]),
            ("xtask", "xtask", &["clap"]),
        ];
        let whole = sample(&whole, &[BURN[0], BURN[1], ("clap", &[])]);
        assert_eq!(dependencies(&whole), [""; 0]);
        assert_eq!(published(&whole), ["core-tensor", "clipping", "bilevel"]);
    }

    #[test]
    fn every_forbidden_edge_is_named() {
        let wrong = [
            ("core-tensor", "crates/core-tensor", &["clipping"][..]),
            ("clipping", "crates/clipping", &["core-tensor", "bilevel"]),
            ("bilevel", "crates/bilevel", &["lab"]),
            ("lab", "crates/lab", &["crucible-tests"]),
            ("crucible-tests", "tests", &["xtask"]),
            ("xtask", "xtask", &["core-tensor"]),
        ];
        let expected = [
            "core-tensor may not depend on clipping",
            "clipping may not depend on bilevel",
            "bilevel may not depend on lab",
            "lab may not depend on crucible-tests",
            "crucible-tests may not depend on xtask",
            "xtask may not depend on core-tensor",
        ];
        assert_eq!(dependencies(&sample(&wrong, &[])), expected);
    }

    #[test]
    fn xtask_must_not_reach_burn_by_any_way() {
        let members = [CORE, ("xtask", "xtask", &["plots"][..])];
        let others = [BURN[0], BURN[1], ("plots", &["shapes"][..]), ("shapes", &["burn-core"])];
        let breaches = dependencies(&sample(&members, &others));
        assert_eq!(breaches, ["xtask may not depend on a Burn crate: xtask -> plots -> shapes -> burn-core"]);
    }

    #[test]
    fn a_member_in_an_unknown_place_is_named() {
        let breaches = dependencies(&sample(&[("stray", "tools/stray", &[])], &[]));
        assert_eq!(breaches.len(), 1);
        assert!(breaches[0].starts_with("stray: "));
    }

    #[test]
    fn crate_roots_need_their_attributes() {
        let kind = |kind: &str| vec![kind.to_string()];
        let full = "//! Doc.\n#![forbid(unsafe_code)]\n#![warn(missing_docs)]\n";
        assert_eq!(missing_attributes(&kind("lib"), full), [""; 0]);
        assert_eq!(missing_attributes(&kind("lib"), "#![warn(missing_docs)]"), ["#![forbid(unsafe_code)]"]);
        assert_eq!(missing_attributes(&kind("bin"), "// #![forbid(unsafe_code)]"), ["#![forbid(unsafe_code)]"]);
        assert_eq!(missing_attributes(&kind("bin"), "#![forbid(unsafe_code)]"), [""; 0]);
        assert_eq!(missing_attributes(&kind("test"), ""), [""; 0]);
    }

    #[test]
    fn leftovers_are_found_with_their_lines() {
        let text = format!(
            "fn a() {{ {} }}\n/// ```{}\n/// ```rust,{}\n/// ```no_run\n{}]\n// to ignore: ```,ignore\nlet todo = 1;\n",
            concat!("todo", "!()"),
            "ignore",
            "ignore-wasm",
            concat!("#[", "ignore"),
        );
        let lines: Vec<usize> = leftovers(&text).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [1, 2, 3, 5]);
    }
}
