//! What the audit can say: the rules, and one finding of one rule.
//!
//! Owns the stable names (rule ids, severities) and the fingerprint that lets
//! two runs be compared. Leaves out how a rule decides; that is `rules/`.
//!
//! Invariants: evidence is one line, bounded, free of control characters and
//! of anything that looks like a secret; a fingerprint never depends on a line
//! number, so it survives edits above the finding.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::rules::secrets;

/// Longest evidence kept, in characters; longer text is cut and ends in `…`.
pub const EVIDENCE_CHARS_MAX: usize = 300;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A reader is misled or a secret is out; fix it.
    Error,
    /// Probably wrong.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// The name used in reports and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Everything the audit looks for. The kebab-case name is stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A well-known token shape, private key or high-entropy credential.
    LikelySecret,
    /// `<<<<<<<` left behind by a merge.
    MergeConflictMarker,
    /// A relative link whose target does not exist.
    BrokenLink,
    /// An image whose file does not exist.
    MissingImage,
    /// A fragment that no heading or id of the target has.
    BrokenAnchor,
    /// A relative link that leaves the audited tree.
    LinkOutsideTree,
    /// A code fence that nothing closes.
    UnclosedCodeFence,
    /// Bytes that are not UTF-8.
    NotUtf8,
    /// Larger than the limit: reported, not parsed.
    OversizedFile,
    /// The same heading twice under one parent.
    DuplicateHeading,
    /// A heading more than one level below the one before it.
    SkippedHeadingLevel,
    /// A code fence that names no language.
    CodeFenceWithoutLanguage,
    /// `TODO` or `FIXME` in prose.
    TodoMarker,
    /// A Markdown file that no other file links to.
    OrphanFile,
}

impl Rule {
    /// Every rule, most serious first: the order of reports.
    pub const ALL: [Rule; 14] = [
        Rule::LikelySecret,
        Rule::MergeConflictMarker,
        Rule::BrokenLink,
        Rule::MissingImage,
        Rule::BrokenAnchor,
        Rule::LinkOutsideTree,
        Rule::UnclosedCodeFence,
        Rule::NotUtf8,
        Rule::OversizedFile,
        Rule::DuplicateHeading,
        Rule::SkippedHeadingLevel,
        Rule::CodeFenceWithoutLanguage,
        Rule::TodoMarker,
        Rule::OrphanFile,
    ];

    /// The stable kebab-case id.
    pub fn id(self) -> &'static str {
        match self {
            Rule::LikelySecret => "likely-secret",
            Rule::MergeConflictMarker => "merge-conflict-marker",
            Rule::BrokenLink => "broken-link",
            Rule::MissingImage => "missing-image",
            Rule::BrokenAnchor => "broken-anchor",
            Rule::LinkOutsideTree => "link-outside-tree",
            Rule::UnclosedCodeFence => "unclosed-code-fence",
            Rule::NotUtf8 => "not-utf8",
            Rule::OversizedFile => "oversized-file",
            Rule::DuplicateHeading => "duplicate-heading",
            Rule::SkippedHeadingLevel => "skipped-heading-level",
            Rule::CodeFenceWithoutLanguage => "code-fence-without-language",
            Rule::TodoMarker => "todo-marker",
            Rule::OrphanFile => "orphan-file",
        }
    }

    /// The severity a finding of this rule usually has; a rule may lower it.
    pub fn severity(self) -> Severity {
        match self {
            Rule::LikelySecret
            | Rule::MergeConflictMarker
            | Rule::BrokenLink
            | Rule::MissingImage => Severity::Error,
            Rule::BrokenAnchor
            | Rule::LinkOutsideTree
            | Rule::UnclosedCodeFence
            | Rule::NotUtf8
            | Rule::OversizedFile => Severity::Warning,
            Rule::DuplicateHeading
            | Rule::SkippedHeadingLevel
            | Rule::CodeFenceWithoutLanguage
            | Rule::TodoMarker
            | Rule::OrphanFile => Severity::Info,
        }
    }

    /// One line: what is wrong.
    pub fn explanation(self) -> &'static str {
        match self {
            Rule::LikelySecret => "text with the shape of a live credential",
            Rule::MergeConflictMarker => "a merge conflict was committed unresolved",
            Rule::BrokenLink => "a relative link points at nothing",
            Rule::MissingImage => "an image file does not exist",
            Rule::BrokenAnchor => "the target has no heading or id of that name",
            Rule::LinkOutsideTree => "a relative link leaves the audited tree",
            Rule::UnclosedCodeFence => "a code fence is never closed",
            Rule::NotUtf8 => "the file is not valid UTF-8",
            Rule::OversizedFile => "the file is too large to be checked",
            Rule::DuplicateHeading => "two headings under one parent read the same",
            Rule::SkippedHeadingLevel => "a heading skips a level",
            Rule::CodeFenceWithoutLanguage => "a code fence names no language",
            Rule::TodoMarker => "unfinished work is marked in the text",
            Rule::OrphanFile => "no other file links here",
        }
    }

    /// One line: how to make it go away.
    pub fn fix(self) -> &'static str {
        match self {
            Rule::LikelySecret => {
                "revoke the credential, remove it (and from history), use a placeholder"
            }
            Rule::MergeConflictMarker => "resolve the conflict and delete the markers",
            Rule::BrokenLink => "correct the path, restore the file or remove the link",
            Rule::MissingImage => "add the image or correct its path",
            Rule::BrokenAnchor => "use the heading's current slug or add the id",
            Rule::LinkOutsideTree => "link within the tree or use a full URL",
            Rule::UnclosedCodeFence => "close it with the same fence at the same indentation",
            Rule::NotUtf8 => "save the file as UTF-8",
            Rule::OversizedFile => "split the file or raise the size limit",
            Rule::DuplicateHeading => "rename one, so that both can be linked and found",
            Rule::SkippedHeadingLevel => "use the next level, or add the missing heading",
            Rule::CodeFenceWithoutLanguage => "name a language after the fence (`text` is one)",
            Rule::TodoMarker => "do it, or move it to the issue tracker",
            Rule::OrphanFile => "link it from an index or README, or delete it",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

/// A finding's fingerprint: 16 hexadecimal digits, equal across runs.
///
/// Made of rule, path, normalised evidence and occurrence number, never of the
/// line, so that it survives edits above it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FindingId(String);

impl FindingId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(rule: Rule, path: &str, evidence: &str, occurrence: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in [rule.id(), path, evidence] {
            hasher.update(part.as_bytes());
            hasher.update(&[0]);
        }
        hasher.update(&occurrence.to_le_bytes());
        FindingId(short_hex(&hasher.finalize()))
    }
}

impl fmt::Display for FindingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A short digest of a file's bytes, to notice that it changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentDigest(String);

impl ContentDigest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        ContentDigest(short_hex(&blake3::hash(bytes)))
    }

    /// Where the content was not read (oversized files, orphans).
    pub fn unread() -> Self {
        ContentDigest(String::new())
    }

    /// Whether any content was read.
    pub fn is_unread(&self) -> bool {
        self.0.is_empty()
    }
}

fn short_hex(hash: &blake3::Hash) -> String {
    let mut hex = hash.to_hex().to_string();
    hex.truncate(16);
    hex
}

/// One thing wrong at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Equal for the same problem in the next run.
    pub id: FindingId,
    /// Which rule says so.
    pub rule: Rule,
    /// How bad it is.
    pub severity: Severity,
    /// Relative to the root, `/` between components.
    pub path: String,
    /// Counted from 1.
    pub line: u32,
    /// In characters, counted from 1, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// The offending text: one line, bounded, secrets redacted.
    pub evidence: String,
    /// A sentence for people.
    pub message: String,
    /// The file's content when it was checked.
    pub content: ContentDigest,
}

/// What a rule says before the file's fingerprints are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remark {
    pub(crate) rule: Rule,
    pub(crate) severity: Severity,
    pub(crate) line: u32,
    pub(crate) column: Option<u32>,
    pub(crate) evidence: String,
    pub(crate) message: String,
}

impl Remark {
    /// Bounds and redacts the evidence; the severity is the rule's own.
    pub(crate) fn new(rule: Rule, line: u32, evidence: &str, message: String) -> Self {
        Remark {
            rule,
            severity: rule.severity(),
            line,
            column: None,
            evidence: presentable(evidence),
            message,
        }
    }

    pub(crate) fn at_column(mut self, column: u32) -> Self {
        self.column = Some(column);
        self
    }

    pub(crate) fn with_severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }
}

/// Numbers a file's remarks, in the order of lines, into findings.
pub(crate) fn number(
    path: &str,
    content: &ContentDigest,
    mut remarks: Vec<Remark>,
) -> Vec<Finding> {
    remarks.sort_by(|a, b| {
        (a.line, a.column, a.rule, &a.evidence).cmp(&(b.line, b.column, b.rule, &b.evidence))
    });
    let mut seen: HashMap<(Rule, String), u32> = HashMap::new();
    remarks
        .into_iter()
        .map(|remark| {
            let occurrence = seen
                .entry((remark.rule, remark.evidence.clone()))
                .or_insert(0);
            let id = FindingId::of(remark.rule, path, &remark.evidence, *occurrence);
            *occurrence += 1;
            Finding {
                id,
                rule: remark.rule,
                severity: remark.severity,
                path: path.to_owned(),
                line: remark.line,
                column: remark.column,
                evidence: remark.evidence,
                message: remark.message,
                content: content.clone(),
            }
        })
        .collect()
}

/// One bounded line without control characters or secrets.
///
/// Secrets are redacted before the text is cut, so that no half of one stays.
pub(crate) fn presentable(text: &str) -> String {
    bounded(&secrets::redacted(text), EVIDENCE_CHARS_MAX)
}

/// Runs of white space and control characters become one space; the rest is
/// cut after `chars_max` characters.
pub(crate) fn bounded(text: &str, chars_max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(4 * chars_max));
    let mut chars = 0;
    let mut gap = false;
    for c in text.chars() {
        if c.is_whitespace() || is_invisible(c) {
            gap = !line.is_empty();
            continue;
        }
        if chars_max <= chars + usize::from(gap) {
            line.push('…');
            break;
        }
        if std::mem::take(&mut gap) {
            line.push(' ');
            chars += 1;
        }
        line.push(c);
        chars += 1;
    }
    line
}

/// Control characters and the ones that reorder text on a terminal or a page.
fn is_invisible(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remark(line: u32, evidence: &str) -> Remark {
        Remark::new(Rule::TodoMarker, line, evidence, String::new())
    }

    #[test]
    fn ids_do_not_depend_on_the_line_but_on_the_occurrence() {
        let digest = ContentDigest::of(b"x");
        let before = number(
            "a.md",
            &digest,
            vec![remark(3, "TODO: x"), remark(9, "TODO: x")],
        );
        let after = number(
            "a.md",
            &digest,
            vec![remark(30, "TODO: x"), remark(90, "TODO: x")],
        );
        assert_eq!(before[0].id, after[0].id);
        assert_eq!(before[1].id, after[1].id);
        assert_ne!(before[0].id, before[1].id);
    }

    #[test]
    fn evidence_is_one_bounded_line_without_control_characters() {
        assert_eq!(bounded("  a\t\n\u{1b}[31mb  ", 80), "a [31mb");
        assert_eq!(bounded("abcdef", 3), "abc…");
        assert_eq!(bounded("ab  cdef", 3), "ab…");
        assert_eq!(bounded("\u{202e}gpj.exe", 80), "gpj.exe");
    }

    #[test]
    fn rule_ids_agree_with_their_serialised_names() {
        for rule in Rule::ALL {
            let json = serde_json::to_string(&rule).expect("rules serialise");
            assert_eq!(json, format!("\"{}\"", rule.id()));
        }
    }
}
