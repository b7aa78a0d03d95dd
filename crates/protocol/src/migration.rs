//! Migration service: a stub in the open 3FS (`src/fbs/migration/SerdeService.h`).

use bstr::BString;
use valor_wire::{UtcTime, Uuid, Wire};

/// State of a job; four bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Wire)]
#[repr(u32)]
pub enum JobStatus {
    /// Not known to the service.
    #[default]
    NotSubmitted = 0,
    /// Waiting.
    Pending = 1,
    /// At work.
    Running = 2,
    /// Ended with an error.
    Failed = 3,
    /// Ended by request.
    Stopped = 4,
    /// Done.
    Succeeded = 5,
}

/// Request of `start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct StartJobReq {
    /// Job.
    pub id: Uuid,
    /// What to migrate.
    pub path: BString,
    /// Files older than this.
    pub mtime: UtcTime,
}

/// Reply of `start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct StartJobRsp {
    /// State afterwards.
    pub status: JobStatus,
}

/// Request of `stop`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct StopJobReq {
    /// Job.
    pub id: Uuid,
}

/// Reply of `stop`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct StopJobRsp {
    /// State afterwards.
    pub status: JobStatus,
}

/// Request of `list`.
#[derive(Clone, Debug, PartialEq, Eq, Wire)]
pub struct ListJobsReq {
    /// Only jobs of this path.
    pub path: BString,
    /// Only these jobs.
    pub ids: Vec<Uuid>,
    /// Only jobs in this state.
    pub status: JobStatus,
    /// Only jobs started after.
    pub after: UtcTime,
    /// At most so many.
    pub limit: u32,
}

impl Default for ListJobsReq {
    fn default() -> Self {
        ListJobsReq {
            path: BString::default(),
            ids: Vec::new(),
            status: JobStatus::Running,
            after: UtcTime::default(),
            limit: 10,
        }
    }
}

/// One job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct JobInfo {
    /// Job.
    pub id: Uuid,
    /// What it migrates.
    pub path: BString,
    /// Files older than this.
    pub mtime: UtcTime,
    /// State.
    pub status: JobStatus,
    /// Begin.
    pub start_time: UtcTime,
    /// End.
    pub finish_time: UtcTime,
    /// Files found.
    pub num_files_found: u64,
    /// Files copied.
    pub num_files_copied: u64,
    /// Source files removed.
    pub num_src_files_removed: u64,
    /// Bytes found.
    pub bytes_of_files_found: u64,
    /// Bytes copied.
    pub bytes_of_files_copied: u64,
}

/// Reply of `list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct ListJobsRsp {
    /// Jobs.
    pub jobs: Vec<JobInfo>,
}

/// Methods of the migration service.
pub mod methods {
    use super::*;
    crate::method::methods! { "MigrationSerde", 0xf1;
        /// Starts a job.
        Start = 1 "start" (StartJobReq) -> StartJobRsp;
        /// Stops a job.
        Stop = 2 "stop" (StopJobReq) -> StopJobRsp;
        /// Lists jobs.
        List = 3 "list" (ListJobsReq) -> ListJobsRsp;
    }
}
