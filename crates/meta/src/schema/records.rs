//! Values that only the store knows; the others are messages of `valor_protocol::meta`.

use bytes::Bytes;
use valor_protocol::app::ClientId;
use valor_protocol::meta::SessionInfo;
use valor_protocol::{InodeId, NodeId};
use valor_wire::{UtcTime, Uuid, Wire};

/// An open file (`src/meta/store/FileSession.h`). A file with a session is not garbage collected.
#[derive(Debug, Clone, PartialEq, Default, Wire)]
pub struct FileSession {
    /// The file.
    pub inode_id: InodeId,
    /// Who opened it.
    pub client_id: ClientId,
    /// Random, from the client.
    pub session_id: Uuid,
    /// When it was opened.
    pub timestamp: UtcTime,
    /// Unused by C++ 3FS; ours keeps the session's append reservation there (see the module `append`).
    pub payload: String,
}

impl FileSession {
    /// A session opened now.
    #[must_use]
    pub fn new(inode: InodeId, session: &SessionInfo, now: UtcTime) -> Self {
        Self {
            inode_id: inode,
            client_id: session.client.clone(),
            session_id: session.session,
            timestamp: now,
            payload: String::new(),
        }
    }
}

/// The result of a request that may be sent again (`src/meta/store/Idempotent.h`).
#[derive(Debug, Clone, PartialEq, Default, Wire)]
pub struct IdempotentRecord {
    /// Who asked.
    pub client_id: Uuid,
    /// Which request.
    pub request_id: Uuid,
    /// When it was answered.
    pub timestamp: UtcTime,
    /// Encoded `Result` of the response.
    pub result: Bytes,
}

/// The metadata servers that share the inodes (`src/meta/components/Distributor.h`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Wire)]
pub struct ServerMap {
    /// Active servers in ascending order.
    pub active: Vec<NodeId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::meta::{InodeData, RemoveRsp};
    use valor_wire::{Status, from_bytes, to_bytes};

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// An inode as stored by C++ 3FS (recorded: `structs/InodeData_file`).
    const INODE_FILE: &str = "730446696c65420000a00000000000090000000000000029010000000200000000000800030000000a436861696e52616e67650d0700000001efbeadde000000000100000002000000100100000002000000ed01000010000000030001401e18240a060002401e18240a060003401e18240a0600";

    #[test]
    fn stored_inodes_keep_their_bytes() {
        let bytes = Bytes::from(unhex(INODE_FILE));
        let data: InodeData = from_bytes(bytes.clone()).unwrap();
        assert_eq!(data.as_file().unwrap().length, 10_485_760);
        assert_eq!(to_bytes(&data), bytes);
    }

    #[test]
    fn a_session_is_one_table() {
        let client = ClientId { uuid: Uuid(std::array::from_fn(|i| i as u8 + 1)), hostname: "h".into() };
        let info = SessionInfo { client, session: Uuid([0xfe; 16]) };
        let session = FileSession::new(InodeId(0x1001), &info, UtcTime(1_700_000_000_000_001));
        let expected = "3c0110000000000000120102030405060708090a0b0c0d0e0f100168fefefefefefefefefefefefefefefefe01401e18240a060000";
        let expected = unhex(expected);
        let bytes = to_bytes(&session);
        // Length byte: 8 inode + 19 client + 16 session + 8 time + 1 payload.
        assert_eq!(bytes[0], 52);
        assert_eq!(bytes[1..], expected[1..]);
        assert_eq!(from_bytes::<FileSession>(bytes).unwrap(), session);
    }

    #[test]
    fn a_remembered_result_is_a_length_and_a_result() {
        let result: Result<RemoveRsp, Status> = Err(Status { code: 3001, message: String::new() });
        let record = IdempotentRecord {
            client_id: Uuid([1; 16]),
            request_id: Uuid([2; 16]),
            timestamp: UtcTime(3),
            result: to_bytes(&result),
        };
        let bytes = to_bytes(&record);
        assert_eq!(bytes[1..17], [1; 16]);
        assert_eq!(bytes[17..33], [2; 16]);
        assert_eq!(usize::from(bytes[41]), record.result.len());
        assert_eq!(from_bytes::<IdempotentRecord>(bytes).unwrap(), record);
    }

    #[test]
    fn a_server_map_is_a_table_with_a_vector() {
        let map = ServerMap { active: vec![NodeId(50), NodeId(51)] };
        assert_eq!(to_bytes(&map).as_ref(), unhex("09023200000033000000"));
    }
}
