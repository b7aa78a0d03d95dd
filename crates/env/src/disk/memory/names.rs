//! The directory tree: names in the cache and names on the medium.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rand::Rng;

/// Number of a file's contents.
pub(super) type InodeId = u64;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File(InodeId),
}

/// A change of names which is not durable yet.
#[derive(Clone)]
enum Change {
    Set(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Change {
    /// The directory whose sync makes it durable.
    fn directory(&self) -> &Path {
        let (Change::Set(path, _) | Change::Remove(path) | Change::Rename(_, path)) = self;
        path.parent().unwrap_or(Path::new(""))
    }

    fn apply(&self, tree: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Change::Set(path, node) => {
                tree.insert(path.clone(), *node);
            }
            Change::Remove(path) => {
                tree.remove(path);
            }
            Change::Rename(from, to) => {
                if let Some(node) = tree.remove(from) {
                    tree.insert(to.clone(), node);
                }
            }
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Names {
    cached: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    unsynced: Vec<Change>,
}

impl Names {
    pub(super) fn get(&self, path: &Path) -> Option<Node> {
        if path == Path::new("/") || path == Path::new("") {
            return Some(Node::Directory);
        }
        self.cached.get(path).copied()
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<InodeId> {
        match self.get(path) {
            Some(Node::File(id)) => Ok(id),
            Some(Node::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn check_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent().map(|parent| self.get(parent)) {
            Some(Some(Node::Directory)) => Ok(()),
            Some(Some(Node::File(_))) => Err(io::ErrorKind::NotADirectory.into()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn create(&mut self, path: &Path, node: Node) -> io::Result<()> {
        self.check_parent(path)?;
        self.change(Change::Set(path.to_path_buf(), node));
        Ok(())
    }

    pub(super) fn create_directories(&mut self, path: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = path.ancestors().take_while(|p| self.get(p).is_none()).collect();
        while let Some(directory) = missing.pop() {
            self.create(directory, Node::Directory)?;
        }
        match self.get(path) {
            Some(Node::Directory) => Ok(()),
            _ => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.change(Change::Remove(path.to_path_buf()));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.file(from)?;
        self.check_parent(to)?;
        self.change(Change::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.cached);
        self.unsynced.push(change);
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        match self.get(path) {
            Some(Node::Directory) => {
                Ok(self.cached.keys().filter(|p| p.parent() == Some(path)).cloned().collect())
            }
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn sync(&mut self, directory: &Path) -> io::Result<()> {
        if self.get(directory) != Some(Node::Directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // Directories themselves are made durable along with what is in them: a journal keeps that order.
        let durable = &mut self.durable;
        self.unsynced.retain(|change| {
            let made = matches!(change, Change::Set(path, Node::Directory) if directory.starts_with(path));
            let sync = made || change.directory() == directory;
            if sync {
                change.apply(durable);
            }
            !sync
        });
        Ok(())
    }

    /// The power goes: a journal has recorded the changes up to some moment.
    pub(super) fn lose_power(&mut self, keep: f64, rng: &mut impl Rng) {
        let mut changes = std::mem::take(&mut self.unsynced);
        let kept = if keep >= 1.0 {
            changes.len()
        } else if keep <= 0.0 {
            0
        } else {
            rng.random_range(0..=changes.len())
        };
        changes.truncate(kept);
        for change in changes {
            change.apply(&mut self.durable);
        }
        self.cached = self.durable.clone();
    }

    /// Whether any name, cached or durable, leads to the file.
    pub(super) fn refers_to(&self, id: InodeId) -> bool {
        let refers = |tree: &BTreeMap<PathBuf, Node>| tree.values().any(|node| *node == Node::File(id));
        refers(&self.cached) || refers(&self.durable) || !self.unsynced.is_empty()
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&PathBuf, InodeId)> {
        self.cached.iter().filter_map(|(path, node)| match node {
            Node::File(id) => Some((path, *id)),
            Node::Directory => None,
        })
    }
}
