//! Guests for the tests, and what lies around them.

use std::sync::{Arc, LazyLock, Mutex};

use regrow_modules::capability::Grants;
use regrow_modules::host::{
    Host, HostLimits, Level, Metering, Observation, Prepared, Running, Surroundings,
};
use regrow_modules::inspection::SizeLimits;
use wit_parser::Resolve;

/// Ticks that honest calls may run: far more than they need, on a machine that is busy.
pub(crate) const TICKS: u64 = 2_000;

/// One engine for all tests: each reserves terabytes of address space.
pub(crate) static HOST: LazyLock<Host> = LazyLock::new(|| {
    let limits = HostLimits {
        instances_max: 64,
        ..HostLimits::default()
    };
    Host::new(limits, Metering::Time).expect("an engine")
});

/// Remembers what modules say.
#[derive(Default)]
pub(crate) struct Ears {
    pub(crate) lines: Mutex<Vec<String>>,
}

impl Surroundings for Ears {
    fn log_enabled(&self, level: Level) -> bool {
        Level::Info <= level
    }

    fn log(&self, level: Level, message: &str, attributes: &[(String, String)]) {
        let line = format!("{level:?} {message} {attributes:?}");
        self.lines.lock().expect("unpoisoned").push(line);
    }

    fn count(&self, _: &str, _: u64) {}
    fn gauge(&self, _: &str, _: f64) {}
    fn observe(&self, _: &str, _: f64) {}

    fn now(&self) -> u64 {
        1_700_000_000_000
    }

    fn monotonic(&self) -> u64 {
        0
    }
}

pub(crate) fn ears() -> Arc<Ears> {
    Arc::default()
}

/// A module of the world `strategy-std` in WebAssembly text. `functions` overrides what an
/// obliging guest does; `more` is put into the module as it is.
pub(crate) fn guest(functions: &[(&str, &str)], more: &str) -> Vec<u8> {
    let obliging = [
        ("describe", "(result i32)", "(i32.const 1024)"),
        (
            "init",
            "(param i64 i32 i32 i32 i32) (result i32)",
            "(i32.const 2048)",
        ),
        (
            "decide",
            "(param i64 i64 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)",
            "(i32.const 2048)",
        ),
        (
            "decide-batch",
            "(param i32 i32) (result i32)",
            "(i32.const 2048)",
        ),
        (
            "handle",
            "(param i32 i32 i32 i32 i32 i32 i32 i64) (result i32)",
            "(i32.const 2048)",
        ),
        ("feedback", "(param i64 f64)", ""),
        ("snapshot", "(result i32)", "(i32.const 2048)"),
        (
            "code-change",
            "(param i32 i32 i32 i32 i32 i32) (result i32)",
            "(i32.const 2048)",
        ),
    ];
    let functions: String = obliging
        .iter()
        .map(|(name, types, body)| {
            let body = functions
                .iter()
                .find(|(of, _)| of == name)
                .map_or(*body, |(_, body)| body);
            format!("(func (export \"regrow:strategy/strategy@0.1.0#{name}\") {types} {body})\n")
        })
        .collect();
    let text = format!(
        "(module
           {more}
           (memory (export \"memory\") 2)
           (global $heap (mut i32) (i32.const 65536))
           (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32)
             (global.get $heap)
             (global.set $heap (i32.add (global.get $heap)
               (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8)))))
           {functions})"
    );
    let mut core = wat::parse_str(text).expect("valid text");
    let mut resolve = Resolve::default();
    let wit = include_str!("../../wit/strategy.wit");
    let package = resolve
        .push_str("strategy.wit", wit)
        .expect("our interface");
    let world = resolve
        .select_world(&[package], Some("strategy-std"))
        .expect("a world");
    let utf8 = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut core, &resolve, world, utf8).expect("embedded");
    wit_component::ComponentEncoder::default()
        .module(&core)
        .and_then(|mut encoder| encoder.encode())
        .expect("a component")
}

pub(crate) fn prepared(bytes: &[u8]) -> Prepared {
    HOST.prepare(bytes, &SizeLimits::UNTRUSTED, Grants::telemetry())
        .expect("prepared")
}

pub(crate) async fn running(bytes: &[u8], ticks: u64) -> Running {
    prepared(bytes)
        .instance(ticks, ears())
        .await
        .expect("an instance")
}

pub(crate) fn observation(features: &[f64]) -> Observation {
    Observation {
        seq: 1,
        at: 0,
        kind: "item".to_owned(),
        features: features.to_vec(),
        attrs: Vec::new(),
        payload: Vec::new(),
    }
}
