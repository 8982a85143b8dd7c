//! `duplicate-heading` and `skipped-heading-level`.
//!
//! Only headings of the document itself count, not those in lists, quotations
//! or footnotes. Two headings are duplicates when they have the same slug, the
//! same level and the same parent heading: a changelog's "Added" under each
//! version is not one. A level is skipped when a heading is more than one
//! deeper than the heading before it; what a document begins with is its own
//! affair, and so is how far it comes back up. HTML headings count as the
//! heading before, and are never blamed themselves. Changelogs may skip: `###
//! Added` below `# 1.2.0` is a custom of its own.

use std::collections::HashMap;

use crate::audit::document::{Document, Heading};
use crate::audit::finding::{Remark, Rule};
use crate::audit::inventory::file_name;

pub(crate) fn check(path: &str, document: &Document<'_>, remarks: &mut Vec<Remark>) {
    duplicates(&document.headings, remarks);
    if !is_changelog(path) {
        skips(&document.headings, remarks);
    }
}

fn is_changelog(path: &str) -> bool {
    let name = file_name(path).to_ascii_lowercase();
    [
        "changelog",
        "change_log",
        "change-log",
        "changes",
        "history",
        "news",
        "release",
    ]
    .iter()
    .any(|log| name.starts_with(log))
}

fn duplicates(headings: &[Heading], remarks: &mut Vec<Remark>) {
    // The headings that enclose the current one, by index and level.
    let mut parents: Vec<(usize, u8)> = Vec::new();
    let mut first: HashMap<(Option<usize>, u8, &str), u32> = HashMap::new();
    for (index, heading) in headings.iter().enumerate() {
        if !heading.top_level && !heading.html {
            continue;
        }
        while parents
            .last()
            .is_some_and(|(_, level)| heading.level <= *level)
        {
            parents.pop();
        }
        let parent = parents.last().map(|(index, _)| *index);
        parents.push((index, heading.level));
        if heading.slug.is_empty() || heading.html {
            continue;
        }
        let key = (parent, heading.level, heading.slug.as_str());
        match first.get(&key) {
            Some(line) => {
                let message = format!("the same heading stands in line {line}");
                let rule = Rule::DuplicateHeading;
                remarks.push(Remark::new(rule, heading.line, &heading.raw, message));
            }
            None => {
                first.insert(key, heading.line);
            }
        }
    }
}

fn skips(headings: &[Heading], remarks: &mut Vec<Remark>) {
    let mut before: Option<&Heading> = None;
    for heading in headings
        .iter()
        .filter(|heading| heading.top_level || heading.html)
    {
        if let Some(before) = before
            && before.level + 1 < heading.level
            && !heading.html
        {
            let message = format!(
                "level {} follows level {} (line {})",
                heading.level, before.level, before.line
            );
            let rule = Rule::SkippedHeadingLevel;
            remarks.push(Remark::new(rule, heading.line, &heading.raw, message));
        }
        before = Some(heading);
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
    fn headings_are_judged_by_parent_and_predecessor() {
        use Rule::{DuplicateHeading as Twice, SkippedHeadingLevel as Skip};
        for (text, expected) in [
            ("# A\n## B\n## C\n", vec![]),
            ("# A\n## B\n## B\n", vec![(Twice, 3)]),
            ("# A\n## *B*\n## `b`\n## B!\n", vec![(Twice, 3), (Twice, 4)]),
            ("# Log\n## 1.0\n### Added\n## 0.9\n### Added\n", vec![]),
            ("# Log\n## 1.0\n### Added\n### Added\n", vec![(Twice, 4)]),
            ("# A\n### B\n", vec![(Skip, 2)]),
            ("### A\n# B\n## C\n", vec![]),
            ("# A\n<h2>B</h2>\n\n### C\n", vec![]),
            ("# A\n- ### B\n", vec![]),
            ("# A\n\n> # A\n", vec![]),
            ("A\n===\n\nB\n---\n\nB\n---\n", vec![(Twice, 7)]),
            ("# 🚀\n# 🎉\n", vec![]),
        ] {
            assert_eq!(found(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_changelog_may_skip_levels() {
        let mut remarks = Vec::new();
        let text = "# 1.0\n\n### Added\n";
        check("CHANGELOG.md", &Document::parse(text), &mut remarks);
        assert!(remarks.is_empty());
    }
}
