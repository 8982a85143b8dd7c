//! What single lines begin or end, by CommonMark's rules for blocks.
//!
//! Owns the recognition of markers in one line whose containers are already
//! taken off and whose tabs are expanded. Leaves out all state between lines.

use std::borrow::Cow;

pub(super) fn indent(text: &str) -> usize {
    text.len() - text.trim_start_matches(' ').len()
}

pub(super) fn is_blank(text: &str) -> bool {
    text.trim_matches([' ', '\t']).is_empty()
}

pub(super) fn quoted(text: &str) -> Option<&str> {
    let inner = text.trim_start_matches(' ').strip_prefix('>')?;
    (indent(text) < 4).then(|| inner.strip_prefix(' ').unwrap_or(inner))
}

/// A list marker: the columns it takes, and what follows.
pub(super) fn item(text: &str, in_paragraph: bool) -> Option<(usize, &str)> {
    let before = indent(text);
    let body = &text[before..];
    if is_thematic_break(body.trim()) || (in_paragraph && setext(body.trim()).is_some()) {
        return None;
    }
    let digits = body.bytes().take_while(u8::is_ascii_digit).count();
    let marker = match body.as_bytes() {
        [b'-' | b'+' | b'*', ..] => 1,
        bytes if (1..=9).contains(&digits) && matches!(bytes.get(digits), Some(b'.' | b')')) => {
            digits + 1
        }
        _ => return None,
    };
    let after = &body[marker..];
    if !after.is_empty() && !after.starts_with(' ') {
        return None;
    }
    if in_paragraph && (is_blank(after) || (0 < digits && &body[..digits] != "1")) {
        return None;
    }
    let spaces = indent(after);
    let padding = if is_blank(after) || 4 < spaces {
        1
    } else {
        spaces
    };
    Some((
        before + marker + padding,
        after.get(padding..).unwrap_or_default(),
    ))
}

pub(super) fn footnote(text: &str) -> Option<&str> {
    let body = text.trim_start_matches(' ').strip_prefix("[^")?;
    let (label, inner) = body.split_once("]:")?;
    (!label.is_empty() && !label.contains([' ', '[', ']'])).then(|| inner.trim_start())
}

pub(super) fn fence(text: &str) -> Option<(char, usize, &str)> {
    let mark = text.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let info = text.trim_start_matches(mark);
    let length = text.len() - info.len();
    (3 <= length && !(mark == '`' && info.contains('`'))).then_some((mark, length, info))
}

pub(super) fn closes(text: &str, mark: char, length: usize) -> bool {
    let run = text.trim();
    indent(text) < 4 && length <= run.len() && run.chars().all(|c| c == mark)
}

pub(super) fn atx(text: &str) -> Option<(u8, &str)> {
    let title = text.trim_start_matches('#');
    let level = u8::try_from(text.len() - title.len())
        .ok()
        .filter(|n| (1..=6).contains(n))?;
    if !title.is_empty() && !title.starts_with([' ', '\t']) {
        return None;
    }
    let title = title.trim();
    let open = title.trim_end_matches('#');
    let closed = open.is_empty() || open.ends_with([' ', '\t']);
    Some((level, if closed { open.trim_end() } else { title }))
}

pub(super) fn setext(text: &str) -> Option<u8> {
    let is = |mark: char| !text.is_empty() && text.chars().all(|c| c == mark);
    if is('=') {
        Some(1)
    } else if is('-') {
        Some(2)
    } else {
        None
    }
}

pub(super) fn is_thematic_break(text: &str) -> bool {
    ['-', '*', '_'].iter().any(|mark| {
        3 <= text.chars().filter(|c| c == mark).count()
            && text.chars().all(|c| c == *mark || c == ' ' || c == '\t')
    })
}

/// Link definitions make no paragraph.
pub(super) fn is_definition(text: &str) -> bool {
    text.strip_prefix('[')
        .and_then(|rest| rest.split_once("]:"))
        .is_some_and(|(label, rest)| !label.is_empty() && !rest.trim().is_empty())
}

/// Whether a line may lazily continue a paragraph.
pub(super) fn is_paragraph_text(rest: &str) -> bool {
    let text = rest.trim();
    !is_blank(rest)
        && (4 <= indent(rest)
            || (fence(text).is_none()
                && atx(text).is_none()
                && quoted(rest).is_none()
                && item(rest, false).is_none()
                && !is_thematic_break(text)
                && html_start(text, true).is_none()))
}

/// Whether HTML begins here, and what ends it (`None`: a blank line).
pub(super) fn html_start(text: &str, in_paragraph: bool) -> Option<Option<&'static str>> {
    let lower = text.to_ascii_lowercase();
    let body = lower.strip_prefix('<')?;
    for (start, end) in [("!--", "-->"), ("?", "?>"), ("![cdata[", "]]>")] {
        if body.starts_with(start) {
            return Some(Some(end));
        }
    }
    if body
        .strip_prefix('!')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_alphabetic()))
    {
        return Some(Some(">"));
    }
    let name_of = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
            .collect()
    };
    let ends_name = |text: &str, name: &str| {
        let rest = &text[name.len()..];
        rest.is_empty() || rest.starts_with([' ', '\t', '>']) || rest.starts_with("/>")
    };
    let name = name_of(body);
    const RAW: [(&str, &str); 4] = [
        ("script", "</script>"),
        ("pre", "</pre>"),
        ("style", "</style>"),
        ("textarea", "</textarea>"),
    ];
    for (raw, end) in RAW {
        if name == raw && ends_name(body, &name) {
            return Some(Some(end));
        }
    }
    let tag = body.strip_prefix('/').unwrap_or(body);
    let name = name_of(tag);
    if BLOCK_TAGS.split(' ').any(|tag| tag == name) && ends_name(tag, &name) {
        return Some(None);
    }
    let whole = !in_paragraph
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with('>')
        && is_one_tag(text, tag[name.len()..].chars().next());
    whole.then_some(None)
}

/// A complete tag and nothing else; a scheme is an autolink instead.
fn is_one_tag(text: &str, after_name: Option<char>) -> bool {
    if !after_name.is_some_and(|c| c == '>' || c == '/' || c.is_whitespace()) {
        return false;
    }
    let mut quote = None;
    for (at, c) in text.char_indices().skip(1) {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '<') => return false,
            (None, '>') => return at + 1 == text.len(),
            (None, _) => {}
        }
    }
    false
}

/// CommonMark's sixth kind of HTML block.
const BLOCK_TAGS: &str = "address article aside base basefont blockquote body caption center col colgroup dd \
    details dialog dir div dl dt fieldset figcaption figure footer form frame frameset h1 h2 \
    h3 h4 h5 h6 head header hr html iframe legend li link main menu menuitem nav noframes ol \
    optgroup option p param search section summary table tbody td tfoot th thead title tr \
    track ul";

/// The line with its code spans blanked.
pub(super) fn without_code_spans(line: &str) -> Cow<'_, str> {
    if !line.contains('`') {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('`') {
        shown.push_str(&rest[..at]);
        let run = rest[at..].bytes().take_while(|b| *b == b'`').count();
        let inner = &rest[at + run..];
        match span_end(inner, run) {
            Some(end) => {
                shown.push(' ');
                rest = &inner[end + run..];
            }
            None => {
                shown.push_str(&rest[at..at + run]);
                rest = inner;
            }
        }
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

/// Where a run of exactly `length` backticks begins.
fn span_end(text: &str, length: usize) -> Option<usize> {
    let mut at = 0;
    while let Some(found) = text[at..].find('`') {
        let start = at + found;
        let run = text[start..].bytes().take_while(|b| *b == b'`').count();
        if run == length {
            return Some(start);
        }
        at = start + run;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_spans_are_blanked_by_their_own_length() {
        assert_eq!(without_code_spans("a `b` ``c ` d`` e"), "a     e");
        assert_eq!(without_code_spans("a ` b"), "a ` b");
    }
}
