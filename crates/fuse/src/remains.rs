//! The end of a mount: sending what programs wrote, and saying what could not be sent.

use crate::cluster::Cluster;
use crate::core::Core;
use crate::ids::from_ino;
use crate::inode::Node;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;
use valor_protocol::InodeId;
use xfuse::Errno;

/// Files that are flushed at a time. Those that wait for a server that is gone must not keep the others back.
const AT_ONCE: usize = 256;
/// Files whose lost writes are told apart.
const MOST_LOSSES: usize = 1000;
/// Directories gone up for the path of a file.
const MOST_LEVELS: usize = 64;
/// Files that a message names.
const NAMED: usize = 5;

/// Writes that failed since the end of the mount began, when no program may be there to be told.
#[derive(Default)]
pub(crate) struct Losses(Mutex<Option<HashMap<InodeId, Unsent>>>);

impl Losses {
    pub(crate) fn expect_end(&self) {
        self.0.lock().get_or_insert_default();
    }
}

/// A file of which bytes that a program wrote are not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsent {
    /// Where it is on the mount, as far as that is known.
    pub path: String,
    /// How many bytes.
    pub bytes: u64,
    /// Why, if they were refused; otherwise they wait.
    pub error: Option<Errno>,
}

/// What programs wrote and servers do not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unwritten {
    /// Those with most bytes first.
    pub files: Vec<Unsent>,
    /// Files whose bytes are stored, but whose new length and times the metadata service was not told.
    pub untold: usize,
}

impl Unwritten {
    /// Whether the servers have everything.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.untold == 0
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

impl fmt::Display for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {} files are not written", self.bytes(), self.files.len())?;
        for (index, file) in self.files.iter().take(NAMED).enumerate() {
            let before = if index == 0 { ": " } else { ", " };
            write!(f, "{before}{} ({} bytes", file.path, file.bytes)?;
            file.error.map_or(Ok(()), |error| write!(f, ", {error}"))?;
            f.write_str(")")?;
        }
        if self.files.len() > NAMED {
            write!(f, " and others")?;
        }
        if self.untold > 0 {
            write!(f, "; the metadata service does not know the new lengths of {} files", self.untold)?;
        }
        Ok(())
    }
}

/// A mount's data, which can be flushed and asked about beside the session that serves it, and after it.
pub struct Remains<C>(pub(crate) Arc<Core<C>>);

impl<C: Cluster> Remains<C> {
    /// The mount is about to end: writes that fail from now on are counted in [`Remains::unwritten`].
    pub fn expect_end(&self) {
        self.0.losses.expect_end();
    }

    /// Sends to the servers whatever was written until it runs.
    pub async fn flush(&self) {
        self.0.sync_all().await;
    }

    /// What the servers do not have.
    pub fn unwritten(&self) -> Unwritten {
        let mut untold = 0;
        let mut files = self.0.losses.0.lock().clone().unwrap_or_default();
        for node in self.0.nodes.all().into_iter().filter(|node| node.is_file()) {
            let bytes = node.pipeline.unsent();
            if bytes > 0 {
                let path = || Unsent { path: self.0.path_of(&node), bytes: 0, error: None };
                files.entry(node.id()).or_insert_with(path).bytes += bytes;
            } else if !node.removed.load(Ordering::Acquire)
                && node.dynamic.lock().unsynced(false, false).is_some()
            {
                untold += 1;
            }
        }
        let mut files: Vec<Unsent> = files.into_values().collect();
        files.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
        Unwritten { files, untold }
    }
}

impl<C: Cluster> Core<C> {
    /// Bytes that were acknowledged are lost. The handles that are open learn of it.
    pub(crate) fn lose(&self, node: &Node, bytes: u64, errno: Errno) {
        node.write_failed(errno);
        let mut losses = self.losses.0.lock();
        let Some(losses) = &mut *losses else { return };
        if losses.len() < MOST_LOSSES || losses.contains_key(&node.id()) {
            let path = || Unsent { path: self.path_of(node), bytes: 0, error: None };
            let loss = losses.entry(node.id()).or_insert_with(path);
            loss.bytes += bytes;
            loss.error = Some(errno);
        }
    }

    /// Where a file was last found, for messages.
    fn path_of(&self, node: &Node) -> String {
        let mut parts = Vec::new();
        let mut place = node.name.lock().clone();
        while let Some((parent, name)) = place {
            parts.push(name.to_string().escape_debug().to_string());
            if from_ino(parent) == InodeId::ROOT {
                parts.push(String::new());
                break;
            }
            if parts.len() == MOST_LEVELS {
                break;
            }
            place = self.nodes.get(from_ino(parent)).and_then(|node| node.name.lock().clone());
        }
        if parts.is_empty() {
            return format!("inode {}", node.id());
        }
        parts.reverse();
        parts.join("/")
    }
}

/// Does something with each of `items`, with a bounded number at a time.
pub(crate) async fn for_each<T, F>(items: Vec<T>, run: impl Fn(T) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for item in items {
        if tasks.len() >= AT_ONCE {
            ended(tasks.join_next().await);
        }
        tasks.spawn(run(item));
    }
    while !tasks.is_empty() {
        ended(tasks.join_next().await);
    }
}

fn ended(task: Option<Result<(), tokio::task::JoinError>>) {
    if let Some(Err(error)) = task {
        tracing::error!(%error, "flushing a file failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_files_that_lose_most() {
        let file = |path: &str, bytes, error| Unsent { path: path.into(), bytes, error };
        let mut files = vec![file("/a/b", 100, None), file("/c", 5, Some(Errno::ENOSPC))];
        let some = Unwritten { files: files.clone(), untold: 2 };
        assert_eq!(
            some.to_string(),
            "105 bytes of 2 files are not written: /a/b (100 bytes), /c (5 bytes, ENOSPC); the metadata service does \
             not know the new lengths of 2 files"
        );
        files.extend((0..9).map(|n| file(&format!("/{n}"), 1, None)));
        let many = Unwritten { files, untold: 0 };
        assert!(many.to_string().ends_with("/2 (1 bytes) and others"), "{many}");
        assert!(!many.is_empty() && Unwritten::default().is_empty());
    }
}
