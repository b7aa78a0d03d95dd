//! The service's methods by number.

use crate::{Mgmtd, RoutingReply};
use std::sync::Arc;
use valor_protocol::mgmtd::methods::{self as m, SERVICE, SERVICE_ID};
use valor_rpc::Router;

/// Adds `Method => Mgmtd::function` pairs to a router.
macro_rules! serve {
    ($mgmtd:ident, $($method:ident => $function:ident,)*) => {
        Router::new(SERVICE_ID, SERVICE)$(
            .method::<m::$method, _, _>({
                let mgmtd = Arc::clone($mgmtd);
                move |_, request| {
                    let mgmtd = Arc::clone(&mgmtd);
                    async move { mgmtd.$function(request).await }
                }
            })
        )*
    };
}

impl Mgmtd {
    /// The service, to be served on as many listeners as wanted.
    pub fn router(self: &Arc<Self>) -> Router {
        let mgmtd = Arc::clone(self);
        let router = serve! { self,
            GetPrimaryMgmtd => get_primary_mgmtd,
            Heartbeat => heartbeat,
            RegisterNode => register_node,
            SetConfig => set_config,
            GetConfig => get_config,
            SetChainTable => set_chain_table,
            EnableNode => enable_node,
            DisableNode => disable_node,
            ExtendClientSession => extend_client_session,
            ListClientSessions => list_client_sessions,
            SetNodeTags => set_node_tags,
            UnregisterNode => unregister_node,
            SetChains => set_chains,
            SetUniversalTags => set_universal_tags,
            GetUniversalTags => get_universal_tags,
            GetConfigVersions => get_config_versions,
            GetClientSession => get_client_session,
            RotateLastSrv => rotate_last_srv,
            ListOrphanTargets => list_orphan_targets,
            SetPreferredTargetOrder => set_preferred_target_order,
            RotateAsPreferredOrder => rotate_as_preferred_order,
            UpdateChain => update_chain,
        };
        router.method_as::<m::GetRoutingInfo, RoutingReply, _, _>(move |_, request| {
            let mgmtd = Arc::clone(&mgmtd);
            async move { mgmtd.routing_reply(request).await }
        })
    }
}
