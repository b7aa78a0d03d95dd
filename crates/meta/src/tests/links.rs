//! Hard links and symlinks.

use valor_protocol::meta::*;
use valor_protocol::status::code;

use super::code_of;
use crate::schema::inode_key;
use crate::testing::{TestServer, at, test_config};

#[tokio::test]
async fn links_are_counted() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    server.mkdir("d").await;
    assert_eq!(server.link("f", "d/g").await.unwrap().data.nlink, 2);
    assert_eq!(server.link("d/g", "h").await.unwrap().data.nlink, 3);
    assert_eq!(code_of(server.link("f", "h").await), code::META_EXISTS);
    assert_eq!(code_of(server.link("d", "e").await), code::META_IS_DIRECTORY);
    assert_eq!(code_of(server.link("none", "e").await), code::META_NOT_FOUND);
    server.remove("f").await.unwrap();
    server.remove("h").await.unwrap();
    let left = server.stat("d/g").await.unwrap();
    assert_eq!((left.id, left.data.nlink), (file.id, 1));
    assert!(left.data.ctime >= file.data.ctime);
    server.remove("d/g").await.unwrap();
    assert_eq!(server.stat_id(file.id).await.unwrap().data.nlink, 0);
    // What waits for collection gets no new name.
    let req = HardLinkReq {
        base: server.base(0),
        old_path: PathAt::inode(file.id),
        new_path: at("again"),
        ..HardLinkReq::default()
    };
    assert_eq!(code_of(server.meta.hard_link(req).await), code::META_NOT_FOUND);
}

#[tokio::test]
async fn links_end_at_their_limit() {
    let server = TestServer::start(test_config()).await;
    let mut file = server.create("f").await;
    file.data.nlink = u16::MAX;
    let tx = server.db.begin();
    tx.set(inode_key(file.id), valor_wire::to_bytes(&file.data));
    tx.commit().await.unwrap();
    assert_eq!(code_of(server.link("f", "g").await), code::META_NO_PERMISSION);
}

#[tokio::test]
async fn symlinks_are_made_removed_and_linked() {
    let server = TestServer::start(test_config()).await;
    let symlink = server.symlink("s", "../anything").await.unwrap();
    assert_eq!(symlink.data.as_symlink().unwrap().target, "../anything");
    assert_eq!(symlink.data.acl.perm, 0o777);
    assert_eq!(code_of(server.symlink("s", "x").await), code::META_EXISTS);
    assert_eq!(server.link("s", "t").await.unwrap().data.nlink, 2);
    server.remove("s").await.unwrap();
    assert_eq!(server.stat("t").await.unwrap().data.nlink, 1);
    server.remove("t").await.unwrap();
    assert_eq!(code_of(server.stat_id(symlink.id).await), code::META_NOT_FOUND);
}

#[tokio::test]
async fn creating_through_a_symlink_makes_its_target() {
    let server = TestServer::start(test_config()).await;
    server.mkdir("d").await;
    server.symlink("link", "d/target").await.unwrap();
    // With a path the symlink is resolved first, with a bare name only afterwards.
    let flags = OpenFlags::RDONLY | OpenFlags::CREAT;
    for path in ["/link", "link"] {
        let made = server.meta.create(server.create_req(0, path, flags, 0)).await.unwrap().stat;
        assert_eq!(server.stat("d/target").await.unwrap().id, made.id, "{path}");
        let again = server.meta.create(server.create_req(0, path, flags, 0)).await.unwrap().stat;
        assert_eq!(again.id, made.id);
        let exclusive = server.create_req(0, path, flags | OpenFlags::EXCL, 0);
        assert_eq!(code_of(server.meta.create(exclusive).await), code::META_EXISTS);
        server.remove("d/target").await.unwrap();
    }
}
