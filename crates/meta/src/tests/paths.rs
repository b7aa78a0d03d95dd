//! Path resolution.

use valor_protocol::InodeId;
use valor_protocol::meta::*;
use valor_protocol::status::code;

use super::code_of;
use crate::schema::inode_key;
use crate::testing::{TestServer, at, test_config};

async fn real_path(server: &TestServer, path: PathAt, absolute: bool) -> Result<String, u16> {
    let req = GetRealPathReq { base: server.base(0), path, absolute };
    server.meta.get_real_path(req).await.map(|rsp| rsp.path.to_string()).map_err(|status| status.code)
}

#[tokio::test]
async fn dots_and_separators() {
    let server = TestServer::start(test_config()).await;
    let a = server.mkdir("a").await;
    let b = server.mkdir("a/b").await;
    let file = server.create("a/b/f").await;
    for path in ["a/b/f", "/a/b/f", "a//b/./f", "a/b/../b/f", "/../a/b/f", "/./a/./b/f", "a/b/../../a/b/f"] {
        assert_eq!(server.stat(path).await.unwrap().id, file.id, "{path}");
    }
    let from_b = |path: &str| server.stat_at(PathAt::at(b.id, path), AtFlags::default());
    assert_eq!(from_b("f").await.unwrap().id, file.id);
    assert_eq!(from_b("..").await.unwrap().id, a.id);
    assert_eq!(from_b(".").await.unwrap().id, b.id);
    assert_eq!(from_b("/").await.unwrap().id, InodeId::ROOT);
    assert_eq!(code_of(from_b("").await), code::META_NOT_FOUND);
    assert_eq!(server.stat_at(PathAt::at(b.id, ""), AtFlags::EMPTY_PATH).await.unwrap().id, b.id);
    assert_eq!(code_of(server.stat("a/b/f/").await), code::META_NOT_DIRECTORY);
    assert_eq!(code_of(server.stat("a/b/f/x").await), code::META_NOT_DIRECTORY);
    assert_eq!(code_of(server.stat("a/x/f").await), code::META_NOT_FOUND);
    assert_eq!(
        code_of(server.stat_at(PathAt::at(file.id, "x"), AtFlags::default()).await),
        code::META_NOT_DIRECTORY
    );
    assert_eq!(
        code_of(server.stat_at(PathAt::at(InodeId(12), "x"), AtFlags::default()).await),
        code::META_NOT_FOUND
    );
    assert_eq!(code_of(server.stat(&"x".repeat(256)).await), code::META_NAME_TOO_LONG);
}

#[tokio::test]
async fn symlinks_are_followed_where_asked() {
    let server = TestServer::start(test_config()).await;
    server.mkdir("d").await;
    let file = server.create("d/f").await;
    let symlink = server.symlink("s", "d").await.unwrap();
    server.symlink("d/t", "f").await.unwrap();
    server.symlink("d/up", "../s/t").await.unwrap();
    server.symlink("abs", "/d/f").await.unwrap();
    server.symlink("dangling", "nowhere").await.unwrap();
    for path in ["s/f", "s/t", "d/up", "abs", "s/up"] {
        let inode = server.stat_at(at(path), AtFlags::SYMLINK_FOLLOW).await.unwrap();
        assert_eq!(inode.id, file.id, "{path}");
    }
    assert_eq!(server.stat("s").await.unwrap().id, symlink.id);
    let both = AtFlags::SYMLINK_FOLLOW | AtFlags::SYMLINK_NOFOLLOW;
    assert_eq!(server.stat_at(at("s"), both).await.unwrap().id, symlink.id);
    assert_eq!(code_of(server.stat_at(at("dangling"), AtFlags::SYMLINK_FOLLOW).await), code::META_NOT_FOUND);
    assert_eq!(code_of(server.stat("dangling/x").await), code::META_NOT_FOUND);
    assert_eq!(server.names("s").await, ["f", "t", "up"]);
}

#[tokio::test]
async fn symlinks_do_not_go_on_for_ever() {
    let server = TestServer::start(test_config()).await;
    server.symlink("loop", "loop").await.unwrap();
    server.symlink("ping", "pong").await.unwrap();
    server.symlink("pong", "ping").await.unwrap();
    for path in ["loop", "ping", "loop/x"] {
        let answer = server.stat_at(at(path), AtFlags::SYMLINK_FOLLOW).await;
        assert_eq!(code_of(answer), code::META_TOO_MANY_SYMLINKS, "{path}");
    }
    // A chain counts links, nesting counts depth.
    server.create("l0").await;
    server.mkdir("n0").await;
    for i in 1..=11 {
        server.symlink(&format!("l{i}"), &format!("l{}", i - 1)).await.unwrap();
        server.symlink(&format!("n{i}"), &format!("n{}/.", i - 1)).await.unwrap();
    }
    assert!(server.stat_at(at("l10"), AtFlags::SYMLINK_FOLLOW).await.is_ok());
    assert_eq!(
        code_of(server.stat_at(at("l11"), AtFlags::SYMLINK_FOLLOW).await),
        code::META_TOO_MANY_SYMLINKS
    );
    assert!(server.stat_at(at("n4"), AtFlags::SYMLINK_FOLLOW).await.is_ok());
    assert_eq!(
        code_of(server.stat_at(at("n5"), AtFlags::SYMLINK_FOLLOW).await),
        code::META_TOO_MANY_SYMLINKS
    );
}

#[tokio::test]
async fn every_directory_on_the_way_needs_search_permission() {
    let server = TestServer::start(test_config()).await;
    server.mkdir_as(0, "open", 0o755).await.unwrap();
    let closed = server.mkdir_as(0, "open/closed", 0o700).await.unwrap();
    server.mkdir_as(0, "open/closed/inner", 0o777).await.unwrap();
    server.create("open/closed/f").await;
    let stat = |path: PathAt| StatReq { base: server.base(5), path, flags: AtFlags::default() };
    assert!(server.meta.stat(stat(at("open/closed"))).await.is_ok());
    assert_eq!(code_of(server.meta.stat(stat(at("open/closed/f"))).await), code::META_NO_PERMISSION);
    assert_eq!(code_of(server.meta.stat(stat(at("open/closed/inner/x"))).await), code::META_NO_PERMISSION);
    assert_eq!(code_of(server.meta.stat(stat(PathAt::at(closed.id, "f"))).await), code::META_NO_PERMISSION);
    let list = ListReq { base: server.base(5), path: at("open/closed"), ..ListReq::default() };
    assert_eq!(code_of(server.meta.list(list).await), code::META_NO_PERMISSION);
    // A change through this server counts at once, in spite of the cache.
    let change = SetAttrReq { perm: Some(0o755), ..SetAttrReq::default() };
    server.set_attr(0, PathAt::inode(closed.id), change).await.unwrap();
    assert!(server.meta.stat(stat(PathAt::at(closed.id, "f"))).await.is_ok());
    assert!(server.meta.stat(stat(at("open/closed/f"))).await.is_ok());
    // Going up takes the permissions of the directory above, not those of the one below.
    let change = SetAttrReq { perm: Some(0o700), ..SetAttrReq::default() };
    server.set_attr(0, at("open/closed"), change).await.unwrap();
    let above = server.meta.stat(stat(at("open/closed/../closed"))).await;
    assert_eq!(code_of(above), code::META_NO_PERMISSION);
    assert!(server.meta.stat(stat(at("open/closed"))).await.is_ok());
}

#[tokio::test]
async fn real_paths() {
    let server = TestServer::start(test_config()).await;
    server.mkdir("a").await;
    let b = server.mkdir("a/b").await;
    let file = server.create("a/b/f").await;
    server.symlink("a/s", "b").await.unwrap();
    assert_eq!(real_path(&server, PathAt::inode(b.id), true).await.unwrap(), "/a/b");
    assert_eq!(real_path(&server, PathAt::inode(InodeId::ROOT), true).await.unwrap(), "/");
    assert_eq!(real_path(&server, PathAt::inode(file.id), true).await, Err(code::META_NOT_DIRECTORY));
    assert_eq!(real_path(&server, at("a/s/f"), true).await.unwrap(), "/a/b/f");
    assert_eq!(real_path(&server, at("a/s/f"), false).await.unwrap(), "/a/b/f");
    assert_eq!(real_path(&server, PathAt::at(b.id, "../s/f"), false).await.unwrap(), "../b/f");
    assert_eq!(real_path(&server, PathAt::at(b.id, "../s/f"), true).await.unwrap(), "/a/b/f");
    assert_eq!(real_path(&server, PathAt::at(b.id, "."), true).await.unwrap(), "/a/b");
    assert_eq!(real_path(&server, PathAt::at(b.id, ".."), true).await.unwrap(), "/a");
    assert_eq!(real_path(&server, PathAt::at(b.id, "../.."), true).await.unwrap(), "/");
    assert_eq!(real_path(&server, at("none"), true).await, Err(code::META_NOT_FOUND));
}

#[tokio::test]
async fn batches_of_paths_and_ids() {
    let server = TestServer::start(test_config()).await;
    let a = server.create("a").await;
    let paths = vec![at("a"), at("none"), PathAt::inode(a.id), at("a/b")];
    let req = BatchStatByPathReq { base: server.base(0), paths, flags: AtFlags::default() };
    let codes: Vec<_> = server.meta.batch_stat_by_path(req).await.unwrap().inodes.into_iter().collect();
    assert_eq!(codes[0].as_ref().unwrap().id, a.id);
    assert_eq!(codes[1].as_ref().unwrap_err().code, code::META_NOT_FOUND);
    assert_eq!(codes[2].as_ref().unwrap().id, a.id);
    assert_eq!(codes[3].as_ref().unwrap_err().code, code::META_NOT_DIRECTORY);
    let req = BatchStatReq { base: server.base(0), inode_ids: vec![InodeId(9), a.id] };
    let found: Vec<_> = server.meta.batch_stat(req).await.unwrap().inodes;
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn an_entry_without_inode_is_an_inconsistency() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    let tx = server.db.begin();
    tx.clear(inode_key(file.id));
    tx.commit().await.unwrap();
    assert_eq!(code_of(server.stat("f").await), code::META_INCONSISTENT);
    let tx = server.db.begin();
    tx.set(inode_key(file.id), b"\xff\xff");
    tx.commit().await.unwrap();
    assert_eq!(code_of(server.stat("f").await), code::DATA_CORRUPTION);
}

#[tokio::test]
async fn deleted_inodes_show_only_if_allowed() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    server.remove("f").await.unwrap();
    assert_eq!(server.stat_id(file.id).await.unwrap().data.nlink, 0);
    server.configure("allow_stat_deleted_inodes = false");
    assert_eq!(code_of(server.stat_id(file.id).await), code::META_NOT_FOUND);
}
