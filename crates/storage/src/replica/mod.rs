//! Chain replication as a pure state machine: no clock, no disk, no network.
//!
//! A chunk is replicated along its chain, head first. Each replica goes through the same steps for one update
//! (`src/storage/service/StorageOperator.cc`):
//!
//! 1. **decide** which version the update gets or has ([`version`]),
//! 2. **prepare**: the new content is durable beside the committed one, as a pending version,
//! 3. **forward** to the successor and wait for its answer; the tail has none,
//! 4. **commit** with the chain version the tail committed with,
//! 5. **reply** to the predecessor, or from the head to the client.
//!
//! [`update`] is that sequence; the service and the model test drive the same code. [`read`], [`resync`] and [`roles`]
//! hold the rules for reads, for filling a returned replica and for what a target is in its chain.
//!
//! # What the steps guarantee
//! * A version committed anywhere is at least pending on every replica before it in the chain, because each replica
//!   prepares before it forwards. Whichever replica survives alone therefore knows everything that was acknowledged
//!   or read; a last-serving target that returns commits what it has pending.
//! * While a version is pending reads of the chunk are refused (4004), so a reader never sees a version disappear
//!   again, nor an old one after a new one.
//!
//! # Why prepare and forward do not overlap
//! Starting the forward before the local prepare is durable would save one disk write per hop, but the tail commits
//! as soon as it hears of the update. A prepare that then fails (no space, bad data) leaves a version committed
//! downstream that the head does not know and will hand out again for other data; a power cut that stops all
//! replicas loses a version that readers have seen, and the resync that follows takes the replicas for diverged. So the
//! order is kept. What does overlap: different chunks, and network with disk of other updates.
//!
//! # A head never replaces a pending version
//! C++ 3FS's old store refuses further writes to such a chunk (4012), its new engine replaces the pending version under
//! the same number, which diverges if the successor has committed the first one. Here the head completes the pending
//! version first ([`update::Step::FinishPending`]) by sending it again, then assigns the next number. Only an update
//! that no replica behind has taken is dropped ([`update::Step::Abort`]).
//!
//! # Where the rules are stricter than those of C++ 3FS
//! The model test found schedules of lost, late and repeated messages and restarts in which each of these matters.
//! * An answer "no space" (7021) promises that no replica from there on has the version or will get it; while that is
//!   not certain, 2005 is answered.
//! * A target that was seen to be filled under a new chain version is not up to date, even if it was before: it may
//!   have missed a version in which it got no updates ([`roles`]).
//! * A chunk that is being written while a successor is filled is sent too, pending version or removal included; a
//!   replacement that was overtaken is refused; what the successor lacks is no divergence ([`resync`], [`version`]).
//! * A successor trusts its memory of a retried update only under the chain version it was made in, else the chunk's
//!   versions decide; an update that failed and was completed later is answered with success ([`crate::dedup`]).
//! * A replica that was filled is told who was answered ([`crate::dedup`]).
//!
//! What stays, as in 3FS: the memory of retried updates is lost when the processes of all replicas end, and versions of a
//! chunk start again from 1 after its removal, so that the order of one connection between two servers is relied on.

pub mod read;
pub mod resync;
pub mod roles;
pub mod update;
pub mod version;
