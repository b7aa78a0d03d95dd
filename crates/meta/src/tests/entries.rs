//! Making, listing and removing entries.

use valor_protocol::InodeId;
use valor_protocol::meta::*;
use valor_protocol::status::code;

use super::code_of;
use crate::schema::inode_key;
use crate::testing::{TestServer, at, client, test_config};

#[tokio::test]
async fn directories_are_made_and_listed_in_byte_order() {
    let server = TestServer::start(test_config()).await;
    for name in ["b", "a", "B", "\u{e9}"] {
        server.mkdir(name).await;
    }
    assert_eq!(server.names("/").await, ["B", "a", "b", "\u{e9}"]);
    assert_eq!(code_of(server.mkdir_as(0, "a", 0o755).await), code::META_EXISTS);
    assert_eq!(code_of(server.mkdir_as(0, "x/y", 0o755).await), code::META_NOT_FOUND);
    assert_eq!(code_of(server.mkdir_as(0, "/", 0o755).await), code::META_EXISTS);
    assert_eq!(code_of(server.mkdir_as(0, &"n".repeat(256), 0o755).await), code::META_NAME_TOO_LONG);
    assert!(server.mkdir_as(0, &"n".repeat(255), 0o755).await.is_ok());
}

#[tokio::test]
async fn missing_parents_are_made_on_demand() {
    let server = TestServer::start(test_config()).await;
    let mkdirs = |path: &str| MkdirsReq {
        base: server.base(0),
        path: at(path),
        perm: 0o750,
        recursive: true,
        ..MkdirsReq::default()
    };
    let leaf = server.meta.mkdirs(mkdirs("a/b/c")).await.unwrap().stat;
    let middle = server.stat("a/b").await.unwrap();
    assert_eq!(leaf.data.as_directory().unwrap().parent, middle.id);
    assert_eq!(middle.data.as_directory().unwrap().name, "b");
    assert_eq!(middle.data.acl.perm, 0o750);
    assert_eq!(code_of(server.meta.mkdirs(mkdirs("a/b/c")).await), code::META_EXISTS);
    assert_eq!(code_of(server.meta.mkdirs(mkdirs("a/x/../y")).await), code::INVALID_ARG);
    assert_eq!(code_of(server.stat("a/x").await), code::META_NOT_FOUND);
    // A trailing separator stands for `.`.
    assert_eq!(code_of(server.meta.mkdirs(mkdirs("new/")).await), code::INVALID_ARG);
}

#[tokio::test]
async fn children_inherit_group_flags_and_layout() {
    let server = TestServer::start(test_config()).await;
    server.configure("iflags_chain_allocation = true");
    let parent = server.mkdir_as(0, "p", 0o2777).await.unwrap();
    let layout = Layout::empty(1.into(), 1 << 20, 2);
    let iflags = IFlags::CHAIN_ALLOCATION.with(IFlags::CHUNK_ENGINE).with(IFlags::HUGE_FILE);
    let change = SetAttrReq {
        gid: Some(77),
        iflags: Some(iflags),
        layout: Some(layout.clone()),
        ..SetAttrReq::default()
    };
    server.set_attr(0, PathAt::inode(parent.id), change).await.unwrap();
    let child = server.mkdir_as(5, "p/d", 0o755).await.unwrap();
    assert_eq!((child.data.acl.uid, child.data.acl.gid, child.data.acl.perm), (5, 77, 0o2755));
    assert_eq!(child.data.acl.iflags, IFlags::CHAIN_ALLOCATION.with(IFlags::CHUNK_ENGINE));
    assert_eq!(child.data.as_directory().unwrap().layout, layout);
    let file = server.create_as(5, "p/f").await.unwrap();
    assert_eq!((file.data.acl.uid, file.data.acl.gid), (5, 77));
    assert_eq!(file.data.acl.iflags, IFlags::default());
    assert!(file.id.uses_new_chunk_engine());
    let file_layout = &file.data.as_file().unwrap().layout;
    assert_eq!((file_layout.chunk_size, file_layout.stripe_size), (1 << 20, 2));
    // The directory counts by itself.
    let counter = server.stat("p").await.unwrap().data.as_directory().unwrap().chain_alloc_counter;
    let Chains::ChainRange(range) = file_layout.chains else { panic!("no chains") };
    assert_eq!(counter, (range.base_index - 1 + 2) % 6);
    server.create_as(5, "p/g").await.unwrap();
    let next = server.stat("p").await.unwrap().data.as_directory().unwrap().chain_alloc_counter;
    assert_eq!(next, (counter + 2) % 6);
}

#[tokio::test]
async fn files_take_the_users_ids_and_permission_bits() {
    let server = TestServer::start(test_config()).await;
    server.mkdir_as(0, "d", 0o777).await.unwrap();
    let req = CreateReq { perm: 0o107_755, ..server.create_req(9, "d/f", OpenFlags::RDONLY, 0) };
    let inode = server.meta.create(req).await.unwrap().stat;
    assert_eq!((inode.data.acl.uid, inode.data.acl.gid, inode.data.acl.perm), (9, 9, 0o7755));
    assert_eq!(inode.data.nlink, 1);
    assert!(server.key(inode_key(inode.id)).await.is_some());
    let layout = Layout::empty(9.into(), 4096, 1);
    let req = CreateReq { layout: Some(layout), ..server.create_req(9, "d/g", OpenFlags::RDONLY, 0) };
    assert_eq!(code_of(server.meta.create(req).await), code::META_INVALID_FILE_LAYOUT);
}

#[tokio::test]
async fn lists_continue_after_a_name() {
    let server = TestServer::start(test_config()).await;
    let directory = server.mkdir("d").await;
    for i in 0..10 {
        server.create(&format!("d/f{i}")).await;
    }
    let list = |prev: &str, limit, status| ListReq {
        base: server.base(0),
        path: PathAt::inode(directory.id),
        prev: prev.into(),
        limit,
        status,
    };
    let first = server.meta.list(list("", 4, false)).await.unwrap();
    assert_eq!((first.entries.len(), first.more, first.inodes.len()), (4, true, 0));
    let second = server.meta.list(list("f3", 6, true)).await.unwrap();
    assert_eq!(second.entries[0].name, "f4");
    assert_eq!(second.entries.len(), 6);
    for (entry, inode) in second.entries.iter().zip(&second.inodes) {
        assert_eq!((entry.data.id, entry.parent), (inode.id, directory.id));
    }
    let rest = server.meta.list(list("f9", -1, false)).await.unwrap();
    assert!(rest.entries.is_empty() && !rest.more);
    server.configure("list_default_limit = 3");
    assert_eq!(server.meta.list(list("", 0, false)).await.unwrap().entries.len(), 3);
    let of_file = ListReq { path: at("d/f0"), ..list("", 1, false) };
    assert_eq!(code_of(server.meta.list(of_file).await), code::META_NOT_DIRECTORY);
}

#[tokio::test]
async fn removal_obeys_types_and_emptiness() {
    let server = TestServer::start(test_config()).await;
    let directory = server.mkdir("d").await;
    let file = server.create("d/f").await;
    let symlink = server.symlink("d/s", "f").await.unwrap();
    let remove = |path: &str, at_flags| RemoveReq {
        base: server.base(0),
        path: at(path),
        at_flags,
        check_type: true,
        ..RemoveReq::default()
    };
    assert_eq!(
        code_of(server.meta.remove(remove("d/f", AtFlags::REMOVEDIR)).await),
        code::META_NOT_DIRECTORY
    );
    assert_eq!(code_of(server.meta.remove(remove("d", AtFlags::default())).await), code::META_IS_DIRECTORY);
    assert_eq!(code_of(server.remove("d").await), code::META_NOT_EMPTY);
    assert_eq!(code_of(server.remove("d/none").await), code::META_NOT_FOUND);
    let wrong = RemoveReq { inode_id: Some(InodeId(1)), ..remove("d/f", AtFlags::default()) };
    assert_eq!(code_of(server.meta.remove(wrong).await), code::META_NOT_FOUND);
    server.meta.remove(remove("d/f", AtFlags::default())).await.unwrap();
    // The file waits for collection; the symlink is gone at once.
    assert_eq!(server.stat_id(file.id).await.unwrap().data.nlink, 0);
    server.remove("d/s").await.unwrap();
    assert_eq!(code_of(server.stat_id(symlink.id).await), code::META_NOT_FOUND);
    server.meta.remove(remove("d", AtFlags::REMOVEDIR)).await.unwrap();
    assert_eq!(code_of(server.stat_id(directory.id).await), code::META_NOT_FOUND);
    assert_eq!(code_of(server.create_as(0, "d/f").await), code::META_NOT_FOUND);
}

#[tokio::test]
async fn directories_can_be_removed_by_id() {
    let server = TestServer::start(test_config()).await;
    let directory = server.mkdir("d").await;
    let by_id = |id| RemoveReq { base: server.base(0), path: PathAt::inode(id), ..RemoveReq::default() };
    server.meta.remove(by_id(directory.id)).await.unwrap();
    assert!(server.names("/").await.is_empty());
    assert_eq!(code_of(server.meta.remove(by_id(directory.id)).await), code::META_NOT_FOUND);
    assert_eq!(code_of(server.meta.remove(by_id(InodeId::ROOT)).await), code::META_NOT_FOUND);
}

#[tokio::test]
async fn sticky_directories_and_immutable_inodes_keep_their_entries() {
    let server = TestServer::start(test_config()).await;
    server.mkdir_as(0, "tmp", 0o1777).await.unwrap();
    let file = server.create_as(5, "tmp/f").await.unwrap();
    assert_eq!(code_of(server.remove_as(6, "tmp/f", false).await), code::META_NO_PERMISSION);
    let immutable = SetAttrReq { iflags: Some(IFlags::IMMUTABLE), ..SetAttrReq::default() };
    server.set_attr(0, PathAt::inode(file.id), immutable).await.unwrap();
    assert_eq!(code_of(server.remove_as(5, "tmp/f", false).await), code::META_NO_PERMISSION);
    assert_eq!(code_of(server.remove_as(0, "tmp/f", false).await), code::META_NO_PERMISSION);
    let mutable = SetAttrReq { iflags: Some(IFlags::default()), ..SetAttrReq::default() };
    server.set_attr(0, PathAt::inode(file.id), mutable).await.unwrap();
    server.remove_as(5, "tmp/f", false).await.unwrap();
}

#[tokio::test]
async fn parents_need_write_permission() {
    let server = TestServer::start(test_config()).await;
    server.mkdir_as(0, "d", 0o755).await.unwrap();
    server.create("d/f").await;
    assert_eq!(code_of(server.create_as(5, "d/g").await), code::META_NO_PERMISSION);
    assert_eq!(code_of(server.mkdir_as(5, "d/g", 0o755).await), code::META_NO_PERMISSION);
    assert_eq!(code_of(server.remove_as(5, "d/f", false).await), code::META_NO_PERMISSION);
    let symlink = SymlinkReq { base: server.base(5), path: at("d/s"), target: "f".into() };
    assert_eq!(code_of(server.meta.symlink(symlink).await), code::META_NO_PERMISSION);
}

#[tokio::test]
async fn locks_keep_other_clients_out() {
    let server = TestServer::start(test_config()).await;
    let directory = server.mkdir("d").await;
    server.create("d/f").await;
    server.lock(1, directory.id, LockAction::TryLock).await.unwrap();
    server.lock(1, directory.id, LockAction::TryLock).await.unwrap();
    assert_eq!(code_of(server.lock(2, directory.id, LockAction::TryLock).await), code::META_NO_LOCK);
    assert_eq!(code_of(server.lock(2, directory.id, LockAction::UnLock).await), code::META_NO_LOCK);
    server.lock(2, directory.id, LockAction::PreemptLock).await.unwrap();
    // Client 1 changes nothing in there now.
    assert_eq!(code_of(server.create_as(0, "d/g").await), code::META_NO_LOCK);
    assert_eq!(code_of(server.mkdir_as(0, "d/g", 0o755).await), code::META_NO_LOCK);
    assert_eq!(code_of(server.remove("d/f").await), code::META_NO_LOCK);
    assert_eq!(code_of(server.rename("d/f", "g").await), code::META_NO_LOCK);
    assert_eq!(code_of(server.link("d/f", "d/h").await), code::META_NO_LOCK);
    let holder = ReqBase { client: client(2), ..server.base(0) };
    let req = CreateReq { base: holder, ..server.create_req(0, "d/g", OpenFlags::RDONLY, 0) };
    assert!(server.meta.create(req).await.is_ok());
    server.lock(3, directory.id, LockAction::Clear).await.unwrap();
    assert_eq!(code_of(server.lock(1, directory.id, LockAction::UnLock).await), code::META_NO_LOCK);
    server.remove("d/f").await.unwrap();
    let file = server.create("d/f").await;
    assert_eq!(code_of(server.lock(1, file.id, LockAction::TryLock).await), code::META_NOT_DIRECTORY);
}

#[tokio::test]
async fn directory_times_follow_their_entries_when_asked() {
    let server = TestServer::start(test_config()).await;
    let directory = server.mkdir("d").await;
    server.create("d/f").await;
    assert_eq!(server.stat("d").await.unwrap(), directory, "C++ 3FS leaves the times alone");
    server.configure("posix_times = true");
    let before = server.stat("d").await.unwrap();
    server.create("d/g").await;
    let after = server.stat("d").await.unwrap();
    assert!(after.data.mtime > before.data.mtime && after.data.ctime == after.data.mtime);
    server.remove("d/g").await.unwrap();
    let removed = server.stat_id(directory.id).await.unwrap();
    assert!(removed.data.mtime > after.data.mtime);
    let early = SetAttrReq { mtime: Some(valor_wire::UtcTime(1)), ..SetAttrReq::default() };
    let set = server.set_attr(0, PathAt::inode(directory.id), early).await.unwrap();
    assert_eq!(set.data.mtime.0, 1);
    assert!(set.data.ctime > removed.data.ctime);
    assert_eq!(server.stat("d").await.unwrap(), set);
    let listed =
        ListReq { base: server.base(0), path: at("/"), limit: 9, status: true, ..ListReq::default() };
    assert_eq!(server.meta.list(listed).await.unwrap().inodes, [set]);
    server.remove_as(0, "d", true).await.unwrap();
    assert!(
        server.key(crate::schema::time_key(directory.id)).await.is_none()
            || server.stat_id(directory.id).await.is_ok()
    );
}

#[tokio::test]
async fn a_read_only_file_system_changes_nothing() {
    let server = TestServer::start(test_config()).await;
    let file = server.create("f").await;
    server.configure("readonly = true");
    assert_eq!(code_of(server.create_as(0, "g").await), code::READ_ONLY_MODE);
    assert_eq!(code_of(server.remove("f").await), code::READ_ONLY_MODE);
    let sync = SyncReq { update_length: true, ..SyncReq::default() };
    assert_eq!(code_of(server.sync(file.id, sync).await), code::READ_ONLY_MODE);
    assert!(server.stat("f").await.is_ok());
    assert!(server.meta.open(server.open_req(0, at("f"), OpenFlags::RDONLY, 0)).await.is_ok());
}

#[tokio::test]
async fn creates_of_one_name_make_one_file() {
    let server = std::sync::Arc::new(TestServer::start(test_config()).await);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 1..=40_u8 {
        let server = std::sync::Arc::clone(&server);
        tasks.spawn(async move {
            let flags = OpenFlags::RDWR | OpenFlags::CREAT;
            server.meta.create(server.create_req(0, "same", flags, number)).await.unwrap().stat.id
        });
    }
    let ids = tasks.join_all().await;
    assert!(ids.iter().all(|id| *id == ids[0]));
    for number in 1..=40 {
        assert!(server.has_session(ids[0], number).await);
    }
}

#[tokio::test]
async fn of_exclusive_creates_one_wins() {
    let server = std::sync::Arc::new(TestServer::start(test_config()).await);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 1..=20_u8 {
        let server = std::sync::Arc::clone(&server);
        tasks.spawn(async move {
            let flags = OpenFlags::RDWR | OpenFlags::CREAT | OpenFlags::EXCL;
            server
                .meta
                .create(server.create_req(0, "same", flags, number))
                .await
                .map(|_| ())
                .map_err(|e| e.code)
        });
    }
    let answers = tasks.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert!(answers.iter().all(|answer| matches!(answer, Ok(()) | Err(code::META_EXISTS))), "{answers:?}");
}
