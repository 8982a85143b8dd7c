//! From where a request comes, as far as that can be known (pure).
//!
//! A connection's other end is what the system says. Behind a proxy of this machine it is the
//! proxy, which says in `X-Forwarded-For` whom it speaks for: the last entry is its own, all
//! before it anybody may have written. An entry that cannot be read is nobody in particular,
//! and above all not this machine.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

/// What a proxy says that it speaks for somebody with, beside all that begin with
/// `x-forwarded`.
const PROXY_HEADERS: [&str; 7] = [
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
];

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// This address.
    Address(IpAddr),
    /// The proxy names whom it speaks for in a way that cannot be read. All of these are one.
    Unreadable,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unreadable => f.write_str("an address that its proxy writes unreadably"),
        }
    }
}

impl Source {
    /// Who stands behind a connection from `peer`; `by_proxy` where a proxy on this machine is
    /// expected.
    pub(crate) fn of(peer: IpAddr, headers: &HeaderMap, by_proxy: bool) -> Self {
        if !by_proxy || !peer.to_canonical().is_loopback() {
            return Self::Address(peer);
        }
        let Some(last) = headers.get_all("x-forwarded-for").iter().next_back() else {
            return Self::Address(peer);
        };
        let named = last.to_str().ok().and_then(|line| line.rsplit(',').next());
        match named.and_then(address) {
            // Nobody reaches the proxy from this machine's own addresses but a proxy before it,
            // or somebody who wants to pass for one.
            Some(address) if address.to_canonical().is_loopback() => Self::Unreadable,
            Some(address) => Self::Address(address),
            None => Self::Unreadable,
        }
    }

    /// Whoever has an IPv6 address has all that share its first 64 bits.
    pub(super) fn network(self) -> Self {
        let Self::Address(address) = self else {
            return self;
        };
        Self::Address(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let mut parts = address.segments();
                parts[4..].fill(0);
                IpAddr::from(parts)
            }
        })
    }
}

/// `ip`, `ip:port`, `[v6]` or `[v6]:port`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    let bare = text.strip_prefix('[')?.strip_suffix(']')?;
    bare.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::from)
}

/// Somebody passed the request on, and says so.
pub(crate) fn is_passed_on(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        name.starts_with("x-forwarded") || PROXY_HEADERS.contains(&name)
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn behind(lines: &[&[u8]]) -> Source {
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_bytes(line).expect("a header");
            headers.append("x-forwarded-for", value);
        }
        Source::of(IpAddr::from([127, 0, 0, 1]), &headers, true)
    }

    fn at(text: &str) -> Source {
        Source::Address(text.parse().expect("an address"))
    }

    #[test]
    fn the_last_entry_is_the_proxys_own_in_any_form_that_proxies_write() {
        for (line, expected) in [
            ("198.51.100.7", "198.51.100.7"),
            ("203.0.113.9, 198.51.100.7", "198.51.100.7"),
            ("203.0.113.9,198.51.100.7:4711", "198.51.100.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("x, [2001:db8::7]:4711 ", "2001:db8::7"),
        ] {
            assert_eq!(behind(&[line.as_bytes()]), at(expected), "{line}");
        }
        assert_eq!(
            behind(&[b"203.0.113.9", b"198.51.100.7"]),
            at("198.51.100.7")
        );
        assert_eq!(behind(&[]), at("127.0.0.1"), "it was not the proxy");
    }

    #[test]
    fn what_cannot_be_read_is_neither_this_machine_nor_whoever_wrote_the_line_before() {
        for line in [
            &b"198.51.100.7, \xff"[..],
            b"",
            b",",
            b"unknown",
            b"198.51.100.7:port",
            b"198.51.100.7:99999",
            b"[198.51.100.7]:80",
            b"2001:db8::7]:80",
            b"203.0.113.9, 127.0.0.1",
            b"[::1]:80",
            b"::ffff:127.0.0.1",
        ] {
            let found = behind(&[b"203.0.113.9", line]);
            assert_eq!(found, Source::Unreadable, "{line:?}");
        }
    }

    #[test]
    fn only_a_proxy_on_this_machine_is_believed() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("198.51.100.7"));
        let far = IpAddr::from([203, 0, 113, 1]);
        assert_eq!(Source::of(far, &headers, true), Source::Address(far));
        let near = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(Source::of(near, &headers, false), Source::Address(near));
    }

    #[test]
    fn every_header_of_a_proxy_tells_that_it_is_one() {
        for name in [
            "Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "Via",
            "X-Real-IP",
        ] {
            let name: axum::http::HeaderName = name.parse().expect("a name");
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static("x"))]);
            assert!(is_passed_on(&headers), "{headers:?}");
        }
        let plain = HeaderMap::from_iter([(
            axum::http::header::HOST,
            HeaderValue::from_static("127.0.0.1"),
        )]);
        assert!(!is_passed_on(&plain));
    }

    proptest! {
        #[test]
        fn no_line_whatsoever_makes_its_sender_this_machine(
            lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..4),
        ) {
            let mut headers = HeaderMap::new();
            for line in &lines {
                if let Ok(value) = HeaderValue::from_bytes(line) {
                    headers.append("x-forwarded-for", value);
                }
            }
            let near = IpAddr::from([127, 0, 0, 1]);
            let found = Source::of(near, &headers, true);
            if !headers.is_empty() {
                prop_assert_ne!(found, Source::Address(near));
            }
        }
    }
}
