//! Sessions of browsers: a cookie that stands for a token.
//!
//! A session is this node's own, lasts [`TERM`] at most, and ends with its token and with the
//! node's process. The cookie is out of reach for scripts (`HttpOnly`) and for other sites
//! (`SameSite=Strict`); besides, whoever changes something with it must send the session's
//! CSRF token, which pages of other origins cannot read. Browsers share cookies between the
//! ports of a host: the port is in the cookie's name, so that nodes on one host do not end each
//! other's sessions.
//!
//! At most [`SESSIONS_MAX`] are open; one more ends the one that was opened first.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use regrow_runtime::access::secret::Secret;
use regrow_runtime::clock::Timestamp;

/// Longest life of a session.
pub(crate) const TERM: Duration = Duration::from_secs(12 * 3_600);
/// Sessions that may be open.
pub(crate) const SESSIONS_MAX: usize = 1_000;
/// Where the CSRF token is sent.
pub(crate) const CSRF: &str = "x-csrf-token";

/// What a node's cookie is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CookieName {
    name: String,
    secure: bool,
}

impl CookieName {
    /// For a node that browsers reach at `port`, over TLS where `secure`.
    pub(crate) fn of(port: u16, secure: bool) -> Self {
        // Browsers take one of this name only over TLS, for this host and all of its paths.
        let prefix = if secure { "__Host-" } else { "" };
        let name = format!("{prefix}regrow_session_{port}");
        Self { name, secure }
    }

    /// The header that gives a browser its cookie, or takes it away.
    pub(crate) fn set(&self, value: Option<&Secret>) -> Option<HeaderValue> {
        let secure = if self.secure { "; Secure" } else { "" };
        let (value, age) = match value {
            Some(value) => (value.reveal(), TERM.as_secs()),
            None => ("", 0),
        };
        let name = &self.name;
        let text =
            format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}");
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// What a browser sent of it.
    fn sent(&self, headers: &HeaderMap) -> Option<Secret> {
        let lines = headers.get_all(COOKIE).iter();
        let pairs = lines.filter_map(|line| line.to_str().ok());
        let mut pairs = pairs.flat_map(|line| line.split(';'));
        pairs.find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == self.name).then(|| Secret::parse(value).ok())?
        })
    }
}

/// An open session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// The id of the token that it stands for.
    pub(crate) token: String,
    csrf: Secret,
    opened_at: Timestamp,
}

impl Session {
    /// What has to be sent along with whatever changes something.
    pub(crate) fn csrf(&self) -> &str {
        self.csrf.reveal()
    }

    /// When it ends at the latest.
    pub(crate) fn ends_at(&self) -> Timestamp {
        self.opened_at.after(TERM)
    }

    /// The headers carry its CSRF token. Compared in constant time.
    pub(crate) fn is_vouched_by(&self, headers: &HeaderMap) -> bool {
        let sent = headers.get(CSRF).and_then(|value| value.to_str().ok());
        let sent = sent.and_then(|text| Secret::parse(text).ok());
        sent.is_some_and(|sent| sent.digest() == self.csrf.digest())
    }
}

/// The open ones.
#[derive(Debug)]
pub(crate) struct Sessions {
    cookie: CookieName,
    /// By the digest of their cookies.
    open: Mutex<HashMap<String, Session>>,
}

impl Sessions {
    /// None yet.
    pub(crate) fn new(cookie: CookieName) -> Self {
        let open = Mutex::default();
        Self { cookie, open }
    }

    /// What their cookies are called.
    pub(crate) fn cookie(&self) -> &CookieName {
        &self.cookie
    }

    /// Opens one for a token; what the cookie holds is told once.
    pub(crate) fn open(&self, token: &str, now: Timestamp) -> (Secret, Session) {
        let cookie = Secret::generate();
        let session = Session {
            token: token.to_owned(),
            csrf: Secret::generate(),
            opened_at: now,
        };
        let mut open = self.open.lock();
        if SESSIONS_MAX <= open.len() {
            open.retain(|_, session| now < session.ends_at());
        }
        if SESSIONS_MAX <= open.len() {
            let first = open.iter().min_by_key(|(_, session)| session.opened_at);
            if let Some(key) = first.map(|(key, _)| key.clone()) {
                open.remove(&key);
            }
        }
        open.insert(cookie.digest().to_hex(), session.clone());
        (cookie, session)
    }

    /// The session that the request's cookie stands for.
    pub(crate) fn find(&self, headers: &HeaderMap, now: Timestamp) -> Option<Session> {
        let key = self.cookie.sent(headers)?.digest().to_hex();
        let found = self.open.lock().get(&key).cloned();
        found.filter(|session| now < session.ends_at())
    }

    /// Ends the session that the request's cookie stands for.
    pub(crate) fn end(&self, headers: &HeaderMap) {
        if let Some(cookie) = self.cookie.sent(headers) {
            self.open.lock().remove(&cookie.digest().to_hex());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> Sessions {
        Sessions::new(CookieName::of(7400, false))
    }

    fn carrying(cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, cookie.parse().expect("a header"));
        headers
    }

    #[test]
    fn a_session_is_found_by_its_cookie_until_its_time_is_over() {
        let (sessions, now) = (sessions(), Timestamp(1_000));
        let (cookie, session) = sessions.open("t", now);
        let headers = carrying(&format!(
            "a=b; regrow_session_7400={}; c=d",
            cookie.reveal()
        ));
        assert_eq!(sessions.find(&headers, now).expect("open").token, "t");
        let end = session.ends_at();
        assert!(sessions.find(&headers, end).is_none());
        sessions.end(&headers);
        assert!(sessions.find(&headers, now).is_none());
        let other = carrying(&format!(
            "regrow_session_7400={}",
            Secret::generate().reveal()
        ));
        assert!(sessions.find(&other, now).is_none());
    }

    #[test]
    fn only_its_own_csrf_token_vouches_for_a_session() {
        let sessions = sessions();
        let (_, mine) = sessions.open("t", Timestamp(0));
        let (_, other) = sessions.open("t", Timestamp(0));
        let mut headers = HeaderMap::new();
        assert!(!mine.is_vouched_by(&headers));
        headers.insert(CSRF, other.csrf().parse().expect("a header"));
        assert!(!mine.is_vouched_by(&headers));
        headers.insert(CSRF, mine.csrf().parse().expect("a header"));
        assert!(mine.is_vouched_by(&headers));
    }

    #[test]
    fn one_more_than_there_are_places_ends_the_first() {
        let sessions = sessions();
        let (first, _) = sessions.open("t", Timestamp(0));
        for n in 1..=SESSIONS_MAX {
            sessions.open("t", Timestamp(n as u64));
        }
        assert_eq!(sessions.open.lock().len(), SESSIONS_MAX);
        let headers = carrying(&format!("regrow_session_7400={}", first.reveal()));
        assert!(sessions.find(&headers, Timestamp(1)).is_none());
    }

    #[test]
    fn nodes_on_one_host_do_not_take_each_others_cookies() {
        let (here, there) = (sessions(), Sessions::new(CookieName::of(7401, false)));
        let (mine, _) = here.open("t", Timestamp(0));
        let (other, _) = there.open("u", Timestamp(0));
        // A browser sends both to both.
        let (mine, other) = (mine.reveal(), other.reveal());
        let both = carrying(&format!(
            "regrow_session_7401={other}; regrow_session_7400={mine}"
        ));
        assert_eq!(here.find(&both, Timestamp(1)).expect("open").token, "t");
        assert_eq!(there.find(&both, Timestamp(1)).expect("open").token, "u");
        there.end(&both);
        assert!(here.find(&both, Timestamp(1)).is_some());
    }

    #[test]
    fn behind_tls_the_cookie_is_for_tls_only() {
        let secret = Secret::generate();
        let plain = CookieName::of(7400, false).set(Some(&secret));
        let plain = plain.expect("a header");
        let plain = plain.to_str().expect("text");
        for part in ["regrow_session_7400=regrow_", "HttpOnly", "SameSite=Strict"] {
            assert!(plain.contains(part), "{plain}");
        }
        assert!(!plain.contains("Secure"));
        let secure = CookieName::of(443, true).set(None).expect("a header");
        let secure = secure.to_str().expect("text");
        assert!(
            secure.starts_with("__Host-regrow_session_443=;"),
            "{secure}"
        );
        assert!(secure.contains("Max-Age=0; Secure"), "{secure}");
    }

    proptest::proptest! {
        #[test]
        fn any_cookies_at_all_are_borne(line in proptest::collection::vec(0x20_u8..0xff, 0..80)) {
            let headers = HeaderValue::from_bytes(&line).map(|it| HeaderMap::from_iter([(COOKIE, it)]));
            if let Ok(headers) = headers {
                assert!(sessions().find(&headers, Timestamp(0)).is_none());
            }
        }
    }
}
