//! C by Debian's clang 22, for WebAssembly without an operating system.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{read, run, version};
use crate::{Failed, cargo, needs, report};

const COMPILER: &str = "clang-22";
const LINKER: &str = "wasm-ld-22";
/// The same on every machine that builds it: no paths, no time, no machine's own extensions.
const FLAGS: [&str; 14] = [
    "--target=wasm32-unknown-unknown",
    "-O2",
    "-std=gnu11",
    "-nostdlibinc",
    "-fno-ident",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-ffunction-sections",
    "-fdata-sections",
    "-mbulk-memory",
    "-msign-ext",
    "-mnontrapping-fptoint",
    "-mmultivalue",
    "-Imodules/guests/include",
];
/// What belongs to QuickJS, and what of it is a strategy's business.
const QUICKJS: [&str; 4] = ["quickjs", "libregexp", "libunicode", "dtoa"];
const SHELL: [&str; 5] = ["shell", "values", "globals", "memory", "libc"];
const SHELL_FOLDER: &str = "modules/guests/javascript";
/// Scripts recurse in it; the host's own limit is half a megabyte.
const SHELL_STACK_BYTES: &str = "262144";
const STACK_BYTES: &str = "65536";

/// What it is built by. Installs it where that is possible.
pub(super) fn tools() -> Result<String, Failed> {
    for (program, package) in [(COMPILER, "clang-22"), (LINKER, "lld-22")] {
        if version(program).is_none() {
            let advice =
                format!("no `{program}`; install it (Debian: `apt-get install {package}`)");
            needs::install(package, &advice)?;
        }
    }
    let known = version(COMPILER).ok_or_else(|| format!("{COMPILER} does not say its version"))?;
    // "Debian clang version 22.1.8 (1~deb12u1)"
    let number = known
        .split_whitespace()
        .find(|word| word.starts_with("22."));
    Ok(format!("clang {}", number.unwrap_or(&known)))
}

/// The shell that runs scripts.
pub(super) fn quickjs(place: &Path) -> Result<Vec<u8>, Failed> {
    let source = source()?;
    let (interpreter, libc) = (source.join("quickjs"), source.join("vendor/wasi-libc"));
    let mut flags = vec![
        "-isystem".to_owned(),
        libc.join("include").display().to_string(),
        format!("-I{}", interpreter.display()),
        format!("-ffile-prefix-map={}=quickjs", interpreter.display()),
    ];
    // It has no name for this system; that of Emscripten brings no threads and no direct calls.
    for define in [
        "_GNU_SOURCE",
        "EMSCRIPTEN=1",
        "FE_DOWNWARD=0",
        "FE_UPWARD=0",
    ] {
        flags.push(format!("-D{define}"));
    }
    let mut objects = Vec::new();
    // Ours come first: what they define of libc is not taken from there.
    for part in SHELL {
        let file = Path::new(SHELL_FOLDER).join(part).with_extension("c");
        let strict = [
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-sign-compare",
            "-Wno-unused-parameter",
        ];
        objects.push(compiled(place, &file, strict, &flags)?);
    }
    for part in QUICKJS {
        let file = interpreter.join(part).with_extension("c");
        objects.push(compiled(place, &file, ["-w"], &flags)?);
    }
    objects.push(libc.join("lib/libc.a"));
    linked(place, "javascript", &objects, SHELL_STACK_BYTES)
}

/// A module in one file.
pub(super) fn single(place: &Path, file: &str) -> Result<Vec<u8>, Failed> {
    let object = compiled(place, Path::new(file), ["-Wall", "-Wextra", "-Werror"], &[])?;
    linked(place, "c", &[object], STACK_BYTES)
}

fn compiled<const N: usize>(
    place: &Path,
    file: &Path,
    warnings: [&str; N],
    flags: &[String],
) -> Result<PathBuf, Failed> {
    let name = file.file_stem().unwrap_or_default();
    let object = place.join(name).with_extension("o");
    let mut compiler = Command::new(COMPILER);
    compiler.args(FLAGS).args(flags).args(warnings);
    compiler.arg("-c").arg(file).arg("-o").arg(&object);
    run(&format!("clang {}", name.display()), compiler)?;
    Ok(object)
}

fn linked(place: &Path, name: &str, objects: &[PathBuf], stack: &str) -> Result<Vec<u8>, Failed> {
    let core = place.join(format!("{name}.core.wasm"));
    let mut linker = Command::new(LINKER);
    // The stack lies first: running over its end is out of memory, not into the data.
    linker.args([
        "--no-entry",
        "--gc-sections",
        "--strip-all",
        "--stack-first",
    ]);
    linker.args(["-z", &format!("stack-size={stack}")]);
    linker.args(objects).arg("-o").arg(&core);
    run(&format!("wasm-ld {name}"), linker)?;
    read(&core)
}

/// Where cargo has the crate that vendors QuickJS: fetched by the version and the checksum that
/// are written down.
fn source() -> Result<PathBuf, Failed> {
    let manifest = format!("{SHELL_FOLDER}/source/Cargo.toml");
    report("sources of QuickJS …");
    let told = cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--manifest-path",
        &manifest,
    ])
    .output()
    .map_err(|error| format!("cargo metadata cannot run: {error}"))?;
    if !told.status.success() {
        let why = String::from_utf8_lossy(&told.stderr);
        return Err(format!("the sources of QuickJS cannot be had: {why}"));
    }
    let told: Value = serde_json::from_slice(&told.stdout)
        .map_err(|error| format!("cargo metadata cannot be read: {error}"))?;
    let packages = told["packages"].as_array().into_iter().flatten();
    packages
        .filter(|package| package["name"] == "rquickjs-sys")
        .find_map(|package| Path::new(package["manifest_path"].as_str()?).parent())
        .map(Path::to_owned)
        .ok_or_else(|| format!("{manifest} does not bring rquickjs-sys"))
}
