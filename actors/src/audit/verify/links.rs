//! A second look at links: `stat` for paths, scanned headings for anchors.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use super::lines::without_code_spans;
use super::scan::{Line, Scan, State};
use super::{Finding, Rule, Verdict};
use crate::audit::finding::presentable;
use crate::audit::inventory::FileKind;
use crate::audit::site::Site;

/// Targets whose anchors are kept during one round.
const TARGETS_MAX: usize = 256;
/// A destination may stand this many lines below the link's first one.
const LINES_BELOW: usize = 6;

/// Anchors of other files, read once each.
#[derive(Default)]
pub(super) struct Targets {
    by_path: HashMap<PathBuf, Option<Rc<Names>>>,
}

/// Slugs of the headings, and the prose where ids may stand.
struct Names {
    slugs: HashMap<String, u32>,
    prose: Vec<String>,
}

pub(super) fn judge(
    site: &Site,
    targets: &mut Targets,
    finding: &Finding,
    scan: &Scan<'_>,
    line: &Line<'_>,
) -> Verdict {
    if matches!(line.state, State::Code | State::FrontMatter) {
        return Verdict::disproved("the line is code or front matter");
    }
    if !stands_near(finding, scan) {
        return Verdict::changed("the line no longer holds this destination");
    }
    let destination = finding.evidence.as_str();
    if destination.contains("[redacted]") {
        return Verdict::inconclusive("the destination holds a credential and is not shown");
    }
    if destination.is_empty() {
        return Verdict::Confirmed;
    }
    let (path, fragment) = match destination.split_once('#') {
        Some((path, fragment)) => (path, fragment),
        None => (destination, ""),
    };
    let path = path.split('?').next().unwrap_or_default();
    if finding.rule == Rule::BrokenAnchor {
        anchor(site, targets, finding, scan, path, fragment)
    } else if finding.rule == Rule::LinkOutsideTree {
        outside(site, finding, path)
    } else {
        missing(site, finding, path)
    }
}

/// Whether the destination can be read in the line or just below it.
fn stands_near(finding: &Finding, scan: &Scan<'_>) -> bool {
    let first = usize::try_from(finding.line)
        .unwrap_or(usize::MAX)
        .saturating_sub(1);
    let wanted = plain(&finding.evidence);
    scan.lines.iter().skip(first).take(LINES_BELOW).any(|line| {
        if wanted.is_empty() {
            let squeezed = line.text.replace(' ', "");
            return ["](", "=\"\"", "=''", "]:<>", "](<>)"]
                .iter()
                .any(|e| squeezed.contains(e));
        }
        let text = plain(line.text);
        text.contains(&wanted) || plain(&presentable(line.text)).contains(&wanted)
    })
}

/// Without what escapes and entities may change, and without white space.
fn plain(text: &str) -> String {
    let text = crate::audit::html::decoded(text);
    text.chars()
        .filter(|c| *c != '\\' && !c.is_whitespace() && !c.is_control())
        .collect()
}

fn missing(site: &Site, finding: &Finding, path: &str) -> Verdict {
    for candidate in candidates(site, &finding.path, path) {
        match exists(&candidate) {
            Ok(true) => {
                let shown = candidate.strip_prefix(site.root()).unwrap_or(&candidate);
                return Verdict::disproved(format!(
                    "{} exists",
                    presentable(&shown.to_string_lossy())
                ));
            }
            Ok(false) => {}
            Err(err) => return Verdict::inconclusive(format!("the target cannot be seen: {err}")),
        }
    }
    Verdict::Confirmed
}

fn outside(site: &Site, finding: &Finding, path: &str) -> Verdict {
    let mut depth = finding.path.matches('/').count();
    for part in percent_decoded(path).split('/') {
        match part {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return Verdict::Confirmed,
            },
            _ => depth += 1,
        }
    }
    let root = site.root().display();
    Verdict::disproved(format!("the path stays inside {root}"))
}

fn anchor(
    site: &Site,
    targets: &mut Targets,
    finding: &Finding,
    scan: &Scan<'_>,
    path: &str,
    fragment: &str,
) -> Verdict {
    let fragment = percent_decoded(fragment);
    if path.is_empty() {
        return Names::of(scan).judge(&fragment);
    }
    for candidate in candidates(site, &finding.path, path) {
        let Ok(relative) = candidate.strip_prefix(site.root()) else {
            continue;
        };
        let Some(relative) = relative.to_str() else {
            continue;
        };
        if !matches!(exists(&candidate), Ok(true)) {
            continue;
        }
        return match targets.names(site, relative) {
            Some(names) => names.judge(&fragment),
            None => Verdict::inconclusive("the target could not be read as Markdown"),
        };
    }
    Verdict::changed("the target is gone")
}

impl Targets {
    fn names(&mut self, site: &Site, path: &str) -> Option<Rc<Names>> {
        if let Some(known) = self.by_path.get(Path::new(path)) {
            return known.clone();
        }
        if TARGETS_MAX <= self.by_path.len() {
            self.by_path.clear();
        }
        let is_markdown = FileKind::of(path) == Some(FileKind::Markdown);
        let bytes = site.read(path).ok().filter(|_| is_markdown);
        let names = bytes.map(|bytes| {
            let text = String::from_utf8_lossy(&bytes);
            Rc::new(Names::of(&Scan::markdown(&text)))
        });
        self.by_path.insert(PathBuf::from(path), names.clone());
        names
    }
}

impl Names {
    fn of(scan: &Scan<'_>) -> Self {
        let mut slugs = HashMap::new();
        for heading in &scan.headings {
            *slugs.entry(slug(&visible(&heading.text))).or_insert(0) += 1;
        }
        let prose = scan
            .lines
            .iter()
            .filter(|line| matches!(line.state, State::Prose | State::Html))
            .filter(|line| line.text.contains(['=', '{']))
            .map(|line| without_code_spans(line.text).into_owned())
            .collect();
        Names { slugs, prose }
    }

    fn judge(&self, fragment: &str) -> Verdict {
        let fragment = fragment.strip_prefix("user-content-").unwrap_or(fragment);
        let (stem, number) = match fragment.rsplit_once('-') {
            Some((stem, number)) => (stem, number.parse::<u32>().ok()),
            None => (fragment, None),
        };
        let is_numbered =
            number.is_some_and(|number| self.slugs.get(stem).is_some_and(|count| number < *count));
        if is_numbered || self.slugs.contains_key(fragment) {
            return Verdict::disproved("a heading of that name exists");
        }
        let spelled = |line: &String| {
            ["id=", "name="].iter().any(|key| {
                ["\"", "'"]
                    .iter()
                    .any(|q| line.contains(&format!("{key}{q}{fragment}{q}")))
            }) || line.contains(&format!("{{#{fragment}}}"))
        };
        if !fragment.is_empty() && self.prose.iter().any(spelled) {
            return Verdict::disproved("an id of that name exists");
        }
        Verdict::Confirmed
    }
}

/// Everything a destination could mean on this disk, nearest first.
fn candidates(site: &Site, from: &str, path: &str) -> Vec<PathBuf> {
    let path = path.trim();
    let mut written = vec![percent_decoded(path)];
    if written[0] != path {
        written.push(path.to_owned());
    }
    let mut found = Vec::new();
    for path in &written {
        match path.strip_prefix('/') {
            Some(rooted) => {
                let here = site.root().join(from);
                let above = here
                    .ancestors()
                    .skip(1)
                    .take_while(|d| d.starts_with(site.root()));
                for base in above {
                    for served in ["", "static", "public"] {
                        found.push(normal(
                            &base.join(served).join(rooted.trim_start_matches('/')),
                        ));
                    }
                }
                found.extend(
                    site.repository()
                        .map(|r| normal(&r.join(rooted.trim_start_matches('/')))),
                );
            }
            None => {
                let here = site.root().join(from);
                found.push(normal(&here.parent().unwrap_or(site.root()).join(path)));
            }
        }
    }
    let sources: Vec<PathBuf> = found.iter().flat_map(|path| sources_of(path)).collect();
    found.extend(sources);
    found
}

/// What a site generator turns into this page.
fn sources_of(page: &Path) -> Vec<PathBuf> {
    let is_page = match page.extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => true,
        Some(extension) => {
            5 < extension.len() || !extension.chars().any(|c| c.is_ascii_alphabetic())
        }
        None => true,
    };
    if !is_page || page.file_name().is_none() {
        return Vec::new();
    }
    let mut stem = page.as_os_str().to_owned();
    if page.extension().is_some_and(|e| e == "html" || e == "htm") {
        stem = page.with_extension("").into_os_string();
    }
    let mut sources: Vec<PathBuf> = ["md", "markdown", "mdx", "rst", "adoc"]
        .iter()
        .map(|extension| {
            let mut name = stem.clone();
            name.push(".");
            name.push(extension);
            PathBuf::from(name)
        })
        .collect();
    let directory = PathBuf::from(stem);
    sources.extend(["index.md", "README.md"].map(|name| directory.join(name)));
    if directory.file_name().is_some_and(|name| name == "index") {
        sources.extend(
            directory
                .parent()
                .map(|directory| directory.join("README.md")),
        );
    }
    sources
}

/// Whether the path exists with exactly this spelling, dangling links not.
fn exists(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(_) => {}
        Err(err) if crate::audit::site::is_missing(&err) => return Ok(false),
        Err(err) => return Err(err),
    }
    // On a disk that ignores case the real name tells.
    let real = path.canonicalize()?;
    let same = |a: Option<&std::ffi::OsStr>, b: Option<&std::ffi::OsStr>| {
        a.map(|a| a.to_string_lossy().to_lowercase())
            == b.map(|b| b.to_string_lossy().to_lowercase())
    };
    let is_other_case =
        same(real.file_name(), path.file_name()) && real.file_name() != path.file_name();
    Ok(!is_other_case)
}

/// Resolves `.` and `..` by text alone.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => {
                normal.push(component);
            }
        }
    }
    normal
}

/// Decodes `%41`; anything else stays as it is.
pub(super) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = (*byte == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .filter(|pair| pair.iter().all(u8::is_ascii_hexdigit))
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        decoded.push(hex.unwrap_or(*byte));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// A heading as a reader sees it: without link targets, images, tags, emphasis.
pub(super) fn visible(heading: &str) -> String {
    let mut text = String::with_capacity(heading.len());
    let mut chars = heading.char_indices().peekable();
    let mut in_code = false;
    while let Some((at, c)) = chars.next() {
        let rest = &heading[at..];
        match c {
            '`' => in_code = !in_code,
            _ if in_code => text.push(c),
            '\\' => text.extend(chars.next().map(|(_, escaped)| escaped)),
            '!' if rest.starts_with("![") => {
                let end = rest.find(')').map_or(0, |end| at + end);
                while chars.next_if(|(at, _)| *at <= end).is_some() {}
            }
            ']' if rest.starts_with("](") || rest.starts_with("][") => {
                let close = if rest.starts_with("](") { ')' } else { ']' };
                let end = rest[2..].find(close).map_or(at, |end| at + 2 + end);
                while chars.next_if(|(at, _)| *at <= end).is_some() {}
            }
            '<' => {
                let end = rest.find('>').map_or(at, |end| at + end);
                while chars.next_if(|(at, _)| *at <= end).is_some() {}
            }
            '_' => {
                let inside_word = text.ends_with(|c: char| c.is_alphanumeric())
                    && rest[1..].starts_with(|c: char| c.is_alphanumeric());
                if inside_word {
                    text.push(c);
                }
            }
            '{' if rest.starts_with("{#") => break,
            c => text.push(c),
        }
    }
    text.trim().to_owned()
}

/// GitHub's slug by its plain description.
fn slug(text: &str) -> String {
    text.to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c if c.is_alphanumeric() => Some(c),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_are_reduced_to_what_is_visible() {
        for (heading, expected) in [
            ("`a_b` and *c*", "a_b and *c*"),
            ("[x](y.md) [z][w]", "[x [z"),
            ("![i](p.png) T <b>B</b>", "T B"),
            ("__init__ and snake_case", "init and snake_case"),
            ("`__init__`", "__init__"),
            ("A {#b}", "A"),
        ] {
            assert_eq!(visible(heading), expected, "{heading}");
        }
    }

    #[test]
    fn percent_signs_are_decoded_only_before_two_digits() {
        assert_eq!(percent_decoded("a%20b%zz%4"), "a b%zz%4");
    }
}
