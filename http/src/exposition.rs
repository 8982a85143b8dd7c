//! What the process measures, as text: Prometheus' format, or OpenMetrics with exemplars.

mod described;
mod open_metrics;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use regrow_runtime::exemplars::SECONDS;
use regrow_runtime::metrics as names;

/// The process has a metrics recorder already, or this one cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ExpositionError {
    /// The buckets are not acceptable: a bug.
    #[error("metrics could not be set up")]
    Build(#[from] BuildError),
    /// Recorders are one per process; nothing changed.
    #[error("the process records metrics elsewhere already")]
    Taken,
}

/// A format, and what a caller who accepts it is told that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.0, with exemplars.
    OpenMetrics,
}

impl Format {
    /// The better of those that `accept` names: OpenMetrics, if it is asked for at all.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let asked = accept.split(',').any(|one| {
            let mut parts = one.split(';').map(str::trim);
            let named = parts.next() == Some("application/openmetrics-text");
            named && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        });
        match asked {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    /// The content type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What was measured, ready to be read. Cheap to clone.
#[derive(Clone)]
pub struct Exposition {
    recorded: PrometheusHandle,
    process: Option<Collector>,
}

impl Exposition {
    /// Records the process's metrics from now on. Once per process, and before whatever is
    /// measured: what is there earlier may look its places up once, and then finds none.
    ///
    /// # Errors
    ///
    /// [`ExpositionError`]
    pub fn install() -> Result<Self, ExpositionError> {
        let recorder = Self::builder()?.build_recorder();
        let recorded = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| ExpositionError::Taken)?;
        described::describe();
        described::begin();
        let process = Collector::default();
        process.describe();
        Ok(Self {
            recorded,
            process: Some(process),
        })
    }

    /// An exposition that nothing records into, for a node whose process measures
    /// elsewhere.
    ///
    /// # Errors
    ///
    /// [`ExpositionError::Build`]
    pub fn detached() -> Result<Self, ExpositionError> {
        let recorder = Self::builder()?.build_recorder();
        let recorded = metrics::with_local_recorder(&recorder, || {
            described::describe();
            recorder.handle()
        });
        Ok(Self {
            recorded,
            process: None,
        })
    }

    fn builder() -> Result<PrometheusBuilder, BuildError> {
        let callers = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Full(names::STORE_BATCH.to_owned()), &callers)
    }

    /// All that is measured, and how the process stands now.
    #[must_use]
    pub fn render(&self, format: Format) -> String {
        if let Some(process) = &self.process {
            process.collect();
        }
        let text = self.recorded.render();
        match format {
            Format::Prometheus => text,
            Format::OpenMetrics => open_metrics::of(&text),
        }
    }

    /// What was measured, as Prometheus has it.
    pub(crate) fn text(&self) -> String {
        self.render(Format::Prometheus)
    }

    /// Folds samples into their histograms; unread ones pile up otherwise.
    pub(crate) fn upkeep(&self) {
        self.recorded.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_are_for_those_who_ask_for_them() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
                          application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        for other in ["", "*/*", "text/plain", "application/openmetrics-text; q=0"] {
            assert_eq!(Format::accepted(other), Format::Prometheus, "{other}");
        }
    }
}
