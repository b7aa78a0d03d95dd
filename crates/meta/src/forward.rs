//! Requests passed on to the owner of an inode (`src/meta/components/Forward.h`).

use std::sync::Arc;

use valor_protocol::meta::{CloseReq, CreateReq, ReqBase, SetAttrReq, SyncReq};
use valor_protocol::status::{code, is_rpc};
use valor_protocol::valor::AppendReserveReq;
use valor_protocol::{Method, NodeId};
use valor_rpc::{CallOptions, Client};
use valor_wire::Status;

use crate::core::Core;
use crate::error::status;

/// Tries to get a request sent completely.
const SEND_RETRIES: u32 = 3;

/// A request that can be passed on.
pub(crate) trait Forwarded {
    /// What every request carries.
    fn base_mut(&mut self) -> &mut ReqBase;
}

macro_rules! forwarded {
    ($($req:ty),*) => {$(
        impl Forwarded for $req {
            fn base_mut(&mut self) -> &mut ReqBase {
                &mut self.base
            }
        }
    )*};
}

forwarded!(SyncReq, CloseReq, SetAttrReq, CreateReq, AppendReserveReq);

/// Asks `owner` to answer a request.
///
/// # Errors
/// 3201 if the request was passed on before, or the owner cannot be found; 3202 if it does not answer; else its own.
pub(crate) async fn forward<M>(
    core: &Core,
    rpc: &Arc<Client>,
    owner: Option<NodeId>,
    mut req: M::Req,
) -> Result<M::Rsp, Status>
where
    M: Method,
    M::Req: Forwarded,
{
    let base = req.base_mut();
    if base.forward.0 != 0 {
        let text = format!("request was passed on by {} already", base.forward);
        return Err(status(code::META_FORWARD_FAILED, text));
    }
    let Some((owner, address)) = owner.and_then(|owner| Some((owner, core.cluster.meta_address(owner)?)))
    else {
        return Err(status(code::META_FORWARD_FAILED, "the owner of the inode cannot be reached"));
    };
    base.forward = core.node;
    let options = CallOptions {
        timeout: Some(core.config.get().forward.timeout.get()),
        send_retries: Some(SEND_RETRIES),
        ..CallOptions::default()
    };
    match rpc.call::<M>(address, &req, &options).await {
        Err(error) if is_rpc(error.code) => {
            Err(status(code::META_FORWARD_TIMEOUT, format!("node {owner} at {address}: {error}")))
        }
        result => result,
    }
}
