//! A second look at orphans: every destination that any Markdown file writes.

use std::collections::HashSet;
use std::path::{Component, Path};

use super::Verdict;
use super::lines::without_code_spans;
use super::links::percent_decoded;
use super::scan::{Scan, State};
use crate::audit::graph::is_entry_point;
use crate::audit::inventory::{FileKind, Inventory, parent};
use crate::audit::site::Site;

/// Paths that are mentioned as a destination somewhere, without extension.
pub(super) struct Mentions {
    mentioned: HashSet<String>,
    navigated: Vec<String>,
    /// Why the tree could not be read whole.
    incomplete: Option<String>,
}

impl Mentions {
    /// Reads every Markdown file of the tree.
    pub(super) fn read(site: &Site) -> Self {
        let mut mentions = Mentions {
            mentioned: HashSet::new(),
            navigated: Vec::new(),
            incomplete: None,
        };
        let inventory = match Inventory::take(site.root(), site.limits()) {
            Ok(inventory) => inventory,
            Err(err) => {
                mentions.incomplete = Some(err.to_string());
                return mentions;
            }
        };
        for file in inventory
            .files
            .iter()
            .filter(|file| file.kind == FileKind::Markdown)
        {
            let Ok(bytes) = site.read(&file.path) else {
                continue;
            };
            let text = String::from_utf8_lossy(&bytes);
            for line in &Scan::markdown(&text).lines {
                mentions.collect(&file.path, line.text, &line.state);
            }
        }
        mentions.navigated = inventory.navigated;
        mentions
    }

    /// Confirmed if no destination leads to `path`.
    pub(super) fn judge(&self, path: &str) -> Verdict {
        if let Some(why) = &self.incomplete {
            return Verdict::inconclusive(format!("the tree could not be read: {why}"));
        }
        if is_entry_point(path) {
            return Verdict::disproved("readers find such a file by its name");
        }
        let covers =
            |directory: &String| directory.is_empty() || path.starts_with(&format!("{directory}/"));
        if self.navigated.iter().any(covers) {
            return Verdict::disproved("a site generator's navigation covers it");
        }
        let is_mentioned =
            self.mentioned.contains(bare(path)) || self.mentioned.contains(parent(path));
        if is_mentioned {
            Verdict::disproved("another file links to it or to its directory")
        } else {
            Verdict::Confirmed
        }
    }

    fn collect(&mut self, from: &str, line: &str, state: &State) {
        let markdown: &[(&str, &[char])] = &[
            ("](", &[')', ' ', '\t']),
            ("]:", &[' ', '\t']),
            ("href=", &[' ', '>']),
        ];
        let html: &[(&str, &[char])] = &[("href=", &[' ', '>'])];
        let ways = match state {
            State::Prose => markdown,
            State::Html => html,
            State::Code
            | State::Indented
            | State::FenceOpen { .. }
            | State::FenceClose
            | State::FrontMatter => return,
        };
        if !ways.iter().any(|(opening, _)| line.contains(opening)) {
            return;
        }
        let prose = without_code_spans(line);
        for (opening, closings) in ways {
            for (at, _) in prose.match_indices(opening) {
                let rest = prose[at + opening.len()..].trim_start();
                let destination = match rest.chars().next() {
                    Some('<') => rest[1..].split('>').next(),
                    Some(quote @ ('"' | '\'')) => rest[1..].split(quote).next(),
                    Some(_) => rest.split(*closings).next(),
                    None => None,
                };
                self.add(from, destination.unwrap_or_default());
            }
        }
    }

    fn add(&mut self, from: &str, destination: &str) {
        let path = destination
            .split(['#', '?'])
            .next()
            .unwrap_or_default()
            .replace('\\', "");
        if path.is_empty() || path.contains("://") {
            return;
        }
        let path = percent_decoded(&path);
        let mut bases = vec![parent(from)];
        if path.starts_with('/') {
            bases = Path::new(from)
                .ancestors()
                .skip(1)
                .filter_map(Path::to_str)
                .collect();
        }
        for base in bases {
            let target = joined(base, path.trim_start_matches('/'));
            if bare(&target) != bare(from) {
                self.mentioned.insert(bare(&target).to_owned());
            }
        }
    }
}

fn joined(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in Path::new(base)
        .components()
        .chain(Path::new(path).components())
    {
        match part {
            Component::ParentDir => {
                parts.pop();
            }
            Component::Normal(name) => parts.extend(name.to_str()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    parts.join("/")
}

/// Without the extension that a link may leave out.
fn bare(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    [".md", ".markdown", ".html", ".htm"]
        .iter()
        .find_map(|extension| path.strip_suffix(extension))
        .unwrap_or(path)
}
