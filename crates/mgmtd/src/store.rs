//! The manager's transactions: what they read and write, and how often they are tried.

use crate::config::{Config, ConfigSource};
use crate::data::Loaded;
use crate::error;
use crate::lease::{self, Candidate};
use crate::schema::{self, CorruptRecord, Write};
use crate::tags;
use bytes::Bytes;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use valor_env::Env;
use valor_env::metrics as names;
use valor_kv::{Database, KvError, RunOptions, Transaction, TransactionError, key_after, prefix_end};
use valor_protocol::app::{ReleaseVersion, TagPair};
use valor_protocol::mgmtd::{MgmtdLeaseInfo, NodeType, PersistentNodeInfo};
use valor_protocol::status::code;
use valor_protocol::{NodeId, RoutingInfoVersion, Status, UtcTime};

/// First wait after a failed attempt.
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
/// Wait between the rounds of attempts that follow if the quick ones all failed.
const SLOW_RETRY: Duration = Duration::from_secs(1);

/// The manager's view of the key-value store.
pub(crate) struct Store {
    env: Env,
    db: Database,
    config: ConfigSource,
    own_id: NodeId,
    stopped: watch::Receiver<bool>,
    /// The lease as it was last seen, and since when it is like that.
    seen: Mutex<Option<(MgmtdLeaseInfo, Instant)>>,
}

/// A transaction's content. It may run several times, and take effect several times; the last time counts.
trait Content: Sync {
    type Output: Send;
    fn run(
        &self,
        store: &Store,
        tx: &Transaction,
    ) -> impl Future<Output = Result<Self::Output, Failure>> + Send;
}

/// Why a transaction failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The store's doing.
    Kv(KvError),
    /// Its content's doing; another attempt would end the same way.
    Refused(Status),
}

impl From<KvError> for Failure {
    fn from(error: KvError) -> Self {
        Self::Kv(error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl From<CorruptRecord> for Failure {
    fn from(error: CorruptRecord) -> Self {
        Self::Refused(Status::new(code::DATA_CORRUPTION, error.to_string()))
    }
}

impl TransactionError for Failure {
    fn transaction_code(&self) -> Option<u16> {
        match self {
            Self::Kv(error) => Some(error.code()),
            Self::Refused(_) => None,
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        match failure {
            // The request was too large, and so will it be the next time.
            Failure::Kv(error @ (KvError::TooLarge { .. } | KvError::Illegal(_))) => {
                error::invalid(error.to_string())
            }
            Failure::Kv(error) => error.into(),
            Failure::Refused(status) => status,
        }
    }
}

impl Store {
    pub fn new(
        env: Env,
        db: Database,
        config: ConfigSource,
        own_id: NodeId,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self { env, db, config, own_id, stopped, seen: Mutex::default() }
    }

    /// Applies `writes`, and sets the routing version if one is given. Goes on until it succeeds, unless the lease is
    /// lost or the configuration says otherwise.
    ///
    /// # Errors
    /// 5000 if the stored lease is not ours; 1xxx.
    pub async fn write(&self, version: Option<RoutingInfoVersion>, writes: &[Write]) -> Result<(), Status> {
        self.persistently(&WriteAll { version, writes }).await
    }

    /// Looks at the lease, and takes or extends it if that is possible: the lease as it is then, or `None` if this
    /// manager is disabled; and when the transaction began, if it wrote the lease.
    ///
    /// # Errors
    /// 1xxx, 2.
    pub async fn extend_lease(
        &self,
        own: &PersistentNodeInfo,
        release: &ReleaseVersion,
    ) -> Result<(Option<MgmtdLeaseInfo>, Option<Instant>), Status> {
        self.persistently(&ExtendLease { own, release }).await
    }

    /// Reads everything for a new lease and raises the routing version. Also returns this manager's tags, which only
    /// the store has; the rest of its record is brought up to date.
    ///
    /// # Errors
    /// 5000, 1xxx; 2 if the store holds something that is not understood.
    pub async fn load(&self, own: &PersistentNodeInfo) -> Result<(Loaded, Vec<TagPair>), Status> {
        self.persistently(&Load { own }).await
    }

    /// The lease, whoever has it and even if it has ended.
    ///
    /// # Errors
    /// 1xxx, 2.
    pub async fn lease(&self) -> Result<Option<MgmtdLeaseInfo>, Status> {
        self.quickly(&ReadLease).await
    }

    /// Ends our lease now.
    ///
    /// # Errors
    /// 1xxx, 2.
    pub async fn release_lease(&self, held: &MgmtdLeaseInfo) -> Result<(), Status> {
        self.quickly(&ReleaseLease { held }).await
    }

    fn utc_now(&self) -> UtcTime {
        UtcTime(self.env.utc_now().0)
    }

    /// Takes note of the stored lease; how long it has been like that as far as this manager knows.
    fn watch(&self, stored: &MgmtdLeaseInfo) -> Duration {
        let mut seen = self.seen.lock();
        match &*seen {
            Some((known, since)) if known == stored => since.elapsed(),
            _ => {
                *seen = Some((stored.clone(), Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// A round of attempts with growing waits.
    async fn quickly<C: Content>(&self, content: &C) -> Result<C::Output, Status> {
        let limits = self.config.get().retry_transaction.clone();
        let options = RunOptions {
            attempts_max: limits.max_retry_count.saturating_add(1),
            time_max: Duration::MAX,
            backoff_min: FIRST_BACKOFF,
            backoff_max: limits.max_backoff.get(),
            retry_maybe_committed: true,
        };
        let run = |tx: Transaction| async move { content.run(self, &tx).await };
        self.db.run_with(&options, run).await.map_err(Status::from)
    }

    /// Rounds of attempts, as many as configured, until this manager stops.
    async fn persistently<C: Content>(&self, content: &C) -> Result<C::Output, Status> {
        let mut stopped = self.stopped.clone();
        let mut rounds = 0;
        loop {
            let status = match self.quickly(content).await {
                Err(status) if is_transaction_error(status.code) => status,
                result => return result,
            };
            let limit = self.config.get().retry_times_on_txn_errors;
            if limit >= 0 && rounds >= limit {
                return Err(status);
            }
            rounds += 1;
            tracing::error!(rounds, %status, "transaction failed; the store seems to be unavailable");
            metrics::counter!(names::MGMTD_WRITE_RETRIES).increment(1);
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => return Err(status),
                () = tokio::time::sleep(SLOW_RETRY) => {}
            }
        }
    }
}

fn is_transaction_error(code: u16) -> bool {
    (1000..2000).contains(&code)
}

pub(crate) fn apply(tx: &Transaction, writes: &[Write]) {
    for write in writes {
        match write {
            Write::Put(key, value) => tx.set(key, value),
            Write::Clear(key) => tx.clear(key),
        }
    }
}

async fn read_lease(tx: &Transaction) -> Result<Option<MgmtdLeaseInfo>, Failure> {
    let record = tx.get(schema::LEASE_KEY).await?;
    Ok(record.map(schema::read_lease).transpose()?)
}

/// All records whose keys start with `prefix`.
pub(crate) async fn read_all<T>(
    tx: &Transaction,
    prefix: &[u8],
    read: impl Fn(&[u8], Bytes) -> Result<T, CorruptRecord> + Send,
) -> Result<Vec<T>, Failure> {
    const PAGE: usize = 4096;
    let (mut begin, end) = (Bytes::copy_from_slice(prefix), prefix_end(prefix));
    let mut all = Vec::new();
    loop {
        let page = tx.get_range(&begin, &end, PAGE, false).await?;
        if let Some(last) = page.items.last() {
            begin = key_after(&last.key);
        }
        for item in page.items {
            all.push(read(&item.key, item.value)?);
        }
        if !page.more {
            return Ok(all);
        }
    }
}

struct WriteAll<'a> {
    version: Option<RoutingInfoVersion>,
    writes: &'a [Write],
}

impl Content for WriteAll<'_> {
    type Output = ();

    async fn run(&self, store: &Store, tx: &Transaction) -> Result<(), Failure> {
        check_lease(store, tx).await?;
        if let Some(version) = self.version {
            apply(tx, &[schema::put_routing_version(version)]);
        }
        apply(tx, self.writes);
        Ok(())
    }
}

async fn check_lease(store: &Store, tx: &Transaction) -> Result<(), Failure> {
    if store.config.get().validate_lease_on_write {
        let stored = read_lease(tx).await?;
        lease::check_stored(stored.as_ref(), store.own_id, store.utc_now())?;
    }
    Ok(())
}

struct ExtendLease<'a> {
    own: &'a PersistentNodeInfo,
    release: &'a ReleaseVersion,
}

impl Content for ExtendLease<'_> {
    type Output = (Option<MgmtdLeaseInfo>, Option<Instant>);

    async fn run(&self, store: &Store, tx: &Transaction) -> Result<Self::Output, Failure> {
        let begun = Instant::now();
        let key = schema::node_key(store.own_id);
        if let Some(record) = tx.get(&key).await?
            && tags::disable(&schema::read_node(&key, record)?.tags)
        {
            return Ok((None, None));
        }
        let stored = read_lease(tx).await?;
        let config: &Config = &store.config.get();
        let candidate = Candidate {
            node: self.own,
            release: self.release,
            now: store.utc_now(),
            length: config.lease_length.get(),
            check_release: config.extend_lease_check_release_version,
            trust: lease::trust(config.lease_length.get(), config.suspicious_lease_interval.get()),
            watched: stored.as_ref().map_or(Duration::ZERO, |stored| store.watch(stored)),
        };
        let Some(claimed) = lease::claim(stored.as_ref(), &candidate) else { return Ok((stored, None)) };
        apply(tx, &[schema::put_lease(&claimed)]);
        Ok((Some(claimed), Some(begun)))
    }
}

struct ReadLease;

impl Content for ReadLease {
    type Output = Option<MgmtdLeaseInfo>;

    async fn run(&self, _: &Store, tx: &Transaction) -> Result<Self::Output, Failure> {
        read_lease(tx).await
    }
}

struct ReleaseLease<'a> {
    held: &'a MgmtdLeaseInfo,
}

impl Content for ReleaseLease<'_> {
    type Output = ();

    async fn run(&self, _: &Store, tx: &Transaction) -> Result<(), Failure> {
        let Some(stored) = read_lease(tx).await? else { return Ok(()) };
        let ours = stored.primary.node_id == self.held.primary.node_id
            && stored.lease_start == self.held.lease_start;
        if ours {
            apply(tx, &[schema::put_lease(&lease::given_up(stored))]);
        }
        Ok(())
    }
}

struct Load<'a> {
    own: &'a PersistentNodeInfo,
}

impl Content for Load<'_> {
    type Output = (Loaded, Vec<TagPair>);

    async fn run(&self, store: &Store, tx: &Transaction) -> Result<Self::Output, Failure> {
        use schema::prefix;
        check_lease(store, tx).await?;
        let stored = schema::read_routing_version(tx.get(schema::ROUTING_VERSION_KEY).await?)?;
        let routing_version = RoutingInfoVersion(stored.0.wrapping_add(1));
        let loaded = Loaded {
            routing_version,
            nodes: read_all(tx, prefix::NODE, schema::read_node).await?,
            configs: read_all(tx, prefix::CONFIG, schema::read_config).await?,
            chain_tables: read_all(tx, prefix::CHAIN_TABLE, schema::read_chain_table).await?,
            chains: read_all(tx, prefix::CHAIN, schema::read_chain).await?,
            universal_tags: read_all(tx, prefix::UNIVERSAL_TAGS, schema::read_universal_tags).await?,
            targets: read_all(tx, prefix::TARGET, schema::read_target).await?,
        };
        let mut own = self.own.clone();
        let known = loaded.nodes.iter().find(|node| node.node_id == own.node_id);
        if let Some(known) = known {
            if known.r#type != NodeType::Mgmtd {
                let (id, kind) = (own.node_id, known.r#type.name());
                let text = format!("node id {id} belongs to a node of type {kind}");
                return Err(Status::new(code::MGMTD_NODE_TYPE_MISMATCH, text).into());
            }
            own.tags.clone_from(&known.tags);
        }
        if known != Some(&own) {
            apply(tx, &[schema::put_node(&own)]);
        }
        apply(tx, &[schema::put_routing_version(routing_version)]);
        Ok((loaded, own.tags))
    }
}
