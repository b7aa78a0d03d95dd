//! Mounting (`src/fuse/FuseMainLoop.cc`).

use crate::cluster::Cluster;
use crate::fs::FuseFs;
use std::path::Path;
use valor_config::Size;
use xfuse::abi::InitFlags;
use xfuse::{InitConfig, MountError, MountOptions, Session, init};

/// Longest name of a cluster: the ioctl that tells it has room for 32 bytes with the NUL.
const MAX_CLUSTER_ID: usize = 31;
/// Request buffers beyond those that hold data on its way to storage.
const SPARE_BUFFERS: usize = 64;
/// What the kernel reads ahead by itself, so that raising it needs no privilege.
const DEFAULT_READ_AHEAD: u64 = 128 << 10;

/// Features asked of the kernel.
fn wanted(writeback: bool) -> InitFlags {
    let mut flags = init::default_flags()
        | InitFlags::ATOMIC_O_TRUNC
        | InitFlags::AUTO_INVAL_DATA
        | InitFlags::DO_READDIRPLUS
        | InitFlags::READDIRPLUS_AUTO
        | InitFlags::HAS_IOCTL_DIR
        | InitFlags::HANDLE_KILLPRIV_V2
        | InitFlags::DIRECT_IO_ALLOW_MMAP;
    if writeback {
        flags |= InitFlags::WRITEBACK_CACHE;
    }
    flags
}

/// Mounts the file system at its mount point and serves it until it is unmounted.
///
/// # Errors
/// When the mount point, the device or the kernel are not as they must be; the message says what to do.
pub fn mount<C: Cluster>(fs: FuseFs<C>) -> Result<Session, MountError> {
    let params = fs.params().clone();
    let config = fs.config();
    if params.cluster_id.len() > MAX_CLUSTER_ID {
        let message = format!("cluster_id \"{}\" is longer than {MAX_CLUSTER_ID} bytes", params.cluster_id);
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, message).into());
    }
    let max_size = config.io_bufs.max_buf_size.get() as u32;
    let init = InitConfig {
        max_write: max_size,
        max_readahead: max_size,
        max_background: config.max_background,
        time_gran: config.time_granularity.get().as_nanos().min(1_000_000_000) as u32,
        want: wanted(config.enable_writeback_cache),
        ..InitConfig::default()
    };
    let options = MountOptions {
        fsname: format!("hf3fs.{}", params.cluster_id),
        subtype: Some("hf3fs".into()),
        allow_other: params.allow_other,
        default_permissions: params.allow_other,
        max_read: Some(max_size),
        ..MountOptions::default()
    };
    let invalid = |message| MountError::from(std::io::Error::new(std::io::ErrorKind::InvalidInput, message));
    let (wait, transport) =
        (config.valor.wait_policy().map_err(invalid)?, config.valor.transport().map_err(invalid)?);
    let background = parking_lot::Mutex::new(Some(Box::pin(fs.background())));
    let in_use = config.valor.write_behind.get().div_ceil(u64::from(max_size)) as usize;
    let mut builder = Session::builder(fs)
        .init(init)
        .mount_options(options)
        .wait(wait)
        .transport(transport)
        .sqpoll(config.valor.sqpoll)
        .notify_threads(config.notify_inval_threads)
        .buffers(in_use + SPARE_BUFFERS)
        .on_channel_start(move |_| {
            if let Some(background) = background.lock().take() {
                tokio::spawn(background);
            }
        });
    if config.valor.channels > 0 {
        builder = builder.channels(config.valor.channels);
    }
    let session = builder.mount(Path::new(&params.mount_point))?;
    raise_read_ahead(&session, config.valor.read_ahead);
    Ok(session)
}

fn raise_read_ahead(session: &Session, size: Size) {
    if size.get() <= DEFAULT_READ_AHEAD {
        return;
    }
    if let Err(error) = session.set_readahead_kb((size.get() >> 10) as u32) {
        tracing::info!(%error, "readahead stays at the kernel's default, sequential reads are slower; root can raise it");
    }
}
