//! `/openapi.json` and `/docs`: what the surface is, for programs and for people.
//!
//! The page is Swagger UI, which is in the binary: it loads nothing from elsewhere, and its
//! policy lets it load nothing.

use std::sync::{Arc, LazyLock};

use axum::Extension;
use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, LOCATION,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use utoipa_swagger_ui::Config;

use super::Answer;
use crate::error::{ApiError, Code};
use crate::openapi::Document;
use crate::params::NamePath;
use crate::revalidate::is_known;

/// What the page may do: load what the node itself serves, and ask the node.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    let config = Config::from("/openapi.json")
        .try_it_out_enabled(true)
        .display_request_duration(true)
        .filter(true)
        .doc_expansion("none")
        .persist_authorization(false);
    Arc::new(config)
});

/// `GET /openapi.json`: the document of the whole surface (OpenAPI 3.1).
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "document",
    params(("if-none-match" = Option<String>, Header, description = "what `ETag` said: 304 if nothing changed")),
    responses(
        (status = 200, description = "the document", body = Object),
        (status = 304, description = "as `If-None-Match` says it was"),
    ),
)]
pub(crate) async fn document(
    Extension(document): Extension<Document>,
    headers: HeaderMap,
) -> Response {
    let mut response = match is_known(&headers, &document.etag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => {
            let mut response = Response::new(Body::from(document.text));
            let kind = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
    };
    response.headers_mut().insert(ETAG, document.etag);
    response
}

/// `GET /docs`: the way to the page.
#[utoipa::path(
    get,
    path = "/docs",
    tag = "document",
    responses((status = 308, description = "it is at `/docs/`")),
)]
pub(crate) async fn way() -> Response {
    let to = [(LOCATION, HeaderValue::from_static("/docs/"))];
    (StatusCode::PERMANENT_REDIRECT, to).into_response()
}

/// `GET /docs/`: the document as a page to look at and to try things on.
#[utoipa::path(
    get,
    path = "/docs/",
    tag = "document",
    responses((status = 200, description = "the page", body = String, content_type = "text/html")),
)]
pub(crate) async fn page() -> Answer {
    served("index.html")
}

/// `GET /docs/{file}`: what the page is made of.
#[utoipa::path(
    get,
    path = "/docs/{file}",
    tag = "document",
    params(("file" = String, Path, description = "one of the page's own files")),
    responses((status = 200, description = "the file", content(
        (String = "text/css"), (String = "text/javascript"), (String = "text/html"), (Vec<u8> = "image/png"),
    ))),
    extensions(("x-regrow-codes" = json!(["not_found"]))),
)]
pub(crate) async fn file(NamePath(file): NamePath) -> Answer {
    served(&file)
}

/// A file of the page, which is one of those that are in the binary.
fn served(file: &str) -> Answer {
    let odd = |reason: String| ApiError::new(Code::Internal, reason);
    let found = utoipa_swagger_ui::serve(file, CONFIG.clone());
    let found = found.map_err(|error| odd(error.to_string()))?;
    let Some(found) = found else {
        let detail = "the page has no such file; it is at /docs/";
        return Err(ApiError::new(Code::NotFound, detail));
    };
    let kind =
        HeaderValue::from_str(&found.content_type).map_err(|error| odd(error.to_string()))?;
    let mut response = Response::new(Body::from(found.bytes.into_owned()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    if found.gzpipped {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let fixed: [(HeaderName, &'static str); 4] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
