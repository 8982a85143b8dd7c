//! `[telemetry]`: what is sent to a receiver of OpenTelemetry's protocol.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use super::reader::Reader;
use crate::telemetry::{ExportSettings, Protocol, Receiver, Tls, TlsError, TlsFiles};

/// A standard variable, the key that it stands for, and the unit that its values leave out. Our
/// own variables win over them.
pub(super) const STANDARD: [(&str, &str, &str); 10] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.endpoint", ""),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "telemetry.protocol", ""),
    ("OTEL_EXPORTER_OTLP_HEADERS", "telemetry.headers", ""),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "telemetry.timeout", "ms"),
    (
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "telemetry.compression",
        "",
    ),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "telemetry.authority", ""),
    (
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "telemetry.certificate",
        "",
    ),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "telemetry.key", ""),
    ("OTEL_SERVICE_NAME", "telemetry.service", ""),
    ("OTEL_TRACES_SAMPLER_ARG", "telemetry.sample_ratio", ""),
];

/// `None` unless there is an endpoint.
pub(super) fn settings(reader: &mut Reader) -> Option<ExportSettings> {
    let endpoint = reader.text(
        "telemetry.endpoint",
        "",
        "nothing, or where a collector takes OTLP, such as \"http://127.0.0.1:4318\" (HTTP), \
         \"http://127.0.0.1:4317\" (gRPC) or \"https://collector.example:4318\"",
        |text| text.is_empty() || is_address(text),
    );
    let spoken = reader.text(
        "telemetry.protocol",
        Protocol::default().as_str(),
        "\"http/protobuf\" or \"grpc\"",
        |text| protocol(text).is_some(),
    );
    let protocol = protocol(&spoken).unwrap_or_default();
    let headers = reader.headers("telemetry.headers");
    let (least, most) = (Duration::from_millis(100), Duration::from_secs(600));
    let timeout = reader.duration("telemetry.timeout", Duration::from_secs(10), least..=most);
    let compression = reader.text(
        "telemetry.compression",
        "none",
        "\"none\" or \"gzip\"",
        |text| ["none", "gzip"].contains(&text),
    );
    let tls = tls(reader, &endpoint);
    let service = reader.text(
        "telemetry.service",
        "regrow",
        "1 to 255 characters",
        |text| (1..=255).contains(&text.chars().count()),
    );
    let traces = reader.switch("telemetry.traces", true);
    let logs = reader.switch("telemetry.logs", true);
    let sample_ratio = reader.part("telemetry.sample_ratio", 1.0);
    let path = endpoint.parse::<Url>().ok();
    let path = path.map_or(String::new(), |url| url.path().to_owned());
    if protocol == Protocol::Grpc && !["", "/"].contains(&&*path) {
        let what = format!(
            "found the path {path}, expected none: gRPC has its own; leave it out, or set \
             telemetry.protocol to \"http/protobuf\""
        );
        reader.object("telemetry.endpoint", what);
    }
    (!endpoint.is_empty() && (traces || logs)).then_some(ExportSettings {
        receiver: Receiver {
            endpoint,
            protocol,
            headers,
            timeout,
            gzip: compression == "gzip",
            tls,
        },
        service,
        traces,
        logs,
        sample_ratio,
    })
}

/// Refuses variables of the standard that say something else of one signal than of the other:
/// both go to one receiver. Silence would leave a signal unsent, or sent to another place.
pub(super) fn refuse_others(
    reader: &mut Reader,
    variables: &[(String, String)],
    export: Option<&ExportSettings>,
) {
    let Some(export) = export else {
        return;
    };
    let signals = [("TRACES", export.traces), ("LOGS", export.logs)];
    for (name, value) in variables {
        let of_signal = signals.iter().find_map(|(signal, on)| {
            let rest = name.strip_prefix("OTEL_EXPORTER_OTLP_")?;
            let rest = rest.strip_prefix(signal)?.strip_prefix('_')?;
            on.then_some(rest)
        });
        if let Some(what) = of_signal.filter(|_| !value.is_empty()) {
            let what = format!(
                "is not honoured: traces and logs go to one receiver; set \
                 OTEL_EXPORTER_OTLP_{what} for both, or unset it"
            );
            reader.refuse_variable(name, what);
        }
    }
}

fn protocol(text: &str) -> Option<Protocol> {
    let known = [Protocol::HttpProtobuf, Protocol::Grpc];
    known.into_iter().find(|known| known.as_str() == text)
}

/// An absolute address without a name, a password, a query and a fragment.
fn is_address(text: &str) -> bool {
    text.parse::<Url>().is_ok_and(|url| {
        ["http", "https"].contains(&url.scheme())
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

/// What TLS needs beyond the system's authorities.
fn tls(reader: &mut Reader, endpoint: &str) -> Tls {
    let keys = [
        "telemetry.authority",
        "telemetry.certificate",
        "telemetry.key",
    ];
    let paths = keys.map(|key| reader.text(key, "", "a path to a PEM file, or nothing", |_| true));
    let [authority, certificate, key] = paths.each_ref().map(|path| {
        let path = PathBuf::from(path);
        (!path.as_os_str().is_empty()).then_some(path)
    });
    for (missing, given) in [(2, 1), (1, 2)] {
        if paths[missing].is_empty() && !paths[given].is_empty() {
            let what = format!(
                "found nothing, expected a file, since {} is set",
                keys[given]
            );
            reader.object(keys[missing], what);
            return Tls::default();
        }
    }
    let files = TlsFiles {
        authority,
        identity: certificate.zip(key),
    };
    let named = keys.iter().zip(&paths).find(|(_, path)| !path.is_empty());
    if let Some((named, _)) = named
        && endpoint.starts_with("http://")
    {
        let what = "is set, but telemetry.endpoint is http: make that https, or leave this out";
        reader.object(named, what.to_owned());
        return Tls::default();
    }
    // Files that nothing is sent by are not looked at.
    if endpoint.is_empty() {
        return Tls::default();
    }
    Tls::load(&files).unwrap_or_else(|error| {
        let (blamed, what) = match error {
            TlsError::Authority(what) => (0, what),
            TlsError::Certificate(what) => (1, what),
            TlsError::Key(what) => (2, what),
        };
        reader.object(keys[blamed], what);
        Tls::default()
    })
}
