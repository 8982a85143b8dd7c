//! An agent's versions in a tar file, to keep elsewhere or to give to another node.
//!
//! `manifest.json` says what there is; `sources/HASH.json` are the sources. What is read is not
//! believed: each source must have the hash that the manifest says, and is vetted anew by the node.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use regrow_runtime::code::source::{MODULE_BYTES_MAX, Source};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Ledger, Sourced, Version, Which, Whose, path, version_path};
use crate::cli::Failure;
use crate::cli::output::{note, print};
use crate::client::{Client, ClientError};

/// Entries of an archive: versions, and the manifest.
const ENTRIES_MAX: usize = 1_000;
/// Bytes of one entry: a module in base64, and some.
const ENTRY_BYTES_MAX: u64 = 2 * MODULE_BYTES_MAX as u64;

const MANIFEST: &str = "manifest.json";

#[derive(Debug, Deserialize, Serialize)]
struct Manifest {
    /// Of the archive's layout.
    layout: u32,
    agent: String,
    active: Option<String>,
    /// In the order of staging.
    versions: Vec<Version>,
}

const LAYOUT: u32 = 1;

fn entry(hash: &str) -> String {
    format!("sources/{hash}.json")
}

pub(super) async fn export(
    client: &Client,
    json: bool,
    agent: &str,
    out: &Path,
) -> Result<(), Failure> {
    let ledger: Ledger = client.get(&path(agent, "")).await?.decode()?;
    let mut versions = ledger.versions;
    versions.reverse();
    let mut sources = BTreeMap::new();
    for version in &versions {
        let which = Which {
            whose: Whose {
                agent: agent.to_owned(),
            },
            version: version.version.clone(),
        };
        let told: Sourced = client.get(&version_path(&which, "")).await?.decode()?;
        sources.insert(version.hash.clone(), told.source);
    }
    let manifest = Manifest {
        layout: LAYOUT,
        agent: ledger.agent,
        active: ledger.active,
        versions,
    };
    let count = manifest.versions.len();
    write(out, &manifest, &sources).map_err(|error| {
        Failure::Outcome(format!("{} cannot be written: {error}", out.display()))
    })?;
    let told = match json {
        true => json!({ "agent": agent, "versions": count, "file": out }).to_string(),
        false => format!("{count} versions of agent {agent} are in {}", out.display()),
    };
    Ok(print(&told)?)
}

fn write(
    out: &Path,
    manifest: &Manifest,
    sources: &BTreeMap<String, Source>,
) -> std::io::Result<()> {
    let file = File::options().write(true).create_new(true).open(out)?;
    let mut archive = tar::Builder::new(file);
    let mut put = |name: &str, text: String| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, name, text.as_bytes())
    };
    put(MANIFEST, serde_json::to_string_pretty(manifest)?)?;
    for (hash, source) in sources {
        put(&entry(hash), serde_json::to_string(source)?)?;
    }
    let mut file = archive.into_inner()?;
    file.flush()?;
    file.sync_all()
}

pub(super) async fn import(
    client: &Client,
    json: bool,
    file: &Path,
    agent: Option<String>,
    stage_only: bool,
) -> Result<(), Failure> {
    let (manifest, sources) =
        read(file).map_err(|why| Failure::Usage(format!("{} {why}", file.display())))?;
    let agent = agent.unwrap_or(manifest.agent);
    let mut staged = Vec::new();
    for version in &manifest.versions {
        let source = &sources[&version.hash];
        let body = json!({
            "version": version.version, "source": source, "notes": version.notes,
            "promote": false,
        });
        match client.post(&path(&agent, ""), body.to_string()).await {
            Ok(_) => staged.push(version.version.clone()),
            Err(error @ ClientError::Refused(_)) => {
                note(&format!("version {} is left out: {error}", version.version));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let active = manifest
        .active
        .filter(|active| !stage_only && staged.contains(active));
    if let Some(active) = &active {
        let which = Which {
            whose: Whose {
                agent: agent.clone(),
            },
            version: active.clone(),
        };
        let promote = version_path(&which, "/promote");
        client.post(&promote, "{}".to_owned()).await?;
    }
    let left_out = manifest.versions.len() - staged.len();
    let told = match json {
        true => json!({
            "agent": agent, "staged": staged, "active": active, "left_out": left_out,
        })
        .to_string(),
        false => {
            let active = active.map_or(String::new(), |it| format!("; {it} is active"));
            format!(
                "{} versions of agent {agent} are staged{active}",
                staged.len()
            )
        }
    };
    print(&told)?;
    match left_out {
        0 => Ok(()),
        some => Err(Failure::Outcome(format!("{some} versions were refused"))),
    }
}

/// All of an archive, within bounds, each source with the hash that the manifest says.
fn read(file: &Path) -> Result<(Manifest, BTreeMap<String, Source>), String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    let mut archive = tar::Archive::new(File::open(file).map_err(failed)?);
    let mut texts = BTreeMap::new();
    for entry in archive.entries().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.path().map_err(failed)?.to_string_lossy().into_owned();
        if ENTRIES_MAX <= texts.len() || ENTRY_BYTES_MAX < entry.size() {
            return Err("is no export of code: it is too large".to_owned());
        }
        let mut text = String::new();
        entry
            .take(ENTRY_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(failed)?;
        texts.insert(name, text);
    }
    let odd = |name: &str, error: serde_json::Error| format!("has a {name} that is odd: {error}");
    let manifest = texts
        .get(MANIFEST)
        .ok_or("is no export of code: it has no manifest.json")?;
    let manifest: Manifest = serde_json::from_str(manifest).map_err(|it| odd(MANIFEST, it))?;
    if LAYOUT < manifest.layout {
        let found = manifest.layout;
        return Err(format!(
            "has layout {found}, this version reads up to {LAYOUT}"
        ));
    }
    let mut sources = BTreeMap::new();
    for version in &manifest.versions {
        let name = entry(&version.hash);
        let text = texts.get(&name).ok_or_else(|| format!("has no {name}"))?;
        let source: Source = serde_json::from_str(text).map_err(|it| odd(&name, it))?;
        let found = source.facts().hash;
        if found != version.hash {
            let name = &version.version;
            return Err(format!(
                "was changed: the source of version {name} has the hash {found}"
            ));
        }
        sources.insert(version.hash.clone(), source);
    }
    Ok((manifest, sources))
}
