//! `setAttr`.

use valor_protocol::InodeId;
use valor_protocol::meta::*;
use valor_protocol::status::code;
use valor_wire::{UtcTime, from_bytes};

use super::code_of;
use crate::schema::entry_key;
use crate::testing::{TestServer, at, test_config};

fn perm(perm: u32) -> SetAttrReq {
    SetAttrReq { perm: Some(perm), ..SetAttrReq::default() }
}

fn times(atime: Option<i64>, mtime: Option<i64>) -> SetAttrReq {
    SetAttrReq { atime: atime.map(UtcTime), mtime: mtime.map(UtcTime), ..SetAttrReq::default() }
}

#[tokio::test]
async fn owners_change_permissions_and_root_the_rest() {
    let server = TestServer::start(test_config()).await;
    server.mkdir_as(0, "d", 0o777).await.unwrap();
    let file = server.create_as(5, "d/f").await.unwrap();
    // By path the request runs anywhere, by id on the owner of the inode: the rules are the same.
    for path in [at("d/f"), PathAt::inode(file.id)] {
        let set = |uid, change| server.set_attr(uid, path.clone(), change);
        assert_eq!(set(5, perm(0o600)).await.unwrap().data.acl.perm, 0o600);
        assert_eq!(code_of(set(6, perm(0o644)).await), code::META_NO_PERMISSION);
        assert!(set(6, perm(0o600)).await.is_ok(), "nothing changes");
        let owner = |uid| SetAttrReq { uid: Some(uid), ..SetAttrReq::default() };
        assert_eq!(code_of(set(5, owner(6)).await), code::META_NO_PERMISSION);
        let group = |gid| SetAttrReq { gid: Some(gid), ..SetAttrReq::default() };
        assert_eq!(code_of(set(5, group(9)).await), code::META_NO_PERMISSION);
        assert_eq!(set(0, group(9)).await.unwrap().data.acl.gid, 9);
        assert_eq!(set(5, group(5)).await.unwrap().data.acl.gid, 5, "one of the owner's groups");
        let changed = set(0, perm(0o644)).await.unwrap();
        assert!(changed.data.ctime > file.data.ctime && changed.data.mtime == file.data.mtime);
    }
    assert_eq!(
        code_of(server.set_attr(0, PathAt::inode(InodeId::ROOT), perm(0o700)).await),
        code::META_NO_PERMISSION
    );
    assert_eq!(code_of(server.set_attr(0, at("none"), perm(0o700)).await), code::META_NOT_FOUND);
}

#[tokio::test]
async fn times_are_the_owners_and_now_is_a_writers() {
    let server = TestServer::start(test_config()).await;
    server.mkdir_as(0, "d", 0o777).await.unwrap();
    let file = server.create_as(5, "d/f").await.unwrap();
    server.set_attr(0, PathAt::inode(file.id), perm(0o646)).await.unwrap();
    let set = |uid, change| server.set_attr(uid, PathAt::inode(file.id), change);
    let inode = set(5, times(Some(1_000_001), Some(2_000_002))).await.unwrap();
    assert_eq!((inode.data.atime.0, inode.data.mtime.0), (1_000_001, 2_000_002));
    assert_eq!(code_of(set(6, times(Some(1), None)).await), code::META_NO_PERMISSION);
    let now = set(6, times(Some(-1), Some(-1))).await.unwrap();
    assert!(now.data.atime > file.data.atime && now.data.mtime == now.data.atime);
    set(0, perm(0o640)).await.unwrap();
    assert_eq!(code_of(set(6, times(None, Some(-1))).await), code::META_NO_PERMISSION);
    server.configure("time_granularity = \"1s\"");
    assert_eq!(set(5, times(Some(3_999_999), None)).await.unwrap().data.atime.0, 3_000_000);
    assert_eq!(set(5, times(Some(-2_500_000), None)).await.unwrap().data.atime.0, -3_000_000);
}

#[tokio::test]
async fn flags_belong_to_root() {
    let server = TestServer::start(test_config()).await;
    server.mkdir_as(0, "d", 0o777).await.unwrap();
    let file = server.create_as(5, "d/f").await.unwrap();
    let set = |uid, flags: IFlags| {
        let change = SetAttrReq { iflags: Some(flags), ..SetAttrReq::default() };
        server.set_attr(uid, PathAt::inode(file.id), change)
    };
    assert!(set(5, IFlags::HUGE_FILE).await.is_ok());
    assert_eq!(code_of(set(5, IFlags::IMMUTABLE).await), code::META_NO_PERMISSION);
    assert_eq!(code_of(set(0, IFlags::CHAIN_ALLOCATION).await), code::META_NO_PERMISSION);
    assert_eq!(code_of(set(0, IFlags(2)).await), code::INVALID_ARG);
    server.configure("allow_owner_change_immutable = true");
    assert!(set(5, IFlags::IMMUTABLE.with(IFlags::HUGE_FILE)).await.is_ok());
    assert!(set(0, IFlags::default()).await.is_ok());
    server.configure("iflags_chunk_engine = false");
    assert_eq!(code_of(set(0, IFlags::CHUNK_ENGINE).await), code::META_NO_PERMISSION);
}

#[tokio::test]
async fn layouts_belong_to_directories() {
    let server = TestServer::start(test_config()).await;
    let directory = server.mkdir_as(0, "d", 0o755).await.unwrap();
    let file = server.create("d/f").await;
    let layout = Layout::empty(1.into(), 8192, 1);
    let change = || SetAttrReq { layout: Some(layout.clone()), ..SetAttrReq::default() };
    assert_eq!(code_of(server.set_attr(0, PathAt::inode(file.id), change()).await), code::META_NOT_DIRECTORY);
    assert_eq!(code_of(server.set_attr(5, at("d"), change()).await), code::META_NO_PERMISSION);
    let changed = server.set_attr(0, at("d"), change()).await.unwrap();
    assert_eq!(changed.data.as_directory().unwrap().layout, layout);
    assert!(changed.data.ctime > directory.data.ctime);
    assert_eq!(server.create("d/g").await.data.as_file().unwrap().layout.chunk_size, 8192);
}

#[tokio::test]
async fn a_directorys_entry_has_a_copy_of_its_permissions() {
    let server = TestServer::start(test_config()).await;
    let directory = server.mkdir("d").await;
    let inner = server.mkdir("d/inner").await;
    for (path, mode) in
        [(PathAt::inode(inner.id), 0o711), (at("d/inner"), 0o722), (PathAt::at(inner.id, "."), 0o733)]
    {
        let inode = server.set_attr(0, path, perm(mode)).await.unwrap();
        let value = server.key(entry_key(directory.id, b"inner")).await.unwrap();
        let entry: DirEntryData = from_bytes(value).unwrap();
        assert_eq!(entry.dir_acl, Some(inode.data.acl));
        assert_eq!(entry.dir_acl.unwrap().perm, mode);
    }
}

#[tokio::test]
async fn symlinks_are_followed_unless_told_otherwise() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    server.symlink("s", "f").await.unwrap();
    assert_eq!(server.set_attr(0, at("s"), perm(0o600)).await.unwrap().id, file.id);
    let change = SetAttrReq { flags: AtFlags::SYMLINK_NOFOLLOW, ..times(Some(1), None) };
    assert!(server.set_attr(0, at("s"), change).await.unwrap().data.as_symlink().is_some());
}

#[tokio::test]
async fn posix_change_times_follow_every_change() {
    let server = TestServer::start(test_config()).await;
    server.configure("posix_times = true");
    let file = server.create("f").await;
    let touched = server.set_attr(0, PathAt::inode(file.id), times(Some(1), None)).await.unwrap();
    assert!(touched.data.ctime > file.data.ctime);
    let same = server.set_attr(0, at("f"), perm(0o644)).await.unwrap();
    assert!(same.data.ctime > touched.data.ctime);
    assert!(server.rename("f", "g").await.unwrap().data.ctime > same.data.ctime);
}

#[tokio::test]
async fn every_change_of_contents_has_a_ctime_of_its_own() {
    let server = TestServer::start(test_config()).await;
    // A clock that stands still for a day, and times that the client keeps from moving.
    server.configure("posix_times = true\ntime_granularity = \"86400s\"");
    let file = server.create("f").await;
    let mut last = file.data.ctime;
    for length in [10, 10, 10, 20, 5] {
        server.chunks.write(file.id, length);
        let change = SyncReq { update_length: true, ..SyncReq::default() };
        let inode = server.sync(file.id, change).await.unwrap();
        assert!(inode.data.ctime > last);
        last = inode.data.ctime;
    }
    let read = SyncReq { atime: Some(last), ..SyncReq::default() };
    assert_eq!(server.sync(file.id, read).await.unwrap().data.ctime, last, "reading changes nothing");
}

#[tokio::test]
async fn users_are_checked_if_asked() {
    let server = TestServer::start(test_config()).await;
    let mut base = server.base(5);
    base.user.token = "five".into();
    let auth = |base: &ReqBase| AuthReq { base: base.clone(), ..AuthReq::default() };
    assert_eq!(server.meta.authenticate(auth(&base)).await.unwrap().user, base.user);
    server.configure("authenticate = true");
    assert_eq!(code_of(server.meta.authenticate(auth(&base)).await), code::AUTHENTICATION_FAIL);
    let attr = valor_protocol::user::UserAttr { name: "five".into(), groups: vec![42], ..Default::default() };
    server.users.users.lock().insert(5, attr);
    assert_eq!(server.meta.authenticate(auth(&base)).await.unwrap().user.groups, [42]);
    let stat = |base: ReqBase| server.meta.stat(StatReq { base, path: at("/"), ..StatReq::default() });
    assert!(stat(base.clone()).await.is_ok());
    base.user.token = "wrong".into();
    assert_eq!(code_of(stat(base).await), code::AUTHENTICATION_FAIL);
}
