//! Core service, present on every server (`src/fbs/core/service`).

use crate::app::ConfigUpdateRecord;
use valor_wire::{Status, Void, Wire};

/// Request and reply of `echo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct EchoMessage {
    /// The text.
    pub str: String,
}

/// Request of `getConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct GetConfigReq {
    /// Dotted key; empty = the whole configuration.
    pub config_key: String,
}

/// Reply of `getConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct GetConfigRsp {
    /// TOML text.
    pub config: String,
}

/// Request of `renderConfig`.
#[derive(Clone, Debug, PartialEq, Eq, Wire)]
pub struct RenderConfigReq {
    /// Template text.
    pub config_template: String,
    /// Also try the result against the running configuration.
    pub test_update: bool,
    /// Try it as a hot update, not as a cold start.
    pub is_hot_update: bool,
}

impl Default for RenderConfigReq {
    fn default() -> Self {
        RenderConfigReq { config_template: String::new(), test_update: true, is_hot_update: true }
    }
}

/// Reply of `renderConfig`.
#[derive(Clone, Debug, PartialEq, Wire)]
pub struct RenderConfigRsp {
    /// The filled template.
    pub config_after_render: String,
    /// Whether the update would be accepted.
    pub update_status: Status,
    /// The configuration that would result.
    pub config_after_update: String,
}

impl Default for RenderConfigRsp {
    fn default() -> Self {
        RenderConfigRsp {
            config_after_render: String::new(),
            update_status: Status { code: 0, message: String::new() },
            config_after_update: String::new(),
        }
    }
}

/// Request of `hotUpdateConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct HotUpdateConfigReq {
    /// TOML text with the keys to change.
    pub update: String,
    /// Fill it as a template first.
    pub render: bool,
}

/// Reply of `hotUpdateConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct HotUpdateConfigRsp {
    /// Nothing.
    pub dummy: Void,
}

/// Request of `getLastConfigUpdateRecord`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct GetLastConfigUpdateRecordReq {
    /// Nothing.
    pub dummy: Void,
}

/// Reply of `getLastConfigUpdateRecord`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct GetLastConfigUpdateRecordRsp {
    /// Absent before the first update.
    pub record: Option<ConfigUpdateRecord>,
}

/// Request of `shutdown`.
#[derive(Clone, Debug, PartialEq, Eq, Wire)]
pub struct ShutdownReq {
    /// Let running requests finish.
    pub graceful: bool,
}

impl Default for ShutdownReq {
    fn default() -> Self {
        ShutdownReq { graceful: true }
    }
}

/// Reply of `shutdown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct ShutdownRsp {
    /// Nothing.
    pub dummy: Void,
}

/// Methods of the core service.
pub mod methods {
    use super::*;
    crate::method::methods! { "Core", 10001;
        /// Returns its request.
        Echo = 1 "echo" (EchoMessage) -> EchoMessage;
        /// Text of the running configuration.
        GetConfig = 2 "getConfig" (GetConfigReq) -> GetConfigRsp;
        /// Fills a configuration template and tries it.
        RenderConfig = 3 "renderConfig" (RenderConfigReq) -> RenderConfigRsp;
        /// Changes the running configuration.
        HotUpdateConfig = 4 "hotUpdateConfig" (HotUpdateConfigReq) -> HotUpdateConfigRsp;
        /// Outcome of the last change.
        GetLastConfigUpdateRecord = 5 "getLastConfigUpdateRecord" (GetLastConfigUpdateRecordReq) -> GetLastConfigUpdateRecordRsp;
        /// Ends the process.
        Shutdown = 6 "shutdown" (ShutdownReq) -> ShutdownRsp;
    }
}
