//! `setAttr` by inode id.

use valor_protocol::meta::{Inode, SetAttrRsp};

use super::Batch;
use crate::core::Cx;
use crate::error::{Result, is_remembered};
use crate::idempotent;
use crate::ops::set_attr::{apply, check, update_entry};
use crate::store::Tx;

impl Batch {
    /// Does all `setAttr`s, one after the other. True if the inode changed. A copy of one that was done has no effect, and
    /// shows the inode as it is now.
    pub(super) async fn set_attributes(
        &mut self,
        cx: &Cx<'_>,
        tx: &mut Tx,
        inode: &mut Inode,
    ) -> Result<bool> {
        let old = inode.data.acl;
        let mut dirty = false;
        for waiting in &mut self.set_attrs {
            let ids = cx.shared_ids(&waiting.req.base);
            if let Some((client, request)) = ids
                && let Some(result) = idempotent::load::<SetAttrRsp>(tx, client, request).await?
            {
                waiting.answer = result.err().map(Err);
                continue;
            }
            let result = match check(&cx.config, inode, &waiting.req) {
                Ok(()) => {
                    dirty |= apply(cx, tx, inode, &waiting.req);
                    // A copy is answered with the inode as it is then.
                    Ok(SetAttrRsp::default())
                }
                Err(error) => {
                    waiting.answer = Some(Err(error.clone()));
                    Err(error)
                }
            };
            let lasting = result.as_ref().map_or_else(is_remembered, |_| true);
            if let Some((client, request)) = ids.filter(|_| lasting) {
                idempotent::store(cx, tx, client, request, &result);
                waiting.remembered = true;
            }
        }
        if inode.data.as_directory().is_some() && inode.data.acl != old {
            update_entry(tx, inode).await?;
        }
        Ok(dirty)
    }
}
