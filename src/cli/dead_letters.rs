//! Dead letters: what was given up, grouped by why, and how to try it again.

use std::collections::BTreeMap;

use clap::Args;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};

use super::Failure;
use super::output::{line, note, print, table};
use super::tasks::encoded;
use crate::client::Client;

/// Tasks read per request.
const PAGE: u64 = 200;
/// Requests under way at once while replaying.
const AT_ONCE: usize = 16;
/// Refusals told; the rest is counted.
const REFUSALS_TOLD: usize = 5;

/// Which dead letters.
#[derive(Args, Debug)]
pub(crate) struct Which {
    /// Only tasks of this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only tasks whose error contains this text
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// At most this many, the newest first
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    limit: usize,
}

#[derive(Debug, Deserialize)]
struct Page {
    tasks: Vec<Letter>,
    next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Letter {
    id: String,
    kind: String,
    error: Option<String>,
    finished_at: Option<String>,
}

/// Dead letters of one kind with one error.
#[derive(Debug, Serialize)]
struct Group {
    kind: String,
    error: String,
    count: usize,
    newest: String,
    newest_finished_at: Option<String>,
}

/// What became of a replay.
#[derive(Debug, Serialize)]
struct Replayed {
    replayed: usize,
    refused: Vec<Refused>,
}

#[derive(Debug, Serialize)]
struct Refused {
    id: String,
    reason: String,
}

impl Which {
    async fn read(&self, client: &Client) -> Result<Vec<Letter>, Failure> {
        let mut path = format!("/v1/tasks?state=discarded&limit={PAGE}");
        if let Some(kind) = &self.kind {
            path.push_str(&format!("&kind={}", encoded(kind)));
        }
        let (mut letters, mut cursor) = (Vec::new(), String::new());
        loop {
            let page: Page = client.get(&format!("{path}{cursor}")).await?.decode()?;
            let wanted = page.tasks.into_iter().filter(|letter| {
                let error = letter.error.as_deref().unwrap_or_default();
                self.error
                    .as_deref()
                    .is_none_or(|text| error.contains(text))
            });
            letters.extend(wanted);
            match page.next_cursor {
                Some(next) if letters.len() < self.limit => {
                    cursor = format!("&cursor={}", encoded(&next));
                }
                Some(_) | None => break,
            }
        }
        letters.truncate(self.limit);
        Ok(letters)
    }
}

/// Errors often differ in a number or an id only; those are one group.
fn shape(error: &str) -> String {
    let mut shape = String::new();
    for word in error.split_whitespace() {
        if !shape.is_empty() {
            shape.push(' ');
        }
        match word.chars().any(|c| c.is_ascii_digit()) {
            true => shape.push('…'),
            false => shape.push_str(word),
        }
    }
    shape
}

fn groups(letters: Vec<Letter>) -> Vec<Group> {
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    for letter in letters {
        let error = letter.error.unwrap_or_default();
        groups
            .entry((letter.kind.clone(), shape(&error)))
            .and_modify(|group| group.count += 1)
            .or_insert(Group {
                kind: letter.kind,
                error,
                count: 1,
                newest: letter.id,
                newest_finished_at: letter.finished_at,
            });
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    groups
}

/// `regrow queue dead-letters`
pub(super) async fn browse(client: &Client, which: &Which, json: bool) -> Result<(), Failure> {
    let groups = groups(which.read(client).await?);
    let text = if json {
        serde_json::to_string(&groups).unwrap_or_default()
    } else if groups.is_empty() {
        "no task was given up".to_owned()
    } else {
        let rows: Vec<Vec<String>> = groups
            .iter()
            .map(|group| {
                vec![
                    group.count.to_string(),
                    group.kind.clone(),
                    group.newest.clone(),
                    line(&group.error, 120),
                ]
            })
            .collect();
        table(&["TASKS", "KIND", "NEWEST", "ERROR"], &rows)
    };
    print(&text)?;
    Ok(())
}

/// `regrow queue replay`: gives each all its attempts again.
pub(super) async fn replay(
    client: &Client,
    which: &Which,
    sure: bool,
    json: bool,
) -> Result<(), Failure> {
    let letters = which.read(client).await?;
    if !sure {
        return Err(Failure::Usage(format!(
            "this would try {} tasks again; look at them with `regrow queue dead-letters`, then \
             repeat with --yes",
            letters.len()
        )));
    }
    if !json && !letters.is_empty() {
        note(&format!("trying {} tasks again …", letters.len()));
    }
    let answers: Vec<(String, Result<(), Failure>)> = futures::stream::iter(letters)
        .map(async |letter| {
            let path = format!("/v1/tasks/{}/retry", encoded(&letter.id));
            let answer = client.post(&path, "{}".to_owned()).await;
            (letter.id, answer.map(drop).map_err(Failure::from))
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let all = answers.len();
    let refused: Vec<Refused> = answers
        .into_iter()
        .filter_map(|(id, answer)| {
            let reason = answer.err()?.to_string();
            Some(Refused { id, reason })
        })
        .collect();
    let outcome = Replayed {
        replayed: all - refused.len(),
        refused,
    };
    if json {
        print(&serde_json::to_string(&outcome).unwrap_or_default())?;
    } else {
        print(&format!("{} tasks are tried again", outcome.replayed))?;
        for one in outcome.refused.iter().take(REFUSALS_TOLD) {
            print(&format!("  not {}: {}", one.id, line(&one.reason, 160)))?;
        }
    }
    match outcome.refused.len() {
        0 => Ok(()),
        refused => Err(Failure::Outcome(format!(
            "{refused} of {all} tasks were not tried again"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(kind: &str, error: &str) -> Letter {
        Letter {
            id: "id".to_owned(),
            kind: kind.to_owned(),
            error: Some(error.to_owned()),
            finished_at: None,
        }
    }

    #[test]
    fn errors_that_differ_in_numbers_only_are_one_group_and_the_largest_comes_first() {
        let groups = groups(vec![
            letter("a", "no disk"),
            letter("b", "timed out after 31 s"),
            letter("b", "timed out after 7 s"),
            letter("b", "no disk"),
        ]);
        let counted: Vec<(&str, usize)> = groups
            .iter()
            .map(|group| (group.kind.as_str(), group.count))
            .collect();
        assert_eq!(counted, [("b", 2), ("a", 1), ("b", 1)]);
        assert_eq!(groups[0].error, "timed out after 31 s");
    }
}
