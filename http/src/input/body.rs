//! The bytes of a body, within bounds of size and time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use futures::StreamExt as _;

use crate::error::{ApiError, Code};
use crate::problems::shortened;
use crate::state::ApiState;

/// Of an oversized body this many times the limit is still read, so that the client sees
/// the answer instead of a broken connection.
const DISCARD_FACTOR: usize = 8;

/// How large a body may be, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) max: usize,
    pub(super) patience: Duration,
}

impl Bounds {
    pub(super) fn of(state: &ApiState) -> Self {
        Self {
            max: state.config.body_bytes_max,
            patience: state.config.body_timeout,
        }
    }
}

/// The body of a request that says that it is JSON.
pub(super) async fn read_json(request: Request, bounds: Bounds) -> Result<Vec<u8>, ApiError> {
    let (parts, body) = request.into_parts();
    let declared = content_type(&parts.headers);
    if !declared.is_some_and(is_json) {
        let found = declared.map_or("missing".to_owned(), |it| format!("`{}`", shortened(it)));
        return Err(ApiError::new(
            Code::UnsupportedMediaType,
            format!("content-type is {found}, must be application/json"),
        ));
    }
    read_within(&parts.headers, body, bounds).await
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_TYPE)?.to_str().ok()
}

fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The whole of a body, within the bounds of size and time that the node sets.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: Body,
    state: &ApiState,
) -> Result<Vec<u8>, ApiError> {
    read_within(headers, body, Bounds::of(state)).await
}

async fn read_within(headers: &HeaderMap, body: Body, bounds: Bounds) -> Result<Vec<u8>, ApiError> {
    let Bounds { max, patience } = bounds;
    let discard_max = max.saturating_mul(DISCARD_FACTOR);
    let too_large = || {
        ApiError::new(
            Code::BodyTooLarge,
            format!("the body has more than {max} bytes; store it elsewhere and send a reference"),
        )
        .with("max_bytes", max)
    };
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| discard_max < length) {
        return Err(too_large());
    }
    let collect = async {
        let mut chunks = body.into_data_stream();
        let mut bytes = Vec::with_capacity(announced.unwrap_or(0).min(max));
        let mut length = 0_usize;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| {
                ApiError::new(Code::InvalidJson, format!("the body broke off: {error}"))
            })?;
            length += chunk.len();
            if discard_max < length {
                return Err(too_large());
            }
            if length <= max {
                bytes.extend_from_slice(&chunk);
            }
        }
        if max < length {
            return Err(too_large());
        }
        Ok(bytes)
    };
    tokio::time::timeout(patience, collect)
        .await
        .unwrap_or_else(|_elapsed| {
            Err(ApiError::new(
                Code::BodyTooSlow,
                format!("the body did not arrive within {patience:?}"),
            ))
        })
}
