//! Answers that did not change since somebody asked before (RFC 9110, section 13).
//!
//! An `ETag` is the hash of the whole answer, or weakly of what an answer says that matters of it
//! ([`Telling`]): it saves the way, not the work.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// Largest answer that is hashed, in bytes; larger ones have no `ETag`.
const BYTES_MAX: usize = 16 << 20;

/// Of an answer in which something moves by itself, what tells that nothing else did.
#[derive(Clone, Debug)]
pub(crate) struct Telling(pub(crate) String);

/// What stands for `body`.
pub(crate) fn etag(body: &[u8]) -> HeaderValue {
    let hash = blake3::hash(body).to_hex();
    let quoted = format!("\"{}\"", &hash[..32]);
    HeaderValue::from_str(&quoted).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// Whoever asks has this one already.
pub(crate) fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let Ok(etag) = etag.to_str() else {
        return false;
    };
    let lines = headers.get_all(IF_NONE_MATCH).iter();
    let named = lines.filter_map(|line| line.to_str().ok());
    named.flat_map(|line| line.split(',')).any(|one| {
        let one = one.trim();
        // Weakly the same is enough for a look.
        one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag
    })
}

/// Gives the answer to a look an `ETag`, or says that it is the one that is known.
pub(crate) async fn revalidated(request: Request, next: Next) -> Response {
    let is_look = request.method() == Method::GET;
    let asked = request.headers().get_all(IF_NONE_MATCH).iter().cloned();
    let asked: HeaderMap = asked.map(|value| (IF_NONE_MATCH, value)).collect();
    let response = next.run(request).await;
    let is_json = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    if !is_look || response.status() != StatusCode::OK || !is_json {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(body) = to_bytes(body, BYTES_MAX).await else {
        let code = crate::error::Code::Internal;
        let detail = "the answer is too large; ask for a page of it";
        return crate::error::ApiError::new(code, detail).into_response();
    };
    let (etag, sent) = match head.extensions.get::<Telling>() {
        Some(Telling(text)) => {
            let etag = etag(text.as_bytes());
            let weak = [b"W/", etag.as_bytes()].concat();
            (etag, HeaderValue::from_bytes(&weak))
        }
        None => {
            let etag = etag(&body);
            (etag.clone(), Ok(etag))
        }
    };
    let known = is_known(&asked, &etag);
    head.headers.extend(sent.map(|sent| (ETAG, sent)));
    if known {
        head.status = StatusCode::NOT_MODIFIED;
        head.headers.remove(CONTENT_TYPE);
        head.headers.remove(CONTENT_LENGTH);
        return Response::from_parts(head, Body::empty());
    }
    Response::from_parts(head, Body::from(body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asking(line: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, line.parse().expect("a header"));
        headers
    }

    #[test]
    fn one_of_several_or_any_is_known_and_others_are_not() {
        let tag = etag(b"x");
        let text = tag.to_str().expect("text");
        for good in [text.to_owned(), format!("\"a\", W/{text}"), "*".to_owned()] {
            assert!(is_known(&asking(&good), &tag), "{good}");
        }
        let other = etag(b"y");
        let other = other.to_str().expect("text");
        for bad in [other, "", "\"\"", &text[1..]] {
            assert!(!is_known(&asking(bad), &tag), "{bad}");
        }
        assert!(!is_known(&HeaderMap::new(), &tag));
    }

    proptest! {
        #[test]
        fn any_header_at_all_is_borne(line in prop::collection::vec(0x20_u8..0xff, 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                let headers = HeaderMap::from_iter([(IF_NONE_MATCH, value)]);
                let _ = is_known(&headers, &etag(b"x"));
            }
        }
    }
}
