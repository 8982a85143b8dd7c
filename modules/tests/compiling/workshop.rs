//! Compiled once, kept, and never believed when it was touched.

use std::fs;
use std::path::Path;

use regrow_modules::artefacts::{Artefacts, BYTES_MAX};
use regrow_modules::capability::Grants;
use regrow_modules::compiling::{Compiler, CompilerConfig};
use regrow_modules::expression::{Columns, Expression};
use regrow_modules::host::PrepareError;
use regrow_modules::inspection::SizeLimits;
use regrow_modules::policy::{self, Manifest};
use regrow_modules::workshop::{Author, Way, Workshop, WorkshopError};

use crate::guests::{HOST, TICKS, ears, guest, observation};
use crate::processes::config;

fn shop(folder: &Path, config: CompilerConfig) -> (Workshop, Artefacts) {
    let artefacts = Artefacts::open(folder, BYTES_MAX).expect("a folder");
    let compiler = Compiler::new(config);
    (
        Workshop::new(HOST.clone(), compiler, Some(artefacts.clone())),
        artefacts,
    )
}

async fn way(shop: &Workshop, module: Vec<u8>) -> Result<Way, WorkshopError> {
    let (sizes, grants) = (SizeLimits::UNTRUSTED, Grants::telemetry());
    let (prepared, way) = shop
        .prepare(module.into(), Author::Somebody, sizes, grants)
        .await?;
    let mut running = prepared.instance(TICKS, ears()).await.expect("an instance");
    running.decide(&observation(&[1.0])).await.expect("decided");
    Ok(way)
}

/// A program that cannot be started: whoever compiles is found out.
fn nobody() -> CompilerConfig {
    CompilerConfig::new("/nowhere/to/be/found".into(), Vec::new())
}

pub(crate) async fn a_module_is_compiled_once_and_found_by_the_next_workshop() {
    let dir = tempfile::tempdir().expect("a directory");
    let (first, _) = shop(dir.path(), config("compile"));
    assert_eq!(
        way(&first, guest(&[], "")).await.expect("compiled"),
        Way::Apart
    );
    assert_eq!(way(&first, guest(&[], "")).await.expect("found"), Way::Kept);
    let (next, kept) = shop(dir.path(), nobody());
    assert_eq!(way(&next, guest(&[], "")).await.expect("found"), Way::Kept);
    assert_eq!(kept.counts().found, 1);
}

pub(crate) async fn the_shell_is_compiled_once_and_loads_scripts_wherever_it_came_from() {
    let dir = tempfile::tempdir().expect("a directory");
    for (config, wanted) in [(config("compile"), Way::Apart), (nobody(), Way::Kept)] {
        let (shop, _) = shop(dir.path(), config);
        let (shell, way) = shop.shell().await.expect("a shell");
        assert_eq!(way, wanted);
        let source = "export function decide({ features }) { return { kind: `${features}` }; }";
        let script = shell.script(source, Grants::NONE, TICKS).await;
        let script = script.expect("loaded").instance(TICKS, ears()).await;
        let action = script
            .expect("an instance")
            .decide(&observation(&[1.5]))
            .await;
        assert_eq!(action.expect("decided").kind, "1.5");
    }
}

pub(crate) async fn damaged_machine_code_is_refused_counted_and_made_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (shop, kept) = shop(dir.path(), config("compile"));
    assert_eq!(
        way(&shop, guest(&[], "")).await.expect("compiled"),
        Way::Apart
    );
    let files = fs::read_dir(dir.path()).expect("a folder").flatten();
    let mut files = files.filter(|entry| entry.path().extension().is_some_and(|it| it == "code"));
    let path = files.next().expect("machine code").path();
    let mut bytes = fs::read(&path).expect("readable");
    // Where the engine itself would not notice: in the middle of the code.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("writable");
    assert_eq!(
        way(&shop, guest(&[], "")).await.expect("compiled"),
        Way::Apart
    );
    assert_eq!(kept.counts().refused, 1);
    assert_eq!(way(&shop, guest(&[], "")).await.expect("found"), Way::Kept);
}

pub(crate) async fn what_is_refused_never_reaches_the_compiler() {
    let dir = tempfile::tempdir().expect("a directory");
    let (shop, _) = shop(dir.path(), nobody());
    let large = guest(&[], &"(func)".repeat(6_000));
    let outcome = way(&shop, large).await;
    let Err(WorkshopError::Prepare(PrepareError::Refused(refusal))) = outcome else {
        unreachable!("{outcome:?}");
    };
    assert!(refusal.to_string().contains("functions"), "{refusal}");
    let junk = way(&shop, b"\0asm".to_vec()).await;
    assert!(matches!(junk, Err(WorkshopError::Prepare(_))), "{junk:?}");
    // What is not refused would: the way is open.
    let outcome = way(&shop, guest(&[], "")).await;
    assert!(
        matches!(outcome, Err(WorkshopError::Compile(_))),
        "{outcome:?}"
    );
}

pub(crate) async fn our_own_components_are_compiled_here() {
    let dir = tempfile::tempdir().expect("a directory");
    let (shop, kept) = shop(dir.path(), nobody());
    let columns = Columns::new(["item", "left"]).expect("names");
    let expression = Expression::parse("item - left", &columns).expect("an expression");
    let manifest = Manifest {
        name: "fit".to_owned(),
        version: "1".to_owned(),
        kinds: Vec::new(),
    };
    let module = policy::component(&expression, &manifest).expect("a component");
    let (sizes, grants) = (SizeLimits::UNTRUSTED, Grants::NONE);
    let made = shop
        .prepare(module.into(), Author::Ourselves, sizes, grants)
        .await;
    let (prepared, way) = made.expect("compiled");
    assert_eq!(way, Way::Here);
    assert_eq!(kept.counts(), Default::default());
    let mut policy = prepared.instance(TICKS, ears()).await.expect("an instance");
    assert_eq!(policy.score(&[5.0, 7.0], 2).await.expect("scored"), [-2.0]);
}
