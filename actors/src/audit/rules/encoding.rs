//! `not-utf8`: bytes to text, or why not.
//!
//! A file that is almost UTF-8 (Latin-1 names, say) is reported once and still
//! checked, with U+FFFD where bytes were wrong. UTF-16 and binary content is
//! reported and not parsed.

use std::borrow::Cow;

use crate::audit::finding::{Remark, Rule};

/// A NUL this early means binary or UTF-16, as for Git.
const BINARY_PROBE_BYTES: usize = 8000;

/// Text, and the remark if it was not plain UTF-8.
pub(crate) struct Decoded<'a> {
    /// `None` if there is nothing to parse.
    pub(crate) text: Option<Cow<'a, str>>,
    pub(crate) remark: Option<Remark>,
}

/// Decodes a file's bytes.
pub(crate) fn decode(bytes: &[u8]) -> Decoded<'_> {
    let probe = &bytes[..bytes.len().min(BINARY_PROBE_BYTES)];
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return unreadable("UTF-16 byte order mark", "the file is UTF-16; not parsed");
    }
    if probe.contains(&0) {
        return unreadable(
            "NUL bytes",
            "the file holds NUL bytes (binary or UTF-16); not parsed",
        );
    }
    let err = match std::str::from_utf8(bytes) {
        Ok(text) => {
            return Decoded {
                text: Some(Cow::Borrowed(text)),
                remark: None,
            };
        }
        Err(err) => err,
    };
    let valid = &bytes[..err.valid_up_to()];
    let line = 1 + line_ends(valid);
    let wrong = bytes.get(err.valid_up_to()).copied().unwrap_or_default();
    let message = format!(
        "byte 0x{wrong:02x} at offset {} is not UTF-8; the file was read as far as possible",
        err.valid_up_to()
    );
    let evidence = format!("byte 0x{wrong:02x}");
    Decoded {
        text: Some(String::from_utf8_lossy(bytes)),
        remark: Some(Remark::new(Rule::NotUtf8, line, &evidence, message)),
    }
}

fn unreadable<'a>(evidence: &str, message: &str) -> Decoded<'a> {
    let remark = Remark::new(Rule::NotUtf8, 1, evidence, message.to_owned());
    Decoded {
        text: None,
        remark: Some(remark),
    }
}

fn line_ends(bytes: &[u8]) -> u32 {
    let ends = bytes.iter().enumerate().filter(|(at, byte)| {
        **byte == b'\n' || (**byte == b'\r' && bytes.get(at + 1) != Some(&b'\n'))
    });
    u32::try_from(ends.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latin_1_is_reported_at_its_line_and_still_read() {
        let decoded = decode(b"# Title\n\ncaf\xe9\n");
        assert_eq!(decoded.text.as_deref(), Some("# Title\n\ncaf\u{fffd}\n"));
        let remark = decoded.remark.expect("a remark");
        assert_eq!((remark.line, remark.evidence.as_str()), (3, "byte 0xe9"));
    }

    #[test]
    fn utf_16_and_binary_files_are_not_parsed() {
        for bytes in [&b"\xff\xfe#\0"[..], b"\xfe\xff\0#", b"\x89PNG\0\0"] {
            let decoded = decode(bytes);
            assert!(decoded.text.is_none() && decoded.remark.is_some());
        }
    }

    #[test]
    fn plain_utf_8_is_no_remark() {
        assert!(decode("# Größe 日本 \u{feff}".as_bytes()).remark.is_none());
    }
}
