//! Keeps web pages from using a visitor's browser against a node on loopback.
//!
//! A page of any origin can send requests to 127.0.0.1, and by rebinding its own name to
//! that address even read the answers. Browsers say where a request comes from (`Origin`)
//! and which name they resolved (`Host`); both are checked. Programs send neither `Origin`
//! nor a foreign `Host`, so they notice nothing.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::Next;
use axum::response::Response;

use crate::config::HttpConfig;
use crate::error::{ApiError, Code};
use crate::state::ApiState;

pub(crate) async fn guard(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    check(
        request.method(),
        request.uri(),
        request.headers(),
        &state.config,
    )?;
    Ok(next.run(request).await)
}

fn check(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    config: &HttpConfig,
) -> Result<(), ApiError> {
    let named = uri.authority().map(|it| it.as_str()).or_else(|| {
        let host = headers.get(HOST)?;
        host.to_str().ok()
    });
    let public = config.public_url.as_ref();
    let known = |named: &str| {
        names_loopback(named)
            || public.is_some_and(|url| named.eq_ignore_ascii_case(url.authority()))
    };
    // On an address that others reach a token is needed, which no page has.
    if config.address.ip().is_loopback() && !named.is_none_or(known) {
        return Err(ApiError::new(
            Code::WrongHost,
            "this node answers to 127.0.0.1, [::1], localhost and the host of http.public_url only",
        ));
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        // Without CORS headers in the answer, the page cannot read it.
        return Ok(());
    }
    let origin = origin.to_str().ok().and_then(|it| it.split_once("://"));
    match (origin, named) {
        (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host) => Ok(()),
        // A proxy may call the node by another name than browsers call the proxy.
        (Some((scheme, origin)), _) if public.is_some_and(|url| url.is(scheme, origin)) => Ok(()),
        (Some((scheme, origin)), _)
            if config.cors_origins.iter().any(|it| it.is(scheme, origin)) =>
        {
            Ok(())
        }
        _ => Err(ApiError::new(
            Code::CrossOrigin,
            "the page that sent this belongs to another origin; use the command line or a program",
        )),
    }
}

fn names_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) | None => authority,
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'))
        .unwrap_or(host);
    let name = bare.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(method: Method, host: &str, origin: Option<&str>, loopback: bool) -> Option<Code> {
        let address = match loopback {
            true => ([127, 0, 0, 1], 7400),
            false => ([10, 0, 0, 1], 7400),
        };
        let config = HttpConfig {
            address: address.into(),
            public_url: Some("https://regrow.example".parse().expect("an address")),
            ..HttpConfig::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().expect("a header"));
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().expect("a header"));
        }
        check(&method, &Uri::from_static("/"), &headers, &config)
            .err()
            .map(|refusal| refusal.code())
    }

    #[test]
    fn a_rebound_name_is_refused_on_loopback_only() {
        for good in [
            "127.0.0.1:7400",
            "localhost",
            "LOCALHOST:1",
            "[::1]:7400",
            "127.8.0.1",
            "regrow.example",
        ] {
            assert_eq!(checked(Method::GET, good, None, true), None, "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:7400",
            "10.0.0.1",
            "localhost.evil",
        ] {
            let refusal = checked(Method::GET, bad, None, true);
            assert_eq!(refusal, Some(Code::WrongHost), "{bad}");
            assert_eq!(checked(Method::GET, bad, None, false), None, "{bad}");
        }
    }

    #[test]
    fn pages_of_other_origins_change_nothing() {
        let host = "127.0.0.1:7400";
        let own = Some("http://127.0.0.1:7400");
        assert_eq!(checked(Method::POST, host, own, true), None);
        assert_eq!(checked(Method::POST, host, None, true), None);
        let proxied = Some("https://regrow.example");
        assert_eq!(checked(Method::POST, host, proxied, true), None);
        for foreign in [
            "https://evil.example",
            "http://127.0.0.1:7401",
            "http://regrow.example",
            "null",
        ] {
            let refusal = checked(Method::POST, host, Some(foreign), true);
            assert_eq!(refusal, Some(Code::CrossOrigin), "{foreign}");
        }
    }
}
