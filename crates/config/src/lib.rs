//! Configuration trees in TOML with 3FS's update rules.
//!
//! A configuration is a tree of plain structs ([`Tree`]). Applying TOML text is a *partial* update: absent keys
//! keep their value. [`Live`] holds the current tree, applies updates atomically and answers what changed.
//! Behaviour follows 3FS's `src/common/utils/ConfigBase.h`; keys that only the C++ implementation has are
//! accepted with a warning so that its files can be used unchanged.

mod error;
mod live;
mod merge;
mod text;

pub use error::ConfigError;
pub use live::{Live, PushRecord, PushStatus, Pushable};
pub use text::{Duration, Size};

use serde::{Serialize, de::DeserializeOwned};

/// A configuration tree: a `#[serde(default)]` struct of structs whose keys are 3FS's.
pub trait Tree: Serialize + DeserializeOwned + Default + Clone + PartialEq + Send + Sync + 'static {
    /// Dotted prefixes that a hot update must not change (a value equal to the current one is accepted).
    const COLD: &'static [&'static str] = &[];
    /// Dotted prefixes that C++ 3FS knows and we accept without effect. `*` stands for one path component.
    const IGNORED: &'static [&'static str] = &[];
    /// Dotted paths of optional items, which do not show in a dump while unset.
    const OPTIONAL: &'static [&'static str] = &[];

    /// Rules between and within values.
    ///
    /// # Errors
    /// A sentence that names the key and says what it accepts.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
