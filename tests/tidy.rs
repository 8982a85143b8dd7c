//! Guards the shape of the repository: who imports whom, documented modules, frozen
//! migrations, file names that say something, and files that read in one sitting.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a source file, tests included, above which it should be split.
const LINES_MAX: usize = 600;

/// Which of our crates a crate may depend on.
const ARROWS: [(&str, &[&str]); 8] = [
    ("runtime", &[]),
    // A network for tests, of anything.
    ("testnet", &[]),
    // Sandbox and languages of modules: no agents, no store.
    ("modules", &[]),
    ("actors", &["regrow-modules", "regrow-runtime"]),
    ("cluster", &["regrow-runtime"]),
    ("http", &["regrow-runtime", "regrow-cluster"]),
    (
        ".",
        &[
            "regrow-runtime",
            "regrow-actors",
            "regrow-cluster",
            "regrow-http",
            "regrow-modules",
            "regrow-local-postgres",
        ],
    ),
    ("local_postgres", &[]),
];

/// The one home of each heavy dependency: path prefixes of the files that may name it.
const HOMES: [(&str, &[&str]); 22] = [
    (
        "rusqlite",
        &["runtime/src/store/", "runtime/tests/database/"],
    ),
    // The peers of the side-by-side table are not ours; some take a pool of sqlx.
    (
        "sqlx",
        &[
            "runtime/src/store/",
            "runtime/tests/database/",
            "benches/peers/",
        ],
    ),
    (
        "ractor",
        &[
            "runtime/src/actor",
            "runtime/src/mailbox",
            "runtime/src/supervision",
            "runtime/benches/",
            // One actor that other nodes reach, and what it is compared with.
            "cluster/src/transport",
            "cluster/tests/gateway/",
            "cluster/benches/",
        ],
    ),
    ("bincode", &["cluster/src/wire"]),
    (
        "ractor_cluster",
        &["cluster/src/transport", "cluster/benches/"],
    ),
    ("chitchat", &["cluster/src/gossip"]),
    ("hickory_resolver", &["cluster/src/discovery"]),
    (
        "hickory_server",
        &["cluster/src/discovery", "cluster/tests/", "tests/network/"],
    ),
    ("rcgen", &["cluster/src/certificates", "cluster/tests/"]),
    ("axum", &["http/"]),
    ("maud", &["http/src/pages"]),
    ("ratatui", &["src/cli/top"]),
    ("opentelemetry", &["src/telemetry"]),
    ("opentelemetry_otlp", &["src/telemetry"]),
    ("wasmtime", &["modules/src/host"]),
    (
        "wasmparser",
        &[
            "modules/src/inspection",
            "modules/src/host",
            "modules/src/policy/",
        ],
    ),
    ("wasm_encoder", &["modules/src/"]),
    ("wit_component", &["modules/", "xtask/src/guests"]),
    ("pulldown_cmark", &["actors/src/audit/"]),
    ("ignore", &["actors/src/audit/"]),
    ("clap", &["src/", "xtask/"]),
    ("indicatif", &["src/"]),
];

/// Names that gather what belongs elsewhere.
const BANNED: [&str; 6] = ["util", "utils", "common", "helpers", "misc", "types"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let folders = [
        "src",
        "runtime",
        "actors",
        "cluster",
        "http",
        "modules",
        "local_postgres",
        "testnet",
        "xtask",
        "tests",
        "benches",
        "examples",
    ];
    for folder in folders {
        gather(&root().join(folder), &mut found);
    }
    assert!(
        40 < found.len(),
        "only {} source files: the guard looks elsewhere",
        found.len()
    );
    found
}

fn gather(folder: &Path, found: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("readable folder").path();
        if path.is_dir() {
            gather(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path
                .strip_prefix(root())
                .expect("inside")
                .to_string_lossy()
                .into_owned();
            found.push((name, fs::read_to_string(&path).expect("readable source")));
        }
    }
}

fn complain(what: &str, offenders: &[String]) {
    assert!(
        offenders.is_empty(),
        "{what}:\n  {}",
        offenders.join("\n  ")
    );
}

#[test]
fn crates_import_only_along_the_arrows() {
    let mut offenders = Vec::new();
    for (folder, allowed) in ARROWS {
        let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("manifest");
        let manifest: toml::Table = text.parse().expect("valid manifest");
        let dependencies = manifest["dependencies"].as_table().expect("dependencies");
        for name in dependencies
            .keys()
            .filter(|name| name.starts_with("regrow-"))
        {
            if !allowed.contains(&name.as_str()) {
                offenders.push(format!("{folder} -> {name}"));
            }
        }
    }
    complain("arrows that ARCHITECTURE.md does not have", &offenders);
}

#[test]
fn each_heavy_dependency_has_one_home() {
    let mut offenders = Vec::new();
    for (path, text) in sources() {
        for (dependency, homes) in HOMES {
            let named = text.lines().map(str::trim_start).any(|line| {
                !line.starts_with("//")
                    && [" ", "(", "<", "&"]
                        .iter()
                        .any(|before| line.contains(&format!("{before}{dependency}::")))
            });
            if named && !homes.iter().any(|home| path.starts_with(home)) {
                let homes = homes.join(", ");
                offenders.push(format!("{path} uses {dependency}, at home in {homes}"));
            }
        }
    }
    complain("dependencies outside their home", &offenders);
}

#[test]
fn every_module_says_what_it_owns() {
    let offenders: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| !text.trim_start().starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    complain("files that do not open with a module doc", &offenders);
}

#[test]
fn file_names_say_something() {
    let banned = |path: &String| {
        Path::new(path).components().any(|part| {
            let name = part.as_os_str().to_string_lossy();
            BANNED.contains(&name.trim_end_matches(".rs"))
        })
    };
    let offenders: Vec<String> = sources()
        .into_iter()
        .map(|(path, _)| path)
        .filter(banned)
        .collect();
    complain("banned file names", &offenders);
}

#[test]
fn files_read_in_one_sitting() {
    let offenders: Vec<String> = sources()
        .into_iter()
        .map(|(path, text)| (text.lines().count(), path))
        .filter(|(lines, _)| LINES_MAX < *lines)
        .map(|(lines, path)| format!("{path} has {lines} lines, at most {LINES_MAX}"))
        .collect();
    complain("files to split by responsibility", &offenders);
}

/// Migrations never change once they have landed: their digests stand in
/// `migrations/FROZEN`, and a new one is added there when it lands.
#[test]
fn migrations_are_append_only() {
    let frozen = fs::read_to_string(root().join("migrations/FROZEN")).expect("migrations/FROZEN");
    let frozen: BTreeMap<&str, &str> = frozen
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.split_once("  ").expect("`digest  path`"))
        .map(|(digest, path)| (path, digest))
        .collect();
    let mut offenders = Vec::new();
    let mut found = BTreeSet::new();
    for dialect in ["sqlite", "postgres"] {
        let Ok(entries) = fs::read_dir(root().join("migrations").join(dialect)) else {
            continue;
        };
        for entry in entries {
            let name = entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned();
            let path = format!("{dialect}/{name}");
            let (version, rest) = name.split_once('_').unwrap_or(("", &name));
            let well_named = version.len() == 4
                && version.bytes().all(|digit| digit.is_ascii_digit())
                && rest.ends_with(".sql");
            if !well_named {
                offenders.push(format!("{path} is not named NNNN_verb_noun.sql"));
            }
            let content = fs::read(root().join("migrations").join(&path)).expect("readable");
            let digest = blake3::hash(&content).to_hex().to_string();
            match frozen.get(path.as_str()) {
                Some(known) if **known == digest => {}
                Some(_) => offenders.push(format!("{path} was changed; add a migration instead")),
                None => offenders.push(format!("{path} is not frozen; add `{digest}  {path}`")),
            }
            found.insert(path);
        }
    }
    let removed = frozen.keys().filter(|path| !found.contains(**path));
    offenders.extend(removed.map(|path| format!("{path} was removed")));
    assert!(
        found.iter().any(|path| path.starts_with("sqlite/")),
        "no SQLite migrations found"
    );
    complain("migrations", &offenders);
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    let markers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("unimplement", "ed!("),
    ];
    let mut offenders = Vec::new();
    for (path, text) in sources() {
        // The audit looks for such markers in other people's files.
        if path.starts_with("actors/src/audit") || path.starts_with("actors/benches") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if markers.iter().any(|marker| line.contains(marker)) {
                offenders.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    complain("work that pretends to be done", &offenders);
}
