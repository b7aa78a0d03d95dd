//! Prometheus text at `http://ADDRESS/metrics`.

use metrics_exporter_prometheus::PrometheusBuilder;
use std::io;
use std::net::SocketAddr;

/// Installs the process's recorder and serves it; without an address metrics are recorded nowhere.
///
/// # Errors
/// When the address cannot be bound; the message names the option to change.
pub fn serve_metrics(address: Option<SocketAddr>) -> io::Result<()> {
    let Some(address) = address else { return Ok(()) };
    // Binding twice would be the builder's first failure; ask first, for a message with a remedy.
    drop(std::net::TcpListener::bind(address).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot serve metrics on {address}: {error}; choose another --metrics-port"),
        )
    })?);
    let (recorder, exporter) =
        PrometheusBuilder::new().with_http_listener(address).build().map_err(io::Error::other)?;
    metrics::set_global_recorder(recorder).map_err(io::Error::other)?;
    for metric in valor_env::metrics::TABLE {
        describe(metric);
    }
    tokio::spawn(async move {
        if exporter.await.is_err() {
            tracing::error!(%address, "the metrics endpoint ended");
        }
    });
    Ok(())
}

fn describe(metric: &valor_env::metrics::Metric) {
    use valor_env::metrics::Kind;
    match metric.kind {
        Kind::Counter => metrics::describe_counter!(metric.name, metric.meaning),
        Kind::Gauge => metrics::describe_gauge!(metric.name, metric.meaning),
        Kind::Histogram => metrics::describe_histogram!(metric.name, metric.meaning),
    }
}
