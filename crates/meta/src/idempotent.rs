//! Results of requests that clients send again when they did not see the answer (`src/meta/store/Idempotent.h`).

use std::time::Duration;

use valor_protocol::status::code;
use valor_wire::{Status, Uuid, Wire, from_bytes, to_bytes};

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

struct Clean {
    begin: Vec<u8>,
    expire: Duration,
}

impl Work for Clean {
    /// Records dropped, and where to continue.
    type Output = (usize, Option<Vec<u8>>);

    async fn run(&mut self, cx: &Cx<'_>, tx: &mut Tx) -> Result<Self::Output> {
        let page = tx.range(&self.begin, &prefix_end(IDEMPOTENT_PREFIX), CLEAN_BATCH, Read::Snapshot).await?;
        let expire = i64::try_from(self.expire.as_micros()).unwrap_or(i64::MAX);
        let oldest = cx.precise_now().0.saturating_sub(expire);
        let mut dropped = 0;
        for (key, value) in &page.items {
            match from_bytes::<IdempotentRecord>(value.clone()) {
                Ok(record) if record.timestamp.0 < oldest => {
                    tx.clear(key);
                    dropped += 1;
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "a remembered result cannot be decoded"),
            }
        }
        let next = page.items.last().filter(|_| page.more).map(|(key, _)| key_after(key).to_vec());
        Ok((dropped, next))
    }
}

/// Drops what is older than `idempotent_record_expire`; gives the number.
pub(crate) async fn clean(core: &Core) -> std::result::Result<usize, Error> {
    let mut begin = IDEMPOTENT_PREFIX.to_vec();
    let mut total = 0;
    loop {
        let expire = core.config.get().idempotent_record_expire.get();
        let (dropped, next) = core.transact(Clean { begin, expire }).await?;
        total += dropped;
        match next {
            Some(next) => begin = next,
            None => return Ok(total),
        }
    }
}
