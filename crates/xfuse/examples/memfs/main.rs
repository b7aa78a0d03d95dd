//! A file system in memory that implements every operation.
//!
//! Usage: `memfs MOUNTPOINT [--direct-io] [--channels N] [--no-cache] [--mix A|auto] [--max-window US] [--pm-qos]
//! [--transport auto|classic|uring]`. Ends when unmounted and prints statistics.

mod fs;

use fs::{MemFs, Options};
use std::time::Duration;
use xfuse::abi::InitFlags;
use xfuse::{InitConfig, MountOptions, Session, Transport, WaitPolicy};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut options = Options::default();
    let mut mountpoint = None;
    let mut channels = None;
    let (mut wait, mut transport, mut sqpoll) = (WaitPolicy::default(), Transport::Auto, false);
    let mut args = std::env::args();
    args.next();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--direct-io" => options.direct_io = true,
            "--no-cache" => options.ttl = Duration::ZERO,
            "--channels" => channels = Some(args.next().ok_or("--channels needs a number")?.parse()?),
            "--mix" => wait.mix = args.next().ok_or("--mix needs a value")?.parse()?,
            "--max-window" => {
                let micros = args.next().ok_or("--max-window needs microseconds")?.parse()?;
                wait.max_window = Duration::from_micros(micros);
            }
            "--transport" => transport = args.next().ok_or("--transport needs a name")?.parse()?,
            "--pm-qos" => wait.pm_qos = true,
            "--sqpoll" => sqpoll = true,
            _ => mountpoint = Some(arg),
        }
    }
    let usage = "usage: memfs MOUNTPOINT [--direct-io] [--channels N] [--no-cache] [--mix A|auto] [--max-window US] \
                 [--pm-qos] [--transport auto|classic|uring] [--sqpoll]";
    let mountpoint = mountpoint.ok_or(usage)?;
    let mut init = InitConfig::default();
    init.want |= fs::wanted_flags() | InitFlags::DIRECT_IO_ALLOW_MMAP;
    let mount = MountOptions { fsname: "memfs".into(), subtype: Some("xfuse".into()), ..Default::default() };
    let mut builder =
        Session::builder(MemFs::new(options)).init(init).mount_options(mount).wait(wait).transport(transport);
    builder = builder.sqpoll(sqpoll);
    if let Some(channels) = channels {
        builder = builder.channels(channels);
    }
    let session = builder.mount(mountpoint)?;
    let _ = session.set_readahead_kb(1024);
    session.wait();
    let snapshot = session.stats().snapshot();
    println!("transport {:?}", session.transport());
    println!("mix {} (share {})", session.wait_handle().mix(), session.wait_handle().share());
    for (index, channel) in snapshot.channels.iter().enumerate() {
        println!("channel {index}: {channel:?}");
    }
    for operation in snapshot.operations {
        println!(
            "{:16} {:9} requests, {:6} errors, p50 {:?}, p99 {:?}",
            operation.opcode.name(),
            operation.count,
            operation.errors,
            operation.quantile(0.5),
            operation.quantile(0.99)
        );
    }
    Ok(())
}
