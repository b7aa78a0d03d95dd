//! Reading pieces of chunks (`StorageOperator.cc`, batchRead).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use valor_chunk_engine::{EngineError, ReadOutput};
use valor_client::join_all;
use valor_protocol::status::code;
use valor_protocol::storage::{
    BatchReadReq, BatchReadRsp, ChecksumInfo, ChecksumType, FeatureFlags, IOResult, ReadIO, UInt8Vector,
};
use valor_protocol::{ChainVersion, ChunkVer, Status};
use valor_rpc::{KnownCrc, WithCrc};

use crate::replica::read;
use crate::storage::{Local, Storage};
use crate::target::{OpenTarget, crc32c, read_status};

/// Data at least this large are sent with their known checksum.
const KNOWN_CRC_MIN: usize = 4 << 10;

impl Storage {
    /// Reads all pieces; any target that cannot be read from fails the whole request.
    pub(crate) async fn batch_read(
        self: &Arc<Self>,
        req: BatchReadReq,
    ) -> Result<WithCrc<BatchReadRsp>, Status> {
        let targets = self.check_read(&req)?;
        let uncommitted = req.feature_flags.contains(FeatureFlags::ALLOW_READ_UNCOMMITTED);
        let bypass = req.feature_flags.contains(FeatureFlags::BYPASS_DISKIO);
        let pieces = req.payloads.iter().zip(&targets).map(|(io, target)| async move {
            if bypass {
                return (IOResult { length_info: Ok(io.length), ..IOResult::default() }, None);
            }
            self.read_piece(io, target, uncommitted, req.checksum_type).await
        });
        let (results, data): (Vec<IOResult>, Vec<Option<ReadOutput>>) =
            join_all(pieces).await.into_iter().unzip();
        self.metrics.reads.increment(results.len() as u64);
        let inline = req.feature_flags.contains(FeatureFlags::SEND_DATA_INLINE);
        let (inlinebuf, known) = if inline { gather(data) } else { (Bytes::new(), Vec::new()) };
        self.metrics.read_bytes.increment(inlinebuf.len() as u64);
        let rsp =
            BatchReadRsp { results, inlinebuf: UInt8Vector { data: inlinebuf }, ..BatchReadRsp::default() };
        Ok(WithCrc { value: rsp, known })
    }

    /// What fails a whole request, else the target of each piece.
    fn check_read(&self, req: &BatchReadReq) -> Result<Vec<Local>, Status> {
        self.check_contact()?;
        let config = self.config.get();
        let map = self.map();
        let mut total = 0;
        let mut targets = Vec::with_capacity(req.payloads.len());
        for io in &req.payloads {
            let target = map.by_chain(io.key.v_chain_id, config.storage.batch_read_ignore_chain_version);
            let target = target.inspect_err(|status| {
                if status.code == code::STORAGE_CLIENT_ROUTING_VERSION_MISMATCH {
                    self.refresh_wanted.notify_one();
                }
            })?;
            if !target.is_up_to_date() {
                let text = format!("read target TargetId({}) is not upToDate", target.info.target_id);
                return Err(Status::new(code::STORAGE_TARGET_STATE_INVALID, text));
            }
            if u64::from(io.length) > io.rdmabuf.size {
                let text = format!("invalid read buffer size {} for length {}", io.rdmabuf.size, io.length);
                return Err(Status::new(code::INVALID_ARG, text));
            }
            total += u64::from(io.length);
            targets.push(Arc::clone(target));
        }
        let in_message = req.feature_flags.contains(FeatureFlags::SEND_DATA_INLINE);
        if !in_message && !req.feature_flags.contains(FeatureFlags::BYPASS_RDMAXMIT) {
            return Err(Status::new(code::INVALID_ARG, "batch read no RDMA socket"));
        }
        let limit = config.storage.max_batch_read_bytes.get();
        if total > limit {
            return Err(Status::new(
                code::INVALID_ARG,
                format!("{total} bytes asked for, at most {limit} are sent"),
            ));
        }
        Ok(targets)
    }

    async fn read_piece(
        &self,
        io: &ReadIO,
        target: &Local,
        uncommitted: bool,
        checksum: ChecksumType,
    ) -> (IOResult, Option<ReadOutput>) {
        let failed = |status: Status| {
            self.metrics.read_failed(status.code);
            (IOResult { length_info: Err(status), ..IOResult::error(0, "") }, None)
        };
        let Some(open) = &target.store else {
            return failed(Status::new(code::STORAGE_TARGET_OFFLINE, "target is offline"));
        };
        let chunk = &io.key.chunk_id;
        if let Err(code) = read::source(&open.local(chunk), uncommitted) {
            return failed(refusal(code));
        }
        let output = match open.read(chunk, io.offset, io.length, uncommitted).await {
            Ok(output) => output,
            Err(error) => {
                self.note_read_failure(open, &error);
                return failed(read_status(&error));
            }
        };
        if output.has_pending && !uncommitted {
            // The update began while the chunk was read.
            return failed(refusal(code::STORAGE_CHUNK_NOT_COMMIT));
        }
        (piece_result(&output, checksum), Some(output))
    }

    fn note_read_failure(&self, open: &OpenTarget, error: &EngineError) {
        if let EngineError::Corrupt { file, offset, chunk, what } = error {
            self.metrics.corrupt_reads.increment(1);
            tracing::error!(target = %open.id, file = %file.display(), offset, ?chunk, what, "corrupt data");
        } else if !matches!(error, EngineError::NotFound(_)) {
            tracing::error!(target = %open.id, %error, "read failed");
        }
    }
}

fn refusal(code: u16) -> Status {
    let text = if code == code::STORAGE_CHUNK_NOT_COMMIT { "an update is not committed yet" } else { "" };
    Status::new(code, text)
}

fn piece_result(output: &ReadOutput, checksum: ChecksumType) -> IOResult {
    let checksum = match checksum {
        ChecksumType::None => ChecksumInfo::default(),
        ChecksumType::Crc32c => crc32c(output.checksum),
        ChecksumType::Crc32 => {
            ChecksumInfo { r#type: ChecksumType::Crc32, value: valor_wire::storage_crc32(&output.data) }
        }
    };
    IOResult {
        length_info: Ok(output.data.len() as u32),
        commit_ver: ChunkVer(output.committed.map_or(0, |version| version.ver)),
        update_ver: ChunkVer(output.version.ver),
        checksum,
        commit_chain_ver: ChainVersion(output.version.chain_ver),
    }
}

/// The pieces one after the other, and what is known of their checksums. A single piece is not copied.
fn gather(pieces: Vec<Option<ReadOutput>>) -> (Bytes, Vec<KnownCrc>) {
    let mut pieces: Vec<ReadOutput> =
        pieces.into_iter().flatten().filter(|piece| !piece.data.is_empty()).collect();
    if pieces.len() == 1
        && let Some(ReadOutput { data, checksum, .. }) = pieces.pop()
    {
        let known = (data.len() >= KNOWN_CRC_MIN).then(|| KnownCrc { data: data.clone(), crc: checksum });
        return (data, known.into_iter().collect());
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(|piece| piece.data.len()).sum());
    for piece in &pieces {
        all.extend_from_slice(&piece.data);
    }
    let all = all.freeze();
    let mut known = Vec::new();
    let mut at = 0;
    for piece in &pieces {
        let end = at + piece.data.len();
        if piece.data.len() >= KNOWN_CRC_MIN {
            known.push(KnownCrc { data: all.slice(at..end), crc: piece.checksum });
        }
        at = end;
    }
    (all, known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_chunk_engine::VersionMeta;

    fn piece(byte: u8, len: usize) -> ReadOutput {
        let data = Bytes::from(vec![byte; len]);
        let checksum = valor_wire::storage_crc32c(&data);
        ReadOutput { data, checksum, version: VersionMeta::default(), committed: None, has_pending: false }
    }

    #[test]
    fn pieces_are_joined_with_their_checksums() {
        let (all, known) = gather(vec![Some(piece(1, 5000)), None, Some(piece(2, 10)), Some(piece(3, 4096))]);
        assert_eq!(all.len(), 9106);
        assert_eq!((all[4999], all[5000], all[5010]), (1, 2, 3));
        assert_eq!(known.len(), 2);
        for known in &known {
            assert_eq!(valor_wire::storage_crc32c(&known.data), known.crc);
        }
        let only = piece(7, 9000);
        let address = only.data.as_ptr();
        let (all, known) = gather(vec![None, Some(only), Some(piece(1, 0))]);
        assert_eq!((all.as_ptr(), known.len()), (address, 1));
        assert_eq!(gather(vec![]).0.len(), 0);
    }
}
