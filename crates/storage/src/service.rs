//! The service's methods: 3FS's `StorageSerde`.

use std::sync::Arc;

use valor_protocol::storage::methods::{self, *};
use valor_protocol::storage::{
    CreateTargetRsp, FeatureFlags, OfflineTargetRsp, RemoveTargetRsp, UpdateReq, UpdateRsp, WriteReq,
    WriteRsp,
};
use valor_protocol::valor::storage as own;
use valor_rpc::{CallContext, Router};

use crate::storage::Storage;
use crate::update::{Incoming, from_client};

impl Storage {
    /// Both services, for every shard's server: 3FS's methods and our own.
    pub fn routers(self: &Arc<Self>) -> [Router; 2] {
        [self.router(), self.own_router()]
    }

    fn own_router(self: &Arc<Self>) -> Router {
        let (fills, answers) = (Arc::clone(self), Arc::clone(self));
        Router::new(own::SERVICE_ID, own::SERVICE)
            .method::<own::ListSyncProgress, _, _>(move |_, req| {
                let progress = fills.fills.list(&req.chain_ids);
                async move { Ok(own::ListSyncProgressRsp { progress }) }
            })
            .method::<own::RememberUpdates, _, _>(move |_, req| {
                let rsp = answers.remember_updates(req);
                async move { rsp }
            })
    }

    /// 3FS's methods.
    pub fn router(self: &Arc<Self>) -> Router {
        let data = self.data_router();
        let this = || Arc::clone(self);
        let (query, truncate, remove, space) = (this(), this(), this(), this());
        let (create, offline, drop_target, chunk, metas) = (this(), this(), this(), this(), this());
        let (start, done) = (this(), this());
        data.method::<QueryLastChunk, _, _>(move |_, req| {
            let rsp = query.query_last_chunk(&req);
            async move { Ok(rsp) }
        })
        .method::<TruncateChunks, _, _>(move |_, req| {
            let storage = Arc::clone(&truncate);
            async move { Ok(storage.truncate_chunks(&req).await) }
        })
        .method::<RemoveChunks, _, _>(move |_, req| {
            let storage = Arc::clone(&remove);
            async move { Ok(storage.remove_chunks(&req).await) }
        })
        .method::<SpaceInfo, _, _>(move |_, req| {
            let storage = Arc::clone(&space);
            async move { storage.space_info(&req).await }
        })
        .method::<CreateTarget, _, _>(move |_, req| {
            let storage = Arc::clone(&create);
            async move { storage.create_target(&req).await.map(|()| CreateTargetRsp::default()) }
        })
        .method::<OfflineTarget, _, _>(move |_, req| {
            let storage = Arc::clone(&offline);
            async move { storage.offline_target(&req).await.map(|()| OfflineTargetRsp::default()) }
        })
        .method::<RemoveTarget, _, _>(move |_, req| {
            let storage = Arc::clone(&drop_target);
            async move {
                storage.remove_target(req.target_id, req.force).await.map(|()| RemoveTargetRsp::default())
            }
        })
        .method::<QueryChunk, _, _>(move |_, req| {
            let rsp = chunk.query_chunk(&req);
            async move { rsp }
        })
        .method::<GetAllChunkMetadata, _, _>(move |_, req| {
            let rsp = metas.all_chunk_metadata(&req);
            async move { rsp }
        })
        .method::<SyncStart, _, _>(move |_, req| {
            let rsp = start.sync_start(&req);
            async move { rsp }
        })
        .method::<SyncDone, _, _>(move |_, req| {
            let storage = Arc::clone(&done);
            async move { storage.sync_done(&req).await }
        })
    }

    /// Reads and writes.
    fn data_router(self: &Arc<Self>) -> Router {
        let this = || Arc::clone(self);
        let (read, write, update) = (this(), this(), this());
        Router::new(methods::SERVICE_ID, methods::SERVICE)
            .method_with_crc::<BatchRead, _, _>(move |_, req| {
                let storage = Arc::clone(&read);
                async move { storage.batch_read(req).await }
            })
            .method::<Write, _, _>(move |context, req| {
                let storage = Arc::clone(&write);
                async move { Ok(storage.write(&context, req).await) }
            })
            .method::<Update, _, _>(move |context, req| {
                let storage = Arc::clone(&update);
                async move { Ok(storage.update(&context, req).await) }
            })
    }

    async fn write(self: &Arc<Self>, context: &CallContext, req: WriteReq) -> WriteRsp {
        let tag = req.tag.clone();
        let flags = req.feature_flags;
        let update = UpdateReq {
            retry_count: req.retry_count,
            user_info: req.user_info,
            ..from_client(req.payload, req.tag, &flags)
        };
        let result = self.reliable_update(with_crc(context, update)).await;
        WriteRsp { tag, result }
    }

    async fn update(self: &Arc<Self>, context: &CallContext, req: UpdateReq) -> UpdateRsp {
        let tag = req.tag.clone();
        let result = self.reliable_update(with_crc(context, req)).await;
        UpdateRsp { tag, result }
    }
}

/// The checksum of the data comes from verifying the message; the data are not read again.
fn with_crc(context: &CallContext, req: UpdateReq) -> Incoming {
    let data = &req.payload.inlinebuf.data;
    let present = req.feature_flags.contains(FeatureFlags::SEND_DATA_INLINE) || !data.is_empty();
    let crc = if present { context.storage_crc32c(data) } else { valor_wire::storage_crc32c(&[]) };
    Incoming { req, crc }
}
