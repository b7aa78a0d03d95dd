//! `stat`, `batchStat`, `batchStatByPath` and `testRpc` (`src/meta/store/ops/Stat.cc`).

use valor_protocol::meta::{
    BatchStatByPathReq, BatchStatByPathRsp, BatchStatReq, BatchStatRsp, StatReq, StatRsp, TestRpcRsp,
};

use crate::core::{Cx, Operation};
use crate::error::{Error, Result, is_expected};
use crate::resolve::Resolver;
use crate::store::{Read, Tx, load_inode};
use crate::times;

/// An inode by path or id.
pub(crate) struct Stat {
    pub(crate) req: StatReq,
}

impl Operation for Stat {
    type Rsp = StatRsp;

    fn read_only(&self) -> bool {
        true
    }

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<StatRsp> {
        let req = &self.req;
        let alive = !cx.config.allow_stat_deleted_inodes;
        let mut stat = Resolver::new(cx, &req.base.user).inode(tx, &req.path, req.flags, alive).await?;
        times::overlay(cx, tx, &mut stat).await?;
        Ok(StatRsp { stat, ..StatRsp::default() })
    }
}

/// Inodes by id; absent where there is none.
pub(crate) struct BatchStat {
    pub(crate) req: BatchStatReq,
}

impl Operation for BatchStat {
    type Rsp = BatchStatRsp;

    fn read_only(&self) -> bool {
        true
    }

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<BatchStatRsp> {
        let mut inodes = Vec::with_capacity(self.req.inode_ids.len());
        for id in &self.req.inode_ids {
            let mut inode = load_inode(tx, *id, Read::Snapshot).await?;
            if let Some(inode) = &mut inode {
                times::overlay(cx, tx, inode).await?;
            }
            inodes.push(inode);
        }
        Ok(BatchStatRsp { inodes, ..BatchStatRsp::default() })
    }
}

/// Inodes by path, each with its own result.
pub(crate) struct BatchStatByPath {
    pub(crate) req: BatchStatByPathReq,
}

impl Operation for BatchStatByPath {
    type Rsp = BatchStatByPathRsp;

    fn read_only(&self) -> bool {
        true
    }

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<BatchStatByPathRsp> {
        let req = &self.req;
        let alive = !cx.config.allow_stat_deleted_inodes;
        let mut inodes = Vec::with_capacity(req.paths.len());
        for path in &req.paths {
            let result = Resolver::new(cx, &req.base.user).inode(tx, path, req.flags, alive).await;
            inodes.push(match result {
                Ok(mut inode) => {
                    times::overlay(cx, tx, &mut inode).await?;
                    Ok(inode)
                }
                Err(Error::Status(refusal)) if is_expected(refusal.code) => Err(refusal),
                Err(error) => return Err(error),
            });
        }
        Ok(BatchStatByPathRsp { inodes, ..BatchStatByPathRsp::default() })
    }
}

/// An answer without work.
pub(crate) struct TestRpc;

impl Operation for TestRpc {
    type Rsp = TestRpcRsp;

    fn read_only(&self) -> bool {
        true
    }

    async fn run(&mut self, _: &Cx<'_>, _: &mut Tx) -> Result<TestRpcRsp> {
        Ok(TestRpcRsp::default())
    }
}
