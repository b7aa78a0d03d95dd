//! Shows a directory of the local file system at another place.
//!
//! Usage: `passthrough DIRECTORY MOUNTPOINT [--transport auto|classic|uring] [--channels N] [--mix A|auto]`.

mod fs;

use xfuse::abi::InitFlags;
use xfuse::{InitConfig, MountOptions, Session, WaitPolicy};

const USAGE: &str =
    "usage: passthrough DIRECTORY MOUNTPOINT [--transport auto|classic|uring] [--channels N] [--mix A|auto]";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut places, mut wait) = (Vec::new(), WaitPolicy::default());
    let (mut transport, mut channels) = (Default::default(), None);
    let mut args = std::env::args();
    args.next();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(USAGE);
        match arg.as_str() {
            "--transport" => transport = value()?.parse()?,
            "--mix" => wait.mix = value()?.parse()?,
            "--channels" => channels = Some(value()?.parse()?),
            _ => places.push(arg),
        }
    }
    let [directory, mountpoint] = &places[..] else { return Err(USAGE.into()) };
    let mut init = InitConfig::default();
    init.want |= InitFlags::DO_READDIRPLUS | InitFlags::READDIRPLUS_AUTO | InitFlags::AUTO_INVAL_DATA;
    let options =
        MountOptions { fsname: directory.clone(), subtype: Some("passthrough".into()), ..Default::default() };
    let mut builder = Session::builder(fs::Passthrough::new(directory.as_ref())?)
        .init(init)
        .mount_options(options)
        .transport(transport)
        .wait(wait);
    if let Some(channels) = channels {
        builder = builder.channels(channels);
    }
    builder.mount(mountpoint)?.wait();
    Ok(())
}
