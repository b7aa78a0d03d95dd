//! Who the users are, as a trait: the real store lives in `valor_user`.

use valor_protocol::user::{UserAttr, UserInfo};
use valor_wire::Status;

use crate::cluster::BoxFuture;

/// Users and their tokens.
pub trait Users: Send + Sync {
    /// The user a request acts for, as the store knows him: 25 if the token does not fit.
    fn authenticate<'a>(&'a self, user: &'a UserInfo) -> BoxFuture<'a, Result<UserInfo, Status>>;
    /// A user by id.
    fn user(&self, uid: u32) -> BoxFuture<'_, Result<Option<UserAttr>, Status>>;
    /// Forgets what is remembered of a user, or of all.
    fn forget(&self, uid: Option<u32>);
}
