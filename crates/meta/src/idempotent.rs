//! Results of requests that clients send again when they did not see the answer (`src/meta/store/Idempotent.h`).

use std::time::Duration;

use valor_protocol::status::code;
use valor_wire::{Status, Uuid, Wire, from_bytes, to_bytes};

use crate::config::Config;
use crate::core::{Core, Cx, Work};
use crate::error::{Error, Result, corrupt, fail};
use crate::schema::{IDEMPOTENT_PREFIX, IdempotentRecord, idempotent_key, key_after, prefix_end};
use crate::store::{Read, Tx};

/// What this request was answered before. Read with conflict: of two copies running at once only one commits.
pub(crate) async fn load<T: Wire>(
    tx: &mut Tx,
    client: Uuid,
    request: Uuid,
) -> Result<Option<std::result::Result<T, Status>>> {
    let Some(value) = tx.get(&idempotent_key(request, client), Read::Conflict).await? else {
        return Ok(None);
    };
    let record: IdempotentRecord = from_bytes(value).map_err(|error| corrupt("remembered result", &error))?;
    if record.client_id != client || record.request_id != request {
        return fail(code::META_INCONSISTENT, "a remembered result has another request's ids");
    }
    tracing::info!(%request, %client, "request was answered before");
    from_bytes(record.result).map(Some).map_err(|error| corrupt("remembered result", &error))
}

/// Remembers an answer.
pub(crate) fn store<T: Wire>(
    cx: &Cx<'_>,
    tx: &mut Tx,
    client: Uuid,
    request: Uuid,
    result: &std::result::Result<T, Status>,
) {
    let record = IdempotentRecord {
        client_id: client,
        request_id: request,
        timestamp: cx.precise_now(),
        result: to_bytes(result),
    };
    tx.set(&idempotent_key(request, client), to_bytes(&record));
}

const CLEAN_BATCH: usize = 2048;
/// Steps in which ages are counted.
const STEPS: usize = 64;

/// How many records there are of each age.
#[derive(Clone, Debug)]
struct Ages {
    expire: Duration,
    counts: [u64; STEPS],
}

impl Ages {
    fn new(expire: Duration) -> Ages {
        Ages { expire, counts: [0; STEPS] }
    }

    fn add(&mut self, age: Duration) {
        let step = self.expire.as_micros().max(1).div_ceil(STEPS as u128);
        let index = (age.as_micros() / step).min(STEPS as u128 - 1) as usize;
        self.counts[index] += 1;
    }

    /// The age up to which there are at most `limit` records; none if there are no more in all.
    fn bound(&self, limit: u64) -> Option<Duration> {
        let mut sum = 0;
        let over = self.counts.iter().position(|count| {
            sum += count;
            sum > limit
        })?;
        Some(self.expire.mul_f64(over as f64 / STEPS as f64))
    }
}

struct Clean {
    begin: Vec<u8>,
    expire: Duration,
}

/// What one step of cleaning did.
struct Cleaned {
    dropped: usize,
    kept: Vec<Duration>,
    /// Where to continue.
    next: Option<Vec<u8>>,
}

impl Work for Clean {
    type Output = Cleaned;

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<Self::Output> {
        let page = tx.range(&self.begin, &prefix_end(IDEMPOTENT_PREFIX), CLEAN_BATCH, Read::Snapshot).await?;
        let now = cx.precise_now().0;
        let (mut dropped, mut kept) = (0, Vec::with_capacity(page.items.len()));
        for (key, value) in &page.items {
            match from_bytes::<IdempotentRecord>(value.clone()) {
                Ok(record) => {
                    let age = now.saturating_sub(record.timestamp.0);
                    let age = Duration::from_micros(u64::try_from(age).unwrap_or(0));
                    if age > self.expire {
                        tx.clear(key);
                        dropped += 1;
                    } else {
                        kept.push(age);
                    }
                }
                Err(error) => tracing::error!(%error, "a remembered result cannot be decoded"),
            }
        }
        let next = page.items.last().filter(|_| page.more).map(|(key, _)| key_after(key).to_vec());
        Ok(Cleaned { dropped, kept, next })
    }
}

/// Drops what is older than `expire`; gives the number, and the ages of the rest.
async fn drop_older(core: &Core, expire: Duration) -> std::result::Result<(usize, Ages), Error> {
    let mut begin = IDEMPOTENT_PREFIX.to_vec();
    let (mut total, mut ages) = (0, Ages::new(expire));
    loop {
        let cleaned = core.transact(Clean { begin, expire }).await?;
        total += cleaned.dropped;
        cleaned.kept.into_iter().for_each(|age| ages.add(age));
        match cleaned.next {
            Some(next) => begin = next,
            None => return Ok((total, ages)),
        }
    }
}

/// Drops what is older than `idempotent_record_expire`, and the oldest beyond `idempotent_record_limit`; gives the number.
pub(crate) async fn clean(core: &Core) -> std::result::Result<usize, Error> {
    let config = core.config.get();
    let (mut total, ages) = drop_older(core, config.idempotent_record_expire.get()).await?;
    if let Some(age) = ages.bound(config.idempotent_record_limit) {
        tracing::warn!(?age, "too many remembered results, older ones are dropped before their time");
        total += drop_older(core, age).await?.0;
    }
    Ok(total)
}

/// Pause between two rounds of [`clean`]: each reads all records, which need not happen more than a few times in their
/// lives.
pub(crate) fn clean_interval(config: &Config) -> Duration {
    config.idempotent_record_clean.get().max(config.idempotent_record_expire.get() / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_records_go_when_there_are_too_many() {
        let mut ages = Ages::new(Duration::from_secs(64));
        (0..64).for_each(|age| ages.add(Duration::from_secs(age)));
        assert_eq!(ages.bound(64), None);
        assert_eq!(ages.bound(63), Some(Duration::from_secs(63)));
        assert_eq!(ages.bound(10), Some(Duration::from_secs(10)));
        assert_eq!(ages.bound(0), Some(Duration::ZERO));
        ages.add(Duration::MAX);
        assert_eq!(ages.bound(64), Some(Duration::from_secs(63)), "a clock may be wrong");
    }
}
