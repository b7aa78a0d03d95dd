//! Requests that arrive again, because their answers were lost.

use valor_protocol::meta::*;
use valor_protocol::status::code;
use valor_protocol::valor::{RENAME_EXCHANGE, Rename2Req};

use super::code_of;
use super::invariants::Everything;
use crate::schema::idempotent_key;
use crate::testing::{TestServer, at, test_config};

#[tokio::test]
async fn makers_recognise_their_own_entries() {
    let server = TestServer::start(test_config()).await;
    let create = server.create_req(0, "f", OpenFlags::RDWR | OpenFlags::EXCL, 1);
    let file = server.meta.create(create.clone()).await.unwrap().stat;
    assert_eq!(server.meta.create(create).await.unwrap().stat.id, file.id);
    let nested = server.create_req(0, "/f2", OpenFlags::RDONLY | OpenFlags::CREAT | OpenFlags::EXCL, 1);
    let made = server.meta.create(nested.clone()).await.unwrap().stat;
    assert_eq!(server.meta.create(nested).await.unwrap().stat.id, made.id);
    let mkdirs = MkdirsReq { base: server.base(0), path: at("d"), perm: 0o755, ..MkdirsReq::default() };
    let directory = server.meta.mkdirs(mkdirs.clone()).await.unwrap();
    assert_eq!(server.meta.mkdirs(mkdirs).await.unwrap(), directory);
    let symlink = SymlinkReq { base: server.base(0), path: at("s"), target: "f".into() };
    let made = server.meta.symlink(symlink.clone()).await.unwrap();
    assert_eq!(server.meta.symlink(symlink).await.unwrap(), made);
    let link =
        HardLinkReq { base: server.base(0), old_path: at("f"), new_path: at("g"), flags: AtFlags::default() };
    let linked = server.meta.hard_link(link.clone()).await.unwrap();
    assert_eq!(linked.stat.data.nlink, 2);
    assert_eq!(server.meta.hard_link(link).await.unwrap(), linked);
    let rename = RenameReq { base: server.base(0), src: at("g"), dest: at("d/g"), ..RenameReq::default() };
    let renamed = server.meta.rename(rename.clone()).await.unwrap();
    assert_eq!(server.meta.rename(rename).await.unwrap(), renamed);
    let exchange = Rename2Req { base: server.base(0), src: at("f"), dest: at("s"), flags: RENAME_EXCHANGE };
    let exchanged = server.meta.rename2(exchange.clone()).await.unwrap();
    assert_eq!(server.meta.rename2(exchange).await.unwrap(), exchanged);
    assert_eq!(server.stat("s").await.unwrap().id, file.id);
    Everything::read(&server.db).await.check();
}

#[tokio::test]
async fn removes_are_remembered() {
    let server = TestServer::start(test_config()).await;
    server.create("f").await;
    let remove = RemoveReq { base: server.base(0), path: at("f"), ..RemoveReq::default() };
    server.meta.remove(remove.clone()).await.unwrap();
    // Someone else makes the name again: the repetition must not touch it.
    let second = server.create("f").await;
    server.meta.remove(remove.clone()).await.unwrap();
    assert_eq!(server.stat("f").await.unwrap().id, second.id);
    // Refusals are remembered as well.
    let early = RemoveReq { base: server.base(0), path: at("g"), ..RemoveReq::default() };
    assert_eq!(code_of(server.meta.remove(early.clone()).await), code::META_NOT_FOUND);
    server.create("g").await;
    assert_eq!(code_of(server.meta.remove(early).await), code::META_NOT_FOUND);
    let key = idempotent_key(remove.base.uuid, remove.base.client.uuid);
    assert!(server.key(key).await.is_some());
    server.configure("idempotent_remove = false");
    let plain = RemoveReq { base: server.base(0), path: at("g"), ..RemoveReq::default() };
    server.meta.remove(plain.clone()).await.unwrap();
    assert_eq!(code_of(server.meta.remove(plain).await), code::META_NOT_FOUND);
}

#[tokio::test]
async fn renames_are_remembered_if_asked() {
    let server = TestServer::start(test_config()).await;
    server.configure("idempotent_rename = true");
    server.create("a").await;
    let rename = RenameReq { base: server.base(0), src: at("a"), dest: at("b"), ..RenameReq::default() };
    let first = server.meta.rename(rename.clone()).await.unwrap();
    // The new name is gone by now; without the record the repetition would find nothing.
    server.remove("b").await.unwrap();
    assert_eq!(server.meta.rename(rename).await.unwrap(), first);
}

#[tokio::test]
async fn copies_that_run_at_once_take_effect_once() {
    let server = std::sync::Arc::new(TestServer::start(test_config()).await);
    server.mkdir("d").await;
    server.create("d/f").await;
    let remove = RemoveReq { base: server.base(0), path: at("d"), recursive: true, ..RemoveReq::default() };
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (server, remove) = (std::sync::Arc::clone(&server), remove.clone());
        tasks.spawn(async move { server.meta.remove(remove).await });
    }
    assert!(tasks.join_all().await.iter().all(Result::is_ok));
    let everything = Everything::read(&server.db).await;
    everything.check();
    assert_eq!(everything.waiting().len(), 1);
}

#[tokio::test]
async fn old_records_are_dropped() {
    let server = TestServer::start(test_config()).await;
    for i in 0..30 {
        server.create(&format!("f{i}")).await;
        server.remove(&format!("f{i}")).await.unwrap();
    }
    let core = server.meta.core();
    assert_eq!(crate::idempotent::clean(core).await.unwrap(), 0);
    server.configure("idempotent_record_expire = \"0s\"");
    assert_eq!(crate::idempotent::clean(core).await.unwrap(), 30);
    assert_eq!(crate::idempotent::clean(core).await.unwrap(), 0);
}
