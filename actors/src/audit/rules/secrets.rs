//! `likely-secret`: credentials in any part of a file, code included.
//!
//! Two ways in: shapes that vendors publish (a prefix and a length), and an
//! assignment to a name like `password` whose value looks random. Both let
//! placeholders pass: `EXAMPLE`, `xxxx`, `<token>`, `${TOKEN}`, `your-key`,
//! few different characters, runs such as `1234567890`.
//!
//! Nothing here leaves with a secret in it: evidence holds a kind, at most
//! four characters of a shape's fixed prefix, and a length.
//!
//! Sources: the vendors' token formats (AWS, GitHub, GitLab, Slack, Stripe,
//! Google, OpenAI, Anthropic, npm, SendGrid), RFC 7468 and RFC 7519.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::audit::document::Document;
use crate::audit::finding::{EVIDENCE_CHARS_MAX, Remark, Rule};

/// More than this of a text is never shown, so it need not be redacted.
const REDACTED_CHARS_MAX: usize = 8 * EVIDENCE_CHARS_MAX;

/// What every shape and every assignment contains: cheap to search for, so that
/// the patterns run only on the few lines that have one.
static HINT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?-u)AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|hooks\.slack\.com",
        r"|k_live_|AIza|\bsk-|npm_|SG\.|eyJ|PRIVATE KEY",
        r"|(?i:passwor|passwd|secret|api[_-]?key|access[_-]?key|private[_-]?key|token)",
    ))
    .ok()
});

static SHAPE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?x)
        (?-u:\b) (?:
            (?P<aws> (?: AKIA | ASIA ) [A-Z0-9]{16} (?-u:\b) )
          | (?P<github> gh[pousr]_ [A-Za-z0-9]{36,} | github_pat_ [A-Za-z0-9_]{40,} )
          | (?P<gitlab> glpat- [A-Za-z0-9_-]{20,} )
          | (?P<slack> xox[abeprs]- [0-9A-Za-z-]{20,} )
          | (?P<slackhook> hooks\.slack\.com/services/ [A-Z0-9]{8,} / [A-Z0-9]{8,} / [A-Za-z0-9]{20,} )
          | (?P<stripe> (?: sk | rk ) _live_ [A-Za-z0-9]{16,} )
          | (?P<google> AIza [0-9A-Za-z_-]{35} )
          | (?P<anthropic> sk-ant- [A-Za-z0-9_-]{32,} )
          | (?P<openai> sk- (?: proj- )? [A-Za-z0-9_-]{40,} )
          | (?P<npm> npm_ [A-Za-z0-9]{36} (?-u:\b) )
          | (?P<sendgrid> SG\. [A-Za-z0-9_-]{22} \. [A-Za-z0-9_-]{43} )
          | (?P<jwt> eyJ [A-Za-z0-9_-]{10,} \. eyJ [A-Za-z0-9_-]{10,} \. [A-Za-z0-9_-]{16,} )
        )
        | (?P<key> -----BEGIN\ (?: [A-Z0-9]{2,12}\ ){0,2} PRIVATE\ KEY (?: \ BLOCK )? ----- )
        ",
    )
    .ok()
});

static ASSIGNMENT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r#"(?x)
        ( (?i-u: passwor[dt] | passwd | secret | api[_-]?key | access[_-]?key | private[_-]?key
               | token ) )
        [A-Za-z0-9_.-]{0,20} ["'`]? [\ \t]{0,3} [:=] [\ \t]{0,3} ["'`]?
        ( [!-~&&[^"'`,;<>|\\]]{12,200} )
        "#,
    )
    .ok()
});

/// Name, capture group.
const KINDS: [(&str, &str); 13] = [
    ("AWS access key", "aws"),
    ("GitHub token", "github"),
    ("GitLab token", "gitlab"),
    ("Slack token", "slack"),
    ("Slack webhook", "slackhook"),
    ("Stripe live key", "stripe"),
    ("Google API key", "google"),
    ("Anthropic API key", "anthropic"),
    ("OpenAI API key", "openai"),
    ("npm token", "npm"),
    ("SendGrid key", "sendgrid"),
    ("JSON Web Token", "jwt"),
    ("private key", "key"),
];

/// One credential in a text.
struct Secret {
    /// Bytes to hide.
    start: usize,
    end: usize,
    evidence: String,
}

pub(crate) fn check(document: &Document<'_>, remarks: &mut Vec<Remark>) {
    for secret in secrets_in(document.text) {
        let (line, column) = document.position(secret.start);
        let message = format!("{}: revoke it if it was ever real", secret.evidence);
        let remark = Remark::new(Rule::LikelySecret, line, &secret.evidence, message);
        remarks.push(remark.at_column(column));
    }
}

/// The text with every credential replaced by a mark.
pub(crate) fn redacted(text: &str) -> Cow<'_, str> {
    let text = match text.char_indices().nth(REDACTED_CHARS_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    };
    let secrets = secrets_in(text);
    if secrets.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut at = 0;
    for secret in secrets {
        shown.push_str(&text[at..secret.start]);
        shown.push_str("[redacted]");
        at = secret.end;
    }
    shown.push_str(&text[at..]);
    Cow::Owned(shown)
}

/// In order, not overlapping.
fn secrets_in(text: &str) -> Vec<Secret> {
    let Some(hint) = &*HINT else {
        return Vec::new();
    };
    let mut secrets = Vec::new();
    let mut searched = 0;
    for found in hint.find_iter(text) {
        if found.start() < searched {
            continue;
        }
        let start = text[..found.start()]
            .rfind(['\n', '\r'])
            .map_or(0, |at| at + 1);
        let end = text[found.end()..]
            .find(['\n', '\r'])
            .map_or(text.len(), |at| found.end() + at);
        secrets_in_line(text, start.max(searched), end, &mut secrets);
        searched = end;
    }
    secrets
}

fn secrets_in_line(text: &str, start: usize, end: usize, secrets: &mut Vec<Secret>) {
    let (Some(shape), Some(assignment)) = (&*SHAPE, &*ASSIGNMENT) else {
        return;
    };
    let (line, after) = (&text[start..end], &text[end..]);
    let mut here: Vec<Secret> = shape
        .captures_iter(line)
        .filter_map(|captures| shaped(line, after, &captures))
        .collect();
    let assigned: Vec<Secret> = assignment
        .captures_iter(line)
        .filter_map(|captures| assigned(line, &captures))
        .filter(|new| {
            here.iter()
                .all(|old| new.end <= old.start || old.end <= new.start)
        })
        .collect();
    here.extend(assigned);
    here.sort_by_key(|secret| secret.start);
    secrets.extend(here.into_iter().map(|secret| Secret {
        start: start + secret.start,
        end: start + secret.end,
        ..secret
    }));
}

fn shaped(line: &str, below: &str, captures: &Captures<'_>) -> Option<Secret> {
    let (kind, group, found) = KINDS
        .iter()
        .find_map(|(kind, group)| captures.name(group).map(|found| (*kind, *group, found)))?;
    let evidence = match group {
        "key" if has_key_body(&line[found.end()..]) || has_key_body(below) => kind.to_owned(),
        "key" => return None,
        "jwt" if is_sample_token(found.as_str()) => return None,
        "openai" if !looks_random(found.as_str()) => return None,
        _ if group != "jwt" && is_placeholder(found.as_str()) => return None,
        _ => {
            let prefix: String = found.as_str().chars().take(4).collect();
            format!(
                "{kind} {prefix}… ({} characters)",
                found.as_str().chars().count()
            )
        }
    };
    Some(Secret {
        start: found.start(),
        end: found.end(),
        evidence,
    })
}

fn assigned(line: &str, captures: &Captures<'_>) -> Option<Secret> {
    let (name, value) = (captures.get(1)?, captures.get(2)?);
    let trimmed = value
        .as_str()
        .trim_end_matches(['.', ')', ']', '}', '*', '&', ':']);
    if !looks_random(trimmed) || is_placeholder(trimmed) {
        return None;
    }
    // A query parameter or URL path is caught by its shape or not at all.
    let before = &line[..name.start()];
    let word_start = before
        .char_indices()
        .rev()
        .take(40)
        .take_while(|(_, c)| c.is_ascii_alphanumeric() || "_.-".contains(*c))
        .last()
        .map_or(name.start(), |(at, _)| at);
    let name = &line[word_start..name.end()];
    let characters = trimmed.chars().count();
    let evidence = format!("value of {characters} characters for {name}");
    Some(Secret {
        start: value.start(),
        end: value.start() + trimmed.len(),
        evidence,
    })
}

/// A header alone is talk about keys; base64 below it is a key.
fn has_key_body(after: &str) -> bool {
    let after: String = after.chars().take(400).collect();
    after
        .split(|c: char| c.is_whitespace() || c == '\\' || c == '"' || c == '\'')
        .map(|part| part.trim_start_matches(['n', 'r', '>', '|', '*']))
        .any(|part| {
            40 <= part.len()
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c))
                && !is_placeholder(part)
        })
}

/// The token that jwt.io and half the world's documentation shows.
fn is_sample_token(token: &str) -> bool {
    token.contains("eyJzdWIiOiIxMjM0NTY3ODkwIi") || {
        let signature = token.rsplit('.').next().unwrap_or_default();
        is_placeholder(signature)
    }
}

/// Values nobody could use.
fn is_placeholder(value: &str) -> bool {
    const WORDS: [&str; 24] = [
        "example",
        "sample",
        "placeholder",
        "redacted",
        "changeme",
        "change_me",
        "change-me",
        "your",
        "dummy",
        "fake",
        "insert",
        "replace",
        "secret",
        "password",
        "token",
        "xxxx",
        "****",
        "....",
        "1234567",
        "abcdef",
        "0000000",
        "deadbeef",
        "foobar",
        "aaaa",
    ];
    let lower = value.to_ascii_lowercase();
    if WORDS.iter().any(|word| lower.contains(word)) {
        return true;
    }
    let mut distinct: Vec<char> = lower.chars().collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.len() < 8
}

/// Letters and digits without the look of code, a path, a UUID or prose.
fn looks_random(value: &str) -> bool {
    let has = |wanted: fn(&char) -> bool| value.chars().any(|c| wanted(&c));
    let is_code = value.contains(['(', ')', '$', '{', '}', '[', ']', '%', '&', '*', '?', '#'])
        || ["::", "->", "=>", "://", "..", "--", "=="]
            .iter()
            .any(|code| value.contains(code))
        || value.starts_with(['/', '.', '-', ':', '=', '@', '~'])
        || value.matches(['.', '/']).count() > 2;
    if is_code || !value.is_ascii() || !has(char::is_ascii_digit) || is_uuid(value) {
        return false;
    }
    let mixed_case = has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase);
    let is_hex = value.chars().all(|c| c.is_ascii_hexdigit());
    let digits = value.chars().filter(char::is_ascii_digit).count();
    let is_wordy = value.split(['-', '_', '.', '/']).count() > 2 && !mixed_case;
    let length = value.chars().count();
    let dense = if length < 16 { 3.2 } else { 3.4 };
    !is_wordy && dense <= entropy(value) && (mixed_case || is_hex || 4 <= digits)
}

fn is_uuid(value: &str) -> bool {
    value.len() == 36
        && value.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && value.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

/// Shannon entropy in bits per character.
fn entropy(value: &str) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in value.bytes() {
        counts[usize::from(byte)] += 1;
    }
    let total = f64::from(u32::try_from(value.len()).unwrap_or(u32::MAX));
    counts
        .iter()
        .filter(|count| 0 < **count)
        .map(|count| {
            let share = f64::from(*count) / total;
            -share * share.log2()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let mut remarks = Vec::new();
        check(&Document::plain(text), &mut remarks);
        remarks.into_iter().map(|remark| remark.evidence).collect()
    }

    // Written in halves, so that no scanner takes this file for a leak.
    fn live() -> Vec<String> {
        vec![
            ["AKIA", "Q3EGVZ7LM2WSPT4K"].concat(),
            ["ghp_", "f7Kd02mXq9ZtLw83VbNs61RyPe45HcJuA0Gi"].concat(),
            ["glpat-", "k3Jd92mQx7ZtLw83VbNs"].concat(),
            ["xoxb-", "2837465091-5647382910-kD83mQx7ZtLw83VbNs61RyPe"].concat(),
            ["sk_live_", "4eC39HqLyjWDarjtT1zdp7dc"].concat(),
            ["AIza", "SyD93kfM20dkLw83VbNs61RyPe45HcJuA0G"].concat(),
            ["sk-ant-", "api03-kD83mQx7ZtLw83VbNs61RyPe45HcJuA0Gi"].concat(),
            ["npm_", "f7Kd02mXq9ZtLw83VbNs61RyPe45HcJuA0Gi"].concat(),
            [
                "-----BEGIN RSA PRIVATE",
                " KEY-----\nMIIEpAIBAAKCAQEA7bq8dUoXG2RkPz0wYvN1sLhTfCjE\n",
            ]
            .concat(),
            [
                "eyJhbGciOiJSUzI1NiJ9",
                ".eyJpc3MiOiJyZWdyb3cifQ",
                ".kD83mQx7ZtLw83VbNs61RyPe",
            ]
            .concat(),
            ["password = \"", "kD83mQx7ZtLw83Vb\""].concat(),
            ["API_KEY: ", "9f86d081884c7d659a2feaa0c55ad015"].concat(),
        ]
    }

    #[test]
    fn live_shapes_are_found_once_and_never_shown() {
        for secret in live() {
            let evidence = found(&format!("use `{secret}` here\n"));
            assert_eq!(evidence.len(), 1, "{secret}: {evidence:?}");
            let tail: String = secret
                .trim_end()
                .trim_end_matches('"')
                .chars()
                .rev()
                .take(8)
                .collect();
            let tail: String = tail.chars().rev().collect();
            assert!(!evidence[0].contains(&tail), "{evidence:?}");
            if !secret.starts_with('-') {
                let shown = redacted(&secret).into_owned();
                assert!(
                    shown.contains("[redacted]") && !shown.contains(&tail),
                    "{shown}"
                );
            }
        }
    }

    #[test]
    fn placeholders_code_and_prose_are_no_secrets() {
        for text in [
            "AKIAIOSFODNN7EXAMPLE",
            "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "password: <your-password-123>",
            "password = ${DB_PASSWORD_1}",
            "token: process.env.GITHUB_TOKEN1",
            "password=os.environ[\"PASSWORD1\"]",
            "api_key = get_key(2, \"production\")",
            "token: 123e4567-e89b-12d3-a456-426614174000",
            "secret: my-super-secret-value-1",
            "password: correcthorsebatterystaple",
            "The token: authentication2 is described below",
            "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
            "Use `-----BEGIN RSA PRIVATE KEY-----` as the first line",
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4ifQ.\
             SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
            "tokens: https://example.com/a/b/c/d1",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_secret_beyond_the_shown_part_is_cut_not_leaked() {
        let text = format!("{} {}", "x".repeat(REDACTED_CHARS_MAX), live()[1]);
        assert!(!redacted(&text).contains("ghp_f7"));
    }
}
