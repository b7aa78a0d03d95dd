//! Truncation, which is the client's work: chunks first, then metadata.

use super::MetaClient;
use crate::file::{FileIo, FileMap};
use crate::storage::RetryOptions;
use valor_protocol::meta::methods::Sync;
use valor_protocol::meta::{Inode, PathAt, SyncReq};
use valor_protocol::status::{code, with_message};
use valor_protocol::user::UserInfo;
use valor_protocol::{InodeId, Status};

impl MetaClient {
    /// Sets a file's length; the inode afterwards.
    ///
    /// # Errors
    /// 3010 if it is no file. As [`MetaClient::call`], or what storage failed with.
    pub async fn truncate(&self, user: &UserInfo, inode: InodeId, length: u64) -> Result<Inode, Status> {
        let inode = self.stat(user, PathAt::inode(inode), true).await?;
        self.truncate_inode(user, &inode, length).await
    }

    /// Sets the length of a file whose inode is at hand.
    ///
    /// # Errors
    /// As [`MetaClient::truncate`].
    pub async fn truncate_inode(&self, user: &UserInfo, inode: &Inode, length: u64) -> Result<Inode, Status> {
        let files = self.chunk_io()?;
        let map = FileMap::of(inode)?;
        let dyn_stripe = inode.data.as_file().map_or(0, |file| file.dyn_stripe);
        let config = self.config.load_full();
        let in_use = if config.dynamic_stripe { dyn_stripe } else { 0 };
        loop {
            let batch = config.remove_chunks_batch_size;
            let retry = RetryOptions::default();
            let (removed, more) = files.remove_chunks(user, &map, length, batch, in_use, retry).await?;
            if !more {
                break;
            }
            if removed == 0 {
                return Err(with_message(code::META_FOUND_BUG, "chunks are left that cannot be removed"));
            }
        }
        self.set_last_chunk(user, inode, &map, length, false).await
    }

    /// Makes a file at least `length` bytes long; never shorter, whoever else appends to it meanwhile.
    ///
    /// # Errors
    /// As [`MetaClient::truncate`].
    pub async fn extend(&self, user: &UserInfo, inode: InodeId, length: u64) -> Result<Inode, Status> {
        let inode = self.stat(user, PathAt::inode(inode), true).await?;
        let map = FileMap::of(&inode)?;
        self.set_last_chunk(user, &inode, &map, length, true).await
    }

    fn chunk_io(&self) -> Result<&FileIo, Status> {
        self.files().ok_or_else(|| with_message(code::META_FOUND_BUG, "truncation needs a storage client"))
    }

    /// Gives the chunk in which a file of `length` bytes ends its length, and has meta look for the file's end.
    async fn set_last_chunk(
        &self,
        user: &UserInfo,
        inode: &Inode,
        map: &FileMap,
        length: u64,
        only_extend: bool,
    ) -> Result<Inode, Status> {
        let files = self.chunk_io()?;
        let dyn_stripe = inode.data.as_file().map_or(0, |file| file.dyn_stripe);
        let chunks = length.div_ceil(u64::from(map.chunk_size()));
        let needed = chunks.min(u64::from(map.stripe_size())) as u32;
        if dyn_stripe != 0 && dyn_stripe < needed {
            self.extend_stripe(user, inode.id, needed).await?;
        }
        files.truncate_last_chunk(user, map, length, only_extend).await?;
        let req = SyncReq {
            base: self.base(user),
            inode: inode.id,
            update_length: true,
            truncated: !only_extend,
            ..SyncReq::default()
        };
        Ok(self.call::<Sync>(req).await?.stat)
    }
}
