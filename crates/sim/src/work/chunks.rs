//! Reads and writes of chunks as registers: each write has a value of its own, and the history of each register must be
//! linearizable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use valor_client::storage::{RangeOp, ReadOp, ReadOptions, StorageClient, WriteOp, WriteOptions};
use valor_protocol::ChainId;
use valor_protocol::status::code;
use valor_protocol::storage::{ChunkId, ChunkIdRange};
use valor_wire::Status;

use super::{Hand, fill, is_bug};
use crate::check::linear::{self, Action, Op};
use crate::check::{Memory, Verdict};
use crate::cluster::{CHUNK_SIZE, ROOT, chain_id};
use crate::rng::Rng;

/// A removal that was faster than this was not repeated.
const SURELY_ONE_ATTEMPT: Duration = Duration::from_millis(5);

/// A register: a range of a chunk that is always read and written as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Register {
    /// Chain.
    pub chain: ChainId,
    /// Chunk.
    pub chunk: u8,
    /// Offset in the chunk.
    pub offset: u32,
    /// Length.
    pub len: u32,
    /// Alone in its chunk, so that removing the chunk sets it to its initial value.
    pub alone: bool,
}

impl Register {
    /// Id of the chunk; not of the form that files' chunks have.
    pub fn chunk_id(&self) -> ChunkId {
        ChunkId::from_slice(&[b"sim-".as_slice(), &self.chain.0.to_be_bytes(), &[self.chunk]].concat())
    }
}

/// The registers of a run.
pub fn registers(chains: u8, per_chain: u8) -> Vec<Register> {
    let mut all = Vec::new();
    for chain in (0..chains).map(chain_id) {
        for chunk in 0..per_chain {
            // Small ranges, which cross the blocks of the engine; ranges of some blocks; one that fills the chunk.
            let (count, step, len) = match chunk % 3 {
                0 => (3, 3000, 3000),
                1 => (2, 24_000, 20_000),
                _ => (1, 0, CHUNK_SIZE),
            };
            let alone = count == 1;
            all.extend((0..count).map(|n| Register { chain, chunk, offset: n * step, len, alone }));
        }
    }
    all
}

/// Histories of all registers.
#[derive(Default)]
pub struct History(Mutex<BTreeMap<Register, Vec<Op>>>);

impl History {
    fn add(&self, register: Register, op: Op) {
        self.0.lock().entry(register).or_default().push(op);
    }

    /// Checks all histories; returns the number of operations.
    pub fn check(&self, verdict: &Verdict) -> usize {
        let histories = self.0.lock();
        for (register, ops) in histories.iter() {
            if let Err(why) = linear::check(ops) {
                verdict.violation(format!("{register:?} {} is not linearizable: {why}", register.chunk_id()));
            }
        }
        histories.values().map(Vec::len).sum()
    }
}

/// One client's work on registers.
pub struct Worker {
    /// Number of the worker, part of its values.
    pub id: u32,
    /// Client.
    pub storage: Arc<StorageClient>,
    /// Registers.
    pub registers: Arc<Vec<Register>>,
    /// Histories.
    pub history: Arc<History>,
    /// Shared.
    pub hand: Hand,
    /// Which storage servers know who was answered.
    pub memory: Arc<Memory>,
    /// Violations.
    pub verdict: Verdict,
    /// Choices.
    pub rng: Rng,
    /// Longest pause between two operations, in milliseconds.
    pub pause: u64,
    /// Share of reads.
    pub reads: f64,
    /// Writes so far.
    pub written: u64,
}

impl Worker {
    /// Works until asked to stop.
    pub async fn run(mut self) {
        while !self.hand.is_stopping() {
            let register = *self.rng.pick(&self.registers);
            if self.rng.chance(self.reads) {
                // Failures are noted; a read that fails says nothing about the register.
                let _ = self.read(register).await;
            } else if register.alone && self.rng.chance(0.15) {
                self.remove(register).await;
            } else {
                self.write(register).await;
            }
            let pause = self.rng.millis(0..self.pause + 1);
            sleep(pause).await;
        }
    }

    /// Reads all registers once, in a cluster that must answer.
    pub async fn read_all(&mut self) {
        let registers = Arc::clone(&self.registers);
        for register in registers.iter().copied() {
            if let Err(status) = self.read(register).await {
                self.verdict.violation(format!("{register:?} cannot be read: {status}"));
            }
        }
    }

    fn note(&self, register: Register, action: Action, call: u64, ret: u64) {
        self.history.add(register, Op { client: self.id, action, call, ret });
    }

    fn look<T>(&self, register: Register, what: &str, result: &Result<T, Status>) {
        self.hand.count(result);
        if let Err(status) = result {
            tracing::debug!(worker = self.id, ?register, what, %status, "operation failed");
            if is_bug(status) {
                self.verdict.violation(format!("{what} of {register:?}: {status}"));
            }
        }
    }

    async fn read(&mut self, register: Register) -> Result<(), Status> {
        let op = ReadOp {
            chain_id: register.chain,
            chunk_id: register.chunk_id(),
            offset: register.offset,
            length: register.len,
        };
        let call = self.hand.tick();
        let mut results = self.storage.batch_read(&[op], &ROOT, &ReadOptions::default()).await;
        let result = match results.remove(0) {
            Ok(done) => Ok(done.data),
            Err(status) if status.code == code::STORAGE_CLIENT_CHUNK_NOT_FOUND => Ok(bytes::Bytes::new()),
            Err(status) => Err(status),
        };
        let ret = self.hand.tick();
        self.look(register, "read", &result);
        let data = result?;
        match value_of(&data, register.len as usize) {
            Some(value) => {
                tracing::trace!(
                    worker = self.id,
                    ?register,
                    value = format_args!("{value:x}"),
                    call,
                    ret,
                    "read"
                );
                self.note(register, Action::Read(value), call, ret);
            }
            None => {
                let head = &data[..data.len().min(16)];
                let text =
                    format!("{register:?} holds no value that was written: {} bytes {head:02x?}", data.len());
                self.verdict.violation(text);
            }
        }
        Ok(())
    }

    async fn write(&mut self, register: Register) {
        self.written += 1;
        let value = u64::from(self.id) << 32 | self.written;
        let op = WriteOp {
            chain_id: register.chain,
            chunk_id: register.chunk_id(),
            offset: register.offset,
            chunk_size: CHUNK_SIZE,
            data: fill(value, register.len as usize).into(),
        };
        let lost = self.memory.lost();
        let call = self.hand.tick();
        let result = self.storage.write(&op, &ROOT, &WriteOptions::default()).await;
        let ret = if result.is_ok() { self.hand.tick() } else { u64::MAX };
        // Servers remember whom they answered in memory, and of earlier lives only the last update of each chunk. What was
        // under way when the last process of a chain that remembered has ended may be applied twice.
        if self.memory.lost() != lost {
            self.note(register, Action::Write(value), call, u64::MAX);
        }
        self.look(register, "write", &result);
        tracing::trace!(worker = self.id, ?register, value = format_args!("{value:x}"), call, ret, "write");
        self.note(register, Action::Write(value), call, ret);
    }

    async fn remove(&mut self, register: Register) {
        let id = register.chunk_id();
        let end = ChunkId::from_slice(&[id.as_slice(), &[0]].concat());
        let range = ChunkIdRange { begin: id, end, max_num_chunk_ids_to_process: 4 };
        let op = RangeOp { chain_id: register.chain, range };
        let begun = Instant::now();
        let call = self.hand.tick();
        let mut results = self.storage.remove_chunks(&[op], &ROOT, &WriteOptions::default()).await;
        let result = results.remove(0);
        let ret = if result.is_ok() { self.hand.tick() } else { u64::MAX };
        self.look(register, "removal", &result);
        tracing::trace!(worker = self.id, ?register, call, ret, "removal");
        // An attempt whose answer is lost is not recognised when it comes again (removals take new sequence numbers), so
        // a removal may take effect more than once.
        if result.is_err() || begun.elapsed() > SURELY_ONE_ATTEMPT {
            self.note(register, Action::Write(0), call, u64::MAX);
        }
        self.note(register, Action::Write(0), call, ret);
    }
}

/// The value that bytes of a register belong to; nothing and zeros are the initial one.
fn value_of(data: &[u8], len: usize) -> Option<u64> {
    if data.iter().all(|byte| *byte == 0) {
        return Some(0);
    }
    let value = u64::from_le_bytes(*data.first_chunk()?);
    (data == fill(value, len)).then_some(value)
}
