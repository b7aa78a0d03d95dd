//! Users in the store (`src/core/user/UserStore.cc`).

use crate::UserStore;
use crate::tokens::{self, Replacement};
use bytes::Bytes;
use valor_kv::{Transaction, key_after};
use valor_protocol::status::code;
use valor_protocol::user::UserAttr;
use valor_protocol::{Status, token};
use valor_wire::{from_bytes, to_bytes};

const PREFIX: &[u8] = b"USER";
const PREFIX_END: &[u8] = b"USES";
const PAGE: usize = 1024;

/// A user to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewUser {
    /// User id; the primary group has the same number.
    pub uid: u32,
    /// Login name.
    pub name: String,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// May act as any user.
    pub root: bool,
    /// May call the administrative methods.
    pub admin: bool,
    /// Its token; a random one if there is none.
    pub token: Option<String>,
}

/// What to change of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserChange {
    /// Login name; empty leaves it.
    pub name: Option<String>,
    /// Supplementary groups.
    pub groups: Option<Vec<u32>>,
    /// May act as any user.
    pub root: Option<bool>,
    /// May call the administrative methods.
    pub admin: Option<bool>,
}

fn key(uid: u32) -> Bytes {
    [PREFIX, &uid.to_le_bytes()].concat().into()
}

fn decode(key: &[u8], value: Bytes) -> Result<UserAttr, Status> {
    let corrupt = |reason: &str| {
        Status::new(code::DATA_CORRUPTION, format!("user record {}: {reason}", key.escape_ascii()))
    };
    let uid = key.strip_prefix(PREFIX).and_then(|uid| uid.try_into().ok());
    let uid = u32::from_le_bytes(uid.ok_or_else(|| corrupt("the key has another length"))?);
    let user: UserAttr = from_bytes(value).map_err(|error| corrupt(&error.to_string()))?;
    // Old records do not have the uid.
    Ok(UserAttr { uid, ..user })
}

fn not_found(uid: u32) -> Status {
    Status::new(code::META_NOT_FOUND, format!("Uid {uid} not found"))
}

async fn read(tx: &Transaction, uid: u32) -> Result<Option<UserAttr>, Status> {
    let key = key(uid);
    tx.get(&key).await?.map(|value| decode(&key, value)).transpose()
}

/// What becomes of a record.
enum Outcome {
    Put(UserAttr),
    Remove,
    Keep(UserAttr),
}

impl UserStore {
    /// A user, as the store has it.
    ///
    /// # Errors
    /// 1xxx; 2 if the record is damaged.
    pub async fn get(&self, uid: u32) -> Result<Option<UserAttr>, Status> {
        self.db.run(|tx| async move { read(&tx, uid).await }).await
    }

    /// All users.
    ///
    /// # Errors
    /// 1xxx; 2 if a record is damaged.
    pub async fn list(&self) -> Result<Vec<UserAttr>, Status> {
        let body = |tx: Transaction| async move {
            let mut users = Vec::new();
            let mut begin = Bytes::from_static(PREFIX);
            loop {
                let page = tx.get_range(&begin, PREFIX_END, PAGE, false).await?;
                if let Some(last) = page.items.last() {
                    begin = key_after(&last.key);
                }
                for item in page.items {
                    users.push(decode(&item.key, item.value)?);
                }
                if !page.more {
                    return Ok(users);
                }
            }
        };
        self.db.run(body).await
    }

    /// Creates a user.
    ///
    /// # Errors
    /// 3007 if the uid is taken, 33 if the token is not one of this uid; 1xxx.
    pub async fn add(&self, new: NewUser) -> Result<UserAttr, Status> {
        if let Some(text) = &new.token {
            tokens::check_owner(text, new.uid)?;
        }
        let random = token::encode(new.uid, self.env.random_u64());
        let user = UserAttr {
            name: new.name,
            token: new.token.unwrap_or(random),
            gid: new.uid,
            groups: new.groups,
            root: new.root,
            tokens: Vec::new(),
            uid: new.uid,
            admin: new.admin,
        };
        self.change(new.uid, |old| match old {
            Some(_) => Err(Status::from(code::META_EXISTS)),
            None => Ok(Outcome::Put(user.clone())),
        })
        .await
    }

    /// Removes a user and returns what it was.
    ///
    /// # Errors
    /// 3000 if there is none; 1xxx.
    pub async fn remove(&self, uid: u32) -> Result<UserAttr, Status> {
        self.change(uid, |old| old.map(|_| Outcome::Remove).ok_or_else(|| not_found(uid))).await
    }

    /// Changes a user.
    ///
    /// # Errors
    /// 3000 if there is none; 1xxx.
    pub async fn set(&self, uid: u32, change: &UserChange) -> Result<UserAttr, Status> {
        self.change(uid, |old| {
            let mut user = old.ok_or_else(|| not_found(uid))?;
            if let Some(name) = change.name.as_ref().filter(|name| !name.is_empty()) {
                user.name.clone_from(name);
            }
            if let Some(groups) = &change.groups {
                user.groups.clone_from(groups);
            }
            user.root = change.root.unwrap_or(user.root);
            user.admin = change.admin.unwrap_or(user.admin);
            Ok(Outcome::Put(user))
        })
        .await
    }

    /// Gives a user another endless token: the given one, or a random one.
    ///
    /// # Errors
    /// 3000 if there is no such user, 33 if the token is not one of this uid, 67 if there would be too many; 1xxx.
    pub async fn set_token(
        &self,
        uid: u32,
        text: Option<&str>,
        how: &Replacement,
    ) -> Result<UserAttr, Status> {
        if let Some(text) = text {
            tokens::check_owner(text, uid)?;
        }
        let random = token::encode(uid, self.env.random_u64());
        self.change(uid, |old| {
            let old = old.ok_or_else(|| not_found(uid))?;
            let mut user = old.clone();
            tokens::replace(&mut user, text.unwrap_or(&random), self.utc_now(), how)?;
            Ok(if user == old { Outcome::Keep(old) } else { Outcome::Put(user) })
        })
        .await
    }

    async fn change(
        &self,
        uid: u32,
        decide: impl Fn(Option<UserAttr>) -> Result<Outcome, Status> + Sync,
    ) -> Result<UserAttr, Status> {
        let decide = &decide;
        let body = |tx: Transaction| async move {
            let old = read(&tx, uid).await?;
            Ok::<_, Status>(match decide(old.clone())? {
                Outcome::Keep(user) => user,
                Outcome::Put(user) => {
                    tx.set(key(uid), to_bytes(&user));
                    user
                }
                Outcome::Remove => {
                    tx.clear(key(uid));
                    old.unwrap_or_default()
                }
            })
        };
        let changed = self.db.run(body).await;
        self.drop_cached(Some(uid));
        changed
    }
}
