//! Traces and logs for a receiver that speaks OpenTelemetry's protocol (OTLP).
//!
//! Off unless an endpoint is set. Bounded: what is not sent waits in queues of a fixed size, and
//! what does not fit is dropped and counted. Nobody who works waits for the receiver: batches are
//! sent by threads of their own. An orderly stop sends what is left, for a few seconds at most; a
//! kill loses what was not sent.
//!
//! Ids of spans are not made here but follow from tasks and leases
//! ([`regrow_runtime::spans`]), so that the spans of several nodes and of several lives of one
//! fit together. The SDK's own tracers cannot do that; its processors and exporters are used.

mod counted;
mod headers;
mod logs;
mod spans;
mod tls;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{BatchLogProcessor, SdkLoggerProvider};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanProcessor};
use regrow_runtime::telemetry::{self, TelemetryConfig, TelemetryError};
use tracing::warn;

use self::counted::Counted;
pub(crate) use self::headers::Headers;
use self::logs::Logs;
use self::spans::Spans;
pub(crate) use self::tls::{Tls, TlsError, TlsFiles};
use self::transport::Cause;
pub(crate) use self::transport::{Protocol, Receiver};

/// Longest time that an orderly stop waits for the receiver.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

/// What is sent where.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExportSettings {
    /// Where it goes.
    pub(crate) receiver: Receiver,
    /// Of which service the node is one.
    pub(crate) service: String,
    /// Whether spans are sent.
    pub(crate) traces: bool,
    /// Whether log lines are sent.
    pub(crate) logs: bool,
    /// Which part of the traces that begin here is kept, 0 to 1. Others say themselves.
    pub(crate) sample_ratio: f64,
}

/// Telemetry was not set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetUpError {
    /// The log.
    #[error(transparent)]
    Log(#[from] TelemetryError),
    /// The exporter.
    #[error("nothing can be sent to {endpoint}: {cause}; see `telemetry.endpoint`")]
    Exporter {
        /// Where.
        endpoint: String,
        /// Why.
        cause: String,
    },
}

/// What has to be sent before the process ends.
pub(crate) struct Export {
    spans: Option<Arc<Spans>>,
    logs: Option<SdkLoggerProvider>,
}

/// Sets the log up, and what is sent, for the whole process; `node` is its name. Within the
/// runtime that sockets to the receiver are to belong to.
///
/// # Errors
///
/// [`SetUpError`]
pub(crate) fn init(
    log: &TelemetryConfig,
    export: Option<&ExportSettings>,
    node: &str,
) -> Result<Export, SetUpError> {
    let Some(settings) = export else {
        telemetry::init(log, None)?;
        return Ok(Export {
            spans: None,
            logs: None,
        });
    };
    let failed = |cause: String| SetUpError::Exporter {
        endpoint: settings.receiver.endpoint.clone(),
        cause,
    };
    let resource = Resource::builder()
        .with_service_name(settings.service.clone())
        .with_attributes([
            KeyValue::new("service.instance.id", node.to_owned()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build();
    let mut made = Export {
        spans: None,
        logs: None,
    };
    if settings.traces {
        let cause = Cause::default();
        let exporter = settings.receiver.spans(&cause).map_err(failed)?;
        let exporter = Counted::spans(exporter, cause);
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource);
        made.spans = Some(Arc::new(Spans::new(processor, settings.sample_ratio)));
    }
    if settings.logs {
        let cause = Cause::default();
        let exporter = settings.receiver.logs(&cause).map_err(failed)?;
        let processor = BatchLogProcessor::builder(Counted::logs(exporter, cause)).build();
        let provider = SdkLoggerProvider::builder()
            .with_resource(resource)
            .with_log_processor(processor)
            .build();
        made.logs = Some(provider);
    }
    let sink = made.logs.as_ref().map(Logs::new);
    telemetry::init(log, sink.map(|sink| Arc::new(sink) as _))?;
    if let Some(spans) = &made.spans {
        regrow_runtime::spans::install(spans.clone());
    }
    Ok(made)
}

impl Export {
    /// Sends what is left. Returns when it is sent, or a few seconds later.
    pub(crate) async fn finish(self) {
        let flushed = tokio::task::spawn_blocking(move || {
            // Both at once: each may wait for as long as it is allowed to.
            std::thread::scope(|scope| {
                let spans = self.spans.as_ref();
                scope.spawn(move || spans.map(|spans| spans.shutdown(FLUSH_WITHIN)));
                if let Some(logs) = &self.logs {
                    let _ = logs.shutdown_with_timeout(FLUSH_WITHIN);
                }
            });
        });
        if tokio::time::timeout(2 * FLUSH_WITHIN, flushed)
            .await
            .is_err()
        {
            warn!("the receiver of telemetry did not take what was left");
        }
    }
}
