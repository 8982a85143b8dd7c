//! From pulldown-cmark's events to a [`Document`].

use std::collections::HashSet;
use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, LinkType, OffsetIter, Tag, TagEnd};

use super::{Document, Fence, Heading, Link, LinkKind, first_line, words};
use crate::audit::html;
use crate::audit::slug::slug;

/// What is being collected across events.
enum Open {
    Heading {
        heading: Heading,
        id: Option<String>,
        text: String,
    },
    Fence(Fence),
}

/// Turns events into a document.
pub(super) struct Builder<'a> {
    document: Document<'a>,
    body: &'a str,
    /// Bytes of front matter before the body.
    skip: usize,
    /// Lists, quotations and footnotes around the current event.
    depth: usize,
    /// Images around it: their text is no text of a heading.
    images: usize,
    open: Option<Open>,
    /// Reference definitions already listed.
    seen: HashSet<usize>,
}

impl<'a> Builder<'a> {
    /// For the text behind the first `skip` bytes of the document's.
    pub(super) fn new(document: Document<'a>, skip: usize) -> Self {
        let body = &document.text[skip..];
        Builder {
            document,
            body,
            skip,
            depth: 0,
            images: 0,
            open: None,
            seen: HashSet::new(),
        }
    }

    /// Takes every event; gives the finished document.
    pub(super) fn run(mut self, mut events: OffsetIter<'a>) -> Document<'a> {
        while let Some((event, range)) = events.next() {
            self.event(event, range, &events);
        }
        self.document
    }

    fn event(&mut self, event: Event<'a>, range: Range<usize>, events: &OffsetIter<'a>) {
        match event {
            Event::Start(tag) => self.start(tag, range, events),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.text(&text),
            Event::Code(code) => {
                self.document
                    .code
                    .push(range.start + self.skip..range.end + self.skip);
                if let Some(Open::Heading { text, .. }) = &mut self.open {
                    text.push_str(&code);
                }
            }
            Event::InlineHtml(_) => self.html(range),
            Event::SoftBreak | Event::HardBreak => {
                if let Some(Open::Heading { text, .. }) = &mut self.open {
                    text.push(' ');
                }
            }
            // Blocks of HTML are read whole, at their start.
            Event::Html(_)
            | Event::InlineMath(_)
            | Event::DisplayMath(_)
            | Event::FootnoteReference(_)
            | Event::Rule
            | Event::TaskListMarker(_) => {}
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "tags that hold nothing for us, in an enum that grows with the library"
    )]
    fn start(&mut self, tag: Tag<'a>, range: Range<usize>, events: &OffsetIter<'a>) {
        match tag {
            Tag::Heading { level, id, .. } => {
                let line = self.line(range.start);
                let raw = heading_source(first_line(&self.body[range.start..])).to_owned();
                let heading = Heading {
                    line,
                    level: u8::try_from(level as usize).unwrap_or(6),
                    raw,
                    slug: String::new(),
                    top_level: self.depth == 0,
                    html: false,
                };
                let id = id.map(|id| id.to_string());
                self.open = Some(Open::Heading {
                    heading,
                    id,
                    text: String::new(),
                });
            }
            Tag::CodeBlock(kind) => {
                self.document
                    .code
                    .push(range.start + self.skip..range.end + self.skip);
                if let CodeBlockKind::Fenced(info) = kind {
                    let source = &self.body[range.clone()];
                    self.open = Some(Open::Fence(Fence {
                        line: self.line(range.start),
                        opening: first_line(source).trim().to_owned(),
                        has_info: !info.trim().is_empty(),
                        closed: is_closed(source),
                        first_code: None,
                    }));
                }
            }
            Tag::Link {
                link_type,
                dest_url,
                id,
                ..
            } => {
                self.link(LinkKind::Link, link_type, &dest_url, &id, range, events);
            }
            Tag::Image {
                link_type,
                dest_url,
                id,
                ..
            } => {
                self.images += 1;
                self.link(LinkKind::Image, link_type, &dest_url, &id, range, events);
            }
            Tag::HtmlBlock => self.html(range),
            Tag::BlockQuote(_) | Tag::List(_) | Tag::FootnoteDefinition(_) => self.depth += 1,
            _ => {}
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "tags that hold nothing for us, in an enum that grows with the library"
    )]
    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(_) | TagEnd::CodeBlock => match self.open.take() {
                Some(Open::Heading { heading, id, text }) => self.heading(heading, id, &text),
                Some(Open::Fence(fence)) => self.document.fences.push(fence),
                None => {}
            },
            TagEnd::Image => self.images = self.images.saturating_sub(1),
            TagEnd::BlockQuote(_) | TagEnd::List(_) | TagEnd::FootnoteDefinition => {
                self.depth = self.depth.saturating_sub(1);
            }
            _ => {}
        }
    }

    fn text(&mut self, words_of: &str) {
        match &mut self.open {
            Some(Open::Fence(fence)) => {
                if fence.first_code.is_none() {
                    fence.first_code = words_of
                        .lines()
                        .map(str::trim)
                        .find(|l| !l.is_empty())
                        .map(str::to_owned);
                }
                return;
            }
            Some(Open::Heading { text, .. }) if self.images == 0 => text.push_str(words_of),
            Some(Open::Heading { .. }) | None => {}
        }
        self.document.words = self.document.words.saturating_add(words(words_of));
    }

    fn heading(&mut self, mut heading: Heading, id: Option<String>, text: &str) {
        heading.slug = slug(text.trim());
        self.document.anchors.add_heading(text);
        if let Some(id) = id {
            self.document.anchors.add_id(&id);
            // GitHub knows no attributes and makes them part of the slug.
            self.document.anchors.add_id(&slug(&heading.raw));
        }
        self.document.headings.push(heading);
    }

    fn link(
        &mut self,
        kind: LinkKind,
        link_type: LinkType,
        destination: &str,
        id: &str,
        range: Range<usize>,
        events: &OffsetIter<'a>,
    ) {
        let source = match link_type {
            LinkType::Email | LinkType::Autolink => return,
            LinkType::Inline | LinkType::WikiLink { .. } => range,
            LinkType::Reference
            | LinkType::ReferenceUnknown
            | LinkType::Collapsed
            | LinkType::CollapsedUnknown
            | LinkType::Shortcut
            | LinkType::ShortcutUnknown => {
                match events
                    .reference_definitions()
                    .get(id)
                    .map(|def| def.span.clone())
                {
                    Some(span) if self.seen.insert(span.start) => span,
                    Some(_listed) => return,
                    None => range,
                }
            }
        };
        let offset = self.skip + source.start + destination_in(&self.body[source], destination);
        self.document.links.push(Link {
            kind,
            destination: destination.to_owned(),
            offset,
        });
    }

    fn html(&mut self, range: Range<usize>) {
        let fragment = &self.body[range.clone()];
        for tag in html::tags(fragment) {
            for name in ["id", "name"] {
                if let Some(id) = tag.attribute(name) {
                    self.document.anchors.add_id(&html::decoded(id.value));
                }
            }
            if let Some(level) = tag.heading_level()
                && let Some(end) = html::closing(fragment, tag.end, &tag.name)
            {
                self.html_heading(range.start + tag.offset, level, &fragment[tag.end..end]);
            }
            let (kind, attribute) = match tag.name.as_str() {
                "a" => (LinkKind::Link, tag.attribute("href")),
                "img" | "video" | "audio" | "source" => (LinkKind::Image, tag.attribute("src")),
                _ => continue,
            };
            let Some(attribute) = attribute else { continue };
            self.document.links.push(Link {
                kind,
                destination: html::decoded(attribute.value.trim()),
                offset: self.skip + range.start + attribute.offset,
            });
        }
    }

    fn html_heading(&mut self, offset: usize, level: u8, inner: &str) {
        let text = html::text(inner);
        self.document.anchors.add_heading(text.trim());
        self.document.headings.push(Heading {
            line: self.line(offset),
            level,
            raw: text.trim().to_owned(),
            slug: slug(text.trim()),
            top_level: false,
            html: true,
        });
    }

    fn line(&self, offset_in_body: usize) -> u32 {
        self.document.lines.line_of(self.skip + offset_in_body)
    }
}

/// Where a link's source shows its destination; 0 if escapes hide it.
fn destination_in(source: &str, destination: &str) -> usize {
    let from = source.rfind("](").map_or(0, |at| at + 2);
    let from = if source.starts_with('<') { 0 } else { from };
    if destination.is_empty() {
        return from;
    }
    match source.get(from..).and_then(|rest| rest.find(destination)) {
        Some(at) => from + at,
        None => source.rfind(destination).unwrap_or(from),
    }
}

/// The text of a heading's first line, without its `#`s.
fn heading_source(line: &str) -> &str {
    let line = line.trim();
    let text = line.trim_start_matches('#');
    if text.len() == line.len() {
        return line;
    }
    let text = text.trim();
    let open = text.trim_end_matches('#');
    if open.is_empty() || open.ends_with([' ', '\t']) {
        open.trim_end()
    } else {
        text
    }
}

/// Whether the source of a fenced block ends in a fence that closes it.
fn is_closed(source: &str) -> bool {
    let mut lines = source
        .split(['\n', '\r'])
        .map(|line| line.trim_matches([' ', '\t', '>']));
    let Some(opening) = lines.next() else {
        return false;
    };
    let Some(mark) = opening.chars().next() else {
        return false;
    };
    let length = opening.chars().take_while(|c| *c == mark).count();
    match lines.rev().find(|line| !line.is_empty()) {
        Some(last) => length <= last.len() && last.chars().all(|c| c == mark),
        None => false,
    }
}
