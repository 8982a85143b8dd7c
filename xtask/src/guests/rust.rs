//! Rust by Debian's compiler for browsers, which comes with the sources of its standard library:
//! no registry that cargo uses has one for WebAssembly.
//!
//! Whoever has `rustup target add wasm32-unknown-unknown` needs none of this to write a module;
//! it is how the kept component is built the same way again without rustup.

use std::path::Path;

use super::{read, run, version};
use crate::{Failed, cargo};

const COMPILER: &str = "/usr/bin/rustc";
const LIBRARY: &str = "/usr/src/rustc-1.96.0/library/std";
const LINKER: &str = "wasm-ld-22";

/// What it is built by. Not installed by itself: it is half a gigabyte.
pub(super) fn tools() -> Result<String, Failed> {
    let known = version(COMPILER).filter(|it| it.starts_with("rustc 1.96.0"));
    if known.is_some() && Path::new(LIBRARY).exists() && version(LINKER).is_some() {
        return Ok("rustc 1.96.0".to_owned());
    }
    Err(
        "Rust modules are rebuilt by Debian's rustc 1.96.0 and its library's sources (`apt-get \
         install rustc-web rust-web-src libstd-rust-web-dev lld-22`)"
            .to_owned(),
    )
}

/// Whether the library was built before.
pub(super) fn is_quick(place: &Path) -> bool {
    place.join("rust/wasm32-unknown-unknown").exists()
}

/// The crate in `folder`, with a standard library built for it.
pub(super) fn build(place: &Path, folder: &str) -> Result<Vec<u8>, Failed> {
    let here = std::env::current_dir().map_err(|error| error.to_string())?;
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .map_err(|error| format!("where is cargo at home? {error}"))?;
    let target = place.join("rust");
    let mut build = cargo(&[
        "build",
        "--release",
        "--locked",
        "-Zbuild-std=std,panic_abort",
        "--target",
        "wasm32-unknown-unknown",
        "--manifest-path",
        &format!("{folder}/Cargo.toml"),
    ]);
    build.arg("--target-dir").arg(&target);
    // No paths of this machine in it.
    let flags = format!(
        "-Clinker={LINKER}\x1f-Clink-arg=-zstack-size=65536\x1f--remap-path-prefix={}=\x1f--remap-path-prefix={home}=cargo",
        here.display()
    );
    build
        .env("RUSTC", COMPILER)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN");
    run("rustc and its library", build)?;
    read(&target.join("wasm32-unknown-unknown/release/cheapest.wasm"))
}
