//! `todo-marker` and `merge-conflict-marker`: rules about lines.
//!
//! A marker is `TODO` or `FIXME` in capitals, outside code blocks and spans,
//! followed by `:` or `(name)`, or standing first in its line (behind bullets
//! and comment openers) before more text. "The TODO app" and a section headed
//! "TODO" are no markers, and a file that is named for it (`TODO.md`) has none.
//!
//! A conflict is `<<<<<<< label` at the start of a line outside code, with a
//! `=======` or `>>>>>>> label` line below: one finding where it begins.
//! Documents that teach Git show these inside code.

use std::sync::LazyLock;

use regex::Regex;

use crate::audit::document::Document;
use crate::audit::finding::{Remark, Rule};
use crate::audit::inventory::file_name;

static MARKER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?x) \b (TODO|FIXME) \b (?: \s?\([^)\s]{1,40}\) :? | : | (\s+\S) )").ok()
});

pub(crate) fn check(path: &str, document: &Document<'_>, remarks: &mut Vec<Remark>) {
    if document.text.contains("<<<<<<< ") {
        conflicts(document, remarks);
    }
    let named_for_it = file_name(path).to_ascii_lowercase().starts_with("todo");
    if !named_for_it && (document.text.contains("TODO") || document.text.contains("FIXME")) {
        markers(document, remarks);
    }
}

fn markers(document: &Document<'_>, remarks: &mut Vec<Remark>) {
    let Some(pattern) = &*MARKER else { return };
    for (number, start, line) in document.lines.iter(document.text) {
        for captures in pattern.captures_iter(line) {
            let (Some(all), Some(word)) = (captures.get(0), captures.get(1)) else {
                continue;
            };
            let explicit = captures.get(2).is_none();
            if !explicit && !is_first(&line[..all.start()], &line[word.end()..]) {
                continue;
            }
            if document.is_code(start + all.start()) || is_quoted(line, all.start()) {
                continue;
            }
            let (_, column) = document.position(start + all.start());
            let message = format!("marked {}", word.as_str());
            let remark = Remark::new(Rule::TodoMarker, number, line, message);
            remarks.push(remark.at_column(column));
            // One line of unfinished work is one finding.
            break;
        }
    }
}

/// Whether a marker opens its line and speaks about work, not about itself.
fn is_first(before: &str, after: &str) -> bool {
    let opens = before
        .trim_matches(|c: char| c.is_whitespace() || ">-*+<!/_[]x".contains(c))
        .is_empty()
        && !before.contains('#');
    let next = after.trim_start();
    let word: String = next.chars().take_while(|c| c.is_alphanumeric()).collect();
    const ABOUT_ITSELF: [&str; 12] = [
        "list", "lists", "app", "apps", "item", "items", "comment", "comments", "file", "and",
        "is", "are",
    ];
    opens && !word.is_empty() && !ABOUT_ITSELF.contains(&word.to_ascii_lowercase().as_str())
}

/// `"TODO: x"` is talk about markers.
fn is_quoted(line: &str, at: usize) -> bool {
    line[..at].ends_with(['"', '\'', '“', '‘', '`', '/'])
}

fn conflicts(document: &Document<'_>, remarks: &mut Vec<Remark>) {
    let mut open: Option<(u32, &str)> = None;
    for (number, start, line) in document.lines.iter(document.text) {
        let Some(mark) = conflict_mark(line) else {
            continue;
        };
        if document.is_code(start) {
            continue;
        }
        match mark {
            Mark::Begin => open = Some((number, line)),
            Mark::Middle | Mark::End => {
                if let Some((begun, opening)) = open.take() {
                    let message = "an unresolved merge conflict begins here".to_owned();
                    let rule = Rule::MergeConflictMarker;
                    remarks.push(Remark::new(rule, begun, opening, message).at_column(1));
                }
            }
        }
    }
}

enum Mark {
    Begin,
    Middle,
    End,
}

fn conflict_mark(line: &str) -> Option<Mark> {
    let line = line.trim_end();
    if line
        .strip_prefix("<<<<<<< ")
        .is_some_and(|label| !label.is_empty())
    {
        Some(Mark::Begin)
    } else if line == "=======" {
        Some(Mark::Middle)
    } else if line
        .strip_prefix(">>>>>>> ")
        .is_some_and(|label| !label.is_empty())
    {
        Some(Mark::End)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(Rule, u32)> {
        let mut remarks = Vec::new();
        check("docs/a.md", &Document::parse(text), &mut remarks);
        remarks
            .iter()
            .map(|remark| (remark.rule, remark.line))
            .collect()
    }

    #[test]
    fn markers_are_work_left_open_not_the_word() {
        for marked in [
            "TODO: write this",
            "a (FIXME: wrong)",
            "<!-- TODO(ann): explain -->",
            "- [ ] TODO write",
            "* TODO write",
            "> TODO: x",
            "TODO write this",
            "**TODO**: x\n\nTODO: y",
        ] {
            assert!(!found(marked).is_empty(), "{marked:?}");
        }
        for unmarked in [
            "A TODO app",
            "TODO list",
            "## TODO",
            "`TODO: x`",
            "```\nTODO: x\n```",
            "todo: x",
            "the \"TODO: x\" form",
            "TODOs: x",
            "TODO",
            "MASTODON: x",
        ] {
            assert!(found(unmarked).is_empty(), "{unmarked:?}");
        }
    }

    #[test]
    fn a_file_named_for_it_has_no_markers() {
        let mut remarks = Vec::new();
        check("TODO.md", &Document::parse("TODO: x"), &mut remarks);
        assert!(remarks.is_empty());
    }

    #[test]
    fn a_conflict_is_one_finding_where_it_begins() {
        let conflict = "a\n<<<<<<< HEAD\nb\n=======\nc\n>>>>>>> branch\n";
        assert_eq!(found(conflict), [(Rule::MergeConflictMarker, 2)]);
        let shown = format!("```\n{conflict}```\n");
        assert!(found(&shown).is_empty());
        assert!(found("<<<<<<< HEAD\nno end\n").is_empty());
        assert!(found("Title\n=======\n").is_empty());
    }
}
