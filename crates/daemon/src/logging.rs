//! Structured logs: one line per event, with the request id that ties lines of several processes together.

use crate::rotate::{LogWriter, RotatingFile};
use std::fmt;
use std::io;
use std::path::Path;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

const MAX_FILE_BYTES: u64 = 10 << 20;
const KEEP_FILES: u32 = 10;

/// How to log.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// A filter such as `info` or `info,valor_rpc=debug`; the environment variable `VALOR_LOG` goes before it.
    pub filter: Option<String>,
    /// JSON objects instead of text lines.
    pub json: bool,
}

/// Sends events to `file`, or to standard error without one. Call once per process.
///
/// # Errors
/// When the log file cannot be opened or the filter does not parse.
pub fn init(file: Option<&Path>, options: &LogOptions) -> io::Result<()> {
    let text =
        std::env::var("VALOR_LOG").ok().or_else(|| options.filter.clone()).unwrap_or_else(|| "info".into());
    let filter = EnvFilter::try_new(&text).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("log filter `{text}`: {error}"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    let writer = match file {
        Some(path) => Some(LogWriter(RotatingFile::open(path, MAX_FILE_BYTES, KEEP_FILES)?)),
        None => None,
    };
    match (writer, options.json) {
        (Some(writer), true) => builder.json().with_writer(move || writer.clone()).init(),
        (Some(writer), false) => builder.event_format(Line).with_writer(move || writer.clone()).init(),
        (None, true) => builder.json().with_writer(io::stderr).init(),
        (None, false) => builder.event_format(Line).with_writer(io::stderr).init(),
    }
    Ok(())
}

/// `TIME LEVEL module req=ID: message key=value ...`
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        SystemTime.format_time(&mut out)?;
        write!(out, " {:5} {}", event.metadata().level(), event.metadata().target())?;
        if let Some(id) = valor_env::request_id::current() {
            write!(out, " req={id:08x}")?;
        }
        out.write_str(": ")?;
        ctx.format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}
