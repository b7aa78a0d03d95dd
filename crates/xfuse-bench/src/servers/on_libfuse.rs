//! The libfuse server: a C program of ours, built against the system's libfuse 3.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Modes of libfuse beside the number of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Options {
    Plain,
    /// Each thread has a device descriptor of its own.
    CloneFd,
    /// Data is spliced instead of copied.
    Splice,
}

impl Options {
    /// As the program is told.
    pub fn argument(self) -> &'static str {
        match self {
            Options::Plain => "-",
            Options::CloneFd => "clone",
            Options::Splice => "splice",
        }
    }
}

/// Builds the program in `dir`.
///
/// # Errors
/// When the compiler or libfuse is missing.
pub fn build(dir: &Path) -> Result<PathBuf, String> {
    let flags = run(Command::new("pkg-config").args(["--cflags", "--libs", "fuse3"]))
        .map_err(|error| format!("{error} (apt-get install libfuse3-dev pkg-config)"))?;
    let (source, program) = (dir.join("libfuse.c"), dir.join("libfuse-server"));
    std::fs::write(&source, include_str!("libfuse.c"))
        .map_err(|error| format!("{}: {error}", source.display()))?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", "-o"]).arg(&program).arg(&source);
    run(compiler.args(flags.split_whitespace()).arg("-lpthread"))?;
    Ok(program)
}

/// The library's version.
pub fn version() -> Option<String> {
    Some(run(Command::new("pkg-config").args(["--modversion", "fuse3"])).ok()?.trim().to_owned())
}

fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program}: {} {}", output.status, said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
