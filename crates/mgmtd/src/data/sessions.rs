//! Clients that are alive, in memory only (`src/mgmtd/ops/ExtendClientSessionOperation.cc`).

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use valor_protocol::mgmtd::{ClientSession, ExtendClientSessionReq};
use valor_protocol::status::code;
use valor_protocol::{ClientSessionVersion, Status, UtcTime};

/// Bounds the memory that callers with made-up ids can take.
const MAX_SESSIONS: usize = 1 << 20;

/// One client.
#[derive(Clone, Debug)]
pub struct Session {
    /// What others are told.
    pub info: ClientSession,
    version: ClientSessionVersion,
    extended: Instant,
}

/// All of them, by client id.
#[derive(Debug, Default)]
pub struct Sessions(BTreeMap<String, Session>);

impl Sessions {
    /// Creates or extends a session.
    ///
    /// # Errors
    /// 5010 with the known version if the request's is not newer; 5014 if the client is not the one known; 26 if
    /// there are too many.
    pub fn extend(&mut self, req: &ExtendClientSessionReq, now: UtcTime, at: Instant) -> Result<(), Status> {
        if let Some(session) = self.0.get_mut(&req.client_id) {
            return session.extend(req, now, at);
        }
        if self.0.len() >= MAX_SESSIONS {
            return Err(Status::new(code::NOT_ENOUGH_MEMORY, "too many client sessions"));
        }
        // As in 3FS the first request's version is not remembered, so that it may be sent again.
        let version = ClientSessionVersion(0);
        let session = Session { info: new_session(req, now), version, extended: at };
        self.0.insert(req.client_id.clone(), session);
        Ok(())
    }

    /// One of them.
    pub fn get(&self, client_id: &str) -> Option<&ClientSession> {
        self.0.get(client_id).map(|session| &session.info)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &ClientSession> {
        self.0.values().map(|session| &session.info)
    }

    /// Forgets clients that were silent for longer than `timeout`, and names them.
    pub fn expire(&mut self, timeout: Duration, at: Instant) -> Vec<String> {
        let silent = |session: &Session| at.saturating_duration_since(session.extended) > timeout;
        let gone: Vec<String> =
            self.0.iter().filter(|(_, session)| silent(session)).map(|(id, _)| id.clone()).collect();
        gone.iter().for_each(|id| drop(self.0.remove(id)));
        gone
    }
}

impl Session {
    fn extend(&mut self, req: &ExtendClientSessionReq, now: UtcTime, at: Instant) -> Result<(), Status> {
        if self.version >= req.client_session_version {
            return Err(Status::new(code::MGMTD_CLIENT_SESSION_VERSION_STALE, self.version.to_string()));
        }
        if let Some(difference) = difference(&self.info, req) {
            return Err(Status::new(code::MGMTD_EXTEND_CLIENT_SESSION_MISMATCH, difference));
        }
        self.version = req.client_session_version;
        self.info.config_version = req.config_version;
        self.info.config_status = req.config_status;
        self.info.last_extend = now;
        self.extended = at;
        Ok(())
    }
}

fn new_session(req: &ExtendClientSessionReq, now: UtcTime) -> ClientSession {
    ClientSession {
        client_id: req.client_id.clone(),
        config_version: req.config_version,
        start: now,
        last_extend: now,
        universal_id: req.data.universal_id.clone(),
        description: req.data.description.clone(),
        service_groups: req.data.service_groups.clone(),
        release_version: req.data.release_version.clone(),
        config_status: req.config_status,
        r#type: req.r#type,
        client_start: req.client_start,
    }
}

/// What a client may not change in its lifetime, if it did.
fn difference(known: &ClientSession, req: &ExtendClientSessionReq) -> Option<String> {
    fn compare<T: PartialEq + std::fmt::Debug>(what: &str, known: &T, got: &T) -> Option<String> {
        (known != got).then(|| format!("Expected {what}: {known:?}. In request: {got:?}"))
    }
    compare("universalId", &known.universal_id, &req.data.universal_id)
        .or_else(|| compare("description", &known.description, &req.data.description))
        .or_else(|| compare("serviceGroups", &known.service_groups, &req.data.service_groups))
        .or_else(|| compare("releaseVersion", &known.release_version, &req.data.release_version))
        .or_else(|| compare("type", &known.r#type, &req.r#type))
        .or_else(|| compare("clientStart", &known.client_start, &req.client_start))
}
