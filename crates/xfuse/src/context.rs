//! Who asks, and whether they still wait for the answer.

use crate::abi::{INTERRUPT_BIT, InHeader};
use crate::inflight::SlotGuard;
use crate::payload::{Room, Rooms};

/// The caller of a request, as the kernel describes it.
#[derive(Debug)]
pub struct Context {
    unique: u64,
    uid: u32,
    gid: u32,
    pid: u32,
    groups: Vec<u32>,
    slot: Option<SlotGuard>,
    rooms: Rooms,
}

impl Context {
    pub(crate) fn new(header: &InHeader, groups: Vec<u32>, slot: SlotGuard) -> Self {
        // An INTERRUPT has its target's id plus the bit; it must not be taken for the interrupted target itself.
        if header.unique & INTERRUPT_BIT == 0 {
            slot.assign(header.unique, header.pid);
        }
        let InHeader { unique, uid, gid, pid, .. } = *header;
        Context { unique, uid, gid, pid, groups, slot: Some(slot), rooms: Rooms::default() }
    }

    /// With places to make the answer in.
    pub(crate) fn with_rooms(self, rooms: Rooms) -> Self {
        Context { rooms, ..self }
    }

    /// A context that belongs to no session: for calling a [`Filesystem`](crate::Filesystem) directly.
    pub fn detached(uid: u32, gid: u32, pid: u32) -> Self {
        Context { unique: 0, uid, gid, pid, groups: Vec::new(), slot: None, rooms: Rooms::default() }
    }

    /// Request id. Has [`UNIQUE_RESEND`](crate::abi::UNIQUE_RESEND) set if it may have been executed before.
    pub fn unique(&self) -> u64 {
        self.unique
    }

    /// User id of the caller (file system user id).
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Group id of the caller.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Process id of the caller, 0 for the kernel itself or a process outside our pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Supplementary groups the kernel sent along (CREATE_SUPP_GROUP), usually none or one.
    pub fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// Whether the caller got a signal and waits in vain. The answer is still used if there is one.
    pub fn is_interrupted(&self) -> bool {
        self.slot.as_ref().is_some_and(SlotGuard::is_interrupted)
    }

    /// Room to make the answer to a READ in: where the kernel takes it from, over io_uring, so that it is not copied; else a
    /// request buffer of the session, or fresh memory if none is free. What lies there before is arbitrary, perhaps other callers'
    /// data. `size` is that of the request; more than it is not answered.
    ///
    /// As long as a room exists, its request is not answered, not even when the caller is killed. So it is best taken when
    /// the data is there.
    pub fn room(&self, size: u32) -> Room {
        self.rooms.take(size as usize)
    }

    /// Completes when the caller was killed and has been let go: nobody waits for the answer any more, and whatever is
    /// done from now on may come after what others do meanwhile.
    pub async fn abandoned(&self) {
        match &self.slot {
            Some(slot) if self.unique != 0 => slot.abandoned(self.unique).await,
            _ => std::future::pending().await,
        }
    }

    /// Completes when the caller got a signal. Usual use: `select!` against the work, then answer `EINTR`.
    pub async fn interrupted(&self) {
        match &self.slot {
            Some(slot) => slot.interrupted().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inflight::Inflight;

    #[tokio::test]
    async fn an_interrupt_does_not_find_itself() {
        let table = Inflight::new(2);
        let (first, second) = (table.acquire().await, table.acquire().await);
        let header = |unique| InHeader { unique, ..InHeader::default() };
        let _interrupt = Context::new(&header(4 | INTERRUPT_BIT), Vec::new(), first);
        let target = Context::new(&header(4), Vec::new(), second);
        assert!(table.interrupt(4) && target.is_interrupted());
    }
}
