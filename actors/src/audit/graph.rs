//! `orphan-file`: Markdown that no other file links to.
//!
//! Owns the decision over the whole link graph. Leaves out the links
//! themselves; they come from the reports.
//!
//! Decisions:
//! - Files a reader finds without a link are exempt: README, index, CHANGELOG,
//!   LICENSE, CONTRIBUTING and their kin, templates, agents' instructions, and
//!   a site's `SUMMARY` or `_sidebar`.
//! - A link to a directory reaches the Markdown directly in it.
//! - A file's link to itself does not count.
//! - Where a site generator keeps its own navigation nothing is an orphan.
//! - A directory of more than [`LOOSE_FILES_MAX`] files none of which is linked
//!   (posts, fixtures, minutes) is a collection, not so many orphans.

use std::collections::{BTreeMap, HashSet};

use super::check::FileReport;
use super::finding::{ContentDigest, Finding, Remark, Rule, number};
use super::inventory::{FileKind, Inventory, file_name, parent};

/// Unlinked files in a directory without links that are still called orphans.
pub const LOOSE_FILES_MAX: usize = 5;

/// The inventory's Markdown files that nothing links to, one finding each.
///
/// `links` yields each checked file with its in-tree targets, as in
/// [`FileReport::links`]; see [`links_of`]. Meaningful only when every file
/// was checked: an unchecked file may hold the link that is missed.
pub fn orphans<'a>(
    inventory: &Inventory,
    links: impl IntoIterator<Item = (&'a str, &'a [String])>,
) -> Vec<Finding> {
    let mut linked: HashSet<&str> = HashSet::new();
    for (from, targets) in links {
        for target in targets.iter().filter(|target| target.as_str() != from) {
            linked.insert(target.strip_suffix('/').unwrap_or(target));
        }
    }
    let markdown: Vec<&str> = inventory
        .files
        .iter()
        .filter(|file| file.kind == FileKind::Markdown)
        .map(|file| file.path.as_str())
        .collect();
    if markdown.len() < 2 {
        return Vec::new();
    }
    // Per directory: whether any of its files is linked, and the unlinked ones.
    let mut directories: BTreeMap<&str, (bool, Vec<&str>)> = BTreeMap::new();
    for path in markdown.into_iter().filter(|path| !is_entry_point(path)) {
        if inventory
            .navigated
            .iter()
            .any(|directory| contains(directory, path))
        {
            continue;
        }
        let (any_linked, unlinked) = directories.entry(parent(path)).or_default();
        if linked.contains(path) || linked.contains(parent(path)) {
            *any_linked = true;
        } else {
            unlinked.push(path);
        }
    }
    let mut findings: Vec<Finding> = directories
        .into_values()
        .filter(|(any_linked, unlinked)| *any_linked || unlinked.len() <= LOOSE_FILES_MAX)
        .flat_map(|(_, unlinked)| unlinked)
        .flat_map(|path| {
            let message = "no Markdown file of the tree links here".to_owned();
            let remark = Remark::new(Rule::OrphanFile, 1, file_name(path), message);
            number(path, &ContentDigest::unread(), vec![remark])
        })
        .collect();
    findings.sort_by(|a, b| a.path.cmp(&b.path));
    findings
}

/// The links of many reports, for [`orphans`].
pub fn links_of(reports: &[FileReport]) -> impl Iterator<Item = (&str, &[String])> {
    reports
        .iter()
        .map(|report| (report.path.as_str(), report.links.as_slice()))
}

fn contains(directory: &str, path: &str) -> bool {
    directory.is_empty()
        || path
            .strip_prefix(directory)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// Files that are found by their name.
pub(crate) fn is_entry_point(path: &str) -> bool {
    const NAMES: [&str; 44] = [
        "readme",
        "index",
        "home",
        "changelog",
        "changes",
        "history",
        "news",
        "releases",
        "release-notes",
        "release_notes",
        "relnotes",
        "license",
        "licence",
        "licenses",
        "copying",
        "copyright",
        "notice",
        "notices",
        "patents",
        "third-party",
        "third_party",
        "thirdparty",
        "contributing",
        "contributors",
        "authors",
        "maintainers",
        "owners",
        "credits",
        "thanks",
        "code_of_conduct",
        "code-of-conduct",
        "security",
        "support",
        "governance",
        "todo",
        "roadmap",
        "summary",
        "_sidebar",
        "_navbar",
        "_toc",
        "agents",
        "claude",
        "gemini",
        "skill",
    ];
    const PREFIXES: [&str; 12] = [
        "readme",
        "license",
        "licence",
        "copying",
        "changelog",
        "notice",
        "issue_template",
        "pull_request_template",
        "contributing",
        "upgrad",
        "migrat",
        "third",
    ];
    let name = file_name(path).to_ascii_lowercase();
    let stem = name
        .rsplit_once('.')
        .map_or(name.as_str(), |(stem, _)| stem);
    NAMES.contains(&stem)
        || stem.contains("code_of_conduct")
        || PREFIXES.iter().any(|prefix| stem.starts_with(prefix))
        || path.split('/').any(|part| {
            let part = part.to_ascii_lowercase();
            part.contains("template") || matches!(part.as_str(), "licenses" | "legal" | "licences")
        })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::audit::inventory::FileEntry;

    fn inventory(paths: &[&str], navigated: &[&str]) -> Inventory {
        let entry = |path: &&str| FileEntry {
            path: (*path).to_owned(),
            bytes: 1,
            kind: FileKind::of(path).expect("documentation"),
        };
        Inventory {
            root: PathBuf::from("/x"),
            files: paths.iter().map(entry).collect(),
            skipped: Vec::new(),
            skipped_count: 0,
            navigated: navigated.iter().map(|path| (*path).to_owned()).collect(),
        }
    }

    fn found(paths: &[&str], navigated: &[&str], links: &[(&str, &str)]) -> Vec<String> {
        let links: Vec<(String, Vec<String>)> = links
            .iter()
            .map(|(from, to)| ((*from).to_owned(), vec![(*to).to_owned()]))
            .collect();
        let links = links
            .iter()
            .map(|(from, to)| (from.as_str(), to.as_slice()));
        orphans(&inventory(paths, navigated), links)
            .into_iter()
            .map(|f| f.path)
            .collect()
    }

    #[test]
    fn only_files_that_should_be_linked_and_are_not_are_orphans() {
        let paths = [
            "README.md",
            "docs/a.md",
            "docs/b.md",
            "LICENSE.md",
            "notes.txt",
        ];
        assert_eq!(
            found(&paths, &[], &[("README.md", "docs/a.md")]),
            ["docs/b.md"]
        );
        assert!(found(&paths, &[], &[("README.md", "docs/")]).is_empty());
        assert!(found(&paths, &["docs"], &[]).is_empty());
        assert_eq!(found(&paths, &[], &[("docs/b.md", "docs/b.md")]).len(), 2);
    }

    #[test]
    fn a_collection_nobody_links_into_is_no_heap_of_orphans() {
        let posts: Vec<String> = (0..20).map(|n| format!("posts/{n:02}.md")).collect();
        let mut paths: Vec<&str> = posts.iter().map(String::as_str).collect();
        paths.push("README.md");
        assert!(found(&paths, &[], &[]).is_empty());
        assert_eq!(
            found(&paths, &[], &[("README.md", "posts/00.md")]).len(),
            19
        );
    }
}
