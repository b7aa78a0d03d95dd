//! What can be wrong with a configuration text, with 3FS's status code for each.

/// Why a configuration text was not applied. Nothing of it took effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not TOML (71 `ConfigParseError`).
    #[error("{origin}: not valid TOML: {reason}")]
    Parse {
        /// File name or other origin of the text.
        origin: String,
        /// The parser's message with line and column.
        reason: String,
    },
    /// No such key (19 `ConfigRedundantKey`).
    #[error("{origin}: unknown key `{key}`{hint}")]
    UnknownKey {
        /// File name or other origin of the text.
        origin: String,
        /// Dotted path of the key.
        key: String,
        /// Empty, or a nearby key to try.
        hint: String,
    },
    /// A value has the wrong type or form (16 `ConfigInvalidValue`).
    #[error("{origin}: bad value for `{key}`: {reason}")]
    BadValue {
        /// File name or other origin of the text.
        origin: String,
        /// Dotted path of the key.
        key: String,
        /// What the value must look like.
        reason: String,
    },
    /// A hot update tried to change an item that only takes effect at start (17 `ConfigUpdateFailed`).
    #[error("{origin}: `{key}` cannot change while running; set it in the file and restart the process")]
    Cold {
        /// File name or other origin of the text.
        origin: String,
        /// Dotted path of the key.
        key: String,
    },
    /// Values contradict each other or are out of range (18 `ConfigValidateFailed`).
    #[error("{origin}: {reason}")]
    Check {
        /// File name or other origin of the text.
        origin: String,
        /// The rule that was broken.
        reason: String,
    },
    /// A dump was asked for a key that does not exist (20 `ConfigKeyNotFound`).
    #[error("no configuration key `{key}`")]
    KeyNotFound {
        /// Dotted path of the key.
        key: String,
    },
    /// The process runs on a local file, so pushed configurations are refused (53 `CannotPushConfig`).
    #[error("this process uses a local configuration file; a pushed configuration is not applied")]
    LocalFile,
}

impl ConfigError {
    /// 3FS's status code (services.md 8, `src/common/utils/StatusCodeDetails.h`).
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::Parse { .. } => 71,
            Self::UnknownKey { .. } => 19,
            Self::BadValue { .. } => 16,
            Self::Cold { .. } => 17,
            Self::Check { .. } => 18,
            Self::KeyNotFound { .. } => 20,
            Self::LocalFile => 53,
        }
    }
}
