//! One parsed document: headings, links, fences and code, with their lines.
//!
//! Owns the mapping from pulldown-cmark's events to what the rules need. Leaves
//! out every judgement and every other file.
//!
//! Front matter (YAML `---`, TOML `+++`) counts only at the very top and is cut
//! off before parsing, so that thematic breaks further down stay what they are.
//! A byte order mark is dropped. Offsets are bytes into [`Document::text`].
//! Lines end at `\n`, `\r\n` or a lone `\r`.

mod builder;

use std::ops::Range;

use pulldown_cmark::{Options, Parser};

use self::builder::Builder;
use super::lines::LineIndex;
use super::slug::Anchors;

/// A document as the rules see it.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    pub(crate) text: &'a str,
    pub(crate) lines: LineIndex,
    pub(crate) headings: Vec<Heading>,
    pub(crate) links: Vec<Link>,
    pub(crate) fences: Vec<Fence>,
    pub(crate) anchors: Anchors,
    /// Words outside code.
    pub(crate) words: u32,
    /// Code blocks and spans, sorted, not overlapping.
    code: Vec<Range<usize>>,
}

/// A heading, in Markdown or HTML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heading {
    pub(crate) line: u32,
    /// 1 to 6.
    pub(crate) level: u8,
    /// The source of its first line, without the `#`s.
    pub(crate) raw: String,
    pub(crate) slug: String,
    /// Not inside a list, a quotation or a footnote, and not HTML.
    pub(crate) top_level: bool,
    pub(crate) html: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkKind {
    Link,
    Image,
}

/// A link or image with its destination as written, entities decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) kind: LinkKind,
    pub(crate) destination: String,
    /// Of the destination as nearly as it can be found; of the definition for
    /// reference links, which are listed once however often they are used.
    pub(crate) offset: usize,
}

/// A fenced code block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) line: u32,
    /// The opening line, without indentation.
    pub(crate) opening: String,
    pub(crate) has_info: bool,
    pub(crate) closed: bool,
    /// The first line of code that is not blank.
    pub(crate) first_code: Option<String>,
}

impl<'a> Document<'a> {
    /// Parses Markdown. Any text is a document; nothing fails.
    pub(crate) fn parse(text: &'a str) -> Self {
        let document = Document::unread(text);
        let skip = front_matter_bytes(document.text);
        let body = &document.text[skip..];
        let options = Options::ENABLE_TABLES
            | Options::ENABLE_FOOTNOTES
            | Options::ENABLE_STRIKETHROUGH
            | Options::ENABLE_TASKLISTS
            | Options::ENABLE_HEADING_ATTRIBUTES
            | Options::ENABLE_GFM;
        let events = Parser::new_ext(body, options).into_offset_iter();
        Builder::new(document, skip).run(events)
    }

    /// Text without any structure: only lines and words.
    pub(crate) fn plain(text: &'a str) -> Self {
        let document = Document::unread(text);
        let words = words(document.text);
        Document { words, ..document }
    }

    fn unread(text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Document {
            text,
            lines: LineIndex::new(text),
            headings: Vec::new(),
            links: Vec::new(),
            fences: Vec::new(),
            anchors: Anchors::default(),
            words: 0,
            code: Vec::new(),
        }
    }

    /// Whether a byte lies in a code block or span.
    pub(crate) fn is_code(&self, offset: usize) -> bool {
        let after = self.code.partition_point(|range| range.start <= offset);
        self.code[..after]
            .last()
            .is_some_and(|range| offset < range.end)
    }

    /// Line and column of a byte, both counted from 1.
    pub(crate) fn position(&self, offset: usize) -> (u32, u32) {
        let line = self.lines.line_of(offset);
        let start = self.lines.start_of(line);
        let before = self.text.get(start..offset).unwrap_or_default();
        (
            line,
            u32::try_from(before.chars().count())
                .unwrap_or(u32::MAX)
                .saturating_add(1),
        )
    }
}

/// Runs of bytes between ASCII white space.
fn words(text: &str) -> u32 {
    let mut words = 0_u32;
    let mut in_word = false;
    for byte in text.bytes() {
        let is_space = byte.is_ascii_whitespace();
        words = words.saturating_add(u32::from(!is_space && !in_word));
        in_word = !is_space;
    }
    words
}

fn first_line(text: &str) -> &str {
    text.split(['\n', '\r']).next().unwrap_or_default()
}

/// How many bytes at the top are front matter, its closing line included.
fn front_matter_bytes(text: &str) -> usize {
    let mark = match first_line(text).trim_end() {
        "---" => "---",
        "+++" => "+++",
        _ => return 0,
    };
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        at += line.len();
        let line = line.trim_end();
        if number == 1 && line.is_empty() {
            return 0;
        }
        if 0 < number && (line == mark || (mark == "---" && line == "...")) {
            return at;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destinations(text: &str) -> Vec<(String, u32)> {
        let document = Document::parse(text);
        document
            .links
            .iter()
            .map(|link| (link.destination.clone(), document.position(link.offset).0))
            .collect()
    }

    #[test]
    fn every_way_to_write_a_link_is_seen_once_at_its_line() {
        let text = "---\ntitle: x\n---\n[a](a.md)\n[![b](b.png)](b.md \"t\")\n[c][c] and [C]\n\
                    <d.md> [e](<e f.md>)\n<a href='g.md'>g</a>\n\n<p>\n<img src=\"h.png\">\n</p>\n\n\
                    [c]: c.md\n[unused]: u.md\n";
        let found = destinations(text);
        let expected = [
            ("a.md", 4),
            ("b.md", 5),
            ("b.png", 5),
            ("c.md", 14),
            ("e f.md", 7),
            ("g.md", 8),
            ("h.png", 11),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (destination, line) in expected {
            assert!(
                found.contains(&(destination.to_owned(), line)),
                "{destination}: {found:?}"
            );
        }
    }

    #[test]
    fn a_link_over_two_lines_is_found_where_its_destination_stands() {
        assert_eq!(destinations("x [a\nb](c.md)"), [("c.md".to_owned(), 2)]);
    }

    #[test]
    fn headings_give_anchors_whatever_their_markup() {
        let text = "# A `b` *c* [d](e.md)\n\nSetext\n===\n\n## Same\n\n## Same\n\n\
                    ### Named {#own}\n\n<h2 align=center>Big &amp; bold</h2>\n\n<a id=\"x\"></a>\n";
        let document = Document::parse(text);
        for fragment in [
            "a-b-c-d",
            "setext",
            "same",
            "same-1",
            "own",
            "named",
            "named-own",
            "x",
        ] {
            assert_eq!(
                document.anchors.find(fragment),
                crate::audit::slug::AnchorMatch::Found,
                "{fragment}"
            );
        }
        assert_eq!(
            document.anchors.find("big--bold"),
            crate::audit::slug::AnchorMatch::Found
        );
        assert_eq!(document.headings[1].raw, "Setext");
    }

    #[test]
    fn fences_know_whether_they_are_closed() {
        for (text, closed) in [
            ("```\na\n```\n", true),
            ("```\na\n", false),
            ("```", false),
            ("````\n```\n", false),
            ("~~~\na\n~~~~\n", true),
            ("> ```\n> a\n> ```\n", true),
            ("> ```\n> a\n\nb\n", false),
            ("- x\n\n  ```sh\n  a\n  ```\n", true),
            ("- x\n\n  ```sh\n  a\n\nb\n", false),
        ] {
            let document = Document::parse(text);
            assert_eq!(document.fences.len(), 1, "{text:?}");
            assert_eq!(document.fences[0].closed, closed, "{text:?}");
        }
    }

    #[test]
    fn front_matter_counts_only_at_the_top_and_closed() {
        assert_eq!(front_matter_bytes("---\na: b\n---\n# x"), 13);
        assert_eq!(front_matter_bytes("---\n\ntext\n---\n"), 0);
        assert_eq!(front_matter_bytes("---\na: b\n"), 0);
        assert_eq!(front_matter_bytes("x\n---\n"), 0);
    }
}
