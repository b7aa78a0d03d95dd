//! `rename`, and its flags for our own clients.

use std::sync::Arc;

use valor_protocol::meta::*;
use valor_protocol::status::code;
use valor_protocol::valor::{RENAME_EXCHANGE, RENAME_NOREPLACE};

use super::code_of;
use super::invariants::Everything;
use crate::testing::{TestServer, at, test_config};

#[tokio::test]
async fn names_change_and_inodes_stay() {
    let server = TestServer::start(test_config()).await;
    let directory = server.mkdir("d").await;
    let file = server.create("f").await;
    server.symlink("s", "x").await.unwrap();
    assert_eq!(server.rename("f", "d/g").await.unwrap().id, file.id);
    assert_eq!(server.stat("d/g").await.unwrap().id, file.id);
    assert_eq!(code_of(server.stat("f").await), code::META_NOT_FOUND);
    let moved = server.rename("d", "e").await.unwrap();
    assert_eq!((moved.id, moved.data.as_directory().unwrap().name.to_string()), (directory.id, "e".into()));
    server.rename("s", "e/t").await.unwrap();
    assert_eq!(server.names("e").await, ["g", "t"]);
    assert_eq!(code_of(server.rename("none", "x").await), code::META_NOT_FOUND);
    assert_eq!(code_of(server.rename("e/g", "none/x").await), code::META_NOT_FOUND);
    assert_eq!(code_of(server.rename("e/g", &"n".repeat(256)).await), code::META_NAME_TOO_LONG);
    assert_eq!(server.rename("e/g", "e/g").await.unwrap().id, file.id);
    let wrong = RenameReq {
        base: server.base(0),
        src: at("e/g"),
        dest: at("x"),
        inode_id: Some(directory.id),
        ..RenameReq::default()
    };
    assert_eq!(code_of(server.meta.rename(wrong).await), code::META_NOT_FOUND);
    Everything::read(&server.db).await.check();
}

#[tokio::test]
async fn what_has_the_new_name_is_replaced_if_it_may() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    let old = server.create("old").await;
    server.rename("f", "old").await.unwrap();
    assert_eq!(server.stat("old").await.unwrap().id, file.id);
    assert_eq!(server.stat_id(old.id).await.unwrap().data.nlink, 0);
    server.mkdir("full").await;
    server.create("full/x").await;
    let empty = server.mkdir("empty").await;
    server.mkdir("d").await;
    assert_eq!(code_of(server.rename("d", "full").await), code::META_NOT_EMPTY);
    assert_eq!(code_of(server.rename("d", "old").await), code::META_NOT_DIRECTORY);
    assert_eq!(code_of(server.rename("old", "full").await), code::META_NOT_EMPTY);
    server.rename("d", "empty").await.unwrap();
    assert_eq!(code_of(server.stat_id(empty.id).await), code::META_NOT_FOUND);
    // As in C++ 3FS, a file takes the place of an empty directory; the kernel does not let that pass.
    server.rename("old", "empty").await.unwrap();
    assert_eq!(server.stat("empty").await.unwrap().id, file.id);
    Everything::read(&server.db).await.check();
}

#[tokio::test(start_paused = true)]
async fn a_replaced_symlink_is_known_a_while_longer() {
    let server = TestServer::start(test_config()).await;
    let old = server.symlink("s", "a").await.unwrap();
    server.symlink("t", "b").await.unwrap();
    server.rename("t", "s").await.unwrap();
    assert_eq!(server.stat_id(old.id).await.unwrap().data.nlink, 0);
    tokio::time::sleep(std::time::Duration::from_secs(120)).await;
    assert_eq!(code_of(server.stat_id(old.id).await), code::META_NOT_FOUND);
    Everything::read(&server.db).await.check();
}

#[tokio::test]
async fn links_of_one_file_may_replace_each_other() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("a").await;
    server.link("a", "b").await.unwrap();
    assert_eq!(server.rename("a", "b").await.unwrap().data.nlink, 1);
    assert_eq!(server.names("/").await, ["b"]);
    assert_eq!(server.stat("b").await.unwrap().id, file.id);
    Everything::read(&server.db).await.check();
}

#[tokio::test]
async fn directories_do_not_move_below_themselves() {
    let server = TestServer::start(test_config()).await;
    server.mkdir("a").await;
    server.mkdir("a/b").await;
    server.mkdir("a/b/c").await;
    for dest in ["a/x", "a/b/x", "a/b/c/x"] {
        assert_eq!(code_of(server.rename("a", dest).await), code::INVALID_ARG, "{dest}");
    }
    assert!(server.rename("a/b/c", "c").await.is_ok());
    assert!(server.rename("a", "c/a").await.is_ok());
    assert_eq!(code_of(server.rename("c", "c/a/c").await), code::INVALID_ARG);
}

#[tokio::test]
async fn permissions_and_sticky_bits_hold_at_both_ends() {
    let server = TestServer::start(test_config()).await;
    server.mkdir_as(0, "closed", 0o755).await.unwrap();
    server.mkdir_as(0, "open", 0o777).await.unwrap();
    server.mkdir_as(0, "sticky", 0o1777).await.unwrap();
    server.create("closed/f").await;
    server.create_as(5, "open/g").await.unwrap();
    let file = server.create_as(5, "sticky/h").await.unwrap();
    assert_eq!(code_of(server.rename_as(5, "closed/f", "open/f").await), code::META_NO_PERMISSION);
    assert_eq!(code_of(server.rename_as(5, "open/g", "closed/g").await), code::META_NO_PERMISSION);
    assert_eq!(code_of(server.rename_as(6, "sticky/h", "open/h").await), code::META_NO_PERMISSION);
    assert_eq!(code_of(server.rename_as(6, "open/g", "sticky/h").await), code::META_NO_PERMISSION);
    let immutable = SetAttrReq { iflags: Some(IFlags::IMMUTABLE), ..SetAttrReq::default() };
    server.set_attr(0, PathAt::inode(file.id), immutable).await.unwrap();
    assert_eq!(code_of(server.rename_as(5, "sticky/h", "open/h").await), code::META_NO_PERMISSION);
    assert_eq!(code_of(server.rename_as(5, "open/g", "sticky/h").await), code::META_NO_PERMISSION);
}

#[tokio::test]
async fn the_trash_takes_what_could_be_removed() {
    let server = TestServer::start(test_config()).await;
    server.mkdir_as(0, "trash", 0o777).await.unwrap();
    server.mkdir_as(0, "home", 0o777).await.unwrap();
    server.mkdir_as(5, "home/mine", 0o755).await.unwrap();
    server.mkdir_as(5, "home/mine/inner", 0o755).await.unwrap();
    let to_trash = |uid, src: &str, dest: &str| {
        server.meta.rename(RenameReq {
            base: server.base(uid),
            src: at(src),
            dest: at(dest),
            move_to_trash: true,
            ..RenameReq::default()
        })
    };
    assert_eq!(code_of(server.rename_as(5, "home/mine", "trash/mine").await), code::META_NO_PERMISSION);
    assert_eq!(code_of(to_trash(6, "home/mine", "trash/mine").await), code::META_NO_PERMISSION);
    let foreign = SetAttrReq { uid: Some(7), ..SetAttrReq::default() };
    server.set_attr(0, at("home/mine/inner"), foreign).await.unwrap();
    assert_eq!(code_of(to_trash(5, "home/mine", "trash/mine").await), code::META_NO_PERMISSION);
    let back = SetAttrReq { uid: Some(5), ..SetAttrReq::default() };
    server.set_attr(0, at("home/mine/inner"), back).await.unwrap();
    assert!(to_trash(5, "home/mine", "trash/mine").await.is_ok());
    // Within the trash, and for root, a plain rename does.
    assert!(server.rename_as(5, "trash/mine", "trash/other").await.is_ok());
    server.create("trash/file").await;
    server.create("f").await;
    assert_eq!(code_of(to_trash(0, "f", "trash/file").await), code::META_EXISTS);
    server.mkdir("r").await;
    assert!(server.rename("r", "trash/r").await.is_ok());
    server.configure("allow_directly_move_to_trash = true");
    server.mkdir_as(5, "home/again", 0o755).await.unwrap();
    assert!(server.rename_as(5, "home/again", "trash/again").await.is_ok());
}

#[tokio::test]
async fn nothing_moves_into_what_is_removed() {
    let server = TestServer::start(test_config()).await;
    let removed = server.mkdir("removed").await;
    let inner = server.mkdir("removed/inner").await;
    server.remove_as(0, "removed", true).await.unwrap();
    server.mkdir("d").await;
    server.create("f").await;
    let into = |src: &str, parent| {
        server.meta.rename(RenameReq {
            base: server.base(0),
            src: at(src),
            dest: PathAt::at(parent, "x"),
            ..RenameReq::default()
        })
    };
    assert_eq!(code_of(into("d", removed.id).await), code::META_NOT_FOUND);
    assert_eq!(code_of(into("d", inner.id).await), code::META_NOT_FOUND);
    assert_eq!(code_of(into("f", removed.id).await), code::META_NOT_FOUND);
    let make = MkdirsReq { base: server.base(0), path: PathAt::at(removed.id, "x"), ..MkdirsReq::default() };
    assert_eq!(code_of(server.meta.mkdirs(make).await), code::META_NOT_FOUND);
}

#[tokio::test]
async fn noreplace_refuses_and_exchange_swaps() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    let directory = server.mkdir("d").await;
    let inner = server.mkdir("d/inner").await;
    assert_eq!(code_of(server.rename2("f", "d", RENAME_NOREPLACE).await), code::META_EXISTS);
    assert_eq!(code_of(server.rename2("f", "f", RENAME_NOREPLACE).await), code::META_EXISTS);
    assert_eq!(server.rename2("f", "g", RENAME_NOREPLACE).await.unwrap().id, file.id);
    assert_eq!(code_of(server.rename2("g", "none", RENAME_EXCHANGE).await), code::META_NOT_FOUND);
    assert_eq!(code_of(server.rename2("none", "g", RENAME_EXCHANGE).await), code::META_NOT_FOUND);
    assert_eq!(code_of(server.rename2("g", "d", 4).await), code::INVALID_ARG);
    assert_eq!(server.rename2("g", "d", RENAME_EXCHANGE).await.unwrap().id, file.id);
    assert_eq!(server.stat("d").await.unwrap().id, file.id);
    assert_eq!(server.stat("g").await.unwrap().id, directory.id);
    assert_eq!(server.stat("g/inner").await.unwrap().id, inner.id);
    // Neither may be above the other.
    assert_eq!(code_of(server.rename2("g", "g/inner", RENAME_EXCHANGE).await), code::INVALID_ARG);
    assert_eq!(code_of(server.rename2("g/inner", "g", RENAME_EXCHANGE).await), code::INVALID_ARG);
    server.mkdir("h").await;
    server.rename2("h", "g/inner", RENAME_EXCHANGE).await.unwrap();
    assert_eq!(server.stat("h").await.unwrap().id, inner.id);
    assert_eq!(server.rename2("h", "h", RENAME_EXCHANGE).await.unwrap().id, inner.id);
    assert_eq!(server.rename2("d", "f2", 0).await.unwrap().id, file.id);
    Everything::read(&server.db).await.check();
}

#[tokio::test]
async fn of_two_renames_that_make_a_cycle_one_fails() {
    for round in 0..20 {
        let server = Arc::new(TestServer::start(test_config()).await);
        server.mkdir("a").await;
        server.mkdir("b").await;
        server.mkdir("a/x").await;
        server.mkdir("b/y").await;
        let (one, two) = (Arc::clone(&server), Arc::clone(&server));
        let (first, second) = tokio::join!(
            tokio::spawn(async move { one.rename("a", "b/y/a").await.is_ok() }),
            tokio::spawn(async move { two.rename("b", "a/x/b").await.is_ok() }),
        );
        assert!(first.unwrap() != second.unwrap(), "round {round}");
        Everything::read(&server.db).await.check();
    }
}
