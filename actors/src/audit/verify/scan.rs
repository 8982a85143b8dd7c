//! The Critic's own eyes: Markdown read line by line.
//!
//! Owns a small block scanner after CommonMark's chapter 4 and 5 (containers,
//! fences, headings, HTML blocks), written without the parser that the checker
//! uses, so that one mistake does not confirm itself. Leaves out what a single line
//! looks like (`lines`) and all inline syntax.

use std::borrow::Cow;

use super::lines::{
    atx, closes, fence, footnote, html_start, indent, is_blank, is_definition, is_paragraph_text,
    is_thematic_break, item, quoted, setext,
};

/// A scanned document.
pub(super) struct Scan<'a> {
    /// Every line, in order, without its line end.
    pub(super) lines: Vec<Line<'a>>,
    pub(super) headings: Vec<Heading>,
}

pub(super) struct Line<'a> {
    pub(super) text: &'a str,
    pub(super) state: State,
}

/// What a line is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Prose,
    /// Inside a fence.
    Code,
    /// Indented code, as far as a line scanner can tell.
    Indented,
    FenceOpen {
        has_info: bool,
        closed: bool,
        opening: String,
    },
    FenceClose,
    Html,
    FrontMatter,
}

pub(super) struct Heading {
    /// Counted from 1.
    pub(super) line: u32,
    pub(super) level: u8,
    pub(super) text: String,
    /// Outside of lists and quotations; HTML headings are neither blamed nor
    /// nested.
    pub(super) top_level: bool,
    pub(super) html: bool,
}

impl<'a> Scan<'a> {
    /// Text without structure: every line is prose.
    pub(super) fn plain(text: &'a str) -> Self {
        let lines = split(text)
            .map(|text| Line {
                text,
                state: State::Prose,
            })
            .collect();
        Scan {
            lines,
            headings: Vec::new(),
        }
    }

    pub(super) fn markdown(text: &'a str) -> Self {
        let mut scan = Scan::plain(text);
        let front = front_matter_lines(&scan.lines);
        for line in scan.lines.iter_mut().take(front) {
            line.state = State::FrontMatter;
        }
        let mut blocks = Blocks::default();
        for index in front..scan.lines.len() {
            let text = expanded(scan.lines[index].text);
            scan.lines[index].state = blocks.line(index, &text);
        }
        for open in &blocks.closed {
            if let State::FenceOpen { closed, .. } = &mut scan.lines[*open].state {
                *closed = true;
            }
        }
        scan.headings = blocks.headings;
        scan
    }

    /// The line with this number, counted from 1.
    pub(super) fn line(&self, number: u32) -> Option<&Line<'a>> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.lines.get(index)
    }
}

/// Lines at `\n`, `\r\n` or a lone `\r`; no empty one after the last end.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text.strip_prefix('\u{feff}').unwrap_or(text));
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let Some(at) = text.find(['\n', '\r']) else {
            return Some(text);
        };
        let after = &text[at..];
        let skip = if after.starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&after[skip..]).filter(|after| !after.is_empty());
        Some(&text[..at])
    })
}

fn front_matter_lines(lines: &[Line<'_>]) -> usize {
    let mark = match lines.first().map(|line| line.text.trim_end()) {
        Some("---") => "---",
        Some("+++") => "+++",
        Some(_) | None => return 0,
    };
    if lines.get(1).is_none_or(|line| line.text.trim().is_empty()) {
        return 0;
    }
    let end = lines.iter().skip(1).position(|line| {
        let text = line.text.trim_end();
        text == mark || (mark == "---" && text == "...")
    });
    end.map_or(0, |end| end + 2)
}

fn expanded(text: &str) -> Cow<'_, str> {
    if !text.contains('\t') {
        return Cow::Borrowed(text);
    }
    let mut spaces = String::with_capacity(text.len() + 8);
    let mut column = 0;
    for c in text.chars() {
        if c == '\t' {
            let width = 4 - column % 4;
            spaces.extend(std::iter::repeat_n(' ', width));
            column += width;
        } else {
            spaces.push(c);
            column += 1;
        }
    }
    Cow::Owned(spaces)
}

/// What encloses a line.
#[derive(Clone, Copy)]
enum Container {
    Quote,
    /// Columns by which the item's content is indented.
    Item {
        width: usize,
    },
}

struct OpenFence {
    line: usize,
    mark: char,
    length: usize,
    depth: usize,
}

struct OpenHtml {
    /// `None`: until a blank line.
    end: Option<&'static str>,
    depth: usize,
}

#[derive(Default)]
struct Blocks {
    containers: Vec<Container>,
    fence: Option<OpenFence>,
    html: Option<OpenHtml>,
    /// The line and text where the current paragraph began.
    paragraph: Option<(usize, String)>,
    headings: Vec<Heading>,
    /// Fences that were closed, by their opening line.
    closed: Vec<usize>,
}

impl Blocks {
    fn line(&mut self, index: usize, text: &str) -> State {
        let (matched, mut rest) = self.matching(text);
        let all = matched == self.containers.len();
        if let Some(fence) = &self.fence {
            if fence.depth <= matched {
                if closes(rest, fence.mark, fence.length) {
                    self.closed.push(fence.line);
                    self.fence = None;
                    return State::FenceClose;
                }
                return State::Code;
            }
            self.fence = None;
        }
        if let Some(html) = &self.html {
            let ended = matched < html.depth || (html.end.is_none() && is_blank(rest));
            if !ended {
                let lower = rest.to_ascii_lowercase();
                let last = html.end.is_some_and(|end| lower.contains(end));
                self.html_headings(index, rest);
                if last {
                    self.html = None;
                }
                return State::Html;
            }
            self.html = None;
        }
        if !all {
            if self.paragraph.is_some() && is_paragraph_text(rest) {
                return State::Prose;
            }
            self.containers.truncate(matched);
            self.paragraph = None;
        }
        rest = self.enter(rest);
        self.leaf(index, rest)
    }

    /// How many open containers a line continues, and what follows them.
    fn matching<'t>(&self, text: &'t str) -> (usize, &'t str) {
        let mut rest = text;
        for (matched, container) in self.containers.iter().enumerate() {
            match container {
                Container::Quote => match quoted(rest) {
                    Some(inner) => rest = inner,
                    None => return (matched, rest),
                },
                Container::Item { .. } if is_blank(rest) => {}
                Container::Item { width } if *width <= indent(rest) => rest = &rest[*width..],
                Container::Item { .. } => return (matched, rest),
            }
        }
        (self.containers.len(), rest)
    }

    /// Opens the containers that begin here.
    fn enter<'t>(&mut self, mut rest: &'t str) -> &'t str {
        while indent(rest) < 4 {
            if let Some(inner) = quoted(rest) {
                self.containers.push(Container::Quote);
                self.paragraph = None;
                rest = inner;
            } else if let Some((width, inner)) = item(rest, self.paragraph.is_some()) {
                self.containers.push(Container::Item { width });
                self.paragraph = None;
                rest = inner;
            } else if let Some(inner) = footnote(rest) {
                self.containers.push(Container::Item { width: 4 });
                self.paragraph = None;
                rest = inner;
            } else {
                break;
            }
        }
        rest
    }

    fn leaf(&mut self, index: usize, rest: &str) -> State {
        if is_blank(rest) {
            self.paragraph = None;
            return State::Prose;
        }
        if 4 <= indent(rest) {
            return if self.paragraph.is_some() {
                State::Prose
            } else {
                State::Indented
            };
        }
        let text = rest.trim();
        if let Some((mark, length, info)) = fence(text) {
            self.paragraph = None;
            let depth = self.containers.len();
            self.fence = Some(OpenFence {
                line: index,
                mark,
                length,
                depth,
            });
            let opening = text.to_owned();
            return State::FenceOpen {
                has_info: !info.trim().is_empty(),
                closed: false,
                opening,
            };
        }
        if let Some((level, title)) = atx(text) {
            self.paragraph = None;
            self.heading(index, level, title, false);
            return State::Prose;
        }
        if let Some((line, title)) = &self.paragraph
            && let Some(level) = setext(text)
        {
            let (line, title) = (*line, title.clone());
            self.paragraph = None;
            self.heading(line, level, &title, false);
            return State::Prose;
        }
        if is_thematic_break(text) {
            self.paragraph = None;
            return State::Prose;
        }
        if let Some(end) = html_start(text, self.paragraph.is_some()) {
            self.paragraph = None;
            self.html_headings(index, rest);
            let lower = text.to_ascii_lowercase();
            let done = end.is_some_and(|end| lower.get(2..).is_some_and(|t| t.contains(end)));
            if !done {
                self.html = Some(OpenHtml {
                    end,
                    depth: self.containers.len(),
                });
            }
            return State::Html;
        }
        if self.paragraph.is_none() && !is_definition(text) {
            self.paragraph = Some((index, text.to_owned()));
        }
        State::Prose
    }

    fn html_headings(&mut self, index: usize, text: &str) {
        let lower = text.to_ascii_lowercase();
        for (at, _) in lower.match_indices("<h") {
            let Some(level @ b'1'..=b'6') = lower.as_bytes().get(at + 2).copied() else {
                continue;
            };
            let inner = text[at..].split_once('>').map_or("", |(_, inner)| inner);
            let inner = inner.split("</").next().unwrap_or_default();
            self.heading(index, level - b'0', inner, true);
        }
    }

    fn heading(&mut self, index: usize, level: u8, text: &str, html: bool) {
        self.headings.push(Heading {
            line: u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1),
            level,
            text: text.to_owned(),
            top_level: self.containers.is_empty(),
            html,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(text: &str) -> String {
        Scan::markdown(text)
            .lines
            .iter()
            .map(|line| match &line.state {
                State::Prose => 'p',
                State::Code => 'c',
                State::Indented => 'i',
                State::FenceOpen { closed: true, .. } => 'o',
                State::FenceOpen { closed: false, .. } => 'u',
                State::FenceClose => 'e',
                State::Html => 'h',
                State::FrontMatter => 'f',
            })
            .collect()
    }

    #[test]
    fn lines_know_what_they_are_part_of() {
        for (text, expected) in [
            ("a\n```\nb\n```\nc\n", "pocep"),
            ("```\na", "uc"),
            ("- a\n\n  ```\n  b\n  ```\nc", "ppocep"),
            ("- a\n\n  ```\n  b\n```\nc", "ppucuc"),
            ("> ```\n> a\nb", "ucp"),
            ("````\n```\n````", "oce"),
            ("a\n    b\n\n    c", "pppi"),
            ("<div>\n```\n\n```\n```", "hhpoe"),
            ("<!--\n```\n-->\n```\n```", "hhhoe"),
            ("<!-- a -->\nb", "hp"),
            ("---\na: b\n---\n```\n```", "fffoe"),
            ("1. a\n   ~~~ x\n   b\n   ~~~\n2. c", "pocep"),
        ] {
            assert_eq!(states(text), expected, "{text:?}");
        }
    }

    #[test]
    fn headings_are_found_in_every_spelling() {
        let text =
            "# A #\nB\n===\n\n- # C\n\n> ## D\n\n<h3>E</h3>\n\n```\n# F\n```\n#G\n\nH\n---\n";
        let scan = Scan::markdown(text);
        let found: Vec<_> = scan
            .headings
            .iter()
            .map(|h| (h.line, h.level, h.text.as_str(), h.top_level && !h.html))
            .collect();
        assert_eq!(
            found,
            [
                (1, 1, "A", true),
                (2, 1, "B", true),
                (5, 1, "C", false),
                (7, 2, "D", false),
                (9, 3, "E", false),
                (16, 2, "H", true),
            ]
        );
    }
}
