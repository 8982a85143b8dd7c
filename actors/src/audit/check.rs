//! Checks one file with every rule that applies to its kind.
//!
//! Owns the order of work (read, decode, parse once, run the rules, number the
//! findings) and the report's shape. Leaves out the judgements (`rules/`) and
//! everything that needs more than one file's report (`graph`).
//!
//! Invariants: any bytes give a report, never a panic; a file that vanished or
//! became unreadable is an [`Outcome`], not an error.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::document::Document;
use super::finding::{ContentDigest, Finding, Remark, Rule, bounded, number};
use super::inventory::FileKind;
use super::rules::{encoding, fences, headings, links, secrets, text};
use super::site::{ReadFailure, Site};

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every rule for its kind ran.
    Checked,
    /// Not UTF-8; checked as far as it could be read.
    CheckedInPart,
    /// Above the size limit; nothing was parsed.
    Oversized,
    /// UTF-16 or binary; nothing was parsed.
    NotText,
    /// It was gone when its turn came.
    Vanished,
    /// It is there but could not be read.
    Unreadable(String),
    /// Not a documentation file inside the root; nothing was opened.
    Refused,
}

impl Outcome {
    /// Whether the rules ran.
    pub fn is_checked(&self) -> bool {
        matches!(self, Outcome::Checked | Outcome::CheckedInPart)
    }
}

/// What checking one file gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Relative to the root.
    pub path: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Bytes read.
    pub bytes: u64,
    /// Lines.
    pub lines: u32,
    /// Words outside code.
    pub words: u32,
    /// Markdown headings.
    pub headings: u32,
    /// Links and images whose target was looked up.
    pub links_checked: u32,
    /// Links that need a network and were not looked up.
    pub links_external: u32,
    /// Files and directories of the tree it links to, normalised and sorted; a
    /// directory ends in `/`.
    pub links: Vec<String>,
    /// In order of lines.
    pub findings: Vec<Finding>,
    /// Findings above [`Limits::findings_per_file_max`](super::Limits), not kept.
    pub findings_dropped: u32,
}

/// Checks the file at `path`, relative to the site's root.
///
/// Never panics and never fails: what went wrong is the report's outcome.
/// Blocks on the disk. Cheap for many files in a row on one [`Site`].
pub fn check_file(site: &Site, path: &str) -> FileReport {
    let mut report = empty_report(path);
    let Some(kind) = FileKind::of(path) else {
        return report;
    };
    let bytes = match site.read(path) {
        Ok(bytes) => bytes,
        Err(failure) => {
            let (outcome, remark) = refusal(site, failure);
            report.outcome = outcome;
            let remarks = remark.into_iter().collect();
            report.findings = number(path, &ContentDigest::unread(), remarks);
            return report;
        }
    };
    report.bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let digest = ContentDigest::of(&bytes);
    let decoded = encoding::decode(&bytes);
    let mut remarks = Vec::new();
    remarks.extend(decoded.remark);
    match &decoded.text {
        Some(text) => {
            report.outcome = if remarks.is_empty() {
                Outcome::Checked
            } else {
                Outcome::CheckedInPart
            };
            check_text(site, path, kind, text, &mut report, &mut remarks);
        }
        None => report.outcome = Outcome::NotText,
    }
    let mut findings = number(path, &digest, remarks);
    report.findings_dropped = keep_worst(&mut findings, site.limits().findings_per_file_max);
    report.findings = findings;
    report
}

fn check_text(
    site: &Site,
    path: &str,
    kind: FileKind,
    text: &str,
    report: &mut FileReport,
    remarks: &mut Vec<Remark>,
) {
    let document = match kind {
        FileKind::Markdown => Document::parse(text),
        FileKind::Text => Document::plain(text),
    };
    report.lines = document.lines.count();
    report.words = document.words;
    report.headings = u32::try_from(document.headings.len()).unwrap_or(u32::MAX);
    secrets::check(&document, remarks);
    text::check(path, &document, remarks);
    if kind == FileKind::Markdown {
        headings::check(path, &document, remarks);
        fences::check(&document, remarks);
        let checked = links::check(site, path, &document, remarks);
        report.links = checked.targets;
        report.links_checked = checked.looked_up;
        report.links_external = checked.external;
        site.remember_anchors(path, Some(Arc::new(document.anchors)));
    }
}

/// Keeps the worst `max` findings in order of lines; says how many went.
fn keep_worst(findings: &mut Vec<Finding>, max: usize) -> u32 {
    let dropped = findings.len().saturating_sub(max);
    if 0 < dropped {
        findings.sort_by_key(|finding| (finding.severity, finding.line));
        findings.truncate(max);
        findings.sort_by_key(|finding| (finding.line, finding.column));
    }
    u32::try_from(dropped).unwrap_or(u32::MAX)
}

fn refusal(site: &Site, failure: ReadFailure) -> (Outcome, Option<Remark>) {
    match failure {
        ReadFailure::Missing => (Outcome::Vanished, None),
        ReadFailure::NotAFile => (Outcome::Refused, None),
        ReadFailure::Unreadable { why } => (Outcome::Unreadable(bounded(&why, 200)), None),
        ReadFailure::Oversized { bytes } => {
            let limit = site.limits().file_bytes_max;
            let message = format!("{bytes} bytes is above the limit of {limit}; not parsed");
            let evidence = format!("larger than {limit} bytes");
            (
                Outcome::Oversized,
                Some(Remark::new(Rule::OversizedFile, 1, &evidence, message)),
            )
        }
    }
}

fn empty_report(path: &str) -> FileReport {
    FileReport {
        path: path.to_owned(),
        outcome: Outcome::Refused,
        bytes: 0,
        lines: 0,
        words: 0,
        headings: 0,
        links_checked: 0,
        links_external: 0,
        links: Vec::new(),
        findings: Vec::new(),
        findings_dropped: 0,
    }
}
