//! Headers that a receiver of telemetry asks for. Their values are secrets: never shown.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// Most headers.
const HEADERS_MAX: usize = 64;

/// Headers for every request to a receiver.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Headers(HeaderMap);

impl Headers {
    /// Reads entries such as `authorization=Bearer%20x`, as `OTEL_EXPORTER_OTLP_HEADERS` has them
    /// (OpenTelemetry, protocol exporter; W3C Baggage): what is percent-encoded is decoded.
    ///
    /// # Errors
    ///
    /// What is wrong with the first that cannot be sent, by its position and without its value.
    pub(crate) fn read<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (position, entry) in entries.enumerate() {
            let nth = position + 1;
            let Some((name, value)) = entry.split_once('=') else {
                return Err(format!("entry {nth} has no `=`, expected `name=value`"));
            };
            let name = HeaderName::from_str(name.trim())
                .map_err(|_| format!("entry {nth} does not begin with the name of a header"))?;
            if name.as_str().ends_with("-bin") || name.as_str().starts_with("grpc-") {
                return Err(format!("`{name}` is not for users to set"));
            }
            let decoded = percent_decode_str(value.trim()).decode_utf8();
            let value = decoded.ok().filter(|value| value.is_ascii());
            let value = value.and_then(|value| HeaderValue::from_str(&value).ok());
            let Some(mut value) = value.filter(|value| !value.is_empty()) else {
                return Err(format!(
                    "the value of `{name}` is empty or has bytes that no header may have"
                ));
            };
            value.set_sensitive(true);
            headers.append(name, value);
            if HEADERS_MAX < headers.len() {
                return Err(format!("there are more than {HEADERS_MAX}"));
            }
        }
        Ok(Self(headers))
    }

    /// What is sent.
    pub(super) fn map(&self) -> &HeaderMap {
        &self.0
    }

    /// Each by its name, with the value left out.
    pub(crate) fn masked(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(name, _)| format!("{name}=***"))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.masked()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_are_read_as_the_standard_writes_them_and_shown_without_values() {
        let text = "Authorization=Bearer%20s3cret, x-scope = team a,x-equal=a=b";
        let headers = Headers::read(text.split(',')).expect("sound");
        let value = |name: &str| headers.map()[name].to_str().expect("text").to_owned();
        assert_eq!(value("authorization"), "Bearer s3cret");
        assert_eq!(
            (value("x-scope"), value("x-equal")),
            ("team a".into(), "a=b".into())
        );
        let shown = format!("{headers:?} {:?}", headers.map());
        assert!(shown.contains("authorization=***"), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn what_no_header_can_be_is_refused_without_being_repeated() {
        for (text, expected) in [
            ("s3cret", "entry 1 has no `=`"),
            ("a=1,s3cret key=2", "entry 2 does not begin with"),
            (
                "authorization=s3cret%0d%0aevil: 1",
                "the value of `authorization`",
            ),
            ("authorization=%ff", "the value of `authorization`"),
            ("authorization=", "the value of `authorization` is empty"),
            ("trace-bin=s3cret", "`trace-bin` is not for users"),
        ] {
            let refused = Headers::read(text.split(',')).expect_err(text);
            assert!(refused.contains(expected), "{text}: {refused}");
            assert!(!refused.contains("s3cret"), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn no_text_gets_a_second_header_or_a_line_break_in(text in "\\PC{0,80}") {
            if let Ok(headers) = Headers::read(std::iter::once(&*text)) {
                prop_assert_eq!(headers.map().len(), 1);
                for value in headers.map().values() {
                    prop_assert!(!value.as_bytes().iter().any(|byte| b"\r\n\0".contains(byte)));
                }
            }
        }
    }
}
