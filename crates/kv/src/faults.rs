//! Injected failures, to test what is built on transactions (as 3FS's memory engine injects them,
//! `src/common/kv/mem/MemTransaction.h`).

use std::sync::Arc;

use valor_env::Env;

use crate::KvError;
use crate::batch::CommitInfo;

/// How often transactions fail on purpose, in failures per 1000 operations. Choices come from the environment's randomness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Reads that fail with [`KvError::TooOld`].
    pub read_too_old: u32,
    /// Commits that fail with [`KvError::Conflict`], without effect.
    pub commit_conflict: u32,
    /// Commits that fail with [`KvError::MaybeCommitted`]; half of them take effect.
    pub commit_unknown: u32,
}

/// Rolls the dice.
#[derive(Clone)]
pub(crate) struct Injector {
    env: Env,
    faults: Arc<Faults>,
}

impl Injector {
    pub(crate) fn new(env: Env, faults: Faults) -> Self {
        Injector { env, faults: Arc::new(faults) }
    }

    fn hits(&self, per_thousand: u32) -> bool {
        per_thousand > 0 && self.env.random_u64() % 1000 < u64::from(per_thousand)
    }

    pub(crate) fn before_read(&self) -> Result<(), KvError> {
        if self.hits(self.faults.read_too_old) { Err(KvError::TooOld) } else { Ok(()) }
    }

    pub(crate) async fn around_commit(
        &self,
        commit: impl Future<Output = Result<CommitInfo, KvError>>,
    ) -> Result<CommitInfo, KvError> {
        if self.hits(self.faults.commit_conflict) {
            return Err(KvError::Conflict);
        }
        if !self.hits(self.faults.commit_unknown) {
            return commit.await;
        }
        if self.hits(500) {
            commit.await?;
        }
        Err(KvError::MaybeCommitted)
    }
}
