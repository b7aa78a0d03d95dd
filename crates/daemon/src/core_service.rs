//! The Core service that every server answers (3FS `src/core/service`).

use crate::Stop;
use std::sync::Arc;
use valor_config::{ConfigError, Pushable};
use valor_env::Env;
use valor_protocol::app::ConfigUpdateRecord;
use valor_protocol::core::{self, methods};
use valor_rpc::Router;
use valor_wire::{Status, UtcTime, Void};

fn refused(error: &ConfigError) -> Status {
    Status { code: error.code(), message: error.to_string() }
}

/// Routes of the Core service of a process whose configuration is `config` and which ends by `stop`.
#[must_use]
pub fn core_router(env: Env, config: Arc<dyn Pushable>, stop: Stop) -> Router {
    let router = Router::new(methods::SERVICE_ID, methods::SERVICE)
        .method::<methods::Echo, _, _>(|_, req| async move { Ok(req) });
    let tree = Arc::clone(&config);
    let router = router.method::<methods::GetConfig, _, _>(move |_, req| {
        let answer = tree.render(&req.config_key).map_err(|error| refused(&error));
        async move { answer.map(|config| core::GetConfigRsp { config }) }
    });
    let tree = Arc::clone(&config);
    let router = router.method::<methods::RenderConfig, _, _>(move |_, req| {
        let answer = render(&*tree, req);
        async move { Ok(answer) }
    });
    let tree = Arc::clone(&config);
    let router =
        router.method::<methods::HotUpdateConfig, _, _>(move |ctx, req| {
            let answer = tree.hot_update(&req.update);
            match &answer {
                Ok(()) => tracing::info!(peer = ?ctx.peer, update = req.update, "configuration updated"),
                Err(error) => tracing::warn!(peer = ?ctx.peer, %error, "configuration update refused"),
            }
            async move {
                answer.map(|()| core::HotUpdateConfigRsp { dummy: Void }).map_err(|error| refused(&error))
            }
        });
    let router = router.method::<methods::GetLastConfigUpdateRecord, _, _>(move |_, _| {
        let record = config.last_record().map(|record| ConfigUpdateRecord {
            update_time: UtcTime(env.utc_now().0),
            result: record.error.map_or(Status { code: 0, message: String::new() }, |error| refused(&error)),
            description: record.description,
        });
        async move { Ok(core::GetLastConfigUpdateRecordRsp { record }) }
    });
    router.method::<methods::Shutdown, _, _>(move |ctx, req| {
        tracing::info!(peer = ?ctx.peer, graceful = req.graceful, "shutdown requested");
        stop.trigger();
        async move { Ok(core::ShutdownRsp { dummy: Void }) }
    })
}

/// Templates are plain text in this version of 3FS: rendering is the identity.
fn render(tree: &dyn Pushable, req: core::RenderConfigReq) -> core::RenderConfigRsp {
    let mut answer = core::RenderConfigRsp { config_after_render: req.config_template, ..Default::default() };
    if req.test_update {
        match tree.try_update(&answer.config_after_render, req.is_hot_update) {
            Ok(text) => answer.config_after_update = text,
            Err(error) => answer.update_status = refused(&error),
        }
    }
    answer
}
