//! Users and their credentials (`src/fbs/core/user/User.h`).

use valor_wire::{UtcTime, Wire};

/// Whom a request acts for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct UserInfo {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Token text, empty without authentication.
    pub token: String,
}

impl UserInfo {
    /// True for the super-user.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// True if `gid` is the primary or a supplementary group.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// A token with an end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct TokenAttr {
    /// Token text.
    pub token: String,
    /// When it stops being accepted; 0 = never.
    pub end_time: UtcTime,
}

/// A user as kept in the key-value store under `USER` + uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct UserAttr {
    /// Login name.
    pub name: String,
    /// Endless token.
    pub token: String,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// May act as any user.
    pub root: bool,
    /// Tokens with an end.
    pub tokens: Vec<TokenAttr>,
    /// User id.
    pub uid: u32,
    /// May call the administrative methods of mgmtd.
    pub admin: bool,
}
