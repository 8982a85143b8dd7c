//! The section `http` of the configuration: address, limits and periods.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// How the server listens, and what it bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Whether `address` may be one that other machines reach. There is no authentication
    /// yet, so whoever reaches the address owns the node.
    pub allow_remote: bool,
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
            allow_remote: false,
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
    /// Everything that is wrong with the values, each line naming key, value and range.
    /// Empty when they are sound.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.allow_remote && !self.address.ip().is_loopback() {
            problems.push(format!(
                "http.address is {}, which other machines can reach, and there is no \
                 authentication yet; use a loopback address such as 127.0.0.1:7400",
                self.address
            ));
        }
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
            address: ([0, 0, 0, 0], 7400).into(),
            body_bytes_max: 0,
            shutdown_grace: Duration::from_secs(7_200),
            ..HttpConfig::default()
        };
        let problems = config.check();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].starts_with("http.address is 0.0.0.0:7400"));
        assert_eq!(
            problems[1],
            "http.body_bytes_max is 0, must be 1024 to 67108864"
        );
        assert!(problems[2].contains("http.shutdown_grace is 7200s"));
    }

    #[test]
    fn other_machines_are_let_in_only_when_the_configuration_says_so() {
        let config = HttpConfig {
            address: ([0, 0, 0, 0], 7400).into(),
            allow_remote: true,
            ..HttpConfig::default()
        };
        assert!(config.check().is_empty());
    }
}
