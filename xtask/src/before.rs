//! The version before this one, built from the history: nodes of both have to be one cluster.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Failed, cargo, report, run, target};

/// The version whose nodes those of this one must be able to replace one by one, as the last
/// thing that was handed out.
const COMMIT: &str = "ce2887af1390604708c07d1efa345d2fcff4d7c9";
/// What the tests read to find its program.
const PROGRAM: &str = "REGROW_TEST_VERSION_BEFORE";

/// Builds it, unless it is there, and tells a command where it is. Says why if the history does
/// not have it, which is so in a shallow clone.
pub(crate) fn tell(command: &mut Command) -> Result<Option<String>, Failed> {
    if std::env::var_os(PROGRAM).is_some() {
        report("the version before: the one that the environment names");
        return Ok(None);
    }
    let place = target()?.join("before").join(&COMMIT[..12]);
    let program = place.join("regrow");
    if !program.exists() {
        if !is_known() {
            return Ok(Some(format!(
                "NOT RUN: upgrade from the version before: this history does not have {COMMIT} \
                 (`git fetch --unshallow` brings it)"
            )));
        }
        build(&place, &program)?;
    }
    command.env(PROGRAM, program);
    Ok(None)
}

fn is_known() -> bool {
    let mut asked = Command::new("git");
    asked.args(["cat-file", "-e", &format!("{COMMIT}^{{commit}}")]);
    let answer = asked.stdout(Stdio::null()).stderr(Stdio::null()).status();
    answer.is_ok_and(|status| status.success())
}

fn build(place: &Path, program: &Path) -> Result<(), Failed> {
    let source = place.join("source");
    let odd = |error: std::io::Error| format!("{}: {error}", place.display());
    // What an earlier attempt left.
    if source.exists() {
        fs::remove_dir_all(&source).map_err(odd)?;
    }
    fs::create_dir_all(&source).map_err(odd)?;
    let archive = place.join("source.tar");
    let mut read = Command::new("git");
    read.args(["archive", "--format=tar", COMMIT]);
    read.stdout(File::create(&archive).map_err(odd)?);
    run("the version before: its source", read)?;
    let mut unpack = Command::new("tar");
    unpack.arg("--extract").arg("--file").arg(&archive);
    unpack.arg("--directory").arg(&source);
    run("the version before: unpacking", unpack)?;
    // What it has in common with this version is built once.
    let shared = target()?;
    let mut made = cargo(&["build", "--quiet", "--locked", "--package", "regrow"]);
    made.arg("--manifest-path").arg(source.join("Cargo.toml"));
    made.arg("--target-dir").arg(&shared);
    run("the version before", made)?;
    // Under its name only once it is whole.
    let whole = place.join("regrow.whole");
    let built: PathBuf = shared.join("debug").join("regrow");
    fs::copy(&built, &whole).map_err(odd)?;
    fs::rename(&whole, program).map_err(odd)?;
    fs::remove_file(&archive).map_err(odd)?;
    fs::remove_dir_all(&source).map_err(odd)
}
