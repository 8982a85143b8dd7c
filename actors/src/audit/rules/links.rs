//! `broken-link`, `missing-image`, `broken-anchor`, `link-outside-tree`.
//!
//! Decisions:
//! - Anything with a scheme (`https:`, `mailto:`, `data:`) or `//host` needs a
//!   network and is counted, not checked.
//! - Template syntax (`{{ }}`, `{% %}`, `${ }`, `<% %>`), aliases (`@site/`,
//!   `~/`), Rust paths (`crate::x`) and rustdoc pages (`struct.X.html`) are
//!   resolved by other programs and ignored.
//! - The query is cut off, the path is percent-decoded; if nothing is there,
//!   the path as written is tried (`100%25.md` on disk).
//! - `/path` starts at the repository's root, and a site generator may serve
//!   it from a directory above the file, or from its `static` or `public`.
//! - A site generator's spelling is accepted where the source exists: `page`,
//!   `page/` and `page.html` for `page.md` or `page/index.md`.
//! - Existence is judged by exact spelling; if only the case differs, the
//!   finding says so.
//! - Behind a symbolic link that leaves the tree nothing is judged.
//! - When the root lies inside a larger repository, a link out of the root but
//!   inside that repository is checked for existence like any other. GitHub's
//!   `../../issues` idiom is accepted.

use std::borrow::Cow;
use std::collections::BTreeSet;

use percent_encoding::percent_decode_str;

use crate::audit::document::{Document, Link, LinkKind};
use crate::audit::finding::{EVIDENCE_CHARS_MAX, Remark, Rule, Severity, presentable};
use crate::audit::inventory::parent;
use crate::audit::site::{Presence, Site};
use crate::audit::slug::AnchorMatch;

/// What the links of one file came to.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// In-tree targets, sorted; a directory ends in `/`.
    pub(crate) targets: Vec<String>,
    pub(crate) looked_up: u32,
    pub(crate) external: u32,
}

pub(crate) fn check(
    site: &Site,
    path: &str,
    document: &Document<'_>,
    remarks: &mut Vec<Remark>,
) -> Checked {
    let mut checked = Checked::default();
    let mut targets = BTreeSet::new();
    for link in &document.links {
        match class_of(&link.destination) {
            Class::External => checked.external += 1,
            Class::Ignored => {}
            Class::Local => {
                checked.looked_up += 1;
                let verdict = judge(site, path, document, link);
                if let Some(target) = verdict.target {
                    targets.insert(target);
                }
                remarks.extend(verdict.remark.map(|remark| {
                    let (line, column) = document.position(link.offset);
                    Remark { line, ..remark }.at_column(column)
                }));
            }
        }
    }
    checked.targets = targets.into_iter().collect();
    checked
}

/// Whose business a destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Needs a network.
    External,
    /// Another program gives it a meaning.
    Ignored,
    Local,
}

fn class_of(destination: &str) -> Class {
    if destination.starts_with("//") || has_scheme(destination) {
        return Class::External;
    }
    const TEMPLATES: [&str; 9] = ["{{", "{%", "${", "$(", "<%", "%7B%7B", "{<", "::", "[["];
    let is_template = TEMPLATES.iter().any(|mark| destination.contains(mark));
    let is_alias = destination.starts_with(['@', '~', '$', '{', '<', '%']);
    let is_long = EVIDENCE_CHARS_MAX <= destination.chars().count();
    let is_rust = matches!(
        destination.split('#').next(),
        Some("crate" | "self" | "super")
    );
    if is_template || is_alias || is_long || is_rust || is_rustdoc_page(destination) {
        return Class::Ignored;
    }
    Class::Local
}

/// RFC 3986: a letter, then letters, digits, `+`, `-`, `.`, up to a colon.
pub(crate) fn has_scheme(destination: &str) -> bool {
    destination.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

/// `struct.Name.html` and its kin, which rustdoc makes.
fn is_rustdoc_page(destination: &str) -> bool {
    const KINDS: [&str; 13] = [
        "struct",
        "enum",
        "trait",
        "fn",
        "macro",
        "mod",
        "type",
        "constant",
        "static",
        "union",
        "attr",
        "derive",
        "primitive",
    ];
    let page = destination.split(['#', '?']).next().unwrap_or_default();
    let name = page.rsplit('/').next().unwrap_or_default();
    let Some(stem) = name.strip_suffix(".html") else {
        return false;
    };
    stem.split_once('.')
        .is_some_and(|(kind, _)| KINDS.contains(&kind))
}

#[derive(Debug, Default)]
struct Judgement {
    target: Option<String>,
    remark: Option<Remark>,
}

impl Judgement {
    fn of(rule: Rule, link: &Link, message: String) -> Self {
        Judgement {
            target: None,
            remark: Some(Remark::new(rule, 0, &link.destination, message)),
        }
    }
}

fn judge(site: &Site, from: &str, document: &Document<'_>, link: &Link) -> Judgement {
    let parts = Parts::of(&link.destination);
    let missing = match link.kind {
        LinkKind::Link => Rule::BrokenLink,
        LinkKind::Image => Rule::MissingImage,
    };
    if link.destination.trim().is_empty() {
        let mut judgement = Judgement::of(missing, link, "the destination is empty".to_owned());
        judgement.remark = judgement
            .remark
            .map(|remark| remark.with_severity(Severity::Warning));
        return judgement;
    }
    if parts.path.is_empty() {
        return match parts.fragment {
            Some(fragment) => anchor(
                link,
                fragment,
                &document.anchors.find(&decode(fragment)),
                "",
            ),
            // `?query` alone is this file.
            None => Judgement::default(),
        };
    }
    match resolve(site, from, parts.path) {
        Resolution::Found { path, directory } => {
            let broken = parts
                .fragment
                .filter(|_| !directory)
                .and_then(|fragment| {
                    let anchors = site.anchors(&path)?;
                    Some(anchor(
                        link,
                        fragment,
                        &anchors.find(&decode(fragment)),
                        &path,
                    ))
                })
                .unwrap_or_default();
            let target = if directory { format!("{path}/") } else { path };
            Judgement {
                target: Some(target),
                ..broken
            }
        }
        Resolution::Elsewhere => Judgement::default(),
        Resolution::Outside => {
            let message = format!("{} leaves the audited tree", quoted(parts.path));
            Judgement::of(Rule::LinkOutsideTree, link, message)
        }
        Resolution::Missing { hint } => {
            let what = match link.kind {
                LinkKind::Link => "does not exist",
                LinkKind::Image => "is no file",
            };
            let hint = hint.or_else(|| looks_external(&link.destination));
            let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            Judgement::of(
                missing,
                link,
                format!("{} {what}{hint}", quoted(parts.path)),
            )
        }
    }
}

fn anchor(link: &Link, fragment: &str, found: &AnchorMatch, target: &str) -> Judgement {
    let place = if target.is_empty() {
        "this file"
    } else {
        target
    };
    let fragment = quoted(&format!("#{fragment}"));
    match found {
        AnchorMatch::Found => Judgement::default(),
        AnchorMatch::Missing => Judgement::of(
            Rule::BrokenAnchor,
            link,
            format!("{place} has no {fragment}"),
        ),
        AnchorMatch::Near(near) => {
            let near = quoted(&format!("#{near}"));
            let message = format!("{place} has no {fragment}; did you mean {near}?");
            Judgement::of(Rule::BrokenAnchor, link, message)
        }
    }
}

fn quoted(text: &str) -> String {
    format!("`{}`", presentable(text))
}

/// A path that was probably meant to be something else.
fn looks_external(destination: &str) -> Option<String> {
    let host = destination.split('/').next().unwrap_or_default();
    if destination.contains('@') && !destination.contains('/') {
        return Some("a mail address needs `mailto:`".to_owned());
    }
    let is_web = host.starts_with("www.")
        || [".com", ".org", ".io", ".net", ".dev"]
            .iter()
            .any(|tld| host.ends_with(tld));
    if is_web {
        return Some("a web address needs `https://`".to_owned());
    }
    destination
        .contains('\\')
        .then(|| "links use `/`, not `\\`".to_owned())
}

/// A destination's path and fragment; the query is of no interest.
pub(crate) struct Parts<'a> {
    pub(crate) path: &'a str,
    pub(crate) fragment: Option<&'a str>,
}

impl<'a> Parts<'a> {
    pub(crate) fn of(destination: &'a str) -> Self {
        let (path, fragment) = match destination.split_once('#') {
            Some((path, fragment)) => (path, Some(fragment)),
            None => (destination, None),
        };
        let path = path.split_once('?').map_or(path, |(path, _query)| path);
        Parts {
            path: path.trim(),
            fragment,
        }
    }
}

fn decode(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Resolution {
    Found {
        path: String,
        directory: bool,
    },
    /// It exists, or may exist, where we do not look.
    Elsewhere,
    Outside,
    Missing {
        hint: Option<String>,
    },
}

fn resolve(site: &Site, from: &str, written: &str) -> Resolution {
    let decoded = decode(written);
    let resolution = resolve_spelling(site, from, &decoded);
    if decoded != written && matches!(resolution, Resolution::Missing { .. }) {
        match resolve_spelling(site, from, written) {
            Resolution::Missing { .. } | Resolution::Outside => {}
            literal @ (Resolution::Found { .. } | Resolution::Elsewhere) => return literal,
        }
    }
    resolution
}

fn resolve_spelling(site: &Site, from: &str, path: &str) -> Resolution {
    if path.contains('\0') {
        return Resolution::Missing { hint: None };
    }
    if let Some(rooted) = path.strip_prefix('/') {
        return resolve_rooted(site, from, rooted);
    }
    match join(parent(from), path) {
        Joined::Inside(target) => in_tree(site, &target),
        // Up and back in by the root's own name.
        Joined::Above { levels, rest } if back_inside(site, levels, &rest).is_some() => {
            in_tree(site, &back_inside(site, levels, &rest).unwrap_or_default())
        }
        Joined::Above { levels, rest } => match site.repository() {
            Some(_) if is_forge_page(&rest) => Resolution::Elsewhere,
            Some(repository) => in_repository(site, repository, levels, &rest),
            None if is_forge_page(&rest) => Resolution::Elsewhere,
            None => Resolution::Outside,
        },
    }
}

fn back_inside(site: &Site, levels: usize, rest: &str) -> Option<String> {
    let target = site.root().ancestors().nth(levels)?.join(rest);
    let inside = target.strip_prefix(site.root()).ok()?;
    inside.to_str().map(str::to_owned)
}

/// `/path`, from the root, a directory above the file, or what it serves.
fn resolve_rooted(site: &Site, from: &str, path: &str) -> Resolution {
    let mut first = None;
    let mut base = parent(from);
    let mut bases = vec![""];
    while !base.is_empty() {
        bases.push(base);
        base = parent(base);
    }
    for base in bases {
        for served in ["", "static", "public"] {
            let base = match (base, served) {
                ("", served) => served.to_owned(),
                (base, "") => base.to_owned(),
                (base, served) => format!("{base}/{served}"),
            };
            let Joined::Inside(target) = join(&base, path) else {
                continue;
            };
            match in_tree(site, &target) {
                missing @ Resolution::Missing { .. } => {
                    first.get_or_insert(missing);
                }
                found
                @ (Resolution::Found { .. } | Resolution::Elsewhere | Resolution::Outside) => {
                    return found;
                }
            }
        }
    }
    if let Some(repository) = site.repository()
        && repository.join(path).exists()
    {
        return Resolution::Elsewhere;
    }
    first.unwrap_or(Resolution::Missing { hint: None })
}

/// A link out of the root that may still be inside the repository around it.
fn in_repository(
    site: &Site,
    repository: &std::path::Path,
    levels: usize,
    rest: &str,
) -> Resolution {
    let Some(base) = site.root().ancestors().nth(levels) else {
        return Resolution::Outside;
    };
    if !base.starts_with(repository) {
        return Resolution::Outside;
    }
    let target = base.join(rest);
    let spellings = spellings(rest)
        .into_iter()
        .map(|spelling| base.join(spelling));
    // What cannot be seen is not called missing.
    let exists = |path: &std::path::Path| path.try_exists().unwrap_or(true);
    if exists(&target) || spellings.into_iter().any(|path| exists(&path)) {
        Resolution::Elsewhere
    } else {
        Resolution::Missing { hint: None }
    }
}

fn in_tree(site: &Site, target: &str) -> Resolution {
    let hint = match site.presence(target) {
        Presence::File => {
            return Resolution::Found {
                path: target.to_owned(),
                directory: false,
            };
        }
        Presence::Directory => {
            return Resolution::Found {
                path: target.to_owned(),
                directory: true,
            };
        }
        Presence::Opaque => return Resolution::Elsewhere,
        Presence::Missing { other_case } => {
            other_case.map(|spelled| format!("only the case differs from `{spelled}`"))
        }
    };
    for path in spellings(target) {
        if site.presence(&path) == Presence::File {
            return Resolution::Found {
                path,
                directory: false,
            };
        }
    }
    Resolution::Missing { hint }
}

/// The sources a site generator might have meant.
fn spellings(target: &str) -> Vec<String> {
    let stem = target
        .strip_suffix(".html")
        .or_else(|| target.strip_suffix(".htm"));
    let name = target.rsplit('/').next().unwrap_or_default();
    if target.is_empty() || (stem.is_none() && has_file_extension(name)) {
        return Vec::new();
    }
    let stem = stem.unwrap_or(target);
    let mut spellings: Vec<String> = ["md", "markdown", "mdx", "rst", "adoc"]
        .iter()
        .map(|extension| format!("{stem}.{extension}"))
        .collect();
    match stem.strip_suffix("index") {
        Some(directory) if directory.is_empty() || directory.ends_with('/') => {
            spellings.push(format!("{directory}README.md"));
        }
        _ => spellings.extend([format!("{stem}/index.md"), format!("{stem}/README.md")]),
    }
    spellings
}

/// `guide.md` has one; `v1.2` and `guide` have none.
fn has_file_extension(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, extension)| {
        (1..=5).contains(&extension.len())
            && extension.chars().all(|c| c.is_ascii_alphanumeric())
            && extension.chars().any(|c| c.is_ascii_alphabetic())
    })
}

/// A path joined to a directory, without touching the disk.
#[derive(Debug, PartialEq, Eq)]
enum Joined {
    Inside(String),
    /// So many levels above the root; what follows from there.
    Above {
        levels: usize,
        rest: String,
    },
}

fn join(directory: &str, path: &str) -> Joined {
    let mut parts: Vec<&str> = directory
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    let mut levels = 0;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => levels += 1,
            ".." => {}
            part => parts.push(part),
        }
    }
    let rest = parts.join("/");
    if levels == 0 {
        Joined::Inside(rest)
    } else {
        Joined::Above { levels, rest }
    }
}

/// Pages that GitHub and GitLab serve two levels above a repository's files.
fn is_forge_page(rest: &str) -> bool {
    const PAGES: [&str; 22] = [
        "issues",
        "pull",
        "pulls",
        "wiki",
        "releases",
        "actions",
        "discussions",
        "compare",
        "commit",
        "commits",
        "blob",
        "tree",
        "raw",
        "edit",
        "stargazers",
        "security",
        "projects",
        "milestones",
        "labels",
        "tags",
        "graphs",
        "merge_requests",
    ];
    PAGES.contains(&rest.split('/').next().unwrap_or_default())
}
