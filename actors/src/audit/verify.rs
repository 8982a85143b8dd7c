//! The Critic's second look: is this finding true, now, on this disk?
//!
//! Owns the verdict. Reads every file again and decides by another and simpler
//! route than the checker: a line scanner of its own instead of the Markdown
//! parser, `stat` instead of directory listings, a walk back over headings
//! instead of a map. Shared with the checker are only the reading of files
//! within the root and the bounding of evidence.
//!
//! Invariants: a finding about content that changed since is rejected, not
//! judged; what cannot be decided is inconclusive, never confirmed.

mod lines;
mod links;
mod mentions;
mod scan;
mod secrets;

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use self::lines::without_code_spans;
use self::links::Targets;
use self::mentions::Mentions;
use self::scan::{Heading, Line, Scan, State};
use super::check::FileReport;
use super::finding::{ContentDigest, Finding, Rule, presentable};
use super::inventory::FileKind;
use super::site::{ReadFailure, Site};
use super::slug::loose;

/// What the second look gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// It is so.
    Confirmed,
    /// It is not so, or no longer.
    Rejected {
        /// The kind of reason.
        cause: RejectionCause,
        /// A sentence for people.
        why: String,
    },
    /// It could not be decided.
    Inconclusive {
        /// A sentence for people.
        why: String,
    },
}

/// Why a finding was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RejectionCause {
    /// The file is not what was checked; check it again.
    FileChanged,
    /// The file is gone.
    FileGone,
    /// The file is the same and the finding is wrong.
    Disproved,
}

impl Verdict {
    fn disproved(why: impl Into<String>) -> Self {
        Verdict::Rejected {
            cause: RejectionCause::Disproved,
            why: why.into(),
        }
    }

    fn changed(why: impl Into<String>) -> Self {
        Verdict::Rejected {
            cause: RejectionCause::FileChanged,
            why: why.into(),
        }
    }

    fn inconclusive(why: impl Into<String>) -> Self {
        Verdict::Inconclusive { why: why.into() }
    }
}

/// Judges one finding. For several, [`verify_all`] reads each file only once.
///
/// Blocks on the disk; never panics.
pub fn verify(site: &Site, finding: &Finding) -> Verdict {
    verify_all(site, std::slice::from_ref(finding))
        .pop()
        .unwrap_or_else(|| Verdict::inconclusive("nothing was judged"))
}

/// Judges findings, in any order; the verdicts come in the same order.
///
/// Each file is read once, whatever the order. An orphan is judged by reading
/// every Markdown file of the tree, once for all orphans in `findings`: put
/// them into one call.
pub fn verify_all(site: &Site, findings: &[Finding]) -> Vec<Verdict> {
    judge_all(site, findings, Strictness::SameContent)
}

/// Planned paths for which there is no report, in the order planned.
pub fn uncovered(planned: &[String], reports: &[FileReport]) -> Vec<String> {
    let reported: HashSet<&str> = reports.iter().map(|report| report.path.as_str()).collect();
    planned
        .iter()
        .filter(|path| !reported.contains(path.as_str()))
        .cloned()
        .collect()
}

/// Whether a changed file is rejected unread, or its findings judged anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strictness {
    SameContent,
    #[cfg(test)]
    AnyContent,
}

fn judge_all(site: &Site, findings: &[Finding], strictness: Strictness) -> Vec<Verdict> {
    let mut by_path: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, finding) in findings.iter().enumerate() {
        by_path.entry(&finding.path).or_default().push(index);
    }
    let mut critic = Critic {
        site,
        targets: Targets::default(),
        mentions: None,
    };
    let mut verdicts = vec![Verdict::inconclusive("not judged"); findings.len()];
    for (path, indexes) in by_path {
        let bytes = site.read(path);
        let text = bytes
            .as_deref()
            .map(String::from_utf8_lossy)
            .unwrap_or_default();
        let scan = match FileKind::of(path) {
            Some(FileKind::Markdown) => Scan::markdown(&text),
            Some(FileKind::Text) | None => Scan::plain(&text),
        };
        let digest = bytes.as_deref().map(ContentDigest::of).ok();
        for index in indexes {
            let finding = &findings[index];
            let is_changed = !finding.content.is_unread()
                && digest
                    .as_ref()
                    .is_some_and(|digest| *digest != finding.content);
            verdicts[index] = match &bytes {
                Ok(_) if is_changed && strictness == Strictness::SameContent => {
                    Verdict::changed("the file changed after it was checked")
                }
                Ok(bytes) => critic.judge(finding, bytes, &scan),
                Err(failure) => of_failure(finding, failure),
            };
        }
    }
    verdicts
}

fn of_failure(finding: &Finding, failure: &ReadFailure) -> Verdict {
    match failure {
        ReadFailure::Oversized { .. } if finding.rule == Rule::OversizedFile => Verdict::Confirmed,
        ReadFailure::Oversized { .. } => Verdict::changed("the file is now too large to be read"),
        ReadFailure::Missing => {
            let why = "the file is gone".to_owned();
            Verdict::Rejected {
                cause: RejectionCause::FileGone,
                why,
            }
        }
        ReadFailure::NotAFile => Verdict::changed("it is no regular file of the tree"),
        ReadFailure::Unreadable { why } => Verdict::inconclusive(format!("unreadable: {why}")),
    }
}

/// What one round of verification keeps.
struct Critic<'s> {
    site: &'s Site,
    targets: Targets,
    /// Every link of the tree, read when the first orphan asks.
    mentions: Option<Mentions>,
}

impl Critic<'_> {
    fn judge(&mut self, finding: &Finding, bytes: &[u8], scan: &Scan<'_>) -> Verdict {
        match finding.rule {
            Rule::OversizedFile => Verdict::disproved("the file is within the limit"),
            Rule::NotUtf8 => encoding(finding, bytes),
            Rule::OrphanFile => {
                let mentions = self
                    .mentions
                    .get_or_insert_with(|| Mentions::read(self.site));
                mentions.judge(&finding.path)
            }
            Rule::BrokenLink
            | Rule::MissingImage
            | Rule::BrokenAnchor
            | Rule::LinkOutsideTree
            | Rule::LikelySecret
            | Rule::MergeConflictMarker
            | Rule::UnclosedCodeFence
            | Rule::DuplicateHeading
            | Rule::SkippedHeadingLevel
            | Rule::CodeFenceWithoutLanguage
            | Rule::TodoMarker => match scan.line(finding.line) {
                Some(line) => self.judge_line(finding, scan, line),
                None => Verdict::changed("the file has fewer lines now"),
            },
        }
    }

    fn judge_line(&mut self, finding: &Finding, scan: &Scan<'_>, line: &Line<'_>) -> Verdict {
        match finding.rule {
            Rule::BrokenLink | Rule::MissingImage | Rule::BrokenAnchor | Rule::LinkOutsideTree => {
                links::judge(self.site, &mut self.targets, finding, scan, line)
            }
            Rule::LikelySecret => secrets::judge(finding, scan),
            Rule::MergeConflictMarker => conflict(finding, scan, line),
            Rule::UnclosedCodeFence | Rule::CodeFenceWithoutLanguage => fence(finding, scan, line),
            Rule::DuplicateHeading | Rule::SkippedHeadingLevel => heading(finding, scan),
            Rule::TodoMarker => todo(finding, line),
            Rule::OversizedFile | Rule::NotUtf8 | Rule::OrphanFile => {
                Verdict::inconclusive("not a rule about a line")
            }
        }
    }
}

fn encoding(finding: &Finding, bytes: &[u8]) -> Verdict {
    let Some(wrong) = bytes
        .utf8_chunks()
        .find(|chunk| !chunk.invalid().is_empty())
    else {
        return if bytes.contains(&0) {
            Verdict::Confirmed
        } else {
            Verdict::disproved("every byte is valid UTF-8")
        };
    };
    match wrong.invalid().first() {
        Some(byte) if finding.evidence == format!("byte 0x{byte:02x}") => Verdict::Confirmed,
        _ if finding.evidence.starts_with("byte ") => Verdict::changed("another byte is wrong now"),
        _ => Verdict::Confirmed,
    }
}

fn conflict(finding: &Finding, scan: &Scan<'_>, line: &Line<'_>) -> Verdict {
    if !line.text.starts_with("<<<<<<< ") || presentable(line.text) != finding.evidence {
        return Verdict::changed("the line no longer begins a conflict");
    }
    if line.state == State::Code {
        return Verdict::disproved("the marker stands in a code block");
    }
    let below = scan
        .lines
        .iter()
        .skip(usize::try_from(finding.line).unwrap_or(usize::MAX));
    let continued = below
        .take_while(|line| !line.text.starts_with("<<<<<<< "))
        .any(|line| line.text.trim_end() == "=======" || line.text.starts_with(">>>>>>> "));
    if continued {
        Verdict::Confirmed
    } else {
        Verdict::disproved("no marker follows below")
    }
}

fn fence(finding: &Finding, scan: &Scan<'_>, line: &Line<'_>) -> Verdict {
    let State::FenceOpen {
        has_info,
        closed,
        opening,
    } = &line.state
    else {
        let is_fence = line.text.contains("```") || line.text.contains("~~~");
        return if is_fence {
            Verdict::disproved("the line opens no fence")
        } else {
            Verdict::changed("no fence stands in the line any more")
        };
    };
    if finding.rule == Rule::UnclosedCodeFence {
        return if presentable(opening) != finding.evidence {
            Verdict::changed("another fence stands here now")
        } else if *closed {
            Verdict::disproved("a line below closes the fence")
        } else {
            Verdict::Confirmed
        };
    }
    if *has_info {
        return Verdict::disproved("the fence names a language");
    }
    if !*closed {
        return Verdict::disproved("the fence is not closed, which is another finding");
    }
    let inside = scan
        .lines
        .iter()
        .skip(usize::try_from(finding.line).unwrap_or(usize::MAX));
    let first = inside
        .take_while(|line| line.state == State::Code)
        .map(|line| line.text.trim())
        .find(|text| !text.trim_start_matches(['>', ' ', '\t']).is_empty())
        .unwrap_or(opening);
    // Inside a quotation the code stands behind its marks.
    if presentable(first).ends_with(&finding.evidence) {
        Verdict::Confirmed
    } else {
        Verdict::changed("other code stands in the fence now")
    }
}

fn heading(finding: &Finding, scan: &Scan<'_>) -> Verdict {
    let outline: Vec<&Heading> = scan
        .headings
        .iter()
        .filter(|heading| heading.top_level || heading.html)
        .collect();
    let here = outline.iter().position(|heading| {
        heading.line == finding.line
            && !heading.html
            && presentable(&heading.text) == finding.evidence
    });
    let Some(here) = here else {
        return Verdict::changed("no such heading stands in the line");
    };
    let heading = outline[here];
    let mut before = outline[..here].iter().rev();
    if finding.rule == Rule::SkippedHeadingLevel {
        return match before.next() {
            Some(previous) if previous.level + 1 < heading.level => Verdict::Confirmed,
            Some(_) | None => Verdict::disproved("it is at most one level below the one before"),
        };
    }
    let title = loose(&links::visible(&heading.text));
    let twin = before
        .take_while(|previous| heading.level <= previous.level)
        .find(|previous| {
            previous.level == heading.level
                && !previous.html
                && loose(&links::visible(&previous.text)) == title
        });
    match twin {
        Some(_) => Verdict::Confirmed,
        None => Verdict::disproved("no heading beside it reads the same"),
    }
}

fn todo(finding: &Finding, line: &Line<'_>) -> Verdict {
    if presentable(line.text) != finding.evidence {
        return Verdict::changed("the line reads differently now");
    }
    if line.state == State::Code {
        return Verdict::disproved("the marker stands in a code block");
    }
    let prose = without_code_spans(line.text);
    let is_word = |word: &str| {
        prose.match_indices(word).any(|(at, _)| {
            let before = prose[..at].chars().next_back();
            let after = prose[at + word.len()..].chars().next();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                && !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
        })
    };
    if is_word("TODO") || is_word("FIXME") {
        Verdict::Confirmed
    } else {
        Verdict::disproved("the marker stands in code")
    }
}

#[cfg(test)]
mod tests;
