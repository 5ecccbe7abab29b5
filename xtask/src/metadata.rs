//! The part of `cargo metadata` that the checks need.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process;

/// Packages, members and resolved edges of the workspace, for all features and platforms.
#[derive(Deserialize)]
pub struct Metadata {
    pub packages: Vec<Package>,
    pub workspace_members: BTreeSet<String>,
    pub workspace_root: PathBuf,
    resolve: Resolve,
}

/// One package of the dependency graph.
#[derive(Deserialize)]
pub struct Package {
    pub id: String,
    pub name: String,
    pub version: String,
    pub license: Option<String>,
    /// Where it comes from; none for a package of this workspace.
    pub source: Option<String>,
    pub manifest_path: PathBuf,
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
    #[serde(default)]
    pub targets: Vec<Target>,
}

/// A dependency as a manifest declares it, of any kind: normal, build or dev.
#[derive(Deserialize)]
pub struct Dependency {
    pub name: String,
    pub req: String,
    pub source: Option<String>,
}

/// A library, program, test or bench of a package.
#[derive(Deserialize)]
pub struct Target {
    pub kind: Vec<String>,
    pub src_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    dependencies: Vec<String>,
}

impl Metadata {
    /// Asks cargo.
    pub fn load() -> Result<Self> {
        let output = process::cargo()
            .args(["metadata", "--format-version", "1", "--all-features"])
            .stderr(std::process::Stdio::inherit())
            .output()
            .context("cannot start cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed");
        }
        serde_json::from_slice(&output.stdout).context("cargo metadata printed something unexpected")
    }

    /// Leaves out what no feature and no platform ever builds: `cargo metadata` lists more than that.
    pub fn only_what_is_built(mut self) -> Result<Self> {
        let output = process::cargo()
            .args(["tree", "--workspace", "--all-features", "--target", "all", "--prefix", "none", "--format", "{p}"])
            .stderr(std::process::Stdio::inherit())
            .output()
            .context("cannot start cargo tree")?;
        if !output.status.success() {
            bail!("cargo tree failed");
        }
        let built = names_and_versions(&String::from_utf8_lossy(&output.stdout));
        self.packages.retain(|package| built.contains(&(package.name.clone(), package.version.clone())));
        Ok(self)
    }

    /// The packages of this workspace.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    /// The shortest chain of dependencies from the package `from` to one whose name satisfies `to`, as names.
    pub fn chain(&self, from: &Package, to: impl Fn(&str) -> bool) -> Option<Vec<&str>> {
        let names: BTreeMap<&str, &str> = self.packages.iter().map(|p| (p.id.as_str(), p.name.as_str())).collect();
        let edges: BTreeMap<&str, &Vec<String>> =
            self.resolve.nodes.iter().map(|node| (node.id.as_str(), &node.dependencies)).collect();
        let mut chains = vec![vec![from.id.as_str()]];
        let mut seen = BTreeSet::from([from.id.as_str()]);
        while !chains.is_empty() {
            let mut longer = Vec::new();
            for chain in chains {
                for next in chain.last().and_then(|id| edges.get(id)).into_iter().copied().flatten() {
                    if seen.insert(next) {
                        let chain: Vec<&str> = chain.iter().copied().chain([next.as_str()]).collect();
                        if names.get(next.as_str()).is_some_and(|name| to(name)) {
                            return Some(chain.iter().filter_map(|id| names.get(id).copied()).collect());
                        }
                        longer.push(chain);
                    }
                }
            }
            chains = longer;
        }
        None
    }
}

/// Reads `cargo tree`'s lines: `NAME vVERSION`, then perhaps a folder or a remark.
fn names_and_versions(tree: &str) -> BTreeSet<(String, String)> {
    let package = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_string(), words.next()?.strip_prefix('v')?.to_string()))
    };
    tree.lines().filter_map(package).collect()
}

/// A made-up workspace for tests: `(name, folder, [dependency])`, ids equal to names, packages outside it in `others`.
#[cfg(test)]
pub fn sample(members: &[(&str, &str, &[&str])], others: &[(&str, &[&str])]) -> Metadata {
    use serde_json::json;
    const REGISTRY: &str = "registry+https://example.org/index";
    let is_member = |name: &str| members.iter().any(|(member, ..)| *member == name);
    let declare = |names: &[&str]| -> Vec<_> {
        let source = |name| if is_member(name) { None } else { Some(REGISTRY) };
        names.iter().map(|name| json!({"name": name, "req": "^1", "source": source(name)})).collect()
    };
    let mut packages = Vec::new();
    let mut nodes = Vec::new();
    for (name, folder, dependencies) in members {
        packages.push(json!({"id": name, "name": name, "version": "0.1.0", "license": "MIT OR Apache-2.0",
            "source": null, "manifest_path": format!("/w/{folder}/Cargo.toml"),
            "dependencies": declare(dependencies)}));
        nodes.push(json!({"id": name, "dependencies": dependencies}));
    }
    for (name, dependencies) in others {
        packages.push(json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT", "source": REGISTRY,
            "manifest_path": format!("/registry/{name}/Cargo.toml"), "dependencies": declare(dependencies)}));
        nodes.push(json!({"id": name, "dependencies": dependencies}));
    }
    let names: Vec<_> = members.iter().map(|(name, ..)| name).collect();
    let whole = json!({"packages": packages, "workspace_members": names, "workspace_root": "/w",
        "resolve": {"nodes": nodes}});
    serde_json::from_value(whole).expect("the sample has the form of cargo's own output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_of_cargo_tree() {
        let tree =
            "lab v0.1.0 (/w/crates/lab)\nserde_derive v1.0.2 (proc-macro)\nserde v1.0.1+x (*)\n\n[dev-dependencies]\n";
        let pair = |name: &str, version: &str| (name.to_string(), version.to_string());
        let wanted = [pair("lab", "0.1.0"), pair("serde", "1.0.1+x"), pair("serde_derive", "1.0.2")];
        assert_eq!(names_and_versions(tree), BTreeSet::from(wanted));
    }

    #[test]
    fn finds_the_shortest_chain_and_stops_at_cycles() {
        let metadata = sample(
            &[("xtask", "xtask", &["long", "short"])],
            &[("long", &["longer"]), ("longer", &["long", "burn"]), ("short", &["burn"]), ("burn", &[])],
        );
        let xtask = metadata.members().next().expect("the sample has a member");
        assert_eq!(metadata.chain(xtask, |name| name == "burn"), Some(vec!["xtask", "short", "burn"]));
        assert_eq!(metadata.chain(xtask, |name| name == "tokio"), None);
    }
}
