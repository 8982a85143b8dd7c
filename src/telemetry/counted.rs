//! Counts what the receiver took and what it did not, and says once when that changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use regrow_runtime::metrics as names;
use tracing::{info, warn};

use super::transport::Cause;

/// An exporter whose outcomes are counted.
#[derive(Debug)]
pub(super) struct Counted<E> {
    inner: E,
    metric: &'static str,
    what: &'static str,
    failing: AtomicBool,
    cause: Cause,
}

impl<E> Counted<E> {
    pub(super) fn spans(inner: E, cause: Cause) -> Self {
        Self {
            inner,
            metric: names::SPANS,
            what: "spans",
            failing: AtomicBool::new(false),
            cause,
        }
    }

    pub(super) fn logs(inner: E, cause: Cause) -> Self {
        Self {
            inner,
            metric: names::LOG_LINES,
            what: "log lines",
            failing: AtomicBool::new(false),
            cause,
        }
    }

    fn told(&self, count: usize, outcome: &OTelSdkResult) {
        let word = if outcome.is_ok() { "sent" } else { "failed" };
        metrics::counter!(self.metric, "outcome" => word).increment(count as u64);
        let what = self.what;
        match outcome {
            Ok(()) if self.failing.swap(false, Ordering::Relaxed) => {
                info!(what, "the receiver of telemetry takes them again");
            }
            Err(reason) if !self.failing.swap(true, Ordering::Relaxed) => {
                let cause = self.cause.take();
                warn!(what, %reason, cause, "the receiver of telemetry does not take them; they are dropped");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let outcome = self.inner.export(batch).await;
        self.told(count, &outcome);
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let count = batch.iter().count();
        let outcome = self.inner.export(batch).await;
        self.told(count, &outcome);
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
