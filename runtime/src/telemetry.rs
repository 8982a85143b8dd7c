//! Logs: one line per event on standard error, as text for people or JSON for machines.
//!
//! Standard output is left to the program's own output. Every JSON line is one valid object,
//! whatever its fields hold: `timestamp`, `level`, `target`, `message`, then the fields of
//! the surrounding spans (`trace_id`, `task_id`, `parent_task_id`, `agent_id`; inner ones
//! win) and the event's own, on one level.
//!
//! The last lines about each task are kept in memory as well ([`lines_of`]).
//!
//! Left out: metrics (`metrics`), what is sent to other systems (a [`LogSink`] takes it there), where
//! the configuration comes from.

mod forwarded;
mod json_lines;
mod task_lines;

use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

use self::forwarded::Forwarded;
pub use self::forwarded::{LogLine, LogSink};
use self::json_lines::JsonLines;
pub use self::task_lines::{TaskLine, lines_of};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// How a line looks.
    #[serde(default)]
    pub format: LogFormat,
    /// Which events are logged, in `tracing-subscriber`'s syntax: a level, or a list such as
    /// `info,regrow_runtime=debug`. More costs time and disk.
    #[serde(default = "default_filter")]
    pub filter: String,
}

/// The actor library marks every line of an actor with a span of its own numbering, which
/// says nothing beside our names.
fn default_filter() -> String {
    "info,ractor=warn".to_owned()
}

impl Default for TelemetryConfig {
    /// Text, from `info` on, without the actor library's own spans.
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            filter: default_filter(),
        }
    }
}

/// Logging was not set up. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("log filter `{filter}` is not valid; use a level, or a list such as `info,sqlx=warn`")]
    Filter {
        /// As configured.
        filter: String,
        /// What is wrong with it.
        #[source]
        cause: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before; the first setup stays.
    #[error("logging is set up already")]
    AlreadyInstalled,
}

/// Sets logging up for the whole process; `sink` gets each line as well. Call it once, early.
///
/// # Errors
///
/// [`TelemetryError`]
pub fn init(
    config: &TelemetryConfig,
    sink: Option<Arc<dyn LogSink>>,
) -> Result<(), TelemetryError> {
    let filter = filter(&config.filter)?;
    let registry = Registry::default().with(filter).with(Forwarded(sink));
    let installed = match config.format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
            registry.with(lines).try_init()
        }
        LogFormat::Json => registry.with(JsonLines::new(std::io::stderr)).try_init(),
    };
    installed.map_err(|_| TelemetryError::AlreadyInstalled)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A panic is an event like any other: one line, also in JSON. The standard hook's text
/// would cut other lines in two, and its backtrace takes longer than a restart.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let what = panic.payload_as_str().unwrap_or("without a message");
    let place = panic.location().map(ToString::to_string);
    tracing::error!(panic = what, place, "panicked");
}

fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(text)
        .map_err(|cause| TelemetryError::Filter {
            filter: text.to_owned(),
            cause,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_setup_is_an_error_and_no_panic() {
        let config = TelemetryConfig {
            filter: "off".to_owned(),
            ..TelemetryConfig::default()
        };
        let first = init(&config, None);
        assert!(first.is_ok() || matches!(first, Err(TelemetryError::AlreadyInstalled)));
        let second = init(&config, None);
        assert!(matches!(second, Err(TelemetryError::AlreadyInstalled)));
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named_in_the_error() {
        let error = filter("info,regrow=loudest").expect_err("no such level");
        assert!(error.to_string().contains("regrow=loudest"));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<TelemetryConfig>(r#"{"colour": true}"#).is_err());
        let config: TelemetryConfig = serde_json::from_str("{}").expect("all have defaults");
        assert_eq!(config, TelemetryConfig::default());
    }
}
