//! Users in a database.

use std::time::Duration;
use valor_env::Env;
use valor_kv::{Database, Faults};
use valor_protocol::status::code;
use valor_protocol::user::{UserAttr, UserInfo};
use valor_protocol::{Status, token};
use valor_user::tokens::Replacement;
use valor_user::{NewUser, Ttls, UserChange, UserStore};
use valor_wire::{from_bytes, to_bytes};

fn ttls() -> Ttls {
    Ttls { exist: Duration::from_secs(300), inexist: Duration::from_secs(10) }
}

fn users() -> (Database, UserStore) {
    let env = Env::real();
    let db = Database::memory(env.clone());
    (db.clone(), UserStore::new(env, db, ttls))
}

fn new(uid: u32) -> NewUser {
    NewUser { uid, name: format!("user{uid}"), groups: vec![7, 8], ..NewUser::default() }
}

fn caller(uid: u32, gid: u32, token: &str) -> UserInfo {
    UserInfo { uid, gid, groups: vec![99], token: token.into() }
}

fn code_of<T: std::fmt::Debug>(result: Result<T, Status>) -> u16 {
    result.unwrap_err().code
}

#[tokio::test]
async fn users_are_added_changed_and_removed() {
    let (_, users) = users();
    assert_eq!(users.list().await, Ok(vec![]));
    let one = users.add(new(1)).await.unwrap();
    assert_eq!((one.uid, one.gid, one.name.as_str(), one.groups.as_slice()), (1, 1, "user1", &[7, 8][..]));
    assert_eq!(token::decode(&one.token).unwrap().0, 1);
    assert_eq!(code_of(users.add(new(1)).await), code::META_EXISTS);
    let given = token::encode(2, 5);
    let two = users.add(NewUser { token: Some(given.clone()), admin: true, ..new(2) }).await.unwrap();
    assert_eq!(two.token, given);
    let foreign = NewUser { token: Some(given), ..new(3) };
    assert_eq!(code_of(users.add(foreign).await), code::INVALID_FORMAT);
    assert_eq!(users.list().await.unwrap(), [one.clone(), two.clone()]);

    let change = UserChange { root: Some(true), groups: Some(vec![]), ..UserChange::default() };
    let changed = users.set(1, &change).await.unwrap();
    assert_eq!(changed, UserAttr { root: true, groups: vec![], ..one });
    assert_eq!(users.get(1).await.unwrap(), Some(changed));
    assert_eq!(code_of(users.set(9, &change).await), code::META_NOT_FOUND);
    assert_eq!(users.remove(2).await, Ok(two));
    assert_eq!(code_of(users.remove(2).await), code::META_NOT_FOUND);
    assert_eq!(users.get(2).await, Ok(None));
}

#[tokio::test]
async fn records_are_those_of_3fs() {
    let (db, users) = users();
    let user = users.add(new(0x0102)).await.unwrap();
    let stored = db.begin().get(b"USER\x02\x01\0\0").await.unwrap().unwrap();
    assert_eq!(from_bytes::<UserAttr>(stored).unwrap(), user);
    // An old record without uid and admin.
    let tx = db.begin();
    let old = UserAttr { name: "old".into(), token: "t".into(), gid: 5, ..UserAttr::default() };
    let bytes = to_bytes(&old);
    let short = &bytes[..bytes.len() - 5];
    tx.set(b"USER\x05\0\0\0", [&[short[0] - 5][..], &short[1..]].concat());
    tx.commit().await.unwrap();
    assert_eq!(users.get(5).await, Ok(Some(UserAttr { uid: 5, ..old })));
    let tx = db.begin();
    tx.set(b"USER\x06\0\0\0", b"\x7f");
    tx.commit().await.unwrap();
    assert_eq!(code_of(users.get(6).await), code::DATA_CORRUPTION);
    assert_eq!(code_of(users.list().await), code::DATA_CORRUPTION);
}

#[tokio::test]
async fn callers_are_whom_they_say() {
    let (_, users) = users();
    let plain = users.add(new(1)).await.unwrap();
    let root = users.add(NewUser { root: true, ..new(2) }).await.unwrap();
    let check = async |uid, gid, token: &str| {
        let mut caller = caller(uid, gid, token);
        users.authenticate(&mut caller).await.map(|()| caller.groups).map_err(|status| status.code)
    };
    assert_eq!(check(1, 1, &plain.token).await, Ok(vec![7, 8]), "the stored groups count");
    let refused = Err(code::AUTHENTICATION_FAIL);
    assert_eq!(check(2, 1, &plain.token).await, refused);
    assert_eq!(check(1, 2, &plain.token).await, refused);
    assert_eq!(check(1, 1, "").await, refused);
    assert_eq!(check(1, 1, &token::encode(1, 42)).await, refused);
    assert_eq!(check(9, 9, &token::encode(9, 42)).await, refused);
    assert_eq!(check(2, 77, &root.token).await, Ok(vec![7, 8]));
    users.set(1, &UserChange { groups: Some(vec![3]), ..UserChange::default() }).await.unwrap();
    assert_eq!(check(1, 0, &root.token).await, Ok(vec![3]), "with the groups of whom it acts for");
    assert_eq!(check(9, 9, &root.token).await, refused, "but only as somebody who exists");
}

#[tokio::test]
async fn tokens_are_replaced() {
    let (_, users) = users();
    let first = users.add(new(1)).await.unwrap().token;
    let keep = Replacement { invalidate_existed: false, ..Replacement::default() };
    let second = users.set_token(1, None, &keep).await.unwrap();
    assert_ne!(second.token, first);
    for token in [&first, &second.token] {
        assert_eq!(users.user_of_token(token).await.unwrap(), second);
    }
    let third = token::encode(1, 3);
    let user = users.set_token(1, Some(&third), &Replacement::default()).await.unwrap();
    assert_eq!(user.token, third);
    assert!(users.user_of_token(&first).await.is_ok(), "it had an end of its own");
    assert_eq!(code_of(users.user_of_token(&second.token).await), code::AUTHENTICATION_FAIL);
    assert_eq!(code_of(users.set_token(1, Some(&token::encode(2, 3)), &keep).await), code::INVALID_FORMAT);
    assert_eq!(code_of(users.set_token(9, None, &keep).await), code::META_NOT_FOUND);
    for _ in 0..2 {
        users.set_token(1, None, &keep).await.unwrap();
    }
    assert_eq!(code_of(users.set_token(1, None, &keep).await), code::TOO_MANY_TOKENS);
}

#[tokio::test(start_paused = true)]
async fn reading_is_cached() {
    let (db, users) = users();
    let other = UserStore::new(Env::real(), db, ttls);
    assert_eq!(code_of(users.user(1).await), code::AUTHENTICATION_FAIL);
    other.add(new(1)).await.unwrap();
    assert!(users.user(1).await.is_err(), "remembered");
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(users.user(1).await.unwrap().name, "user1");
    other.remove(1).await.unwrap();
    assert!(users.user(1).await.is_ok(), "remembered");
    users.drop_cached(Some(1));
    assert!(users.user(1).await.is_err());
    users.add(new(1)).await.unwrap();
    assert!(users.user(1).await.is_ok(), "own changes are seen at once");
}

#[tokio::test]
async fn conflicts_are_retried() {
    let env = Env::real();
    let flaky = Database::memory(env.clone()).with_faults(Faults {
        read_too_old: 100,
        commit_conflict: 300,
        commit_unknown: 0,
    });
    let users = UserStore::new(env, flaky, ttls);
    for uid in 0..50 {
        users.add(new(uid)).await.unwrap();
    }
    assert_eq!(users.list().await.unwrap().len(), 50);
}
