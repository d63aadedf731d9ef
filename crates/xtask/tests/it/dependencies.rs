//! Which crate may depend on which: pure in the middle, I/O at the rim, and no executable on another.

use std::collections::BTreeSet;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// What one crate of the workspace may depend on.
enum Allowed {
    /// These crates of the workspace.
    Only(&'static [&'static str]),
    /// Every library of the product.
    Libraries,
    /// Everything.
    Anything,
}

const LIBRARIES: [&str; 10] =
    ["api", "attester", "daemon", "endorsements", "evidence", "image", "lifecycle", "sandbox", "seal", "verifier"];
const EXECUTABLES: [&str; 6] = ["agent", "cli", "guest", "monitor", "probes", "server"];

fn allowed(name: &str) -> Allowed {
    match name {
        "evidence" | "lifecycle" | "seal" | "image" | "daemon" | "monitor" | "probes" | "xtask" => Allowed::Only(&[]),
        "verifier" | "attester" => Allowed::Only(&["evidence"]),
        "endorsements" => Allowed::Only(&["evidence", "verifier"]),
        "api" | "sandbox" => Allowed::Only(&["lifecycle"]),
        "guest" => Allowed::Only(&["api", "attester", "evidence", "seal"]),
        "server" | "agent" | "cli" => Allowed::Libraries,
        "testbed" => Allowed::Anything,
        other => panic!("crates/{other} is new: say in this test and in ARCHITECTURE.md what it may depend on"),
    }
}

fn permits(allowed: &Allowed, dependency: &str) -> bool {
    match allowed {
        Allowed::Only(names) => names.contains(&dependency),
        Allowed::Libraries => LIBRARIES.contains(&dependency),
        Allowed::Anything => true,
    }
}

fn metadata() -> Metadata {
    MetadataCommand::new().no_deps().exec().unwrap()
}

/// `casemate-seal` is `seal` in the table.
fn short(name: &str) -> &str {
    name.strip_prefix("casemate-").unwrap_or(name)
}

/// (crate, crate of the workspace that it names, how).
fn edges(metadata: &Metadata) -> Vec<(String, String, DependencyKind)> {
    let members: BTreeSet<String> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let mut edges = Vec::new();
    for package in &metadata.packages {
        for dependency in package.dependencies.iter().filter(|dependency| members.contains(&dependency.name)) {
            edges.push((short(&package.name).to_owned(), short(&dependency.name).to_owned(), dependency.kind));
        }
    }
    edges
}

#[test]
fn dependencies_follow_the_table() {
    let metadata = metadata();
    let crates = metadata.packages.len();
    let wrong: Vec<String> = edges(&metadata)
        .into_iter()
        .filter(|(_, _, kind)| *kind != DependencyKind::Development)
        .filter(|(from, to, _)| !permits(&allowed(from), to))
        .map(|(from, to, _)| format!("{from} -> {to}"))
        .collect();
    assert!(wrong.is_empty(), "these dependencies are against the table: {wrong:?}");
    for package in &metadata.packages {
        allowed(short(&package.name));
    }
    assert!(crates >= LIBRARIES.len() + EXECUTABLES.len(), "cargo metadata saw only {crates} crates");
}

#[test]
fn no_executable_depends_on_another_not_even_in_tests() {
    let wrong: Vec<String> = edges(&metadata())
        .into_iter()
        .filter(|(from, to, _)| from != "testbed" && EXECUTABLES.contains(&to.as_str()))
        .map(|(from, to, _)| format!("{from} -> {to}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn the_guest_carries_no_simulator_and_no_grpc() {
    let metadata = metadata();
    let guest = metadata.packages.iter().find(|package| short(&package.name) == "guest").unwrap();
    for dependency in &guest.dependencies {
        let features: Vec<&str> = dependency.features.iter().map(String::as_str).collect();
        let unwanted = ["sim", "node", "rest"].into_iter().find(|name| features.contains(name));
        assert!(unwanted.is_none() || dependency.kind == DependencyKind::Development, "{} with {unwanted:?}", dependency.name);
        assert!(
            !dependency.uses_default_features || !dependency.name.starts_with("casemate-") || plain(&dependency.name),
            "{}",
            dependency.name
        );
    }
}

/// Crates of ours without default features.
fn plain(name: &str) -> bool {
    matches!(short(name), "evidence" | "seal")
}
