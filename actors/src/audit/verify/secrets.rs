//! A second look at likely secrets: prefixes and lengths, without patterns.

use super::scan::Scan;
use super::{Finding, Verdict};

/// Prefix as shown in evidence, kind, and the characters such a token is made of.
const SHAPES: [(&str, &str, &str); 16] = [
    ("AKIA", "AWS access key", ""),
    ("ASIA", "AWS access key", ""),
    ("ghp_", "GitHub token", "_"),
    ("gho_", "GitHub token", "_"),
    ("ghu_", "GitHub token", "_"),
    ("ghs_", "GitHub token", "_"),
    ("ghr_", "GitHub token", "_"),
    ("github_pat_", "GitHub token", "_"),
    ("glpat-", "GitLab token", "_-"),
    ("hooks.slack.com/services/", "Slack webhook", "./"),
    ("sk_live_", "Stripe live key", "_"),
    ("rk_live_", "Stripe live key", "_"),
    ("AIza", "Google API key", "_-"),
    ("npm_", "npm token", "_"),
    ("SG.", "SendGrid key", "_-."),
    ("eyJ", "JSON Web Token", "_-."),
];

/// Looks in the finding's line, and for keys in the lines below it.
pub(super) fn judge(finding: &Finding, scan: &Scan<'_>) -> Verdict {
    let first = usize::try_from(finding.line)
        .unwrap_or(usize::MAX)
        .saturating_sub(1);
    let mut below = scan.lines.iter().skip(first).map(|line| line.text);
    let line = below.next().unwrap_or_default();
    let evidence = finding.evidence.as_str();
    let confirmed = if evidence == "private key" {
        line.contains("-----BEGIN ") && has_body(line) || below.take(12).any(is_body)
    } else if let Some(described) = evidence.strip_prefix("value of ") {
        has_value(line, described)
    } else {
        shapes(line).any(|shown| shown == evidence)
    };
    if confirmed {
        Verdict::Confirmed
    } else {
        Verdict::changed("the line holds no such credential any more")
    }
}

/// Every token of the line, described as the checker describes it.
fn shapes(line: &str) -> impl Iterator<Item = String> {
    const OTHERS: [(&str, &str, &str); 8] = [
        ("sk-", "OpenAI API key", "_-"),
        ("sk-ant-", "Anthropic API key", "_-"),
        ("xoxa-", "Slack token", "-"),
        ("xoxb-", "Slack token", "-"),
        ("xoxe-", "Slack token", "-"),
        ("xoxp-", "Slack token", "-"),
        ("xoxr-", "Slack token", "-"),
        ("xoxs-", "Slack token", "-"),
    ];
    SHAPES
        .iter()
        .chain(OTHERS.iter())
        .flat_map(move |(prefix, kind, extra)| {
            line.match_indices(prefix).map(move |(at, _)| {
                let token: String = line[at..]
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || extra.contains(*c))
                    .collect();
                let token = token.trim_end_matches('.');
                let shown: String = token.chars().take(4).collect();
                format!("{kind} {shown}… ({} characters)", token.chars().count())
            })
        })
}

/// `24 characters for db_password`: that name, then a value of that length.
fn has_value(line: &str, described: &str) -> bool {
    let Some((length, name)) = described.split_once(" characters for ") else {
        return false;
    };
    let Ok(length) = length.parse::<usize>() else {
        return false;
    };
    line.match_indices(name).any(|(at, _)| {
        let after = &line[at + name.len()..];
        let sign = after.find([':', '=']).map(|sign| &after[sign + 1..]);
        sign.is_some_and(|value| {
            let value = value.trim_start_matches([' ', '\t', '"', '\'', '`']);
            let run = value
                .chars()
                .take_while(|c| !c.is_whitespace() && !"\"'`,;<>|\\".contains(*c))
                .count();
            length <= run
        })
    })
}

fn has_body(line: &str) -> bool {
    line.split("-----")
        .last()
        .is_some_and(|rest| rest.split(['\\', '"', ' ']).any(is_body))
}

/// Forty characters of base64 and little else.
fn is_body(line: &str) -> bool {
    let base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let mut run = 0;
    for c in line.chars() {
        run = if base64(c) { run + 1 } else { 0 };
        if 40 <= run {
            return true;
        }
    }
    false
}
