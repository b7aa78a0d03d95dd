//! Checks that a request passes before it is executed (`src/fbs/meta/Service.h`, `Common.h`).

use super::*;
use crate::status::{code, with_message};
use valor_wire::Status;

fn invalid(message: impl Into<String>) -> Status {
    with_message(code::INVALID_ARG, message)
}

impl PathAt {
    /// Checks that the path names something that can be created, removed or renamed.
    ///
    /// # Errors
    /// 3 without a path, or if its last component is missing, `.`, `..` or the root. A trailing slash counts as `.`,
    /// as in 3FS.
    pub fn valid_for_create(&self) -> Result<(), Status> {
        let path: &[u8] = self.path.as_deref().map(|path| &path[..]).unwrap_or_default();
        if path.is_empty() {
            return Err(invalid("path not set"));
        }
        if path.iter().all(|&byte| byte == b'/') {
            return Err(invalid("filename is /"));
        }
        match path.rsplit(|&byte| byte == b'/').next().unwrap_or_default() {
            b"" | b"." => Err(invalid("filename is .")),
            b".." => Err(invalid("filename is ..")),
            _ => Ok(()),
        }
    }
}

impl OpenFlags {
    /// Checks the flags alone.
    ///
    /// # Errors
    /// 3 if a directory is to be written or emptied.
    pub fn valid(self) -> Result<(), Status> {
        if self.contains(Self::DIRECTORY) && self.writes() {
            return Err(invalid("O_DIRECTORY with write access"));
        }
        if self.contains(Self::DIRECTORY) && self.contains(Self::TRUNC) {
            return Err(invalid("O_DIRECTORY with O_TRUNC"));
        }
        Ok(())
    }
}

impl SessionInfo {
    /// True if client and session are both set.
    pub fn is_valid(&self) -> bool {
        !self.client.is_zero() && !self.session.is_zero()
    }
}

fn check_session(session: &Option<SessionInfo>) -> Result<(), Status> {
    match session {
        None => Err(invalid("session not set")),
        Some(session) if !session.is_valid() => Err(invalid("session invalid")),
        Some(_) => Ok(()),
    }
}

fn check_layout(layout: &Option<Layout>) -> Result<(), Status> {
    layout.as_ref().map_or(Ok(()), |layout| layout.valid(true))
}

fn check_batch_size(flags: OpenFlags, batch_size: u32) -> Result<(), Status> {
    if flags.contains(OpenFlags::TRUNC) && batch_size == 0 {
        return Err(invalid("removeChunksBatchSize is 0"));
    }
    Ok(())
}

impl ReqBase {
    /// Checks that repetitions of the request can be recognised.
    ///
    /// # Errors
    /// 3 without client or request uuid.
    pub fn check_uuid(&self) -> Result<(), Status> {
        if self.client.is_zero() {
            return Err(invalid("client uuid is zero"));
        }
        if self.uuid.is_zero() {
            return Err(invalid("request uuid is zero"));
        }
        Ok(())
    }
}

/// A request with checks that do not depend on the server's state.
pub trait Validate {
    /// Checks the request.
    ///
    /// # Errors
    /// 3 `InvalidArg` or 3013 `InvalidFileLayout` with the reason.
    fn valid(&self) -> Result<(), Status>;
}

macro_rules! always_valid {
    ($($req:ty),*) => {$(
        impl Validate for $req {
            fn valid(&self) -> Result<(), Status> {
                Ok(())
            }
        }
    )*};
}

always_valid!(
    StatFsReq,
    StatReq,
    ListReq,
    GetRealPathReq,
    PruneSessionReq,
    DropUserCacheReq,
    AuthReq,
    LockDirectoryReq,
    BatchStatReq,
    BatchStatByPathReq,
    TestRpcReq
);

impl Validate for CreateReq {
    fn valid(&self) -> Result<(), Status> {
        self.path.valid_for_create()?;
        self.flags.valid()?;
        if self.flags.writes() {
            check_session(&self.session)?;
        }
        check_layout(&self.layout)?;
        check_batch_size(self.flags, self.remove_chunks_batch_size)
    }
}

impl Validate for MkdirsReq {
    fn valid(&self) -> Result<(), Status> {
        if self.path.path.as_ref().is_none_or(|path| path.is_empty()) {
            return Err(invalid("path not set"));
        }
        check_layout(&self.layout)
    }
}

impl Validate for SymlinkReq {
    fn valid(&self) -> Result<(), Status> {
        self.path.valid_for_create()
    }
}

impl Validate for HardLinkReq {
    fn valid(&self) -> Result<(), Status> {
        self.new_path.valid_for_create()
    }
}

impl Validate for RemoveReq {
    fn valid(&self) -> Result<(), Status> {
        if self.path.path.is_some() {
            self.path.valid_for_create()?;
        }
        if self.recursive { self.base.check_uuid() } else { Ok(()) }
    }
}

impl Validate for OpenReq {
    fn valid(&self) -> Result<(), Status> {
        self.flags.valid()?;
        if self.flags.writes() {
            check_session(&self.session)?;
        } else if self.flags.contains(OpenFlags::TRUNC) || self.flags.contains(OpenFlags::APPEND) {
            return Err(invalid("O_RDONLY with O_TRUNC or O_APPEND"));
        }
        check_batch_size(self.flags, self.remove_chunks_batch_size)
    }
}

impl Validate for SyncReq {
    fn valid(&self) -> Result<(), Status> {
        if self.truncated && !self.update_length {
            return Err(invalid("truncated without updateLength"));
        }
        Ok(())
    }
}

impl Validate for CloseReq {
    fn valid(&self) -> Result<(), Status> {
        if self.update_length || self.mtime.is_some() { check_session(&self.session) } else { Ok(()) }
    }
}

impl Validate for RenameReq {
    fn valid(&self) -> Result<(), Status> {
        self.src.valid_for_create()?;
        self.dest.valid_for_create()?;
        if self.move_to_trash { self.base.check_uuid() } else { Ok(()) }
    }
}

impl Validate for TruncateReq {
    fn valid(&self) -> Result<(), Status> {
        if self.remove_chunks_batch_size == 0 {
            return Err(invalid("removeChunksBatchSize is 0"));
        }
        Ok(())
    }
}

impl Validate for SetAttrReq {
    fn valid(&self) -> Result<(), Status> {
        check_layout(&self.layout)?;
        match self.iflags {
            Some(iflags) if iflags.without(IFlags::SUPPORTED) != IFlags(0) => {
                Err(invalid(format!("only flags {:x} are supported", IFlags::SUPPORTED.0)))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::ClientId;
    use valor_wire::Uuid;

    #[test]
    fn names_for_creation() {
        let ok = |path: &str| PathAt::at(InodeId::ROOT, path).valid_for_create().is_ok();
        for good in ["a", "/a", "a/b", "a/...", "/a//b", "a/.b"] {
            assert!(ok(good), "{good}");
        }
        for bad in ["", "/", "//", ".", "..", "a/.", "a/..", "a/", "/a/b/"] {
            assert!(!ok(bad), "{bad}");
        }
        assert!(PathAt::inode(InodeId(5)).valid_for_create().is_err());
    }

    fn session() -> Option<SessionInfo> {
        let uuid = Uuid([1; 16]);
        Some(SessionInfo { client: ClientId { uuid, hostname: String::new() }, session: uuid })
    }

    #[test]
    fn open_and_create() {
        let open = |flags, session, batch| {
            OpenReq { flags, session, remove_chunks_batch_size: batch, ..OpenReq::default() }.valid().is_ok()
        };
        assert!(open(OpenFlags::RDONLY, None, 0));
        assert!(!open(OpenFlags::RDWR, None, 0));
        assert!(open(OpenFlags::RDWR, session(), 0));
        assert!(!open(OpenFlags::RDWR, Some(SessionInfo::default()), 0));
        assert!(!open(OpenFlags::RDWR | OpenFlags::TRUNC, session(), 0));
        assert!(open(OpenFlags::RDWR | OpenFlags::TRUNC, session(), 32));
        assert!(!open(OpenFlags::RDONLY | OpenFlags::TRUNC, session(), 32));
        assert!(!open(OpenFlags::RDONLY | OpenFlags::APPEND, session(), 32));
        assert!(!open(OpenFlags::WRONLY | OpenFlags::DIRECTORY, session(), 32));
        let create = CreateReq { path: PathAt::at(InodeId::ROOT, "f"), ..CreateReq::default() };
        assert!(create.valid().is_ok());
        let bad_layout = CreateReq { layout: Some(Layout::default()), ..create };
        assert_eq!(bad_layout.valid().unwrap_err().code, 3013);
    }

    #[test]
    fn the_other_requests() {
        let a = PathAt::at(InodeId::ROOT, "a");
        assert!(RemoveReq { path: PathAt::inode(InodeId(7)), ..RemoveReq::default() }.valid().is_ok());
        assert!(RemoveReq { path: a.clone(), recursive: true, ..RemoveReq::default() }.valid().is_err());
        let rename = RenameReq { src: a.clone(), dest: a.clone(), ..RenameReq::default() };
        assert!(rename.valid().is_ok());
        assert!(RenameReq { move_to_trash: true, ..rename }.valid().is_err());
        assert!(SyncReq { truncated: true, ..SyncReq::default() }.valid().is_err());
        assert!(SyncReq { truncated: true, update_length: true, ..SyncReq::default() }.valid().is_ok());
        assert!(CloseReq { update_length: true, ..CloseReq::default() }.valid().is_err());
        assert!(CloseReq { update_length: true, session: session(), ..CloseReq::default() }.valid().is_ok());
        assert!(SetAttrReq { iflags: Some(IFlags(2)), ..SetAttrReq::default() }.valid().is_err());
        assert!(SetAttrReq { iflags: Some(IFlags::SUPPORTED), ..SetAttrReq::default() }.valid().is_ok());
        assert!(MkdirsReq::default().valid().is_err());
        assert!(TruncateReq::default().valid().is_err());
    }
}
