//! Rules broken on purpose, one at a time, to see whether the simulator notices. Without the feature `mutation` every
//! question is answered "no" at compile time; with it too, unless the simulator has chosen a rule.

macro_rules! mutations {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// A rule that can be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutation {
            $($(#[$doc])* $variant,)*
        }

        impl Mutation {
            /// All of them.
            pub const ALL: &'static [Mutation] = &[$(Mutation::$variant),*];

            /// Name on command lines.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Mutation::$variant => $name,)* }
            }
        }
    };
}

mutations! {
    /// Requests of other chain versions are served.
    SkipChainVersionCheck = "skip-chain-version-check";
    /// The head commits and answers while the update is still on its way to its successor.
    AckBeforeForward = "ack-before-forward";
    /// An update that could not be forwarded counts as forwarded.
    CommitUnforwarded = "commit-unforwarded";
    /// Pending versions are dropped when a target is opened.
    DropPendingOnRestart = "drop-pending-on-restart";
    /// A server that does not hear the manager goes on serving.
    ServeWithoutContact = "serve-without-contact";
    /// A repeated update is applied again.
    ForgetAnsweredRequests = "forget-answered-requests";
    /// A target that returns serves without being filled.
    ServeStaleReplica = "serve-stale-replica";
    /// While the last serving target is down, another one that is back may serve.
    OvertakeLastsrv = "overtake-lastsrv";
    /// The last serving target that returns does not commit what it has pending.
    LastsrvKeepsPending = "lastsrv-keeps-pending";
    /// Filling a successor leaves chunks out.
    FillIncompletely = "fill-incompletely";
    /// A replica that was filled does not learn which updates were answered.
    FillWithoutAnswers = "fill-without-answers";
    /// Bytes read are not compared with their checksums.
    SkipReadChecksum = "skip-read-checksum";
    /// Nothing is synced before it is acknowledged.
    SkipSync = "skip-sync";
    /// A chain's version stays when its list changes.
    KeepChainVersion = "keep-chain-version";
    /// A manager goes on as primary when its lease was lost to another.
    KeepPrimacy = "keep-primacy";
    /// Removed files leave their chunks.
    LeaveChunks = "leave-chunks";
    /// With several metadata servers, late copies of requests are executed.
    ApplyLateCopies = "apply-late-copies";
    /// A repeated removal of a name is executed again.
    ForgetRemovals = "forget-removals";
}

#[cfg(feature = "mutation")]
mod chosen {
    use super::Mutation;
    use std::cell::Cell;

    thread_local! {
        static BROKEN: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Breaks a rule for everything on this thread, or none.
    pub fn set(mutation: Option<Mutation>) {
        BROKEN.set(mutation);
    }

    /// Whether this rule is broken.
    #[must_use]
    pub fn broken(mutation: Mutation) -> bool {
        BROKEN.get() == Some(mutation)
    }
}

#[cfg(feature = "mutation")]
pub use chosen::{broken, set};

/// Whether this rule is broken: never.
#[cfg(not(feature = "mutation"))]
#[must_use]
#[inline(always)]
pub const fn broken(_: Mutation) -> bool {
    false
}
