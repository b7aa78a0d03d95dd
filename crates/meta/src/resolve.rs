//! From paths to entries (`src/meta/store/PathResolve.cc`).
//!
//! All reads are snapshots: an operation names the keys its result depends on itself. Every directory on the way needs
//! search permission; its permissions come from the copy in its entry, from a short-lived cache, or from its inode.

use bstr::BString;
use valor_protocol::InodeId;
use valor_protocol::meta::{Acl, AtFlags, DirEntry, Inode, InodeType, PathAt};
use valor_protocol::status::code;
use valor_protocol::user::UserInfo;
use valor_wire::Uuid;

use crate::acl;
use crate::core::Cx;
use crate::error::{Result, fail};
use crate::path::{Component, Components, Trace, components};
use crate::store::{Read, Tx, directory_entry, entry_inode, load_entry, new_directory_entry, require_inode};

/// What is known of a directory: permissions at least.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    /// Remembered permissions.
    Acl(InodeId, Acl),
    /// The inode.
    Inode(Box<Inode>),
    /// The entry that leads to it.
    Entry(DirEntry, Acl),
}

impl Known {
    /// The directory.
    pub(crate) fn id(&self) -> InodeId {
        match self {
            Self::Acl(id, _) => *id,
            Self::Inode(inode) => inode.id,
            Self::Entry(entry, _) => entry.data.id,
        }
    }

    /// Its permissions.
    pub(crate) fn acl(&self) -> Acl {
        match self {
            Self::Acl(_, acl) | Self::Entry(_, acl) => *acl,
            Self::Inode(inode) => inode.data.acl,
        }
    }

    /// Its inode, read now unless it is known.
    pub(crate) async fn inode(&self, tx: &mut Tx) -> Result<Inode> {
        match self {
            Self::Acl(id, _) => require_inode(tx, *id, Read::Snapshot).await,
            Self::Inode(inode) => Ok((**inode).clone()),
            Self::Entry(entry, _) => entry_inode(tx, entry, Read::Snapshot).await,
        }
    }
}

/// The last component of a path.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// Directory it is in.
    pub(crate) parent: Known,
    /// Its entry, if it exists.
    pub(crate) entry: Option<DirEntry>,
    /// The name that does not exist; behind a symlink not the one that was asked for.
    pub(crate) missing: Option<BString>,
}

impl Resolved {
    fn found(parent: Known, entry: DirEntry) -> Self {
        Self { parent, entry: Some(entry), missing: None }
    }
}

/// A directory where a lookup continues.
enum Step {
    Id(InodeId),
    Entry(DirEntry),
}

/// Resolves the paths of one request.
pub(crate) struct Resolver<'a> {
    cx: &'a Cx<'a>,
    user: &'a UserInfo,
    depth: u32,
    links: u32,
    epoch: u64,
    trace: Option<Trace>,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(cx: &'a Cx<'a>, user: &'a UserInfo) -> Self {
        Self { cx, user, depth: 0, links: 0, epoch: cx.core.acl_cache.epoch(), trace: None }
    }

    /// Also writes down the way.
    pub(crate) fn with_trace(mut self) -> Self {
        self.trace = Some(Trace::default());
        self
    }

    /// The way taken, without `.` and `name/..`.
    pub(crate) fn trace(&self) -> BString {
        self.trace.as_ref().map(Trace::simplified).unwrap_or_default()
    }

    /// The inode of a path; without path the parent itself. `alive` refuses one without links.
    pub(crate) async fn inode(
        &mut self,
        tx: &mut Tx,
        at: &PathAt,
        flags: AtFlags,
        alive: bool,
    ) -> Result<Inode> {
        let itself = match &at.path {
            None => true,
            Some(path) => path.is_empty() && flags.contains(AtFlags::EMPTY_PATH),
        };
        let inode = if itself {
            require_inode(tx, at.parent, Read::Snapshot).await?
        } else {
            let entry = self.entry(tx, at, flags).await?;
            entry_inode(tx, &entry, Read::Snapshot).await?
        };
        if alive && inode.data.nlink == 0 {
            return fail(code::META_NOT_FOUND, format!("inode {} is removed", inode.id));
        }
        Ok(inode)
    }

    /// The entry of a path, which must exist.
    pub(crate) async fn entry(&mut self, tx: &mut Tx, at: &PathAt, flags: AtFlags) -> Result<DirEntry> {
        match self.path(tx, at, flags).await?.entry {
            Some(entry) => Ok(entry),
            None => fail(code::META_NOT_FOUND, ""),
        }
    }

    /// The directory and, if it exists, the entry of a path. Only the last component may be missing.
    pub(crate) async fn path(&mut self, tx: &mut Tx, at: &PathAt, flags: AtFlags) -> Result<Resolved> {
        let Some(path) = &at.path else {
            return fail(code::INVALID_ARG, "path not set");
        };
        let resolved = self.whole(tx, at.parent, path).await?;
        match &resolved.entry {
            Some(entry) if flags.follows_last_symlink() && entry.data.r#type == InodeType::Symlink => {
                let entry = entry.clone();
                self.symlink(tx, entry).await
            }
            _ => Ok(resolved),
        }
    }

    /// Like [`Self::path`] for the directory with that inode id.
    pub(crate) async fn directory(&mut self, tx: &mut Tx, id: InodeId) -> Result<Resolved> {
        let inode = require_inode(tx, id, Read::Snapshot).await?;
        let entry = directory_entry(tx, &inode).await?;
        let parent = self.known(tx, Step::Id(entry.parent)).await?;
        Ok(Resolved::found(parent, entry))
    }

    /// As far as a path exists, and the components that are missing.
    pub(crate) async fn range<'p>(
        &mut self,
        tx: &mut Tx,
        at: &'p PathAt,
    ) -> Result<(Resolved, Components<'p>)> {
        let Some(path) = &at.path else {
            return fail(code::INVALID_ARG, "path not set");
        };
        let mut parts = components(path);
        let resolved = self.walk(tx, at.parent, &mut parts).await?;
        Ok((resolved, parts))
    }

    async fn whole(&mut self, tx: &mut Tx, parent: InodeId, path: &[u8]) -> Result<Resolved> {
        let mut parts = components(path);
        let resolved = self.walk(tx, parent, &mut parts).await?;
        // The first missing component is still there; only the last one may be missing.
        parts.next();
        if parts.is_empty() { Ok(resolved) } else { fail(code::META_NOT_FOUND, "") }
    }

    /// Walks along `parts`. Leaves there what is missing.
    async fn walk(&mut self, tx: &mut Tx, start: InodeId, parts: &mut Components<'_>) -> Result<Resolved> {
        let mut here = Step::Id(start);
        let mut rest = parts.clone();
        let mut part = match rest.next() {
            None => return fail(code::META_NOT_FOUND, "empty path"),
            Some(Component::Root) => {
                here = Step::Id(InodeId::ROOT);
                *parts = rest.clone();
                match rest.next() {
                    Some(part) => part,
                    None => {
                        if let Some(trace) = &mut self.trace {
                            trace.restart();
                        }
                        let root = root_entry();
                        return Ok(Resolved::found(Known::Entry(root.clone(), acl::ROOT), root));
                    }
                }
            }
            Some(part) => part,
        };
        loop {
            let next = rest.next();
            if part == Component::Dot
                && let Some(next) = next
            {
                parts.next();
                part = next;
                continue;
            }
            let mut resolved = self.component(tx, here, part).await?;
            let Some(entry) = &resolved.entry else {
                return Ok(resolved);
            };
            parts.next();
            let Some(next) = next else {
                return Ok(resolved);
            };
            if entry.data.r#type == InodeType::Symlink {
                let entry = entry.clone();
                resolved = self.symlink(tx, entry).await?;
            }
            match resolved.entry {
                None => return fail(code::META_NOT_FOUND, ""),
                Some(entry) if entry.data.r#type == InodeType::File => {
                    return fail(code::META_NOT_DIRECTORY, "");
                }
                Some(entry) => here = Step::Entry(entry),
            }
            part = next;
        }
    }

    async fn component(&mut self, tx: &mut Tx, here: Step, part: Component<'_>) -> Result<Resolved> {
        let id = match &here {
            Step::Id(id) => *id,
            Step::Entry(entry) => entry.data.id,
        };
        if let Some(trace) = &mut self.trace {
            if id == InodeId::ROOT {
                trace.restart();
            }
            trace.push(part.as_bytes());
        }
        let parent = self.known(tx, here).await?;
        acl::check(&parent.acl(), self.user, acl::EXEC)?;
        match part {
            Component::Root | Component::Dot => {
                let entry = pseudo_entry(id, b".", id, parent.acl());
                Ok(Resolved::found(parent, entry))
            }
            Component::DotDot => {
                let inode = parent.inode(tx).await?;
                let Some(above) = inode.data.as_directory().map(|directory| directory.parent) else {
                    return fail(code::META_NOT_DIRECTORY, "");
                };
                let entry = pseudo_entry(id, b"..", above, inode.data.acl);
                Ok(Resolved::found(Known::Inode(Box::new(inode)), entry))
            }
            Component::Name(name) => {
                let entry = load_entry(tx, id, name, Read::Snapshot).await?;
                let missing = entry.is_none().then(|| name.to_owned());
                Ok(Resolved { parent, entry, missing })
            }
        }
    }

    /// What is known of a directory; 3003 if it is none.
    async fn known(&mut self, tx: &mut Tx, step: Step) -> Result<Known> {
        let ttl = self.cx.config.acl_cache_time.get();
        let cache = &self.cx.core.acl_cache;
        match step {
            Step::Entry(entry) => match entry.data.dir_acl {
                // The pseudo entry `..` carries the permissions of the directory below.
                Some(_) if entry.name.as_slice() == b".." => self.known_by_id(tx, entry.data.id).await,
                Some(acl) => {
                    if entry.name.as_slice() != b"." {
                        cache.set(entry.data.id, acl, ttl, self.epoch);
                    }
                    Ok(Known::Entry(entry, acl))
                }
                None => fail(code::META_NOT_DIRECTORY, ""),
            },
            Step::Id(id) => self.known_by_id(tx, id).await,
        }
    }

    async fn known_by_id(&mut self, tx: &mut Tx, id: InodeId) -> Result<Known> {
        let ttl = self.cx.config.acl_cache_time.get();
        let cache = &self.cx.core.acl_cache;
        if id == InodeId::ROOT {
            return Ok(Known::Entry(root_entry(), acl::ROOT));
        }
        if let Some(acl) = cache.get(id, ttl) {
            return Ok(Known::Acl(id, acl));
        }
        let inode = require_inode(tx, id, Read::Snapshot).await?;
        if inode.data.as_directory().is_none() {
            return fail(code::META_NOT_DIRECTORY, "");
        }
        cache.set(id, inode.data.acl, ttl, self.epoch);
        Ok(Known::Inode(Box::new(inode)))
    }

    /// Where a symlink leads, through further symlinks.
    async fn symlink(&mut self, tx: &mut Tx, mut link: DirEntry) -> Result<Resolved> {
        self.depth += 1;
        if self.depth > self.cx.config.max_symlink_depth {
            return fail(code::META_TOO_MANY_SYMLINKS, "");
        }
        loop {
            self.links += 1;
            if self.links > self.cx.config.max_symlink_count {
                return fail(code::META_TOO_MANY_SYMLINKS, "");
            }
            let inode = entry_inode(tx, &link, Read::Snapshot).await?;
            let target = inode.data.as_symlink().map(|symlink| symlink.target.clone()).unwrap_or_default();
            if let Some(trace) = &mut self.trace {
                trace.pop();
            }
            // A target may lead through symlinks again, so the future contains itself.
            let resolved = Box::pin(self.whole(tx, link.parent, &target)).await?;
            match resolved.entry {
                Some(next) if next.data.r#type == InodeType::Symlink => link = next,
                _ => {
                    self.depth -= 1;
                    return Ok(resolved);
                }
            }
        }
    }
}

fn pseudo_entry(parent: InodeId, name: &[u8], id: InodeId, acl: Acl) -> DirEntry {
    new_directory_entry(parent, name, id, acl, Uuid::ZERO)
}

/// The entry that the root directory does not have.
pub(crate) fn root_entry() -> DirEntry {
    pseudo_entry(InodeId::ROOT, b".", InodeId::ROOT, acl::ROOT)
}
