//! Pages of other origins (Fetch, section 3.2): none, unless `http.cors_origins` names them.
//!
//! A page of an origin that is named may call the node with a token of its own. Cookies are not
//! for it: the node's sessions stay with the node's pages.

use std::time::Duration;

use axum::http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LINK, LOCATION, RETRY_AFTER,
};
use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::HttpConfig;
use crate::observe::REQUEST_ID;

/// How long a browser remembers what a page may send.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What answers browsers that ask for a page, or `None` while no origin is named.
pub(crate) fn layer(config: &HttpConfig) -> Option<CorsLayer> {
    if config.cors_origins.is_empty() {
        return None;
    }
    let origins = config.cors_origins.iter();
    let origins = origins.filter_map(|it| HeaderValue::from_str(&it.to_string()).ok());
    let request_id = HeaderName::from_static(REQUEST_ID);
    let traceparent = HeaderName::from_static("traceparent");
    let last_event_id = HeaderName::from_static("last-event-id");
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers([
                ACCEPT,
                AUTHORIZATION,
                CONTENT_TYPE,
                IF_NONE_MATCH,
                last_event_id,
                request_id.clone(),
                traceparent,
            ])
            .expose_headers([ETAG, LINK, LOCATION, RETRY_AFTER, request_id])
            .max_age(REMEMBERED),
    )
}
