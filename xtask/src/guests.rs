//! The modules that are kept as components: built anew from their sources, and compared.
//!
//! A user needs none of the tools for this: the components lie in the repository, with their
//! hashes. Whoever changes a source builds them again (`cargo xtask guests --write`).

mod c;
mod rust;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::{Failed, report, run, target};

/// The hashes of all of them, as `b3sum --check` reads them, and the tools that they were built by.
const HASHES: &str = "modules/guests/HASHES";
const INTERFACE: &str = "modules/wit/strategy.wit";

/// A module whose component is kept.
struct Guest {
    component: &'static str,
    /// The world of the interface that it lives in.
    world: &'static str,
    tools: Tools,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tools {
    /// The shell for scripts: C, and QuickJS from its crate.
    QuickJs,
    /// One file of C without a library.
    C(&'static str),
    /// A crate of its own.
    Rust(&'static str),
}

const GUESTS: [Guest; 3] = [
    Guest {
        component: "modules/guests/javascript.wasm",
        world: "strategy-script",
        tools: Tools::QuickJs,
    },
    Guest {
        component: "examples/strategies/c/cheapest.wasm",
        world: "strategy-policy",
        tools: Tools::C("examples/strategies/c/cheapest.c"),
    },
    Guest {
        component: "examples/strategies/rust/cheapest.wasm",
        world: "strategy-policy",
        tools: Tools::Rust("examples/strategies/rust"),
    },
];

/// What the new ones are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Compared with those in the repository.
    Compare,
    /// The same, without what takes minutes.
    Test,
    /// They replace those in the repository.
    Write,
}

/// Builds all that can be built here, and gives what was not.
///
/// With `CI=true` it is a failure when one cannot be built, except for the one in Rust: no
/// registry that cargo uses has a standard library for WebAssembly, and building one takes
/// minutes.
pub(crate) fn check(mode: Mode) -> Result<Vec<String>, Failed> {
    let write = mode == Mode::Write;
    let strict = std::env::var("CI").is_ok_and(|it| it == "true");
    let place = target()?.join("guests");
    fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    let kept = fs::read_to_string(HASHES).unwrap_or_default();
    let mut sheet = String::new();
    let (mut differing, mut not_run) = (Vec::new(), Vec::new());
    for guest in GUESTS {
        let name = guest.component;
        let tools = match guest.tools {
            Tools::QuickJs | Tools::C(_) => c::tools(),
            Tools::Rust(_) if mode == Mode::Test && !rust::is_quick(&place) => {
                Err("a standard library takes minutes to build; `cargo xtask guests` does".into())
            }
            Tools::Rust(_) => rust::tools(),
        };
        let tools = match tools {
            Ok(tools) => tools,
            Err(missing) if strict && !matches!(guest.tools, Tools::Rust(_)) => {
                return Err(missing);
            }
            Err(missing) => {
                let line = format!("NOT RUN: rebuilding {name}: {missing}");
                report(&line);
                not_run.push(line);
                sheet.extend(entry(&kept, name));
                continue;
            }
        };
        let core = match guest.tools {
            Tools::QuickJs => c::quickjs(&place)?,
            Tools::C(source) => c::single(&place, source)?,
            Tools::Rust(folder) => rust::build(&place, folder)?,
        };
        let component = encoded(core, guest.world)?;
        let hash = blake3::hash(&component);
        let before = by(&kept, name).unwrap_or("nothing");
        // Another compiler may well give other bytes; the tests say whether ours work.
        if mode == Mode::Test && before != tools {
            let line = format!("NOT RUN: comparing {name}: built by {before}, here is {tools}");
            report(&line);
            not_run.push(line);
            sheet.extend(entry(&kept, name));
            continue;
        }
        let _ = writeln!(sheet, "# by {tools}\n{hash}  {name}");
        if write {
            fs::write(name, &component).map_err(|error| format!("{name}: {error}"))?;
            report(&format!("{name}: {} bytes, {hash}", component.len()));
        } else if fs::read(name).is_ok_and(|it| it == component) {
            report(&format!("{name}: as its source, {hash}"));
        } else {
            differing.push(if before == tools {
                format!("{name} is not what its source gives ({hash})")
            } else {
                format!("{name} was built by {before}; {tools} gives {hash}")
            });
        }
    }
    if !write && differing.is_empty() && sheet != kept {
        differing.push(format!("{HASHES} does not say what the components are"));
    }
    if !differing.is_empty() {
        return Err(format!(
            "{}; build them again with `cargo xtask guests --write`",
            differing.join("; ")
        ));
    }
    if write {
        fs::write(HASHES, sheet).map_err(|error| format!("{HASHES}: {error}"))?;
    }
    Ok(not_run)
}

/// What the sheet says of one of them: its tools and its hash.
fn entry(sheet: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = sheet.lines().collect();
    let at = lines.iter().position(|line| line.ends_with(name))?;
    Some(format!(
        "{}\n{}\n",
        lines.get(at.checked_sub(1)?)?,
        lines[at]
    ))
}

fn by<'a>(sheet: &'a str, name: &str) -> Option<&'a str> {
    let lines: Vec<&str> = sheet.lines().collect();
    let at = lines.iter().position(|line| line.ends_with(name))?;
    lines.get(at.checked_sub(1)?)?.strip_prefix("# by ")
}

/// The component around a core module.
fn encoded(mut core: Vec<u8>, world: &str) -> Result<Vec<u8>, Failed> {
    let mut resolve = Resolve::default();
    let odd = |error: &dyn std::fmt::Display| format!("{INTERFACE}: {error}");
    let text = fs::read_to_string(INTERFACE).map_err(|error| odd(&error))?;
    let package = resolve
        .push_str(INTERFACE, &text)
        .map_err(|error| odd(&format!("{error:#}")))?;
    let world = resolve
        .select_world(&[package], Some(world))
        .map_err(|error| odd(&format!("{error:#}")))?;
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8)
        .and_then(|()| ComponentEncoder::default().module(&core))
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| format!("no component could be made of it: {error:#}"))
}

/// The first line that a program says of its version, without where it comes from.
fn version(program: &str) -> Option<String> {
    let answer = std::process::Command::new(program)
        .arg("--version")
        .output();
    let answer = answer.ok().filter(|answer| answer.status.success())?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    text.lines().next().map(str::to_owned)
}

fn read(path: &Path) -> Result<Vec<u8>, Failed> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_components_are_those_of_the_hashes() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let sheet = fs::read_to_string(root.join(HASHES)).expect("the hashes");
        for guest in GUESTS {
            let bytes = fs::read(root.join(guest.component)).expect("a component");
            let line = format!("{}  {}", blake3::hash(&bytes), guest.component);
            assert!(sheet.contains(&line), "{HASHES} has no line {line:?}");
            assert!(by(&sheet, guest.component).is_some(), "by which tools?");
        }
    }
}
