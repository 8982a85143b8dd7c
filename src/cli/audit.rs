//! `regrow audit`: the record of what operators did, through a node, from its store, or from
//! a file.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::{Args, Subcommand};
use regrow_runtime::access::audit::chain::{Head, Line, Verifier};
use regrow_runtime::access::audit::{self, PAGE_MAX};
use regrow_runtime::access::place::Place;
use regrow_runtime::causes;
use serde::Deserialize;
use serde_json::json;

use super::Failure;
use super::access::{Local, PlaceArgs};
use super::output::{line, print, relative, table};
use super::tasks::encoded;
use crate::client::{Client, NodeArgs, read_input};

#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    pub(super) node: NodeArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(subcommand)]
    verb: AuditVerb,
}

#[derive(Debug, Subcommand)]
enum AuditVerb {
    /// List the chains of the record: one per node
    Chains,
    /// Print the latest entries
    Show {
        /// Entries per chain
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
        limit: u64,
    },
    /// Print all entries as JSON, one a line
    Export {
        /// Only this chain
        #[arg(long, value_name = "NAME")]
        chain: Option<String>,
    },
    /// Check that no entry was changed, removed or moved
    Verify {
        /// Check an export instead; `-` reads standard input
        #[arg(long, value_name = "FILE")]
        file: Option<String>,
        /// What was noted of an entry elsewhere, as CHAIN:NUMBER:HASH; may be repeated
        #[arg(long, value_name = "CHAIN:N:HASH")]
        expect: Vec<Noted>,
    },
}

/// An entry's hash that somebody kept elsewhere.
#[derive(Clone, Debug)]
struct Noted {
    chain: String,
    n: u64,
    hash: String,
}

impl FromStr for Noted {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "must be like CHAIN:NUMBER:HASH, as `regrow audit verify` prints it";
        let mut parts = text.rsplitn(3, ':');
        let (hash, n, chain) = (parts.next(), parts.next(), parts.next());
        let (Some(hash), Some(n), Some(chain)) = (hash, n, chain) else {
            return Err(wrong);
        };
        let n = n.parse().map_err(|_| wrong)?;
        let (chain, hash) = (chain.to_owned(), hash.to_owned());
        Ok(Self { chain, n, hash })
    }
}

/// Where the record is read.
enum Source {
    Node(Client),
    Place(Place),
}

#[derive(Deserialize)]
struct ChainTold {
    chain: String,
    #[serde(flatten)]
    head: Head,
}

#[derive(Deserialize)]
struct PageTold {
    entries: Vec<Line>,
}

impl Source {
    async fn chains(&self) -> Result<Vec<(String, Head)>, Failure> {
        match self {
            Self::Node(client) => {
                let told: Vec<ChainTold> = client.get("/v1/audit").await?.decode()?;
                Ok(told.into_iter().map(|it| (it.chain, it.head)).collect())
            }
            Self::Place(place) => {
                let chains = audit::chains(place).await;
                chains.map_err(|it| Failure::Outcome(causes::chain(&it)))
            }
        }
    }

    /// Entries behind number `after`; none when there are no more.
    async fn page(&self, chain: &str, after: u64) -> Result<Vec<Line>, Failure> {
        match self {
            Self::Node(client) => {
                let path = format!(
                    "/v1/audit/{}?after={after}&limit={PAGE_MAX}",
                    encoded(chain)
                );
                let told: PageTold = client.get(&path).await?.decode()?;
                Ok(told.entries)
            }
            Self::Place(place) => {
                let limit = usize::try_from(PAGE_MAX).unwrap_or(usize::MAX);
                let page = audit::page(place, chain, after, limit).await;
                let page = page.map_err(|it| Failure::Outcome(causes::chain(&it)))?;
                Ok(page.unwrap_or_default())
            }
        }
    }
}

pub(crate) async fn run(args: AuditArgs) -> Result<(), Failure> {
    let json = args.node.json;
    if let AuditVerb::Verify {
        file: Some(file),
        expect,
    } = &args.verb
    {
        return told(verify_file(file, expect)?, json);
    }
    if !args.place.is_local() {
        let source = Source::Node(Client::new(&args.node)?);
        return carried_out(&source, args.verb, json).await;
    }
    let local = Local::open(&args.place).await?;
    let source = Source::Place(local.place.clone());
    let done = carried_out(&source, args.verb, json).await;
    local.close().await;
    done
}

async fn carried_out(source: &Source, verb: AuditVerb, json: bool) -> Result<(), Failure> {
    match verb {
        AuditVerb::Chains => chains(source, json).await,
        AuditVerb::Show { limit } => show(source, limit, json).await,
        AuditVerb::Export { chain } => export(source, chain.as_deref()).await,
        AuditVerb::Verify { expect, .. } => told(verify(source, &expect).await?, json),
    }
}

async fn chains(source: &Source, json: bool) -> Result<(), Failure> {
    let chains = source.chains().await?;
    if json {
        let told: Vec<_> = chains
            .iter()
            .map(|(chain, head)| {
                json!({ "chain": chain, "first": head.first, "n": head.n, "hash": head.hash })
            })
            .collect();
        print(&json!(told).to_string())?;
        return Ok(());
    }
    if chains.is_empty() {
        print("no operator has done anything yet")?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = chains
        .into_iter()
        .map(|(chain, head)| {
            let (first, last) = (head.first.to_string(), head.n.to_string());
            vec![line(&chain, 80), first, last, head.hash]
        })
        .collect();
    print(&table(
        &["CHAIN", "FIRST", "LAST", "HASH OF THE LAST"],
        &rows,
    ))?;
    Ok(())
}

async fn show(source: &Source, limit: u64, json: bool) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for (chain, head) in source.chains().await? {
        let lines = source.page(&chain, head.n.saturating_sub(limit)).await?;
        for sealed in lines {
            let entry = sealed.entry().map_err(|error| {
                Failure::Outcome(format!("an entry of {chain} cannot be read: {error}"))
            })?;
            if json {
                print(&serde_json::to_string(&sealed).unwrap_or_default())?;
                continue;
            }
            let outcome = entry.outcome.map_or_else(String::new, |outcome| {
                let detail = outcome.detail.unwrap_or_default();
                format!("{} {detail}", outcome.status)
            });
            rows.push((
                entry.at.clone(),
                vec![
                    relative(&entry.at),
                    line(&entry.node, 64),
                    entry.n.to_string(),
                    line(&entry.by.name, 64),
                    line(&entry.action.what, 60),
                    line(&entry.action.target, 60),
                    line(&outcome, 80),
                ],
            ));
        }
    }
    if json {
        return Ok(());
    }
    rows.sort();
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, row)| row).collect();
    let head = ["WHEN", "NODE", "N", "BY", "ACTION", "TARGET", "OUTCOME"];
    print(&table(&head, &rows))?;
    Ok(())
}

async fn export(source: &Source, only: Option<&str>) -> Result<(), Failure> {
    for (chain, _) in source.chains().await? {
        if only.is_some_and(|only| only != chain) {
            continue;
        }
        let mut after = 0;
        loop {
            let lines = source.page(&chain, after).await?;
            let Some(last) = lines.last() else { break };
            let odd = |error: serde_json::Error| {
                Failure::Outcome(format!("an entry of {chain} cannot be read: {error}"))
            };
            after = last.entry().map_err(odd)?.n;
            for sealed in &lines {
                print(&serde_json::to_string(sealed).unwrap_or_default())?;
            }
        }
    }
    Ok(())
}

/// A chain that was looked at: its entries, its last hash, and what is wrong with it.
struct Looked {
    chain: String,
    first: u64,
    n: u64,
    hash: String,
    problem: Option<String>,
}

/// All that was noted of a chain.
fn noted(expect: &[Noted], chain: &str) -> Vec<(u64, String)> {
    let found = expect.iter().filter(|noted| noted.chain == chain);
    found.map(|noted| (noted.n, noted.hash.clone())).collect()
}

fn unseen(looked: &mut Vec<Looked>, expect: &[Noted]) {
    for noted in expect {
        if !looked.iter().any(|it| it.chain == noted.chain) {
            looked.push(Looked {
                chain: noted.chain.clone(),
                first: 1,
                n: 0,
                hash: String::new(),
                problem: Some("the whole chain is missing".to_owned()),
            });
        }
    }
}

async fn verify(source: &Source, expect: &[Noted]) -> Result<Vec<Looked>, Failure> {
    let mut looked = Vec::new();
    for (chain, head) in source.chains().await? {
        let mut verifier = Verifier::new(&chain, &head, noted(expect, &chain));
        let broken = 'reading: loop {
            let lines = source.page(&chain, verifier.n()).await?;
            if lines.is_empty() {
                break None;
            }
            for sealed in &lines {
                if let Err(found) = verifier.follow(sealed) {
                    break 'reading Some(found);
                }
            }
        };
        let n = verifier.n();
        let broken = broken.or_else(|| verifier.finish(&head).err());
        looked.push(Looked {
            chain,
            first: head.first,
            n,
            hash: head.hash,
            problem: broken.map(|found| found.to_string()),
        });
    }
    unseen(&mut looked, expect);
    Ok(looked)
}

/// Checks an export, which begins and ends where it says.
fn verify_file(path: &str, expect: &[Noted]) -> Result<Vec<Looked>, Failure> {
    let unreadable = |what: String| Failure::Usage(format!("{path}: {what}"));
    let text = read_input(path).map_err(|error| unreadable(error.to_string()))?;
    let mut chains: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for (at, text) in text.lines().enumerate() {
        let odd = |error: serde_json::Error| unreadable(format!("line {}: {error}", at + 1));
        let sealed: Line = serde_json::from_str(text).map_err(odd)?;
        let chain = sealed.entry().map_err(odd)?.chain;
        chains.entry(chain).or_default().push(sealed);
    }
    let mut looked = Vec::new();
    for (chain, lines) in chains {
        // There is one at least, and it could be read.
        let entries = lines.first().zip(lines.last());
        let ends = entries.and_then(|(a, b)| Some((a.entry().ok()?, b)));
        let Some((first, last)) = ends else { continue };
        let mut head = Head {
            n: last.entry().map_or(0, |entry| entry.n),
            hash: last.hash.clone(),
            first: first.n,
            anchor: first.prev,
        };
        if head.first == 1 {
            head.anchor = Head::default().anchor;
        }
        let mut verifier = Verifier::new(&chain, &head, noted(expect, &chain));
        let broken = lines.iter().find_map(|it| verifier.follow(it).err());
        let n = verifier.n();
        let broken = broken.or_else(|| verifier.finish(&head).err());
        looked.push(Looked {
            chain,
            first: head.first,
            n,
            hash: head.hash,
            problem: broken.map(|found| found.to_string()),
        });
    }
    unseen(&mut looked, expect);
    Ok(looked)
}

fn told(looked: Vec<Looked>, json: bool) -> Result<(), Failure> {
    if json {
        let told: Vec<_> = looked
            .iter()
            .map(|it| {
                json!({
                    "chain": it.chain, "first": it.first, "n": it.n, "hash": it.hash,
                    "sound": it.problem.is_none(), "problem": it.problem,
                })
            })
            .collect();
        print(&json!(told).to_string())?;
    } else {
        for it in looked.iter().filter(|it| it.problem.is_none()) {
            let entries = it.n + 1 - it.first.min(it.n + 1);
            print(&format!(
                "{}: {entries} entries, unbroken; to check later, keep {}:{}:{}",
                it.chain, it.chain, it.n, it.hash
            ))?;
        }
    }
    let problems: Vec<String> = looked
        .iter()
        .filter_map(|it| Some(format!("{}: {}", it.chain, it.problem.as_ref()?)))
        .collect();
    if problems.is_empty() {
        if looked.is_empty() && !json {
            print("no operator has done anything yet")?;
        }
        return Ok(());
    }
    Err(Failure::Outcome(format!(
        "the audit record is broken: {}",
        problems.join("; ")
    )))
}
