//! Heading text to anchor, as GitHub does it.
//!
//! Lower case; everything but letters, marks, numbers, connectors, hyphens and
//! spaces is dropped; each space becomes a hyphen; the second heading of the
//! same slug gets `-1`, the third `-2`. Source: the table-of-contents filter of
//! github/html-pipeline, `/[^\p{Word}\- ]/u`.
//!
//! Variation selectors and joiners (inside emoji) are dropped on both sides of
//! a comparison: GitHub keeps them, people do not type them.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use regex::Regex;

static NOT_KEPT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[^\w\- ]").ok());

/// The slug of a heading's plain text, before duplicates are numbered.
pub(crate) fn slug(text: &str) -> String {
    if text.is_ascii() {
        return text
            .bytes()
            .filter_map(|b| match b {
                b' ' => Some('-'),
                b'-' | b'_' => Some(char::from(b)),
                _ if b.is_ascii_alphanumeric() => Some(char::from(b.to_ascii_lowercase())),
                _ => None,
            })
            .collect();
    }
    let lower = text.to_lowercase();
    let kept = match &*NOT_KEPT {
        Some(pattern) => pattern.replace_all(&lower, ""),
        None => lower.as_str().into(),
    };
    kept.chars()
        .filter(|c| !is_selector(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn is_selector(c: char) -> bool {
    matches!(c, '\u{fe0e}' | '\u{fe0f}' | '\u{200c}' | '\u{200d}')
}

/// The places in one document that a fragment can name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Anchors {
    names: HashSet<String>,
    counts: HashMap<String, u32>,
}

/// What a fragment finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AnchorMatch {
    Found,
    /// Nothing, though this name reads nearly the same.
    Near(String),
    Missing,
}

impl Anchors {
    /// Adds a heading, numbering it if its slug was seen before.
    pub(crate) fn add_heading(&mut self, text: &str) {
        let trimmed = slug(text.trim());
        let count = self.counts.entry(trimmed.clone()).or_insert(0);
        let number = *count;
        *count += 1;
        let suffix = if number == 0 {
            String::new()
        } else {
            format!("-{number}")
        };
        // An image or inline HTML at an end leaves a space, hence a hyphen.
        let untrimmed = slug(text);
        if untrimmed != trimmed {
            self.names.insert(untrimmed + &suffix);
        }
        self.names.insert(trimmed + &suffix);
    }

    /// Adds an explicit `id` or `name`.
    pub(crate) fn add_id(&mut self, id: &str) {
        self.names
            .insert(id.chars().filter(|c| !is_selector(*c)).collect());
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// Looks up a decoded fragment, without its `#`.
    pub(crate) fn find(&self, fragment: &str) -> AnchorMatch {
        let wanted: String = fragment.chars().filter(|c| !is_selector(*c)).collect();
        let wanted = wanted.strip_prefix("user-content-").unwrap_or(&wanted);
        if is_always_present(wanted) || self.names.contains(wanted) {
            return AnchorMatch::Found;
        }
        let key = loose(wanted);
        if key.is_empty() {
            return AnchorMatch::Missing;
        }
        match self.names.iter().filter(|name| loose(name) == key).min() {
            Some(near) => AnchorMatch::Near(near.clone()),
            None => AnchorMatch::Missing,
        }
    }
}

/// Fragments that need no heading: the top, source lines, footnotes, text
/// fragments and client-side routes.
pub(crate) fn is_always_present(fragment: &str) -> bool {
    fragment.is_empty()
        || fragment.eq_ignore_ascii_case("top")
        || is_line_range(fragment)
        || ["fn-", "fnref-", "fn:", "fnref:", ":~:", "/", "!"]
            .iter()
            .any(|prefix| fragment.starts_with(prefix))
        || fragment.strip_prefix("fn").is_some_and(is_digits)
        || fragment.strip_prefix("fnref").is_some_and(is_digits)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `L10`, `L10-L20`, `L10C3-L20C5`.
fn is_line_range(fragment: &str) -> bool {
    fragment.split('-').all(|end| {
        end.strip_prefix('L').is_some_and(|rest| {
            let (line, column) = rest.split_once('C').unwrap_or((rest, "1"));
            is_digits(line) && is_digits(column)
        })
    })
}

/// Letters and digits only: what two spellings of one slug share.
pub(crate) fn loose(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_follow_github() {
        for (text, expected) in [
            ("Getting Started", "getting-started"),
            ("What's new?", "whats-new"),
            ("C++ & Rust", "c--rust"),
            ("`foo_bar()` method", "foo_bar-method"),
            ("1.2.3 (2024-01-01)", "123-2024-01-01"),
            ("Über uns", "über-uns"),
            ("日本語 ガイド", "日本語-ガイド"),
            ("naïve — approach", "naïve--approach"),
            ("🚀 Launch", "-launch"),
            ("a/b: c", "ab-c"),
        ] {
            assert_eq!(slug(text), expected, "{text}");
        }
    }

    #[test]
    fn duplicates_are_numbered_and_near_misses_named() {
        let mut anchors = Anchors::default();
        anchors.add_heading("Usage");
        anchors.add_heading("Usage");
        anchors.add_heading("⚙️ Set up");
        anchors.add_id("Custom");
        assert_eq!(anchors.find("usage"), AnchorMatch::Found);
        assert_eq!(anchors.find("usage-1"), AnchorMatch::Found);
        assert_eq!(anchors.find("usage-2"), AnchorMatch::Missing);
        assert_eq!(anchors.find("Usage"), AnchorMatch::Near("usage".to_owned()));
        assert_eq!(anchors.find("\u{fe0f}-set-up"), AnchorMatch::Found);
        assert_eq!(anchors.find("-set-up"), AnchorMatch::Found);
        assert_eq!(
            anchors.find("set-up"),
            AnchorMatch::Near("-set-up".to_owned())
        );
        assert_eq!(anchors.find("Custom"), AnchorMatch::Found);
        assert_eq!(
            anchors.find("custom"),
            AnchorMatch::Near("Custom".to_owned())
        );
    }

    #[test]
    fn line_ranges_footnotes_and_the_top_are_always_there() {
        for fragment in [
            "",
            "top",
            "L10",
            "L10-L20",
            "L1C2-L3C4",
            "fn1",
            "fn-note",
            ":~:text=x",
        ] {
            assert!(is_always_present(fragment), "{fragment}");
        }
        for fragment in ["L", "Lx", "L10-", "function", "fnord"] {
            assert!(!is_always_present(fragment), "{fragment}");
        }
    }
}
