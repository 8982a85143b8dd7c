//! The section `http` of the configuration: address, limits and periods.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use crate::auth::session::CookieName;

/// How the server listens, and what it bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// How others reach the node through a proxy, if they do.
    pub public_url: Option<PublicUrl>,
    /// Origins whose pages may call the node, each such as `https://desk.example`; none unless
    /// named. Their pages need tokens where the node has some.
    pub cors_origins: Vec<PublicUrl>,
    /// How long the record of what operators did is kept. Longer takes more room.
    pub audit_retention: Duration,
    /// Largest request body in bytes. Higher costs memory per request, lower refuses large
    /// payloads.
    pub body_bytes_max: usize,
    /// Open connections; more wait to be accepted.
    pub connections_max: usize,
    /// Ordinary requests in flight; one more is refused. Together with `body_bytes_max` it
    /// bounds the memory that requests take.
    pub requests_max: usize,
    /// Requests that wait for a task; one more is refused. Higher serves more idle workers.
    pub waits_max: usize,
    /// Open event streams; one more is refused.
    pub streams_max: usize,
    /// How long a client may take to send its headers, and a connection may be idle.
    pub header_timeout: Duration,
    /// How long a client may take to send its body.
    pub body_timeout: Duration,
    /// How long an answer may take, not counting what the client asked to wait.
    pub request_timeout: Duration,
    /// How long requests may go on after the server was told to stop.
    pub shutdown_grace: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7400),
            public_url: None,
            cors_origins: Vec::new(),
            audit_retention: Duration::from_secs(400 * 24 * 3_600),
            body_bytes_max: 2 << 20,
            connections_max: 2_048,
            requests_max: 256,
            waits_max: 1_024,
            streams_max: 256,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(20),
            request_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

impl HttpConfig {
    /// Other machines reach the node, so whoever calls needs a token.
    #[must_use]
    pub fn is_reachable_by_others(&self) -> bool {
        !self.address.ip().is_loopback() || self.public_url.is_some()
    }

    /// Browsers speak TLS to the proxy.
    #[must_use]
    pub fn is_behind_tls(&self) -> bool {
        self.public_url.as_ref().is_some_and(|url| url.secure)
    }

    /// What the cookies of this node's sessions are called.
    pub(crate) fn cookie_name(&self) -> CookieName {
        let public = self.public_url.as_ref();
        let port = public.map_or(self.address.port(), PublicUrl::port);
        CookieName::of(port, self.is_behind_tls())
    }

    /// Everything that is wrong with the values, each line naming key, value and range.
    /// Empty when they are sound.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let counts = [
            ("body_bytes_max", self.body_bytes_max, 1 << 10, 64 << 20),
            ("connections_max", self.connections_max, 1, 100_000),
            ("requests_max", self.requests_max, 1, 10_000),
            ("waits_max", self.waits_max, 1, 100_000),
            ("streams_max", self.streams_max, 1, 10_000),
        ];
        for (key, value, min, max) in counts {
            if !(min..=max).contains(&value) {
                problems.push(format!("http.{key} is {value}, must be {min} to {max}"));
            }
        }
        let periods = [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("request_timeout", self.request_timeout),
            ("shutdown_grace", self.shutdown_grace),
        ];
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(600));
        for (key, value) in periods {
            if !(min..=max).contains(&value) {
                problems.push(format!(
                    "http.{key} is {value:?}, must be {min:?} to {max:?}"
                ));
            }
        }
        problems
    }
}

/// Where others find the node behind a proxy, such as `https://regrow.example`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    secure: bool,
    authority: String,
}

/// The text is no such address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be like https://regrow.example, without a path")]
pub struct InvalidPublicUrl;

impl PublicUrl {
    /// Host and port, as a `Host` header has them.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The port that browsers connect to.
    fn port(&self) -> u16 {
        let host = self
            .authority
            .rsplit_once(']')
            .map_or(&*self.authority, |(_, port)| port);
        let named = host
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok());
        named.unwrap_or(if self.secure { 443 } else { 80 })
    }

    /// An origin of that scheme and authority is this one.
    pub(crate) fn is(&self, scheme: &str, authority: &str) -> bool {
        let known = if self.secure { "https" } else { "http" };
        scheme == known && authority.eq_ignore_ascii_case(&self.authority)
    }
}

impl FromStr for PublicUrl {
    type Err = InvalidPublicUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidPublicUrl)?;
        let secure = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(InvalidPublicUrl),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let fits = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        if authority.is_empty() || !authority.chars().all(fits) {
            return Err(InvalidPublicUrl);
        }
        let authority = authority.to_owned();
        Ok(Self { secure, authority })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(HttpConfig::default().check(), Vec::<String>::new());
    }

    #[test]
    fn all_problems_are_reported_at_once_with_key_value_and_range() {
        let config = HttpConfig {
            body_bytes_max: 0,
            shutdown_grace: Duration::from_secs(7_200),
            ..HttpConfig::default()
        };
        let problems = config.check();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert_eq!(
            problems[0],
            "http.body_bytes_max is 0, must be 1024 to 67108864"
        );
        assert!(problems[1].contains("http.shutdown_grace is 7200s"));
    }

    #[test]
    fn others_reach_a_node_on_another_address_or_behind_a_proxy() {
        let mut config = HttpConfig::default();
        assert!(!config.is_reachable_by_others() && !config.is_behind_tls());
        config.public_url = Some("https://regrow.example/".parse().expect("an address"));
        assert!(config.is_reachable_by_others() && config.is_behind_tls());
        config.public_url = None;
        config.address = ([0, 0, 0, 0], 7400).into();
        assert!(config.is_reachable_by_others() && !config.is_behind_tls());
    }

    #[test]
    fn cookies_are_named_by_the_port_that_browsers_connect_to() {
        let named = |public: Option<&str>| {
            let public_url = public.map(|url| url.parse().expect("an address"));
            let config = HttpConfig {
                public_url,
                ..HttpConfig::default()
            };
            config.cookie_name()
        };
        assert_eq!(named(None), CookieName::of(7400, false));
        for (public, port, secure) in [
            ("https://regrow.example", 443, true),
            ("http://regrow.example", 80, false),
            ("https://regrow.example:8443", 8443, true),
            ("https://[2001:db8::1]", 443, true),
            ("http://[2001:db8::1]:81", 81, false),
        ] {
            assert_eq!(
                named(Some(public)),
                CookieName::of(port, secure),
                "{public}"
            );
        }
    }

    #[test]
    fn a_public_address_is_a_scheme_and_a_host() {
        for good in ["https://a.b", "http://a:80", "https://[::1]:7400"] {
            let url: PublicUrl = good.parse().expect(good);
            assert_eq!(url.to_string(), good);
        }
        for bad in [
            "",
            "a.b",
            "ftp://a",
            "https://",
            "https://a/b",
            "https://u@a",
        ] {
            assert_eq!(bad.parse::<PublicUrl>(), Err(InvalidPublicUrl), "{bad}");
        }
    }
}
