//! The rows of the benchmark: what is done, and how one value comes out of it.

use crate::{metadata, process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    /// Larger is better, except for seconds.
    pub higher_is_better: bool,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Fio { args: Vec<String>, jobs: u32, cold: bool, bandwidth: bool, write: bool },
    Metadata { step: metadata::Step, processes: u32, files: u32, cold: bool },
    Copy { tree: PathBuf },
}

/// The cargo registry's sources: thousands of small files that every Rust machine has.
pub fn default_tree() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    home.unwrap_or_default().join("registry/src")
}

/// All rows, in an order in which later ones find what earlier ones made.
pub fn rows(seconds: u32, size_mib: u32, files: u32, tree: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    let size = format!("--size={size_mib}M");
    let mut sequential = |name: &str, rw: &str, cold: bool, more: &[&str]| {
        let mut args = vec![format!("--rw={rw}"), "--bs=1M".into(), size.clone(), "--filename=seq".into()];
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        let kind = Kind::Fio { args, jobs: 1, cold, bandwidth: true, write: rw == "write" };
        rows.push(Row { name: name.into(), unit: "MiB/s", higher_is_better: true, kind });
    };
    sequential("seq write 1M", "write", false, &["--end_fsync=1"]);
    sequential("seq read 1M cold", "read", true, &[]);
    sequential("seq read 1M cached", "read", false, &["--invalidate=0"]);
    sequential("seq read 1M direct", "read", false, &["--direct=1"]);
    for jobs in [1, 4, 16] {
        for (what, rw, direct, cold, synced) in [
            ("rand read 4k direct", "randread", true, false, false),
            ("rand read 4k cold", "randread", false, true, false),
            ("rand read 4k cached", "randread", false, false, false),
            ("rand write 4k direct", "randwrite", true, false, false),
            // MooseFS answers a direct write from its client's memory; with fsync both have it on the servers.
            ("rand write 4k direct+fsync", "randwrite", true, false, true),
        ] {
            let mut args = vec![
                format!("--rw={rw}"),
                "--bs=4k".into(),
                "--size=256M".into(),
                "--filename=rand".into(),
                "--time_based=1".into(),
                format!("--runtime={seconds}"),
                format!("--direct={}", u8::from(direct)),
                "--randrepeat=0".into(),
            ];
            if synced {
                args.push("--fsync=1".into());
            }
            if !direct {
                args.push("--invalidate=0".into());
            }
            let kind = Kind::Fio { args, jobs, cold, bandwidth: false, write: rw == "randwrite" };
            rows.push(Row { name: format!("{what} x{jobs}"), unit: "op/s", higher_is_better: true, kind });
        }
    }
    for processes in [1, 8] {
        for (step, cold) in metadata::Step::ORDER {
            let kind = Kind::Metadata { step, processes, files, cold };
            rows.push(Row {
                name: format!("{} x{processes}", step.name()),
                unit: "op/s",
                higher_is_better: true,
                kind,
            });
        }
    }
    let kind = Kind::Copy { tree: tree.to_owned() };
    rows.push(Row { name: "cp -a tree".into(), unit: "s", higher_is_better: false, kind });
    rows
}

/// Does the work of a row below `root` and returns its value.
///
/// # Errors
/// When a command failed; such a row has no value.
pub fn measure(row: &Row, root: &Path) -> Result<f64, String> {
    match &row.kind {
        Kind::Fio { args, jobs, cold, bandwidth, write } => {
            prepare_files(root, args)?;
            if *cold {
                process::drop_caches()?;
            } else if row.name.contains("cached") {
                warm(root, args)?;
            }
            fio(root, args, *jobs, *bandwidth, *write)
        }
        Kind::Metadata { step, processes, files, cold } => {
            if *cold {
                process::drop_caches()?;
            }
            metadata::measure(*step, &root.join(format!("meta-{processes}")), *processes, *files)
        }
        Kind::Copy { tree } => {
            let target = root.join("tree");
            process::drop_caches()?;
            // The source is read once before, so that its disk does not count.
            process::run("tar", &["-cf", "/dev/null", "-C", &tree.display().to_string(), "."])?;
            let started = Instant::now();
            process::run("cp", &["-a", &tree.display().to_string(), &target.display().to_string()])?;
            Ok(started.elapsed().as_secs_f64())
        }
    }
}

/// The file of random rows is laid out once, by sequential writes, before any row is timed.
fn prepare_files(root: &Path, args: &[String]) -> Result<(), String> {
    let needs = args.iter().any(|arg| arg == "--filename=rand");
    if !needs || root.join("rand").exists() {
        return Ok(());
    }
    let directory = format!("--directory={}", root.display());
    let args = [
        "--name=layout",
        &directory,
        "--rw=write",
        "--bs=1M",
        "--size=256M",
        "--filename=rand",
        "--end_fsync=1",
    ];
    process::run("fio", &args).map(drop)
}

/// Reads the row's file once, so that whatever keeps data in memory has it.
fn warm(root: &Path, args: &[String]) -> Result<(), String> {
    let name = args.iter().find_map(|arg| arg.strip_prefix("--filename=")).unwrap_or("rand");
    let path = root.join(name);
    let mut file = std::fs::File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    std::io::copy(&mut file, &mut std::io::sink())
        .map(drop)
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn fio(root: &Path, args: &[String], jobs: u32, bandwidth: bool, write: bool) -> Result<f64, String> {
    let directory = format!("--directory={}", root.display());
    let numjobs = format!("--numjobs={jobs}");
    let mut all =
        vec!["--name=row", "--output-format=json", "--ioengine=psync", "--group_reporting=1", "--thread=1"];
    all.extend([directory.as_str(), numjobs.as_str()]);
    all.extend(args.iter().map(String::as_str));
    let text = process::run("fio", &all)?;
    let json: Value =
        serde_json::from_str(&text[text.find('{').unwrap_or(0)..]).map_err(|error| error.to_string())?;
    let side = &json["jobs"][0][if write { "write" } else { "read" }];
    if !bandwidth {
        return side["iops"].as_f64().ok_or_else(|| "fio gave no iops".into());
    }
    // Bytes over wall time, the final fsync included, which fio's own rate leaves out.
    let bytes = side["io_bytes"].as_f64().ok_or("fio gave no bytes")?;
    let milliseconds =
        json["jobs"][0]["job_runtime"].as_f64().filter(|ms| *ms > 0.0).ok_or("fio gave no run time")?;
    Ok(bytes / 1_048_576.0 / (milliseconds / 1000.0))
}
