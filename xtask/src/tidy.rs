//! Rules over the tree that the compiler does not know: which crate may use which, file sizes, file heads.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest source file, tests included.
const MAX_LINES: usize = 900;

/// Crates that may not depend, even indirectly, on the named ones (design: what each crate is for).
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("valor-wire", &["tokio", "valor-rpc"]),
    ("valor-protocol", &["tokio", "valor-rpc"]),
    ("valor-client", &["valor-mgmtd", "valor-meta", "valor-storage", "valor-kv", "valor-chunk-engine"]),
    ("valor-mgmtd", &["valor-meta", "valor-storage", "valor-chunk-engine", "valor-fuse"]),
    ("valor-meta", &["valor-mgmtd", "valor-storage", "valor-chunk-engine", "valor-fuse"]),
    ("valor-storage", &["valor-mgmtd", "valor-meta", "valor-kv", "valor-fuse"]),
    ("valor-chunk-engine", &["valor-rpc", "valor-protocol", "valor-wire"]),
    ("valor-fuse", &["valor-mgmtd", "valor-meta", "valor-storage", "valor-kv", "valor-chunk-engine"]),
    ("valor-placement", &["tokio", "valor-rpc", "valor-protocol"]),
    ("xfuse", &["valor-wire", "valor-protocol", "valor-env", "valor-rpc", "valor-client"]),
];

/// Pure modules: protocol steps that a simulator drives, so no runtime, no RPC, no clock.
const PURE_MODULES: &[&str] = &["crates/mgmtd/src/chain_rules", "crates/storage/src/replica"];
const PURE_BANS: &[&str] = &["tokio", "valor_rpc", "std::time", "async fn"];

/// Clocks and random numbers come from `valor-env`, so that a simulator owns them.
const ENV_ONLY: &[&str] = &["SystemTime::now", "std::time::Instant", "rand::", "thread_rng", "tokio::net::"];
/// Crates that may use what [`ENV_ONLY`] names: the world itself, the process shell, and the kernel's side.
const ENV_EXEMPT: &[&str] = &[
    "crates/env/",
    "crates/daemon/",
    "crates/valor/",
    "crates/xfuse/",
    "crates/bench/",
    "crates/sim/",
    "crates/xfuse-bench/",
    "xtask/",
];

pub fn run() -> Result<(), String> {
    let mut problems = Vec::new();
    dependencies(&mut problems)?;
    for file in sources(Path::new("."))? {
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        check_file(&file, &text, &mut problems);
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

fn dependencies(problems: &mut Vec<String>) -> Result<(), String> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1"])
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
    let uses = direct_uses(&metadata);
    for (krate, forbidden) in FORBIDDEN {
        let reached = reach(&uses, krate);
        for bad in forbidden.iter().filter(|bad| reached.contains(**bad)) {
            problems.push(format!("{krate} must not depend on {bad}"));
        }
    }
    Ok(())
}

/// Crate name -> names it uses outside tests.
fn direct_uses(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut uses = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let names = dependencies
            .filter(|dependency| dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
            .collect();
        uses.insert(package["name"].as_str().unwrap_or_default().to_owned(), names);
    }
    uses
}

fn reach(uses: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        for next in uses.get(&name).into_iter().flatten() {
            if seen.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    seen
}

fn sources(root: &Path) -> Result<Vec<PathBuf>, String> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("git ls-files: {error}"))?;
    Ok(output
        .stdout
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned()))
        .filter(|path| path.exists())
        .collect())
}

fn check_file(path: &Path, text: &str, problems: &mut Vec<String>) {
    let name = path.to_string_lossy();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        problems.push(format!("{name}: {lines} lines, more than {MAX_LINES}; split it by subject"));
    }
    if name.contains("/src/") && !text.starts_with("//!") {
        problems.push(format!("{name}: must begin with a //! line that says its subject"));
    }
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    if PURE_MODULES.iter().any(|module| name.starts_with(module)) && !name.contains("test") {
        ban(&name, code, PURE_BANS, problems);
    }
    let exempt = ENV_EXEMPT.iter().any(|prefix| name.starts_with(prefix));
    if name.contains("/src/") && !exempt && !name.contains("test") {
        ban(&name, code, ENV_ONLY, problems);
    }
}

fn ban(name: &str, code: &str, words: &[&str], problems: &mut Vec<String>) {
    for (number, line) in code.lines().enumerate() {
        let source = line.split("//").next().unwrap_or(line);
        for word in words.iter().filter(|word| source.contains(**word)) {
            problems.push(format!("{name}:{}: `{word}` is not for this file", number + 1));
        }
    }
}
