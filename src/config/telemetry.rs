//! `[telemetry]`: what is sent to a receiver of OpenTelemetry's protocol.

use super::reader::Reader;
use crate::telemetry::ExportSettings;

/// Standard variables, and the keys that they stand for. Ours win over them.
pub(super) const STANDARD: [(&str, &str); 3] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.endpoint"),
    ("OTEL_SERVICE_NAME", "telemetry.service"),
    ("OTEL_TRACES_SAMPLER_ARG", "telemetry.sample_ratio"),
];

/// `None` unless there is an endpoint.
pub(super) fn settings(reader: &mut Reader) -> Option<ExportSettings> {
    let endpoint = reader.text(
        "telemetry.endpoint",
        "",
        "nothing, or where a collector takes OTLP over HTTP, such as \"http://127.0.0.1:4318\"; \
         https is spoken by a collector on this machine or a proxy",
        |text| {
            let host = text.strip_prefix("http://");
            text.is_empty() || host.is_some_and(|host| !host.trim_matches('/').is_empty())
        },
    );
    let service = reader.text(
        "telemetry.service",
        "regrow",
        "1 to 255 characters",
        |text| (1..=255).contains(&text.chars().count()),
    );
    let traces = reader.switch("telemetry.traces", true);
    let logs = reader.switch("telemetry.logs", true);
    let sample_ratio = reader.part("telemetry.sample_ratio", 1.0);
    (!endpoint.is_empty() && (traces || logs)).then_some(ExportSettings {
        endpoint,
        service,
        traces,
        logs,
        sample_ratio,
    })
}
