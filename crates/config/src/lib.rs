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

    /// Sections that are trees (or have lists) of their own, whose lists count below their prefix.
    const PARTS: &'static [Part] = &[];

    /// Rules between and within values.
    ///
    /// # Errors
    /// A sentence that names the key and says what it accepts.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A section with lists of its own.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Dotted path of the section.
    pub prefix: &'static str,
    /// [`Tree::COLD`] of the section.
    pub cold: &'static [&'static str],
    /// [`Tree::IGNORED`] of the section.
    pub ignored: &'static [&'static str],
    /// [`Tree::OPTIONAL`] of the section.
    pub optional: &'static [&'static str],
}

impl Part {
    /// A section that is a tree.
    #[must_use]
    pub const fn of<T: Tree>(prefix: &'static str) -> Self {
        Self { prefix, cold: T::COLD, ignored: T::IGNORED, optional: T::OPTIONAL }
    }

    /// A section that only has lists.
    #[must_use]
    pub const fn lists(
        prefix: &'static str,
        cold: &'static [&'static str],
        ignored: &'static [&'static str],
    ) -> Self {
        Self { prefix, cold, ignored, optional: &[] }
    }
}
