//! `regrow diagnostics`: how a node stands, in one archive to hand on.
//!
//! Each part is asked for by itself and may fail by itself: what did not answer is named in
//! `manifest.json`. Secrets and what tasks carry are left out ([`mod@redacted`]).

mod redacted;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt as _;
use regrow_runtime::clock::{Clock, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

use self::redacted::{redacted, without_secrets};
use super::Failure;
use super::output::{note, print, table};
use crate::client::{Client, ClientError, NodeArgs};

/// How long events are listened to.
const EVENTS_FOR: Duration = Duration::from_secs(2);
/// Events that are kept at most.
const EVENTS_MAX: usize = 1_000;
/// Tasks whose journals are in the archive: the latest.
const JOURNALS_MAX: usize = 20;
/// Parts that are asked for at once.
const AT_ONCE: usize = 8;

#[derive(Args, Debug)]
pub(crate) struct DiagnosticsArgs {
    /// The archive to write; its name ends with the time otherwise. An existing file is kept
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Longest wait for each part
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    within: Duration,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

/// What is asked of the node, and the file that it becomes.
const PARTS: [(&str, &str); 17] = [
    ("configuration.json", "/v1/config"),
    ("health.json", "/health/deep"),
    ("ready.json", "/health/ready"),
    ("metrics.txt", "/metrics"),
    ("tree.json", "/v1/tree"),
    ("agents.json", "/v1/agents"),
    ("queue.json", "/v1/queue"),
    ("queue_rules.json", "/v1/queue/rules"),
    ("queue_concurrency.json", "/v1/queue/concurrency"),
    ("store.json", "/v1/store/promote"),
    ("cluster_nodes.json", "/v1/cluster/nodes"),
    ("cluster_placement.json", "/v1/cluster/placement"),
    ("budgets.json", "/v1/budgets"),
    ("approvals.json", "/v1/approvals"),
    ("tasks.json", "/v1/tasks?limit=100"),
    (
        "tasks_executing.json",
        "/v1/tasks?limit=100&state=executing",
    ),
    (
        "tasks_discarded.json",
        "/v1/tasks?limit=100&state=discarded",
    ),
];

/// What became of one part.
#[derive(Debug, Serialize)]
struct Part {
    file: String,
    from: String,
    took_ms: u64,
    bytes: usize,
    /// Why it is not in the archive, or what is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip)]
    text: Option<String>,
}

/// Exits with 0 once the archive is written, unless nothing answered.
pub(crate) async fn run(args: DiagnosticsArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node)?;
    let now = Clock::system().now();
    let stamp = now.to_string().replace([':', '.'], "-");
    let name = format!("regrow-diagnostics-{stamp}");
    let output = args
        .output
        .unwrap_or_else(|| format!("{name}.tar.gz").into());
    // Refused before anything is asked.
    let file = std::fs::File::create_new(&output).map_err(|error| {
        Failure::Usage(format!(
            "cannot write {}: {error}; name another file with --output",
            output.display()
        ))
    })?;
    let parts = gather(&client, args.within).await;
    let answered = parts.iter().filter(|part| part.text.is_some()).count();
    let manifest = manifest(now, &parts);
    if let Err(error) = write(file, &name, now, &parts, &manifest) {
        let _ = std::fs::remove_file(&output);
        return Err(Failure::Outcome(format!(
            "cannot write {}: {error}",
            output.display()
        )));
    }
    let failed: Vec<&Part> = parts.iter().filter(|part| part.problem.is_some()).collect();
    if args.node.json {
        let said = json!({ "archive": output, "manifest": manifest });
        print(&said.to_string())?;
    } else {
        print(&output.display().to_string())?;
        if !failed.is_empty() {
            let rows: Vec<Vec<String>> = failed
                .iter()
                .map(|part| vec![part.file.clone(), part.problem.clone().unwrap_or_default()])
                .collect();
            note(&table(&["NOT WHOLE", "WHY"], &rows));
        }
    }
    match answered {
        0 => Err(Failure::Outcome(format!(
            "nothing answered; {} only says so",
            output.display()
        ))),
        _ => Ok(()),
    }
}

async fn gather(client: &Client, within: Duration) -> Vec<Part> {
    let events = events(client);
    let asked = async {
        let asked = PARTS.map(|(file, path)| ask(client, within, file.to_owned(), path.to_owned()));
        let parts = futures::stream::iter(asked).buffered(AT_ONCE);
        let mut parts: Vec<Part> = parts.collect().await;
        let tasks = parts.iter().find(|part| part.file == "tasks.json");
        let ids = tasks.map(latest).unwrap_or_default();
        let journals = ids.into_iter().map(|id| {
            let (file, path) = (
                format!("journal/{id}.json"),
                format!("/v1/tasks/{id}/steps"),
            );
            ask(client, within, file, path)
        });
        let journals = futures::stream::iter(journals).buffered(AT_ONCE);
        parts.extend(journals.collect::<Vec<Part>>().await);
        parts
    };
    let (mut parts, events) = futures::join!(asked, events);
    parts.push(events);
    parts
}

/// The ids of the latest tasks.
fn latest(tasks: &Part) -> Vec<String> {
    let text = tasks.text.as_deref().unwrap_or_default();
    let list: Value = serde_json::from_str(text).unwrap_or_default();
    let ids = list["tasks"].as_array().into_iter().flatten();
    let ids = ids.filter_map(|task| task["id"].as_str().map(ToOwned::to_owned));
    ids.take(JOURNALS_MAX).collect()
}

async fn ask(client: &Client, within: Duration, file: String, path: String) -> Part {
    let begun = Instant::now();
    let asked = timeout(within, client.get(&path)).await;
    let (text, problem) = match asked {
        Err(_elapsed) => (None, Some(format!("no answer within {within:?}"))),
        Ok(Ok(reply)) => (Some(reply.text), None),
        // A node in trouble says so, with a document.
        Ok(Err(ClientError::Refused(refusal))) if path.starts_with("/health") => {
            (Some(refusal.text.clone()), None)
        }
        Ok(Err(error)) => (None, Some(error.to_string())),
    };
    part(file, path, begun, text, problem)
}

fn part(
    file: String,
    from: String,
    begun: Instant,
    text: Option<String>,
    problem: Option<String>,
) -> Part {
    let text = text.map(|text| match serde_json::from_str::<Value>(&text) {
        Ok(value) => format!("{:#}\n", redacted(value)),
        Err(_) => text
            .lines()
            .map(|line| without_secrets(line) + "\n")
            .collect(),
    });
    Part {
        file,
        from,
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        bytes: text.as_ref().map_or(0, String::len),
        problem: problem.map(|problem| without_secrets(&problem)),
        text,
    }
}

/// What happens within a short while.
async fn events(client: &Client) -> Part {
    let (begun, path) = (Instant::now(), "/v1/events");
    let end = begun + EVENTS_FOR;
    let opened = timeout_at(end, client.stream(path, 0)).await;
    let mut lines = Vec::new();
    let problem = match opened {
        Err(_elapsed) => Some(format!("no answer within {EVENTS_FOR:?}")),
        Ok(Err(error)) => Some(error.to_string()),
        Ok(Ok(None)) => None,
        Ok(Ok(Some(mut stream))) => {
            while let Ok(Some(event)) = timeout_at(end, stream.next()).await
                && lines.len() < EVENTS_MAX
            {
                let value = serde_json::from_str::<Value>(&event).map(redacted);
                lines.push(value.map_or_else(|_| without_secrets(&event), |it| it.to_string()));
            }
            None
        }
    };
    let text = problem.is_none().then(|| {
        let lines = lines.into_iter().map(|line| line + "\n");
        lines.collect::<String>()
    });
    let mut part = part("events.jsonl".into(), path.into(), begun, None, problem);
    part.bytes = text.as_ref().map_or(0, String::len);
    part.text = text;
    part
}

fn manifest(now: Timestamp, parts: &[Part]) -> Value {
    json!({
        "made_at": now.to_string(),
        "made_by": { "program": "regrow", "version": env!("CARGO_PKG_VERSION"),
            "os": std::env::consts::OS, "arch": std::env::consts::ARCH },
        "left_out": "payloads, goals, results, inputs and outputs (their sizes stand instead), \
            tokens, passwords in addresses",
        "parts": parts,
    })
}

/// Writes the archive, and returns when it is on the disk.
fn write(
    file: std::fs::File,
    name: &str,
    now: Timestamp,
    parts: &[Part],
    manifest: &Value,
) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let manifest = format!("{manifest:#}\n");
    let texts = parts
        .iter()
        .filter_map(|part| Some((&*part.file, part.text.as_deref()?)));
    for (file, text) in [("manifest.json", &*manifest)].into_iter().chain(texts) {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.0 / 1_000);
        archive.append_data(&mut header, format!("{name}/{file}"), text.as_bytes())?;
    }
    let mut file = archive.into_inner()?.finish()?;
    file.flush()?;
    file.sync_all()
}
