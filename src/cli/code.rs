//! `regrow code`: versions of agents' code.

mod archive;
mod difference;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use regrow_runtime::code::source::{MODULE_BYTES_MAX, Source};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Failure;
use super::output::{facts, line, note, print, relative, table};
use super::tasks::{encoded, show};
use crate::client::{Client, NodeArgs, Reply};

/// How a WebAssembly file begins.
const WASM: &[u8] = b"\0asm";

// `--version` names a version of code here.
#[derive(Args, Debug)]
#[command(disable_version_flag = true)]
pub(crate) struct CodeArgs {
    #[command(flatten)]
    pub(super) node: NodeArgs,
    #[command(subcommand)]
    verb: CodeVerb,
}

/// Whose code.
#[derive(Args, Debug)]
struct Whose {
    /// The agent
    #[arg(long, short, value_name = "AGENT")]
    agent: String,
}

/// Which version of whose code.
#[derive(Args, Debug)]
struct Which {
    #[command(flatten)]
    whose: Whose,
    /// The version
    #[arg(long, value_name = "VERSION")]
    version: String,
}

#[derive(Args, Debug)]
struct New {
    #[command(flatten)]
    which: Which,
    /// File of an expression or a WebAssembly component; - for standard input
    #[arg(long, short, value_name = "FILE")]
    code: String,
    /// What an expression may speak of: the columns of the table that it scores, in order
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    columns: Vec<String>,
    /// What to say of it
    #[arg(long, value_name = "TEXT")]
    notes: Option<String>,
}

#[derive(Debug, Subcommand)]
enum CodeVerb {
    /// Vet a version and keep it beside the active one; with --promote, make it active
    Load {
        #[command(flatten)]
        new: New,
        /// Make it the active one at once
        #[arg(long)]
        promote: bool,
    },
    /// Vet a version and keep it beside the active one
    Stage {
        #[command(flatten)]
        new: New,
    },
    /// Make a version the active one
    Promote(Which),
    /// Make the version active that was active before
    #[command(visible_alias = "roll-back")]
    Rollback(Whose),
    /// List the agents that have code
    List,
    /// List an agent's versions
    Versions(Whose),
    /// Show a version; with --source, print nothing but its source
    Show {
        #[command(flatten)]
        which: Which,
        /// Print its source alone, as it was staged
        #[arg(long)]
        source: bool,
    },
    /// Show what was done with an agent's code, by whom and when
    History(Whose),
    /// Show what differs between two versions
    Diff {
        #[command(flatten)]
        whose: Whose,
        /// The one; the active version unless said otherwise
        #[arg(long, value_name = "VERSION")]
        from: Option<String>,
        /// The other; the latest unless said otherwise
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
    },
    /// Let a version stay, however old it gets
    Pin(Which),
    /// Let a version go when its time is over
    Unpin(Which),
    /// Take a version and its source away
    Remove(Which),
    /// Set what an agent's modules may import beside log and metrics
    Grant {
        #[command(flatten)]
        whose: Whose,
        /// clock or rand; none takes all away
        capabilities: Vec<String>,
    },
    /// Read all sources of an agent, and look whether they are what was staged
    Check(Whose),
    /// Write all versions of an agent and their sources into a tar file
    Export {
        #[command(flatten)]
        whose: Whose,
        /// The file to write, which must not be there
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
    },
    /// Stage all versions of a tar file that `export` wrote, and promote the one that was active
    Import {
        /// The file
        file: PathBuf,
        /// Whose code it is to be; the agent that it was exported of, unless said otherwise
        #[arg(long, short, value_name = "AGENT")]
        agent: Option<String>,
        /// Leave the active version as it is
        #[arg(long)]
        stage_only: bool,
    },
}

/// A version as a node tells of it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Version {
    version: String,
    n: u64,
    state: String,
    kind: String,
    hash: String,
    bytes: u64,
    columns: Vec<String>,
    module: Value,
    notes: Option<String>,
    staged_at: String,
    staged_by: String,
    promoted_at: Option<String>,
    retired_at: Option<String>,
    pinned: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ledger {
    agent: String,
    active: Option<String>,
    previous: Option<String>,
    grants: Vec<String>,
    versions: Vec<Version>,
    history: Vec<Note>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Note {
    at: String,
    by: String,
    what: String,
    of: String,
}

#[derive(Debug, Deserialize)]
struct Sourced {
    version: Version,
    source: Source,
}

#[derive(Debug, Deserialize)]
struct Listed {
    agents: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Checked {
    sound: u64,
    damaged: std::collections::BTreeMap<String, String>,
}

fn path(agent: &str, rest: &str) -> String {
    format!("/v1/code/{}{rest}", encoded(agent))
}

fn version_path(which: &Which, rest: &str) -> String {
    let version = encoded(&which.version);
    path(&which.whose.agent, &format!("/versions/{version}{rest}"))
}

pub(crate) async fn run(args: CodeArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node)?;
    let json = args.node.json;
    match args.verb {
        CodeVerb::Load { new, promote } => stage(&client, json, new, promote).await,
        CodeVerb::Stage { new } => stage(&client, json, new, false).await,
        CodeVerb::Promote(which) => {
            let path = version_path(&which, "/promote");
            changed(&client.post(&path, "{}".to_owned()).await?, json)
        }
        CodeVerb::Rollback(whose) => {
            let path = path(&whose.agent, "/rollback");
            changed(&client.post(&path, "{}".to_owned()).await?, json)
        }
        CodeVerb::Pin(which) => pin(&client, json, &which, true).await,
        CodeVerb::Unpin(which) => pin(&client, json, &which, false).await,
        CodeVerb::Remove(which) => changed(&client.delete(&version_path(&which, "")).await?, json),
        CodeVerb::Grant {
            whose,
            capabilities,
        } => {
            let body = json!({ "capabilities": capabilities }).to_string();
            changed(
                &client.put(&path(&whose.agent, "/grants"), body).await?,
                json,
            )
        }
        CodeVerb::List => list(&client, json).await,
        CodeVerb::Versions(whose) => {
            let reply = client.get(&path(&whose.agent, "")).await?;
            show(&reply, json, || Ok(versions(&reply.decode()?)))
        }
        CodeVerb::History(whose) => {
            let reply = client.get(&path(&whose.agent, "")).await?;
            show(&reply, json, || Ok(history(&reply.decode()?)))
        }
        CodeVerb::Show { which, source } => {
            let reply = client.get(&version_path(&which, "")).await?;
            if source && !json {
                let Sourced { source, .. } = reply.decode()?;
                return raw(&source);
            }
            show(&reply, json, || shown(&reply))
        }
        CodeVerb::Diff { whose, from, to } => {
            difference::run(&client, json, &whose.agent, from, to).await
        }
        CodeVerb::Check(whose) => check(&client, json, &whose.agent).await,
        CodeVerb::Export { whose, out } => archive::export(&client, json, &whose.agent, &out).await,
        CodeVerb::Import {
            file,
            agent,
            stage_only,
        } => archive::import(&client, json, &file, agent, stage_only).await,
    }
}

async fn stage(client: &Client, json: bool, new: New, promote: bool) -> Result<(), Failure> {
    let source = source(&new)?;
    let body = json!({
        "version": new.which.version, "source": source, "notes": new.notes, "promote": promote,
    });
    let agent = new.which.whose.agent;
    let reply = client.post(&path(&agent, ""), body.to_string()).await?;
    show(&reply, json, || {
        let told: Version = reply.decode()?;
        let hash: String = told.hash.chars().take(12).collect();
        let state = match told.state.as_str() {
            "active" => "is active".to_owned(),
            state => format!("is {state}; promote it with: regrow code promote"),
        };
        Ok(format!(
            "version {} of agent {agent} ({hash}) {state}",
            told.version
        ))
    })
}

/// What the file holds, by how it begins.
fn source(new: &New) -> Result<Source, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::Usage(format!(
            "--code is `{}`, which cannot be read: {error}",
            new.code
        ))
    };
    let bytes = read(&new.code).map_err(unreadable)?;
    if bytes.starts_with(WASM) {
        if !new.columns.is_empty() {
            let why = "--columns is for expressions; a component says itself what it takes";
            return Err(Failure::Usage(why.to_owned()));
        }
        return Ok(Source::wasm(&bytes));
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        let why = "is neither a WebAssembly component nor text";
        Failure::Usage(format!("--code is `{}`, which {why}", new.code))
    })?;
    if new.columns.is_empty() {
        let why = "an expression needs --columns: what it may speak of, such as item,left";
        return Err(Failure::Usage(why.to_owned()));
    }
    Ok(Source::Expression {
        columns: new.columns.clone(),
        text: text.trim().to_owned(),
    })
}

fn read(file: &str) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let most = MODULE_BYTES_MAX as u64 + 1;
    let mut bytes = Vec::new();
    if file == "-" {
        std::io::stdin().take(most).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(file)?
            .take(most)
            .read_to_end(&mut bytes)?;
    }
    if MODULE_BYTES_MAX < bytes.len() {
        let why = format!("it has more than {MODULE_BYTES_MAX} bytes");
        return Err(std::io::Error::other(why));
    }
    Ok(bytes)
}

async fn pin(client: &Client, json: bool, which: &Which, pinned: bool) -> Result<(), Failure> {
    let body = json!({ "pinned": pinned }).to_string();
    changed(&client.put(&version_path(which, "/pin"), body).await?, json)
}

fn changed(reply: &Reply, json: bool) -> Result<(), Failure> {
    show(reply, json, || Ok(versions(&reply.decode()?)))
}

fn or_none(text: Option<&str>) -> String {
    line(text.unwrap_or("-"), 64)
}

async fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let reply = client.get("/v1/code").await?;
    show(&reply, json, || {
        let Listed { agents } = reply.decode()?;
        if agents.is_empty() {
            let hint = "no agent has code yet; stage some with: regrow code stage";
            return Ok(hint.to_owned());
        }
        let row = |one: &Value| {
            let mut cells: Vec<String> = ["agent", "active", "previous", "latest"]
                .map(|member| or_none(one[member].as_str()))
                .into();
            cells.push(one["versions"].to_string());
            cells
        };
        let rows: Vec<Vec<String>> = agents.iter().map(row).collect();
        Ok(table(
            &["AGENT", "ACTIVE", "PREVIOUS", "LATEST", "VERSIONS"],
            &rows,
        ))
    })
}

fn versions(ledger: &Ledger) -> String {
    let row = |it: &Version| {
        let pinned = if it.pinned { ", pinned" } else { "" };
        vec![
            line(&it.version, 64),
            format!("{}{pinned}", line(&it.state, 16)),
            line(&it.kind, 16),
            it.bytes.to_string(),
            it.hash.chars().take(12).collect(),
            relative(&it.staged_at),
            line(&it.staged_by, 32),
            line(it.notes.as_deref().unwrap_or(""), 40),
        ]
    };
    if ledger.versions.is_empty() {
        return format!("agent {} has no code", ledger.agent);
    }
    let rows: Vec<Vec<String>> = ledger.versions.iter().map(row).collect();
    let head = [
        "VERSION", "STATE", "KIND", "BYTES", "HASH", "STAGED", "BY", "NOTES",
    ];
    let active = or_none(ledger.active.as_deref());
    let previous = or_none(ledger.previous.as_deref());
    let about = format!(
        "agent {}: active {active}, before that {previous}; may use {}",
        ledger.agent,
        ledger.grants.join(", ")
    );
    format!("{about}\n\n{}", table(&head, &rows))
}

fn history(ledger: &Ledger) -> String {
    let row = |it: &Note| {
        vec![
            it.at.clone(),
            line(&it.by, 64),
            line(&it.what, 16),
            line(&it.of, 64),
        ]
    };
    let rows: Vec<Vec<String>> = ledger.history.iter().map(row).collect();
    table(&["AT", "BY", "WHAT", "OF"], &rows)
}

fn shown(reply: &Reply) -> Result<String, Failure> {
    let Sourced {
        version: it,
        source,
    } = reply.decode()?;
    let text = match &source {
        Source::Expression { text, .. } => text.clone(),
        Source::Wasm { .. } => "WebAssembly; --source writes it".to_owned(),
    };
    let module = |member: &str| it.module[member].to_string();
    let wants: Vec<&str> = it.module["wants"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut all = vec![
        ("version", it.version.clone()),
        ("state", it.state.clone()),
        ("kind", it.kind.clone()),
        ("hash", it.hash.clone()),
        ("bytes", it.bytes.to_string()),
        ("columns", it.columns.join(", ")),
        (
            "wants",
            if wants.is_empty() {
                "nothing".to_owned()
            } else {
                wants.join(", ")
            },
        ),
        ("module bytes", module("bytes")),
        ("functions", module("functions")),
        ("staged", format!("{} by {}", it.staged_at, it.staged_by)),
    ];
    if it.columns.is_empty() {
        all.retain(|(name, _)| *name != "columns");
    }
    if let Some(at) = &it.promoted_at {
        all.push(("promoted", at.clone()));
    }
    if let Some(at) = &it.retired_at {
        all.push(("retired", at.clone()));
    }
    if let Some(notes) = &it.notes {
        all.push(("notes", notes.clone()));
    }
    all.push(("source", text));
    Ok(facts(&all))
}

/// The source as it was staged, and nothing else.
fn raw(source: &Source) -> Result<(), Failure> {
    use std::io::Write as _;
    let content = source
        .content()
        .map_err(|error| Failure::Outcome(error.to_string()))?;
    let mut out = std::io::stdout().lock();
    out.write_all(&content)?;
    if source.text().is_some() {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

async fn check(client: &Client, json: bool, agent: &str) -> Result<(), Failure> {
    let reply = client.get(&path(agent, "/check")).await?;
    let Checked { sound, damaged } = reply.decode()?;
    if json {
        print(&reply.text)?;
    } else {
        for (version, problem) in &damaged {
            note(&format!("the source of version {version} {problem}"));
        }
        print(&format!(
            "{sound} sources are sound, {} are not",
            damaged.len()
        ))?;
    }
    match damaged.is_empty() {
        true => Ok(()),
        false => Err(Failure::Outcome(format!(
            "{} versions of agent {agent} cannot be used; remove them",
            damaged.len()
        ))),
    }
}
