//! Valor: a distributed file system for AI, compatible with 3FS. One binary: a cluster on this machine
//! (`up`, `down`), each server (`mgmtd`, `meta`, `storage`), the mount, and administration.

mod admin;
mod mount;
mod overrides;
mod serve;
mod up;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Buffers of a megabyte come and go with each request; glibc's allocator gives such memory back to the kernel each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser, Debug)]
#[command(name = "valor", version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a cluster on this machine and mount it.
    Up(up::UpArgs),
    /// Stop the cluster that `up` started.
    Down(up::DownArgs),
    /// Run a key-value store for several managers and metadata services of this machine.
    Kv(serve::kv::KvArgs),
    /// Run a cluster manager.
    Mgmtd(serve::ServeArgs),
    /// Run a metadata service.
    Meta(serve::ServeArgs),
    /// Run a storage service.
    Storage(serve::ServeArgs),
    /// Mount a cluster.
    Mount(mount::MountArgs),
    /// Have the kernel write what it has of a mount that is about to end.
    #[command(hide = true)]
    WriteBack(mount::write_back::WriteBackArgs),
    /// Look at and change a cluster.
    Admin(admin::AdminArgs),
}

fn main() -> ExitCode {
    let (args, overrides) = match overrides::split(std::env::args_os()) {
        Ok(split) => split,
        Err(message) => return fail(&message),
    };
    let cli = Cli::parse_from(args);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start a runtime: {error}")),
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Up(args) => up::up(args).await,
            Command::Down(args) => up::down(args).await,
            Command::Kv(args) => serve::kv::run(args).await,
            Command::Mgmtd(args) => serve::mgmtd::run(args, overrides).await,
            Command::Meta(args) => serve::meta::run(args, overrides).await,
            Command::Storage(args) => serve::storage::run(args, overrides).await,
            Command::Mount(args) => mount::run(args, overrides).await,
            Command::WriteBack(args) => mount::write_back::run(&args),
            Command::Admin(args) => admin::run(args).await,
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("valor: {message}");
    ExitCode::FAILURE
}
