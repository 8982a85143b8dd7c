//! Tags and attributes of HTML inside Markdown, leniently.
//!
//! Owns finding `href`, `src`, `id` and `name` in a fragment. Leaves out
//! everything a browser would do with it: there is no tree, no nesting, no
//! error. Comments and the content of `script`, `style` and `textarea` are
//! passed over.

/// One opening tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag<'a> {
    /// Lower case.
    pub(crate) name: String,
    /// Of the `<`, within the fragment.
    pub(crate) offset: usize,
    /// Just behind the `>`.
    pub(crate) end: usize,
    pub(crate) attributes: Vec<Attribute<'a>>,
}

/// One attribute that has a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    /// Lower case.
    pub(crate) name: String,
    pub(crate) value: &'a str,
    /// Of the value, within the fragment.
    pub(crate) offset: usize,
}

impl Tag<'_> {
    pub(crate) fn attribute(&self, name: &str) -> Option<&Attribute<'_>> {
        self.attributes
            .iter()
            .find(|attribute| attribute.name == name)
    }

    /// 1 to 6 for `h1` to `h6`.
    pub(crate) fn heading_level(&self) -> Option<u8> {
        match self.name.as_bytes() {
            [b'h', level @ b'1'..=b'6'] => Some(level - b'0'),
            _ => None,
        }
    }
}

/// All opening tags of a fragment, in order.
pub(crate) fn tags(fragment: &str) -> Vec<Tag<'_>> {
    let mut tags = Vec::new();
    let mut at = 0;
    while let Some(found) = fragment.get(at..).and_then(|rest| rest.find('<')) {
        let offset = at + found;
        let rest = &fragment[offset..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            match comment.find("-->") {
                Some(end) => at = offset + 4 + end + 3,
                None => break,
            }
            continue;
        }
        let Some(tag) = open_tag(fragment, offset) else {
            at = offset + 1;
            continue;
        };
        at = tag.end;
        if matches!(tag.name.as_str(), "script" | "style" | "textarea") {
            at = closing(fragment, at, &tag.name).unwrap_or(fragment.len());
        }
        tags.push(tag);
    }
    tags
}

/// Where `</name` begins at or after `from`.
pub(crate) fn closing(fragment: &str, from: usize, name: &str) -> Option<usize> {
    let bytes = fragment.as_bytes();
    let mut at = from;
    while let Some(found) = fragment.get(at..).and_then(|rest| rest.find("</")) {
        let start = at + found;
        let tail = &bytes[start + 2..];
        if name.len() <= tail.len() && tail[..name.len()].eq_ignore_ascii_case(name.as_bytes()) {
            return Some(start);
        }
        at = start + 2;
    }
    None
}

/// A fragment's text without its tags, common entities decoded.
pub(crate) fn text(fragment: &str) -> String {
    let mut text = String::with_capacity(fragment.len());
    let mut rest = fragment;
    while let Some(start) = rest.find('<') {
        text.push_str(&rest[..start]);
        match rest[start..].find('>') {
            Some(end) => rest = &rest[start + end + 1..],
            None => return decoded(&text),
        }
    }
    text.push_str(rest);
    decoded(&text)
}

/// Decodes the few entities that occur in paths and titles.
pub(crate) fn decoded(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&apos;", "'")
        .replace("&nbsp;", "\u{a0}")
        .replace("&#x2F;", "/")
        .replace("&#47;", "/")
        .replace("&amp;", "&")
}

fn open_tag(fragment: &str, offset: usize) -> Option<Tag<'_>> {
    let bytes = fragment.as_bytes();
    let mut at = offset + 1;
    if !bytes.get(at)?.is_ascii_alphabetic() {
        return None;
    }
    let name_end = run(bytes, at, |b| b.is_ascii_alphanumeric() || b == b'-');
    let name = fragment.get(at..name_end)?.to_ascii_lowercase();
    at = name_end;
    let mut attributes = Vec::new();
    loop {
        at = run(bytes, at, |b| b.is_ascii_whitespace() || b == b'/');
        match bytes.get(at)? {
            b'>' => {
                return Some(Tag {
                    name,
                    offset,
                    end: at + 1,
                    attributes,
                });
            }
            // A second tag before the first one ended: not a tag after all.
            b'<' => return None,
            _ => {}
        }
        let key_start = at;
        at = run(bytes, at, |b| {
            !b.is_ascii_whitespace() && !b"=>/<".contains(&b)
        });
        let key = fragment.get(key_start..at)?.to_ascii_lowercase();
        let after = run(bytes, at, |b| b.is_ascii_whitespace());
        if bytes.get(after) != Some(&b'=') {
            // A lone `=` would never be passed otherwise.
            at = if at == key_start { at + 1 } else { at };
            continue;
        }
        at = run(bytes, after + 1, |b| b.is_ascii_whitespace());
        let (start, end, next) = match bytes.get(at)? {
            quote @ (b'"' | b'\'') => {
                let end = run(bytes, at + 1, |b| b != *quote);
                bytes.get(end)?;
                (at + 1, end, end + 1)
            }
            _ => {
                let end = run(bytes, at, |b| !b.is_ascii_whitespace() && b != b'>');
                (at, end, end)
            }
        };
        attributes.push(Attribute {
            name: key,
            value: fragment.get(start..end)?,
            offset: start,
        });
        at = next;
    }
}

fn run(bytes: &[u8], from: usize, wanted: impl Fn(u8) -> bool) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().position(|b| !wanted(*b)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(fragment: &str) -> Vec<(String, String, String)> {
        tags(fragment)
            .iter()
            .flat_map(|tag| {
                tag.attributes
                    .iter()
                    .map(|a| (tag.name.clone(), a.name.clone(), a.value.to_owned()))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn attributes_are_read_in_every_quoting() {
        let found = pairs("<A HREF=\"a.md\"><img src='b.png' hidden alt=x><br/><a name=top></a>");
        let expected = [
            ("a", "href", "a.md"),
            ("img", "src", "b.png"),
            ("img", "alt", "x"),
            ("a", "name", "top"),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(t, k, v)| ((*t).to_owned(), (*k).to_owned(), (*v).to_owned()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn comments_scripts_and_broken_tags_hold_no_links() {
        assert!(pairs("<!-- <a href='x'> --> <script>'<a href=y>'</script>").is_empty());
        assert!(pairs("a < b and <a href=\"never closed").is_empty());
        assert_eq!(pairs("<= <a = href=x>").len(), 1);
    }

    #[test]
    fn text_drops_tags_and_decodes_entities() {
        assert_eq!(text("A &amp; <b>B</b> &lt;C&gt;"), "A & B <C>");
    }
}
