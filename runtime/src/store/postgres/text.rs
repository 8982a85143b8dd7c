//! Free text as PostgreSQL can keep it: its `text` holds every character but NUL.
//!
//! NUL is written as U+001A (SUBSTITUTE) and `0`, and U+001A as itself twice. A prefix stays
//! a prefix, so that listings by prefix find the same keys.

use std::borrow::Cow;

const SUBSTITUTE: char = '\u{1a}';

/// `text` without NUL.
pub(super) fn written(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', SUBSTITUTE]) {
        return Cow::Borrowed(text);
    }
    let mut written = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\0' => written.extend([SUBSTITUTE, '0']),
            SUBSTITUTE => written.extend([SUBSTITUTE, SUBSTITUTE]),
            other => written.push(other),
        }
    }
    Cow::Owned(written)
}

/// What [`written`] was given.
pub(super) fn read(written: String) -> String {
    if !written.contains(SUBSTITUTE) {
        return written;
    }
    let mut text = String::with_capacity(written.len());
    let mut characters = written.chars();
    while let Some(character) = characters.next() {
        if character != SUBSTITUTE {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('0') => text.push('\0'),
            Some(other) => text.push(other),
            None => text.push(SUBSTITUTE),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{read, written};

    proptest! {
        #[test]
        fn any_text_comes_back_as_it_was(text in "[\0\u{1a}0a]{0,12}", more in ".{0,4}") {
            let kept = written(&text).into_owned();
            prop_assert!(!kept.contains('\0'));
            prop_assert_eq!(&read(kept.clone()), &text);
            let longer = format!("{text}{more}");
            prop_assert!(written(&longer).starts_with(&kept), "a prefix stays a prefix");
        }
    }
}
