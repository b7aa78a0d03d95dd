//! Opening files.

use valor_protocol::meta::*;
use valor_protocol::status::code;

use super::code_of;
use crate::testing::{TestServer, at, session, test_config};

#[tokio::test]
async fn sessions_belong_to_writers() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    server.open_write("f", 1).await;
    assert!(server.has_session(file.id, 1).await);
    let reader = OpenReq { session: session(1, 2), ..server.open_req(0, at("f"), OpenFlags::RDONLY, 0) };
    server.meta.open(reader).await.unwrap();
    assert!(!server.has_session(file.id, 2).await);
    let none = OpenReq { session: None, ..server.open_req(0, at("f"), OpenFlags::RDWR, 1) };
    assert_eq!(code_of(server.meta.open(none).await), code::INVALID_ARG);
    server.close(file.id, 1, true).await.unwrap();
    assert!(!server.has_session(file.id, 1).await);
    let created = server.meta.create(server.create_req(0, "g", OpenFlags::WRONLY, 3)).await.unwrap().stat;
    assert!(server.has_session(created.id, 3).await);
}

#[tokio::test]
async fn types_and_flags_must_fit() {
    let server = TestServer::start(test_config()).await;
    server.mkdir("d").await;
    let file = server.create("d/f").await;
    let symlink = server.symlink("d/s", "f").await.unwrap();
    let open = |path: PathAt, flags| server.meta.open(server.open_req(0, path, flags, 9));
    assert!(open(at("d"), OpenFlags::RDONLY).await.is_ok());
    assert!(open(at("d"), OpenFlags::DIRECTORY).await.is_ok());
    assert_eq!(code_of(open(at("d"), OpenFlags::RDWR).await), code::META_IS_DIRECTORY);
    assert_eq!(code_of(open(at("d/f"), OpenFlags::DIRECTORY).await), code::META_NOT_DIRECTORY);
    assert_eq!(code_of(open(at("d/f"), OpenFlags::EXCL).await), code::META_EXISTS);
    assert_eq!(code_of(open(at("d/none"), OpenFlags::RDWR).await), code::META_NOT_FOUND);
    assert_eq!(open(at("d/s"), OpenFlags::RDWR).await.unwrap().stat.id, file.id);
    assert_eq!(open(PathAt::inode(file.id), OpenFlags::RDWR).await.unwrap().stat.id, file.id);
    assert_eq!(code_of(open(PathAt::inode(symlink.id), OpenFlags::RDONLY).await), code::META_NOT_FILE);
    let flags = OpenFlags::RDWR | OpenFlags::CREAT;
    assert_eq!(
        code_of(server.meta.create(server.create_req(0, "d", flags, 1)).await),
        code::META_IS_DIRECTORY
    );
    assert_eq!(
        code_of(server.meta.create(server.create_req(0, "/d", flags, 1)).await),
        code::META_IS_DIRECTORY
    );
    server.remove("d/f").await.unwrap();
    assert_eq!(code_of(open(PathAt::inode(file.id), OpenFlags::RDWR).await), code::META_NOT_FOUND);
}

#[tokio::test]
async fn permissions_are_those_of_the_access() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    let change = SetAttrReq { perm: Some(0o4664), gid: Some(8), ..SetAttrReq::default() };
    server.set_attr(0, PathAt::inode(file.id), change).await.unwrap();
    let open = |uid, flags| server.meta.open(server.open_req(uid, at("f"), flags, 9));
    assert!(open(5, OpenFlags::RDONLY).await.is_ok());
    assert_eq!(code_of(open(5, OpenFlags::WRONLY).await), code::META_NO_PERMISSION);
    assert_eq!(server.stat("f").await.unwrap().data.acl.perm, 0o4664);
    // A write by someone else takes the special bits away.
    assert_eq!(open(8, OpenFlags::WRONLY).await.unwrap().stat.data.acl.perm, 0o664);
    let immutable = SetAttrReq { iflags: Some(IFlags::IMMUTABLE), ..SetAttrReq::default() };
    server.set_attr(0, PathAt::inode(file.id), immutable).await.unwrap();
    assert_eq!(code_of(open(0, OpenFlags::WRONLY).await), code::META_NO_PERMISSION);
    assert!(open(0, OpenFlags::RDONLY).await.is_ok());
}

#[tokio::test]
async fn truncation_is_left_to_the_client_or_makes_a_new_file() {
    let server = TestServer::start(test_config()).await;
    let file = server.meta.create(server.create_req(0, "f", OpenFlags::WRONLY, 1)).await.unwrap().stat;
    server.chunks.write(file.id, 5000);
    server.close(file.id, 1, true).await.unwrap();
    let truncate = OpenFlags::WRONLY | OpenFlags::TRUNC;
    let opened = server.meta.open(server.open_req(0, at("f"), truncate, 2)).await.unwrap();
    assert!(opened.need_truncate && opened.stat.id == file.id);
    let created =
        server.meta.create(server.create_req(0, "f", truncate | OpenFlags::CREAT, 3)).await.unwrap();
    assert!(created.need_truncate && created.stat.id == file.id);
    server.configure("otrunc_replace_file_threshold = 4096");
    // Someone writes: the file stays.
    let opened = server.meta.open(server.open_req(0, at("f"), truncate, 4)).await.unwrap();
    assert!(opened.need_truncate && opened.stat.id == file.id);
    for number in 2..=4 {
        server.close(file.id, number, false).await.unwrap();
    }
    let replaced = server.meta.open(server.open_req(0, at("f"), truncate, 5)).await.unwrap();
    assert!(!replaced.need_truncate && replaced.stat.id != file.id);
    assert_eq!(super::length(&replaced.stat), (0, 0));
    assert!(server.has_session(replaced.stat.id, 5).await);
    assert_eq!(server.stat("f").await.unwrap().id, replaced.stat.id);
    assert_eq!(server.stat_id(file.id).await.unwrap().data.nlink, 0);
}

#[tokio::test]
async fn stripes_grow_and_are_fixed_for_old_clients() {
    let server = TestServer::start(test_config()).await;
    server.configure("dynamic_stripe = true\ndynamic_stripe_initial = 1\ndynamic_stripe_growth = 2");
    let layout = Some(Layout::empty(1.into(), 4096, 6));
    let create = |name: &str, dyn_stripe| CreateReq {
        layout: layout.clone(),
        dyn_stripe,
        ..server.create_req(0, name, OpenFlags::RDONLY, 0)
    };
    let stripe = |inode: &Inode| inode.data.as_file().unwrap().dyn_stripe;
    assert_eq!(stripe(&server.meta.create(create("old", false)).await.unwrap().stat), 0);
    let file = server.meta.create(create("new", true)).await.unwrap().stat;
    assert_eq!(stripe(&file), 1);
    let extend = |to| SetAttrReq { dyn_stripe: to, ..SetAttrReq::default() };
    let path = || PathAt::inode(file.id);
    assert_eq!(stripe(&server.set_attr(5, path(), extend(3)).await.unwrap()), 4);
    assert_eq!(stripe(&server.set_attr(5, path(), extend(2)).await.unwrap()), 4);
    let able = OpenReq { dyn_stripe: true, ..server.open_req(0, at("new"), OpenFlags::RDWR, 1) };
    assert_eq!(stripe(&server.meta.open(able).await.unwrap().stat), 4);
    let unable = server.open_req(0, at("new"), OpenFlags::RDWR, 2);
    assert_eq!(stripe(&server.meta.open(unable).await.unwrap().stat), 0);
    let directory = server.mkdir("d").await;
    assert_eq!(
        code_of(server.set_attr(0, PathAt::inode(directory.id), extend(2)).await),
        code::META_NOT_FILE
    );
}

#[tokio::test]
async fn files_known_to_have_holes_may_be_closed_to_readers() {
    let server = TestServer::start(test_config()).await;
    let mut file = server.create("f").await;
    file.data.as_file_mut().unwrap().flags = FileFlags::HAS_HOLE;
    let tx = server.db.begin();
    tx.set(crate::schema::inode_key(file.id), valor_wire::to_bytes(&file.data));
    tx.commit().await.unwrap();
    assert!(server.meta.open(server.open_req(0, at("f"), OpenFlags::RDONLY, 0)).await.is_ok());
    server.configure("check_file_hole = true");
    let answer = server.meta.open(server.open_req(0, at("f"), OpenFlags::RDONLY, 0)).await;
    assert_eq!(code_of(answer), code::META_FILE_HAS_HOLE);
}
