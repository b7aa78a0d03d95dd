//! Users of the cluster: their records, tokens and authentication (`src/core/user`).
//!
//! The metadata servers and the managers check callers with it; administrators' tools change users with it. Records
//! are kept under `USER` + uid (u32, little-endian), encoded as on the wire.

mod cache;
mod records;
pub mod tokens;

pub use cache::Ttls;
pub use records::{NewUser, UserChange};

use cache::{Cache, Known};
use valor_env::Env;
use valor_kv::Database;
use valor_protocol::status::code;
use valor_protocol::user::{UserAttr, UserInfo};
use valor_protocol::{Status, UtcTime, token};

/// The users of a database.
///
/// Reading goes through a cache and may be as old as its [`Ttls`]; changes are seen at once by the store that makes
/// them.
pub struct UserStore {
    env: Env,
    db: Database,
    cache: Cache,
}

impl UserStore {
    /// The users in `db`. `ttls` is asked each time, so that it can follow a configuration.
    pub fn new(env: Env, db: Database, ttls: impl Fn() -> Ttls + Send + Sync + 'static) -> Self {
        Self { env, db, cache: Cache::new(ttls) }
    }

    /// A user.
    ///
    /// # Errors
    /// 25 if there is none with that id; 1xxx.
    pub async fn user(&self, uid: u32) -> Result<UserAttr, Status> {
        let user = match self.cache.get(uid) {
            Known::User(user) => return Ok(user),
            Known::Nobody => None,
            Known::Unknown => {
                let user = self.get(uid).await?;
                self.cache.set(uid, user.clone());
                user
            }
        };
        user.ok_or_else(|| Status::new(code::AUTHENTICATION_FAIL, format!("Uid {uid} not found")))
    }

    /// The user a token belongs to.
    ///
    /// # Errors
    /// 25 if the token is none, or not (any more) one of the user's; 1xxx.
    pub async fn user_of_token(&self, text: &str) -> Result<UserAttr, Status> {
        let Ok((uid, _)) = token::decode(text) else {
            return Err(Status::new(code::AUTHENTICATION_FAIL, "Token decode failed"));
        };
        let user = self.user(uid).await?;
        if let Err(status) = tokens::check(&user, text, self.utc_now()) {
            tracing::warn!(uid, %status, "token is refused");
            return Err(Status::new(code::AUTHENTICATION_FAIL, "Token validate failed"));
        }
        Ok(user)
    }

    /// Checks that the caller may act as whom it says, and puts the user's groups into `caller`. The user's own uid
    /// and gid are required, but `root` users may act as any user.
    ///
    /// # Errors
    /// 25; 1xxx.
    pub async fn authenticate(&self, caller: &mut UserInfo) -> Result<(), Status> {
        let mut user = self.user_of_token(&caller.token).await?;
        if user.root {
            if caller.uid != user.uid {
                user = self.user(caller.uid).await?;
            }
        } else if (caller.uid, caller.gid) != (user.uid, user.gid) {
            let text = format!(
                "User not match, userInfo (uid {}, gid {}), (uid {}, gid {})",
                caller.uid, caller.gid, user.uid, user.gid
            );
            return Err(Status::new(code::AUTHENTICATION_FAIL, text));
        }
        caller.groups = user.groups;
        Ok(())
    }

    /// Forgets one user or all, so that the next question reads the store.
    pub fn drop_cached(&self, uid: Option<u32>) {
        self.cache.clear(uid);
    }

    fn utc_now(&self) -> UtcTime {
        UtcTime(self.env.utc_now().0)
    }
}
