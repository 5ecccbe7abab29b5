//! The licence and source rules of `deny.toml`, applied to every package of the dependency graph.
//!
//! Covers what cargo-deny would check with the same file, so that a machine without cargo-deny misses nothing: each
//! package's SPDX expression must be satisfiable by allowed licences, each must come from crates.io, and no
//! dependency may accept just any version.

use anyhow::{Context, Result};
use serde::Deserialize;
use spdx::{Expression, Licensee, ParseMode};

use crate::metadata::{Metadata, Package};

/// Where crates.io's index lies, as cargo writes it.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What `deny.toml` allows.
pub struct Policy {
    allow: Vec<Licensee>,
    exceptions: Vec<(String, Vec<Licensee>)>,
}

#[derive(Deserialize)]
struct File {
    licenses: Licenses,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    package: String,
    allow: Vec<String>,
}

impl Policy {
    /// Reads the text of `deny.toml`.
    pub fn parse(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text).context("deny.toml")?;
        let licensees = |names: &[String]| -> Result<Vec<Licensee>> {
            let parse = |name: &String| {
                Licensee::parse(name).with_context(|| format!("deny.toml: {name} is not an SPDX licence"))
            };
            names.iter().map(parse).collect()
        };
        let exception = |exception: &Exception| Ok((exception.package.clone(), licensees(&exception.allow)?));
        Ok(Self {
            allow: licensees(&file.licenses.allow)?,
            exceptions: file.licenses.exceptions.iter().map(exception).collect::<Result<_>>()?,
        })
    }

    /// A line for each package that breaks a rule.
    pub fn check(&self, metadata: &Metadata) -> Vec<String> {
        metadata.packages.iter().flat_map(|package| self.check_package(package)).collect()
    }

    fn check_package(&self, package: &Package) -> Vec<String> {
        let mut breaches = Vec::new();
        match package.license.as_deref().map(|text| (text, Expression::parse_mode(text, ParseMode::LAX))) {
            None => breaches.push("names no licence".to_string()),
            Some((text, Err(_))) => breaches.push(format!("its licence {text:?} is not an SPDX expression")),
            Some((text, Ok(licence))) => {
                let more = self.exceptions.iter().filter(|(name, _)| *name == package.name).flat_map(|(_, more)| more);
                let allowed: Vec<&Licensee> = self.allow.iter().chain(more).collect();
                if !licence.evaluate(|wanted| allowed.iter().any(|licensee| licensee.satisfies(wanted))) {
                    breaches.push(format!("its licence {text:?} is not allowed"));
                }
            }
        }
        match package.source.as_deref() {
            // Part of this workspace: what it declares is ours to keep in order.
            None => breaches.extend(
                package
                    .dependencies
                    .iter()
                    .filter(|d| d.source.is_some() && d.req == "*")
                    .map(|dependency| format!("its dependency {} accepts any version", dependency.name)),
            ),
            Some(CRATES_IO) => {}
            Some(source) => breaches.push(format!("comes from {source}, not from crates.io")),
        }
        breaches.into_iter().map(|what| format!("{} {}: {what}", package.name, package.version)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
[licenses]
allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"]
exceptions = [{ crate = "lists", allow = ["MPL-2.0"] }]
"#;

    fn package(name: &str, license: Option<&str>, source: Option<&str>, req: &str) -> Package {
        let dependency = serde_json::json!({"name": "other", "req": req, "source": CRATES_IO});
        let package = serde_json::json!({"id": name, "name": name, "version": "1.0.0", "license": license,
            "source": source, "manifest_path": "/p/Cargo.toml", "dependencies": [dependency]});
        serde_json::from_value(package).expect("the sample has the form of cargo's own output")
    }

    fn licence(name: &str, license: Option<&str>) -> Result<Vec<String>> {
        Ok(Policy::parse(POLICY)?.check_package(&package(name, license, Some(CRATES_IO), "^1")))
    }

    #[test]
    fn expressions_are_satisfied_or_named() -> Result<()> {
        for good in [
            "MIT",
            "MIT OR GPL-3.0-only",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
        ] {
            assert_eq!(licence("p", Some(good))?, [""; 0], "{good}");
        }
        for bad in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "MPL-2.0", "MIT WITH LLVM-exception"] {
            assert_eq!(licence("p", Some(bad))?, [format!("p 1.0.0: its licence {bad:?} is not allowed")]);
        }
        assert_eq!(licence("p", None)?, ["p 1.0.0: names no licence"]);
        assert_eq!(licence("p", Some("free, really"))?.len(), 1);
        Ok(())
    }

    #[test]
    fn an_exception_holds_for_its_package_only() -> Result<()> {
        assert_eq!(licence("lists", Some("MPL-2.0"))?, [""; 0]);
        assert_eq!(licence("others", Some("MPL-2.0"))?.len(), 1);
        Ok(())
    }

    #[test]
    fn sources_and_versions_are_held_to_the_rules() -> Result<()> {
        let policy = Policy::parse(POLICY)?;
        let git = policy.check_package(&package("p", Some("MIT"), Some("git+https://example.org/p"), "^1"));
        assert_eq!(git, ["p 1.0.0: comes from git+https://example.org/p, not from crates.io"]);
        assert_eq!(policy.check_package(&package("ours", Some("MIT"), None, "=1.2.3")), [""; 0]);
        let any = policy.check_package(&package("ours", Some("MIT"), None, "*"));
        assert_eq!(any, ["ours 1.0.0: its dependency other accepts any version"]);
        Ok(())
    }

    #[test]
    fn a_bad_policy_is_a_clear_error() {
        for (text, part) in
            [("[licenses]\nallow = [\"No Such\"]", "No Such"), ("[bans]", "licenses"), ("[", "deny.toml")]
        {
            let error = Policy::parse(text).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains(part), "{error}");
        }
    }
}
