//! What differs between two versions: their facts, and the lines of their sources.

use serde_json::json;

use super::{Ledger, Sourced, Version, Which, Whose, path, version_path};
use crate::cli::Failure;
use crate::cli::output::{print, printable};
use crate::client::Client;

/// Lines of a source that are compared; more are told apart as a whole.
const LINES_MAX: usize = 1_000;

pub(super) async fn run(
    client: &Client,
    json: bool,
    agent: &str,
    from: Option<String>,
    to: Option<String>,
) -> Result<(), Failure> {
    let ledger: Ledger = client.get(&path(agent, "")).await?.decode()?;
    let latest = ledger.versions.first().map(|it| it.version.clone());
    let from = from.or(ledger.active).ok_or_else(|| {
        Failure::Usage(format!(
            "agent {agent} has no active version; name one with --from"
        ))
    })?;
    let to = to.or(latest).unwrap_or_default();
    let (from, to) = (
        fetch(client, agent, from).await?,
        fetch(client, agent, to).await?,
    );
    let facts = facts(&from.version, &to.version);
    let lines = match (from.source.text(), to.source.text()) {
        (Some(before), Some(after)) => lines(before, after),
        _ if from.version.hash == to.version.hash => Vec::new(),
        _ => vec![
            format!("-{} of {} bytes", from.version.kind, from.version.bytes),
            format!("+{} of {} bytes", to.version.kind, to.version.bytes),
        ],
    };
    if json {
        let told = json!({
            "from": from.version.version, "to": to.version.version, "facts": facts, "lines": lines,
        });
        print(&told.to_string())?;
        return Ok(());
    }
    let (before, after) = (&from.version.version, &to.version.version);
    let mut text = vec![format!("--- {before}"), format!("+++ {after}")];
    text.extend(
        facts
            .iter()
            .map(|(name, before, after)| format!("{name}: {before} -> {after}")),
    );
    text.extend(lines);
    print(&printable(&text.join("\n"), true))?;
    Ok(())
}

async fn fetch(client: &Client, agent: &str, version: String) -> Result<Sourced, Failure> {
    let which = Which {
        whose: Whose {
            agent: agent.to_owned(),
        },
        version,
    };
    Ok(client.get(&version_path(&which, "")).await?.decode()?)
}

/// Name, before and after, of what differs.
fn facts(from: &Version, to: &Version) -> Vec<(&'static str, String, String)> {
    let of = |it: &Version| {
        let module = |member: &str| it.module[member].to_string();
        [
            ("kind", it.kind.clone()),
            ("columns", it.columns.join(", ")),
            ("bytes", it.bytes.to_string()),
            ("wants", module("wants")),
            ("functions", module("functions")),
            ("state schema", module("state_schema")),
        ]
    };
    let pairs = of(from).into_iter().zip(of(to));
    pairs
        .filter(|((_, before), (_, after))| before != after)
        .map(|((name, before), (_, after))| (name, before, after))
        .collect()
}

/// Lines with ` `, `-` or `+` in front, by the longest common subsequence.
fn lines(before: &str, after: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let mark = |sign: char, line: &&str| format!("{sign}{line}");
    if LINES_MAX < old.len().max(new.len()) {
        let gone = old.iter().map(|line| mark('-', line));
        return gone.chain(new.iter().map(|line| mark('+', line))).collect();
    }
    // How much the rests behind each pair of places have in common.
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for at in (0..old.len()).rev() {
        for beside in (0..new.len()).rev() {
            common[at][beside] = match old[at] == new[beside] {
                true => common[at + 1][beside + 1] + 1,
                false => common[at + 1][beside].max(common[at][beside + 1]),
            };
        }
    }
    let (mut at, mut beside, mut all) = (0, 0, Vec::new());
    while at < old.len() && beside < new.len() {
        if old[at] == new[beside] {
            all.push(mark(' ', &old[at]));
            (at, beside) = (at + 1, beside + 1);
        } else if common[at][beside + 1] <= common[at + 1][beside] {
            all.push(mark('-', &old[at]));
            at += 1;
        } else {
            all.push(mark('+', &new[beside]));
            beside += 1;
        }
    }
    all.extend(old[at..].iter().map(|line| mark('-', line)));
    all.extend(new[beside..].iter().map(|line| mark('+', line)));
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn side(all: &[String], sign: char) -> Vec<String> {
        let kept = all.iter().filter(|line| line.starts_with([' ', sign]));
        kept.map(|line| line[1..].to_owned()).collect()
    }

    #[test]
    fn a_line_that_changed_stands_between_those_that_did_not() {
        let all = lines("a\nb\nc", "a\nx\nc");
        assert_eq!(all, [" a", "-b", "+x", " c"]);
        assert_eq!(lines("a", "a"), [" a"]);
    }

    proptest! {
        #[test]
        fn both_sides_can_be_read_back(
            before in prop::collection::vec("[ab]", 0..12),
            after in prop::collection::vec("[ab]", 0..12),
        ) {
            let all = lines(&before.join("\n"), &after.join("\n"));
            prop_assert_eq!(side(&all, '-'), before);
            prop_assert_eq!(side(&all, '+'), after);
        }
    }
}
