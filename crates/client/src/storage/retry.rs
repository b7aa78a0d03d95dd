//! What is tried again, when, and for how long (`src/client/storage/StorageClientImpl.cc`, `sendOpsWithRetry`).

use super::config::{RetryConfig, RetryOptions};
use super::select::Chosen;
use crate::backoff::{Backoff, FastPause};
use crate::mgmtd::MgmtdClient;
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use valor_env::metrics;
use valor_protocol::status::{self, code};
use valor_protocol::{ChainId, ChainVersion, Status, TargetId};

/// Shortest time that a refresh of routing information is waited for.
const REFRESH_TIME: Duration = Duration::from_millis(100);

/// True for storage client codes that another attempt would not change.
pub(super) fn is_permanent(code: u16) -> bool {
    matches!(
        code,
        code::STORAGE_CLIENT_MEMORY_ERROR
            | code::STORAGE_CLIENT_INVALID_ARG
            | code::STORAGE_CLIENT_CHUNK_NOT_FOUND
            | code::STORAGE_CLIENT_BAD_CONFIG
            | code::STORAGE_CLIENT_PROTOCOL_MISMATCH
            | code::STORAGE_CLIENT_REQUEST_CANCELED
            | code::STORAGE_CLIENT_READ_ONLY_SERVER
            | code::STORAGE_CLIENT_NO_SPACE
            | code::STORAGE_CLIENT_FOUND_BUG
            | code::STORAGE_CLIENT_CHECKSUM_MISMATCH
            // A later update of the channel has been executed; this one never will be.
            | code::STORAGE_CLIENT_DUPLICATE_UPDATE
    )
}

/// True if the failure speaks against the replica that was asked. `raw` is the code before conversion.
fn is_replica_failure(raw: u16) -> bool {
    let unreachable =
        matches!(raw, code::STORAGE_CLIENT_COMM_ERROR | code::STORAGE_CLIENT_TIMEOUT) || status::is_rpc(raw);
    unreachable || status::to_storage_client(raw) == code::STORAGE_CLIENT_REMOTE_IO_ERROR
}

/// True if newer routing information may help.
fn wants_routing(raw: u16) -> bool {
    !matches!(
        status::to_storage_client(raw),
        code::STORAGE_CLIENT_CHUNK_NOT_COMMIT
            | code::STORAGE_CLIENT_RESOURCE_BUSY
            | code::STORAGE_CLIENT_REMOTE_IO_ERROR
    )
}

/// The status a caller sees: a storage client code, with the server's where they differ.
pub(super) fn converted(status: Status) -> Status {
    let code = status::to_storage_client(status.code);
    if code == status.code { status } else { status::with_message(code, status::describe(&status)) }
}

/// Progress of one call over its attempts.
pub(super) struct Retry {
    config: RetryConfig,
    retry_permanent: bool,
    backoff: Backoff,
    fast: FastPause,
    failures: HashMap<(TargetId, ChainId, ChainVersion), u32>,
    attempts: u32,
    attempt: Option<Attempt>,
    begun: Instant,
    /// Nothing that the last attempt met lies with the data themselves.
    waits_for_chain: bool,
}

struct Attempt {
    started: Instant,
    deadline: Duration,
    wants_routing: bool,
    met_bad_data: bool,
    failed: HashSet<(TargetId, ChainId, ChainVersion)>,
}

impl Retry {
    pub(super) fn new(config: &RetryConfig, options: &RetryOptions) -> Retry {
        let config = config.merged(options);
        Retry {
            backoff: Backoff::new(
                config.init_wait_time.get(),
                config.max_wait_time.get(),
                config.max_retry_time.get(),
            ),
            fast: FastPause::new(config.fast_retry_init_wait.get(), config.fast_retry_max_wait.get()),
            retry_permanent: options.retry_permanent_error,
            failures: HashMap::new(),
            attempts: 0,
            attempt: None,
            begun: Instant::now(),
            waits_for_chain: false,
            config,
        }
    }

    /// Begins an attempt: its deadline, or none if the time is used up.
    pub(super) fn begin(&mut self) -> Option<Duration> {
        let started = Instant::now();
        let waits = self.waits_for_chain && started - self.begun < self.config.wait_for_chain.get();
        let deadline = self.backoff.current().or_else(|| waits.then(|| self.config.max_wait_time.get()))?;
        self.attempt = Some(Attempt {
            started,
            deadline,
            wants_routing: false,
            met_bad_data: false,
            failed: HashSet::new(),
        });
        self.attempts += 1;
        Some(deadline)
    }

    /// Attempts before the present one.
    pub(super) fn count(&self) -> u32 {
        self.attempts.saturating_sub(1)
    }

    /// True if the replica has failed too often to be asked again while there are others.
    pub(super) fn has_failed(&self, chosen: &Chosen) -> bool {
        let key = (chosen.replica.target_id, chosen.chain.chain_id, chosen.chain.chain_ver);
        self.failures.get(&key).is_some_and(|&count| count >= self.config.max_failures_before_failover.max(1))
    }

    /// Takes note of a failure as the server or the RPC layer reported it. True if the operation is to be repeated.
    pub(super) fn note(&mut self, error: &Status, chosen: Option<&Chosen>) -> bool {
        if is_permanent(status::to_storage_client(error.code)) && !self.retry_permanent {
            return false;
        }
        let Some(attempt) = &mut self.attempt else { return true };
        attempt.wants_routing |= wants_routing(error.code);
        attempt.met_bad_data |= status::to_storage_client(error.code) == code::STORAGE_CLIENT_REMOTE_IO_ERROR;
        if let Some(chosen) = chosen
            && is_replica_failure(error.code)
        {
            attempt.failed.insert((chosen.replica.target_id, chosen.chain.chain_id, chosen.chain.chain_ver));
        }
        true
    }

    /// Waits before the next attempt, then asks for newer routing information if that may help. Ends early when such
    /// information arrives.
    pub(super) async fn pause(&mut self, mgmtd: &MgmtdClient) {
        ::metrics::counter!(metrics::CLIENT_STORAGE_RETRIES).increment(1);
        let Some(attempt) = self.attempt.take() else { return };
        self.waits_for_chain = !attempt.met_bad_data;
        for key in attempt.failed {
            *self.failures.entry(key).or_default() += 1;
        }
        let rest = attempt.deadline.saturating_sub(attempt.started.elapsed());
        let pause = self.fast.take().min(rest);
        if rest.is_zero() {
            self.backoff.advance();
        }
        if !attempt.wants_routing {
            return sleep(pause).await;
        }
        let mut changes = mgmtd.watch();
        tokio::select! {
            () = sleep(pause) => {
                // Success or not, the next attempt goes with what is known then.
                let _ = timeout(pause.max(REFRESH_TIME), mgmtd.refresh_now()).await;
            }
            // Someone else's refresh: no need to wait for ours.
            _ = changes.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::status::status;

    #[test]
    fn permanent_and_passing_failures() {
        let mut retry = Retry::new(&RetryConfig::default(), &RetryOptions::default());
        retry.begin();
        for (raw, again) in [
            (code::STORAGE_CHAIN_VERSION_MISMATCH, true),
            (code::STORAGE_CHUNK_NOT_COMMIT, true),
            (code::STORAGE_CHUNK_METADATA_NOT_FOUND, false),
            (code::INVALID_ARG, false),
            (code::READ_ONLY_MODE, false),
            (code::STORAGE_CHECKSUM_MISMATCH, false),
            (code::STORAGE_CLIENT_NO_SPACE, false),
            (code::STORAGE_CLIENT_DUPLICATE_UPDATE, false),
            (code::STORAGE_CHANNEL_IS_LOCKED, true),
            (code::STORAGE_TARGET_OFFLINE, true),
            (code::RPC_TIMEOUT, true),
            (code::RPC_VERIFY_REQUEST_FAILED, false),
            (code::STORAGE_CLIENT_NO_RDMA_INTERFACE, true),
        ] {
            assert_eq!(retry.note(&status(raw), None), again, "{raw}");
        }
        let stubborn = RetryOptions { retry_permanent_error: true, ..RetryOptions::default() };
        assert!(Retry::new(&RetryConfig::default(), &stubborn).note(&status(code::INVALID_ARG), None));
    }

    #[test]
    fn conversion_keeps_the_cause() {
        let seen = converted(status::with_message(code::STORAGE_TARGET_OFFLINE, "disk"));
        assert_eq!((seen.code, seen.message.as_str()), (7011, "4030(Storage::TargetOffline) disk"));
        assert_eq!(converted(status(7021)), status(7021));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_have_growing_deadlines_until_time_is_up() {
        let mut retry = Retry::new(&RetryConfig::default(), &RetryOptions::default());
        let mut deadlines = Vec::new();
        while let Some(deadline) = retry.begin() {
            deadlines.push(deadline.as_secs());
            sleep(deadline).await;
            retry.backoff.advance();
        }
        assert_eq!(deadlines, [10, 20, 30]);
        assert_eq!(retry.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_chain_is_waited_for_but_bad_data_are_not() {
        let hour = valor_config::Duration::from_secs(3600);
        let config = RetryConfig { wait_for_chain: hour, ..RetryConfig::default() };
        for (code, patient) in
            [(code::STORAGE_TARGET_OFFLINE, true), (code::STORAGE_CHUNK_READ_FAILED, false)]
        {
            let mut retry = Retry::new(&config, &RetryOptions::default());
            let begin = Instant::now();
            while let Some(deadline) = retry.begin() {
                assert!(retry.note(&status(code), None));
                retry.waits_for_chain = !retry.attempt.take().unwrap().met_bad_data;
                sleep(deadline).await;
                retry.backoff.advance();
            }
            let waited = begin.elapsed().as_secs();
            assert_eq!(waited >= 3600, patient, "{code}: {waited} s");
            assert!(waited < 3700);
        }
    }
}
