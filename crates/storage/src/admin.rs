//! Targets and disks as administrators and peers see them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use valor_protocol::mgmtd::{LocalTargetState, PublicTargetState};
use valor_protocol::status::code;
use valor_protocol::storage::{
    GetAllChunkMetadataReq, GetAllChunkMetadataRsp, IOResult, OfflineTargetReq, QueryChunkReq, QueryChunkRsp,
    SpaceInfo, SpaceInfoReq, SpaceInfoRsp, SyncDoneReq, SyncDoneRsp, SyncStartReq, TargetSyncInfo,
    VersionedChainId,
};
use valor_protocol::{ChainVersion, Status};

use crate::disks::Disks;
use crate::storage::Storage;

/// Disk space as last looked up.
#[derive(Debug, Default)]
pub(crate) struct SpaceCache(Mutex<Option<(Instant, Vec<SpaceInfo>)>>);

impl SpaceCache {
    fn get(&self, age: Duration) -> Option<Vec<SpaceInfo>> {
        let cached = self.0.lock();
        cached.as_ref().filter(|(at, _)| at.elapsed() < age).map(|(_, infos)| infos.clone())
    }
}

impl Storage {
    pub(crate) async fn space_info(&self, req: &SpaceInfoReq) -> Result<SpaceInfoRsp, Status> {
        let age = self.config.get().targets.space_info_cache_timeout.get();
        if !req.force
            && let Some(space_infos) = self.space_cache.get(age)
        {
            return Ok(SpaceInfoRsp { space_infos });
        }
        let mut infos = Vec::with_capacity(self.disks.paths.len());
        for index in 0..self.disks.paths.len() {
            infos.push(self.space_of(index).await?);
        }
        *self.space_cache.0.lock() = Some((Instant::now(), infos.clone()));
        Ok(SpaceInfoRsp { space_infos: infos })
    }

    async fn space_of(&self, index: usize) -> Result<SpaceInfo, Status> {
        let path = &self.disks.paths[index];
        let space = self.env.disk().space(path).await.map_err(|error| {
            Status::new(code::STORAGE_CHUNK_OPEN_FAILED, format!("{}: {error}", path.display()))
        })?;
        let mut reusable = 0;
        for (_, store) in self.disks.stores(index) {
            if let Ok(engine) = store.engine.space().await {
                reusable += engine.available.saturating_sub(space.available);
            }
        }
        let map = self.map();
        let here = map.targets().filter(|target| Disks::of(&target.path) == path);
        Ok(SpaceInfo {
            path: path.display().to_string(),
            capacity: space.capacity,
            free: space.free.saturating_add(reusable).min(space.capacity),
            available: space.available,
            target_ids: here.map(|target| target.info.target_id).collect(),
            manufacturer: Default::default(),
        })
    }

    pub(crate) async fn offline_target(&self, req: &OfflineTargetReq) -> Result<(), Status> {
        let target = self.map().by_id(req.target_id)?.clone();
        if target.info.is_head && target.info.is_tail && !req.force {
            let text = format!("offline failed: target {} is the last online target!", req.target_id);
            return Err(Status::new(code::STORAGE_TARGET_STATE_INVALID, text));
        }
        self.take_offline(req.target_id).await
    }

    pub(crate) fn query_chunk(&self, req: &QueryChunkReq) -> Result<QueryChunkRsp, Status> {
        let chain = VersionedChainId { chain_id: req.chain_id, chain_ver: ChainVersion(0) };
        let target = self.map().by_chain(chain, true)?.clone();
        let mut rsp = QueryChunkRsp { target: target.info.clone(), ..QueryChunkRsp::default() };
        if let (Some(open), false) = (&target.store, req.chunk_id.is_empty()) {
            let none = || Status::new(code::STORAGE_CHUNK_METADATA_NOT_FOUND, "");
            rsp.meta = open.metadata(&req.chunk_id).ok_or_else(none);
        }
        Ok(rsp)
    }

    pub(crate) fn all_chunk_metadata(
        &self,
        req: &GetAllChunkMetadataReq,
    ) -> Result<GetAllChunkMetadataRsp, Status> {
        let target = self.map().by_id(req.target_id)?.clone();
        let (public, local) = (target.info.public_state, target.info.local_state);
        if public != PublicTargetState::Serving || local != LocalTargetState::Uptodate {
            let text = format!("target {} check state failed: {public:?} {local:?}", req.target_id);
            return Err(Status::new(code::STORAGE_CLIENT_NOT_AVAILABLE, text));
        }
        let chunk_meta_vec = target.store.as_ref().map(|open| open.metas()).unwrap_or_default();
        Ok(GetAllChunkMetadataRsp { chunk_meta_vec })
    }

    // Being filled.

    pub(crate) fn sync_start(&self, req: &SyncStartReq) -> Result<TargetSyncInfo, Status> {
        let target = self.lookup(req.v_chain_id, false).inspect_err(|status| {
            if status.code == code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH {
                self.refresh_wanted.notify_one();
            }
        })?;
        let (public, local) = (target.info.public_state, target.info.local_state);
        if public != PublicTargetState::Syncing || local != LocalTargetState::Online {
            let text = format!("target {} check state failed: {public:?} {local:?}", target.info.target_id);
            return Err(Status::new(code::STORAGE_SYNC_START_FAILED, text));
        }
        let metas = target.store.as_ref().map(|open| open.metas()).unwrap_or_default();
        tracing::info!(target = %target.info.target_id, chain = %req.v_chain_id.chain_id, chunks = metas.len(), "being filled");
        self.lookup(req.v_chain_id, false)?;
        Ok(TargetSyncInfo { metas })
    }

    pub(crate) async fn sync_done(self: &Arc<Self>, req: &SyncDoneReq) -> Result<SyncDoneRsp, Status> {
        self.check_contact()?;
        let _change = self.map_change.lock().await;
        let mut map = (*self.map()).clone();
        let target = map.sync_done(req.v_chain_id)?;
        tracing::info!(%target, chain = %req.v_chain_id.chain_id, "filled, up to date");
        self.publish(map);
        Ok(SyncDoneRsp { result: IOResult { length_info: Ok(0), ..IOResult::default() } })
    }
}
