//! Close-to-open consistency of the kernel's caches.
//!
//! The kernel caches a file's pages and its attributes. Other mounts change both without the kernel's knowledge, so at
//! each open this mount asks the metadata service for the inode and compares what identifies its contents, a [`Token`],
//! with what the caches are known to reflect:
//!
//! * **Pages** stay (`FOPEN_KEEP_CACHE`) if the token is the one that was current before any of them was read. Otherwise
//!   the kernel drops them, some time between our reply and the end of the open(2) that asked. Only a request that can
//!   come after that end tells that it has happened; until then the pages count as unknown, lest a second open in the
//!   meantime keep what the first is about to drop.
//! * **Attributes** are dropped if the kernel may hold others than the token's, so that a read asks for the length.
//!
//! Which token changes can be trusted is a setting, [`KeepCache`]: Valor's metadata service gives every change of
//! contents a `ctime` of its own (`posix_times`); C++ 3FS keeps times to the second and lets `utimes` set them back
//! without a trace.

use crate::cluster::Cluster;
use crate::core::Core;
use crate::errno;
use crate::ids::{from_ino, to_ino};
use crate::inode::Node;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use valor_protocol::meta::{Inode, PathAt};
use valor_protocol::status::code;
use valor_protocol::user::UserInfo;
use valor_wire::{Status, UtcTime};
use xfuse::{Context, Errno};

/// Microseconds by which a token must be older than its observation to be told from a later one by seconds: their
/// granularity, and how much the clocks of clients and servers may differ.
const SETTLED: i64 = 60_000_000;

/// When the kernel keeps a file's pages from one open to the next.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "snake_case")]
pub enum KeepCache {
    /// Never. Right with any servers.
    #[default]
    Never,
    /// If length and times are the same and were a minute old when the pages were read. Wrong only after a change in
    /// place that leaves the length and sets the time back, as `touch -r` does.
    Settled,
    /// If length and times are the same. Right if all metadata servers are Valor's with `posix_times`.
    Versioned,
}

/// What changes when a file's contents do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Token {
    length: u64,
    truncate_ver: u64,
    mtime: UtcTime,
    ctime: UtcTime,
}

impl Token {
    /// Of an inode; all zeros but the times for what is no file.
    pub(crate) fn of(inode: &Inode) -> Self {
        let data = &inode.data;
        let (length, truncate_ver) = data.as_file().map_or((0, 0), |file| (file.length, file.truncate_ver));
        Token { length, truncate_ver, mtime: data.mtime, ctime: data.ctime }
    }
}

/// A token, and when it was asked for.
#[derive(Debug, Clone, Copy)]
struct Observed {
    token: Token,
    at: UtcTime,
}

impl KeepCache {
    fn same(self, known: Observed, token: Token) -> bool {
        match self {
            KeepCache::Never => false,
            KeepCache::Settled => {
                let newest = token.mtime.max(token.ctime);
                known.token == token && known.at.0.saturating_sub(newest.0) > SETTLED
            }
            KeepCache::Versioned => known.token == token,
        }
    }
}

/// What the kernel's pages of a file reflect.
#[derive(Debug, Clone, Copy, Default)]
enum Pages {
    /// Nothing is known of them.
    #[default]
    Unknown,
    /// An open has told the kernel to drop them, and so have all since with tickets from `since` on.
    Dropping { observed: Observed, since: u64 },
    /// All were read after this was observed.
    Known(Observed),
}

#[derive(Debug, Default)]
struct State {
    pages: Pages,
    tickets: u64,
    /// Attributes in the last reply that had some.
    told: Option<Token>,
    /// Replies with different attributes may have reached the kernel in any order.
    unsure: bool,
}

/// What is known of the kernel's caches of one file.
#[derive(Debug, Default)]
pub(crate) struct Coherence(Mutex<State>);

/// What an open is to do about pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admission {
    /// The kernel may keep them.
    pub(crate) keep: bool,
    /// To be given to [`Coherence::dropped`]; 0 if nothing is dropped.
    pub(crate) ticket: u64,
}

impl Coherence {
    /// A reply to the kernel carries attributes.
    pub(crate) fn tell(&self, inode: &Inode) {
        let token = Token::of(inode);
        let mut state = self.0.lock();
        state.unsure |= state.told.is_some_and(|told| told != token);
        state.told = Some(token);
    }

    /// Whether the kernel may hold other attributes than these.
    pub(crate) fn attributes_differ(&self, token: Token) -> bool {
        let state = self.0.lock();
        state.unsure || state.told != Some(token)
    }

    /// The kernel is about to be told to drop its attributes. To be called first: replies that are sent before the
    /// kernel does it are void, later ones count.
    pub(crate) fn forget_attributes(&self) {
        let mut state = self.0.lock();
        state.told = None;
        state.unsure = false;
    }

    /// The kernel could not be told.
    pub(crate) fn attributes_unsure(&self) {
        self.0.lock().unsure = true;
    }

    /// Decides about an open that has observed `token` after the time `at`.
    pub(crate) fn admit(&self, token: Token, at: UtcTime, policy: KeepCache) -> Admission {
        let mut state = self.0.lock();
        let state = &mut *state;
        if let Pages::Known(known) = state.pages
            && policy.same(known, token)
        {
            return Admission { keep: true, ticket: 0 };
        }
        state.tickets += 1;
        match &mut state.pages {
            // The older observation holds for the pages of the newer one too.
            Pages::Dropping { observed, .. } if observed.token == token => observed.at = observed.at.max(at),
            pages => *pages = Pages::Dropping { observed: Observed { token, at }, since: state.tickets },
        }
        Admission { keep: false, ticket: state.tickets }
    }

    /// The open with this ticket has ended, so the kernel has dropped the pages.
    pub(crate) fn dropped(&self, ticket: u64) {
        let mut state = self.0.lock();
        if let Pages::Dropping { observed, since } = state.pages
            && ticket >= since
        {
            state.pages = Pages::Known(observed);
        }
    }

    /// The pages may differ from what is stored.
    pub(crate) fn forget_pages(&self) {
        self.0.lock().pages = Pages::Unknown;
    }
}

/// An open's duty to say when the kernel has dropped the pages.
#[derive(Debug, Default)]
pub(crate) struct Ticket(AtomicU64);

impl Ticket {
    pub(crate) fn new(admission: Admission) -> Self {
        Ticket(AtomicU64::new(admission.ticket))
    }

    /// A request came which the kernel sends only after the open(2) of its handle has ended.
    pub(crate) fn open_ended(&self, coherence: &Coherence) {
        if self.0.load(Ordering::Relaxed) != 0 {
            let ticket = self.0.swap(0, Ordering::Relaxed);
            if ticket != 0 {
                coherence.dropped(ticket);
            }
        }
    }
}

impl<C: Cluster> Core<C> {
    pub(crate) fn keep_cache(&self) -> KeepCache {
        self.configs.global().valor.keep_cache
    }

    /// Notes the attributes of a reply.
    pub(crate) fn tell(&self, inode: &Inode) {
        if inode.data.as_file().is_some()
            && let Some(node) = self.nodes.get(inode.id)
        {
            node.coherence.tell(inode);
        }
    }

    /// The present inode of a file that is opened for reading, if the name under which it was found still leads to it.
    /// `ESTALE` has the kernel resolve the path again. Whoever comes back to the same inode after that has come by no
    /// name (`/proc/self/fd`), or by another one.
    pub(crate) async fn inode_for_open(
        &self,
        cx: &Context,
        user: &UserInfo,
        node: &Node,
    ) -> Result<Inode, Errno> {
        let place = node.name.lock().clone();
        if let Some((parent, name)) = place
            && !node.removed.load(Ordering::Acquire)
        {
            let path = PathAt::at(from_ino(parent), name);
            match self.run(cx, self.cluster.stat(user, path)).await {
                Ok(inode) if inode.id == node.id() => {
                    node.refresh(&inode);
                    return Ok(inode);
                }
                Err(status) if !leads_nowhere(&status) && status.code != code::META_NO_PERMISSION => {
                    return Err(errno::from("open", &status));
                }
                Err(status) if status.code == code::META_NO_PERMISSION => {}
                _ => {
                    if node.told_stale.swap(cx.pid(), Ordering::Relaxed) != cx.pid() {
                        return Err(Errno::ESTALE);
                    }
                    node.told_stale.store(u32::MAX, Ordering::Relaxed);
                }
            }
        }
        let inode = self.run(cx, self.cluster.stat(user, PathAt::inode(node.id()))).await;
        let inode = inode.map_err(|status| open_errno(&status))?;
        node.refresh(&inode);
        Ok(inode)
    }

    /// Has the kernel ask for a file's attributes again if it may hold others than these.
    pub(crate) async fn drop_other_attributes(&self, node: &Node, inode: &Inode) {
        if !node.coherence.attributes_differ(Token::of(inode)) {
            return;
        }
        node.coherence.forget_attributes();
        match self.notifier().inval_attr(to_ino(node.id())).sent().await {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => node.coherence.attributes_unsure(),
            _ => {}
        }
    }
}

fn leads_nowhere(status: &Status) -> bool {
    matches!(status.code, code::META_NOT_FOUND | code::META_NOT_DIRECTORY)
}

/// What open(2) fails with. An inode that is gone was found by a name that is out of date.
pub(crate) fn open_errno(status: &Status) -> Errno {
    if leads_nowhere(status) { Errno::ESTALE } else { errno::from("open", status) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::InodeId;
    use valor_protocol::meta::{File, InodeData, InodeKind};

    fn token(length: u64, ctime: i64) -> Token {
        Token { length, ctime: UtcTime(ctime), ..Token::default() }
    }

    fn inode(length: u64) -> Inode {
        let file = File { length, ..File::default() };
        Inode { data: InodeData { r#type: InodeKind::File(file), ..InodeData::default() }, id: InodeId(7) }
    }

    const AT: UtcTime = UtcTime(1_000_000_000);

    #[test]
    fn pages_stay_only_once_they_are_known_to_be_of_this_token() {
        let c = Coherence::default();
        let open = |token| c.admit(token, AT, KeepCache::Versioned);
        let first = open(token(1, 5));
        assert!(!first.keep, "nothing is known of the pages");
        let second = open(token(1, 5));
        assert!(!second.keep, "the first open may not have ended");
        c.dropped(first.ticket);
        assert_eq!(open(token(1, 5)), Admission { keep: true, ticket: 0 });
        let changed = open(token(1, 6));
        assert!(!changed.keep);
        c.dropped(second.ticket);
        assert!(!open(token(1, 6)).keep, "an open of before the change says nothing of after");
        c.dropped(changed.ticket);
        assert!(open(token(1, 6)).keep);
        assert!(!open(token(1, 5)).keep, "an older answer that comes late is another one");
    }

    #[test]
    fn an_open_that_never_ends_does_not_bar_the_next() {
        let c = Coherence::default();
        let _killed = c.admit(token(1, 5), AT, KeepCache::Versioned);
        let next = c.admit(token(1, 5), AT, KeepCache::Versioned);
        c.dropped(next.ticket);
        assert!(c.admit(token(1, 5), AT, KeepCache::Versioned).keep);
        c.forget_pages();
        assert!(!c.admit(token(1, 5), AT, KeepCache::Versioned).keep);
    }

    #[test]
    fn policies() {
        for (policy, age, expected) in [
            (KeepCache::Never, SETTLED * 2, false),
            (KeepCache::Settled, SETTLED, false),
            (KeepCache::Settled, SETTLED + 1, true),
            (KeepCache::Versioned, 0, true),
        ] {
            let c = Coherence::default();
            let token = token(1, AT.0 - age);
            c.dropped(c.admit(token, AT, policy).ticket);
            assert_eq!(c.admit(token, UtcTime(AT.0 * 2), policy).keep, expected, "{policy:?} {age}");
        }
    }

    #[test]
    fn tickets_count_once() {
        let c = Coherence::default();
        let ticket = Ticket::new(c.admit(token(1, 1), AT, KeepCache::Versioned));
        ticket.open_ended(&c);
        c.admit(token(2, 2), AT, KeepCache::Versioned);
        ticket.open_ended(&c);
        assert!(!c.admit(token(2, 2), AT, KeepCache::Versioned).keep);
    }

    #[test]
    fn attributes_are_sure_only_if_one_value_was_told() {
        let c = Coherence::default();
        assert!(c.attributes_differ(Token::of(&inode(1))));
        c.tell(&inode(1));
        c.tell(&inode(1));
        assert!(!c.attributes_differ(Token::of(&inode(1))) && c.attributes_differ(Token::of(&inode(2))));
        c.tell(&inode(2));
        assert!(c.attributes_differ(Token::of(&inode(2))), "the kernel may have taken them in another order");
        c.forget_attributes();
        c.tell(&inode(2));
        assert!(!c.attributes_differ(Token::of(&inode(2))));
        c.attributes_unsure();
        assert!(c.attributes_differ(Token::of(&inode(2))));
    }
}
