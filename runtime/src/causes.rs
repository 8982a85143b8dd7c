//! An error with everything that led to it, on one line.

use std::error::Error;

/// The message of `error` and of its causes, outermost first, joined by colons. A cause
/// whose message already ends what came before it, as with transparent errors, is not
/// repeated.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let message = inner.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Transparent(#[from] Outer);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot save")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_follow_and_transparent_ones_are_not_repeated() {
        let error = Transparent(Outer(std::io::Error::other("disk full")));
        assert_eq!(chain(&error), "cannot save: disk full");
    }
}
