//! `setAttr` by inode id.

use valor_protocol::meta::Inode;

use super::Batch;
use crate::core::Cx;
use crate::error::Result;
use crate::ops::set_attr::{apply, check, update_entry};
use crate::store::Tx;

impl Batch {
    /// Does all `setAttr`s, one after the other. True if the inode changed.
    pub(super) async fn set_attributes(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        inode: &mut Inode,
    ) -> Result<bool> {
        let old = inode.data.acl;
        let mut dirty = false;
        for waiting in &mut self.set_attrs {
            match check(&cx.config, inode, &waiting.req) {
                Ok(()) => dirty |= apply(cx, tx, inode, &waiting.req),
                Err(error) => waiting.answer = Some(Err(error)),
            }
        }
        if inode.data.as_directory().is_some() && inode.data.acl != old {
            update_entry(tx, inode).await?;
        }
        Ok(dirty)
    }
}
