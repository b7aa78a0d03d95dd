//! The two roots of a new file system (`src/meta/store/MetaStore.cc:22-70`).

use valor_protocol::InodeId;
use valor_protocol::meta::Layout;
use valor_wire::UtcTime;

use crate::acl;
use crate::core::{Cx, Work};
use crate::error::Result;
use crate::store::{Read, Tx, load_inode, new_directory, store_inode};

/// Makes the root directories that do not exist yet.
pub(crate) struct InitFs {
    pub(crate) layout: Layout,
    pub(crate) now: UtcTime,
}

impl InitFs {
    /// Within a transaction of the caller's.
    pub(crate) async fn apply(&self, tx: &mut Tx) -> Result<()> {
        let now = UtcTime(self.now.0 - self.now.0.rem_euclid(1000));
        let roots = [
            (InodeId::ROOT, acl::ROOT, self.layout.clone()),
            (InodeId::GC_ROOT, acl::GC_ROOT, Layout::default()),
        ];
        for (id, acl, layout) in roots {
            if load_inode(tx, id, Read::Conflict).await?.is_none() {
                store_inode(tx, &new_directory(id, id, b"/", acl, layout, now))?;
            }
        }
        Ok(())
    }
}

impl Work for InitFs {
    type Output = ();

    async fn run(&mut self, _: &Cx<'_>, tx: &mut Tx) -> Result<()> {
        self.apply(tx).await
    }
}
