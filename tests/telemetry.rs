//! What a running node tells about itself: metrics, traces, dashboards, and the terminal view.

#[path = "binary/node.rs"]
#[expect(dead_code, reason = "other tests signal nodes and watch them end")]
mod node;
#[path = "binary/peers.rs"]
#[expect(dead_code, reason = "other tests look at logs and certificates")]
mod peers;

#[path = "../runtime/tests/database/schema.rs"]
mod schema;

#[path = "telemetry/certified.rs"]
mod certified;
#[path = "telemetry/deploy.rs"]
mod deploy;
#[path = "telemetry/diagnostics.rs"]
mod diagnostics;
#[path = "telemetry/grpc.rs"]
mod grpc;
#[path = "telemetry/metrics.rs"]
mod metrics;
#[path = "telemetry/prometheus.rs"]
mod prometheus;
#[path = "telemetry/protocols.rs"]
mod protocols;
#[path = "telemetry/receiver.rs"]
mod receiver;
#[path = "telemetry/terminal.rs"]
mod terminal;
#[path = "telemetry/traces.rs"]
mod traces;
