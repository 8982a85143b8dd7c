//! The process that compiles: what it answers, and what becomes of it.

use std::path::PathBuf;
use std::time::Duration;

use regrow_modules::capability::Grants;
use regrow_modules::compiling::{CompileError, Compiler, CompilerConfig};
use regrow_modules::host::PrepareError;
use regrow_modules::inspection::SizeLimits;
use regrow_modules::workshop::{Author, Way, Workshop, WorkshopError};

use crate::guests::{HOST, TICKS, ears, guest, observation};

/// A configuration for this very program, far from any limit on a busy machine.
pub(crate) fn config(argument: &str) -> CompilerConfig {
    let program: PathBuf = std::env::current_exe().expect("this program");
    CompilerConfig {
        deadline: Duration::from_secs(120),
        processor_time: Duration::from_secs(120),
        ..CompilerConfig::new(program, vec![argument.into()])
    }
}

async fn prepared(
    config: CompilerConfig,
    module: Vec<u8>,
) -> Result<(regrow_modules::host::Prepared, Way), WorkshopError> {
    let shop = Workshop::new(HOST.clone(), Compiler::new(config), None);
    let (sizes, grants) = (SizeLimits::UNTRUSTED, Grants::telemetry());
    shop.prepare(module.into(), Author::Somebody, sizes, grants)
        .await
}

fn compile_error(outcome: Result<impl Sized, WorkshopError>) -> CompileError {
    match outcome.map(drop) {
        Err(WorkshopError::Compile(error)) => error,
        other => unreachable!("{other:?}"),
    }
}

/// As much as is let through of what is slow to compile: functions that branch all the time. It
/// takes a compiler many seconds, and more than a hundred megabytes.
fn laborious() -> Vec<u8> {
    let branch = "(if (local.get 0) (then (local.set 1 (i32.add (local.get 1) (local.get 0)))))
        (if (local.get 1) (then (local.set 0 (i32.mul (local.get 0) (local.get 1)))))";
    let body = branch.repeat(2_000);
    let functions: String = (0..40)
        .map(|at| format!("(func $f{at} (param i32 i32) (result i32) {body} (local.get 0))\n"))
        .collect();
    guest(&[], &functions)
}

/// This process's children that run this program.
fn children() -> Vec<u32> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")
        .expect("a process table")
        .flatten()
    {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // Behind the name, which may hold anything: state, parent.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = rest.split_whitespace();
        let (state, parent) = (fields.next(), fields.next());
        if parent == Some(own.to_string().as_str()) && state != Some("Z") {
            found.push(id);
        }
    }
    found
}

fn arguments(id: u32) -> String {
    std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default()
}

fn running(argument: &str) -> usize {
    let ends = |id: &u32| arguments(*id).trim_end_matches('\0').ends_with(argument);
    children().iter().filter(|id| ends(id)).count()
}

pub(crate) async fn a_module_is_compiled_apart_and_runs_here() {
    let (prepared, way) = prepared(config("compile"), guest(&[], ""))
        .await
        .expect("compiled");
    assert_eq!(way, Way::Apart);
    let mut running = prepared.instance(TICKS, ears()).await.expect("an instance");
    running.describe().await.expect("described");
    running.decide(&observation(&[1.0])).await.expect("decided");
}

pub(crate) async fn one_that_takes_too_long_is_killed_and_gone() {
    let config = CompilerConfig {
        deadline: Duration::from_millis(300),
        ..config("hang")
    };
    let error = compile_error(prepared(config, guest(&[], "")).await);
    assert!(matches!(error, CompileError::TooLong(_)), "{error}");
    assert_eq!(running("hang"), 0);
}

pub(crate) async fn one_that_takes_too_much_memory_dies_alone() {
    let config = CompilerConfig {
        memory_bytes: 24 << 20,
        ..config("compile")
    };
    let error = compile_error(prepared(config, laborious()).await);
    let CompileError::Died { ended, .. } = &error else {
        unreachable!("{error}");
    };
    assert!(ended.contains("SIG") || ended.contains("code"), "{error}");
    assert!(error.to_string().contains("24 MiB"), "{error}");
}

pub(crate) async fn one_that_takes_too_much_of_a_processor_is_ended() {
    let config = CompilerConfig {
        processor_time: Duration::from_secs(1),
        ..config("compile")
    };
    let error = compile_error(prepared(config, laborious()).await);
    let CompileError::Died { ended, .. } = &error else {
        unreachable!("{error}");
    };
    assert!(
        ended.contains("SIGXCPU") || ended.contains("SIGKILL"),
        "{error}"
    );
}

pub(crate) async fn what_answers_nonsense_or_nothing_is_not_believed() {
    let error = compile_error(prepared(config("chatter"), guest(&[], "")).await);
    assert!(matches!(error, CompileError::Nonsense(_)), "{error}");
    let error = compile_error(prepared(config("faint"), guest(&[], "")).await);
    assert!(error.to_string().contains("code 7"), "{error}");
    let nobody = CompilerConfig::new("/nowhere/to/be/found".into(), Vec::new());
    let error = compile_error(prepared(nobody, guest(&[], "")).await);
    assert!(matches!(error, CompileError::Process { .. }), "{error}");
}

pub(crate) async fn what_the_host_has_no_room_for_is_refused_after_it_was_compiled() {
    let large = guest(&[], "(table 20000 funcref)");
    let outcome = prepared(config("compile"), large).await;
    let Err(WorkshopError::Prepare(PrepareError::Compile(why))) = outcome else {
        unreachable!("{outcome:?}");
    };
    assert!(why.contains("table"), "{why}");
}

pub(crate) async fn a_process_that_died_while_it_waited_is_not_used() {
    let compiler = Compiler::new(config("compile"));
    compiler.warm_up().expect("started");
    let shop = Workshop::new(HOST.clone(), compiler, None);
    let before: Vec<u32> = children();
    assert!(!before.is_empty());
    for id in before {
        if arguments(id).trim_end_matches('\0').ends_with("compile") {
            let id = nix::unistd::Pid::from_raw(id.cast_signed());
            let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL);
        }
    }
    let (sizes, grants) = (SizeLimits::UNTRUSTED, Grants::telemetry());
    // The one that waited may not be seen as dead yet: then this call fails, and the next one has
    // a process of its own.
    let mut outcome = None;
    for _ in 0..2 {
        let module = guest(&[], "").into();
        outcome = Some(shop.prepare(module, Author::Somebody, sizes, grants).await);
        if outcome.as_ref().is_some_and(Result::is_ok) {
            break;
        }
    }
    assert!(outcome.is_some_and(|it| it.is_ok()));
}

pub(crate) async fn a_call_that_is_dropped_leaves_no_process() {
    let outcome = tokio::time::timeout(
        Duration::from_millis(200),
        prepared(config("hang"), guest(&[], "")),
    );
    assert!(outcome.await.is_err());
    // Killed with the call, and collected by the runtime's own look-out.
    while running("hang") != 0 {
        tokio::task::yield_now().await;
    }
}
