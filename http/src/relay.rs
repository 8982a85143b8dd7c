//! Requests that another node's surface is asked, over the gateway.
//!
//! What travels is the request itself, to the same routes, so that nothing is decided twice. A
//! node that is asked this way answers for itself alone and asks nobody further. Streams do not
//! travel: who wants one is told where to ask.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use regrow_cluster::exchange::{Answers, AskError, Topic};
use regrow_cluster::member::NodeName;
use regrow_cluster::transport::{Incoming, OperationId, Rejection};
use regrow_cluster::wire::codec;
use regrow_runtime::access::scope::{Scope, Scopes};
use serde::{Deserialize, Serialize};

use crate::auth::{Caller, Sender};
use crate::error::{ApiError, Code};
use crate::routes::WAIT_MAX;
use crate::state::ApiState;

/// Which node an answer came from, if not the one that was asked.
const NODE: HeaderName = HeaderName::from_static("x-regrow-node");
/// What is passed on of a request.
const ASKED_HEADERS: [&str; 4] = ["content-type", "x-request-id", "traceparent", "tracestate"];
/// Who asked the node that passes a request on, and the id and the scopes of the token that it
/// looked at; no token where it has none. Believed of other nodes only.
const CALLER: &str = "x-regrow-caller";
const TOKEN: &str = "x-regrow-token";
const SCOPES: &str = "x-regrow-scopes";
/// Stands where a token's id would, of agents.
const AGENT: &str = "agent";
/// What is passed on of an answer.
const TOLD_HEADERS: [HeaderName; 3] = [CONTENT_TYPE, LOCATION, RETRY_AFTER];

/// Marks a request that came from another node: it is answered here or not at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relayed;

/// A request as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// To look at something for whoever asks this node.
    pub(crate) fn get(target: impl Into<String>, caller: &Caller) -> Self {
        Self {
            method: Method::GET.as_str().to_owned(),
            target: target.into(),
            headers: sent_by(caller),
            body: Vec::new(),
        }
    }

    /// A request that came here, to be passed on.
    pub(crate) fn copy(request: &axum::http::request::Parts, body: Vec<u8>) -> Self {
        let passed = |name: &&str| {
            let value = request.headers.get(*name)?.to_str().ok()?;
            Some(((*name).to_owned(), value.to_owned()))
        };
        let target = request.uri.path_and_query();
        let mut headers: Vec<_> = ASKED_HEADERS.iter().filter_map(passed).collect();
        // His token was looked at here; the other node has tokens of its own.
        if let Some(caller) = request.extensions.get::<Caller>() {
            headers.extend(sent_by(caller));
        }
        Self {
            method: request.method.as_str().to_owned(),
            target: target.map_or_else(|| "/".to_owned(), ToString::to_string),
            headers,
            body,
        }
    }

    /// What an agent of this node does with a task that it leased from another one. Nodes trust
    /// each other with what workers do; an agent has no token, and needs none.
    pub(crate) fn by_agent(
        method: Method,
        target: impl Into<String>,
        agent: &str,
        body: Vec<u8>,
    ) -> Self {
        let scopes = Scopes::of([Scope::Read, Scope::Work]);
        let headers = [
            (CONTENT_TYPE.as_str(), "application/json".to_owned()),
            (CALLER, agent.to_owned()),
            (TOKEN, AGENT.to_owned()),
            (SCOPES, scopes.to_string()),
        ];
        Self {
            method: method.as_str().to_owned(),
            target: target.into(),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
            body,
        }
    }

    /// Whether it may change something.
    pub(crate) fn is_order(&self) -> bool {
        self.method != Method::GET.as_str()
    }

    /// How long the client asked to wait.
    pub(crate) fn waits(&self) -> Duration {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let wait = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("wait_ms="));
        let millis = wait.and_then(|wait| wait.parse().ok()).unwrap_or(0);
        Duration::from_millis(millis).min(WAIT_MAX)
    }

    fn into_request(self) -> Result<Request, axum::http::Error> {
        let mut request = Request::builder()
            .method(self.method.as_str())
            .uri(self.target.parse::<Uri>()?);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut request = request.body(Body::from(self.body))?;
        request.extensions_mut().insert(Relayed);
        Ok(request)
    }
}

/// How a caller's token is told to the node that is asked.
fn sent_by(caller: &Caller) -> Vec<(String, String)> {
    let by = caller.by();
    let mut headers = vec![(CALLER.to_owned(), by.name)];
    if let Caller::Token(token) = caller {
        let scopes = token.scopes.to_string();
        headers.push((TOKEN.to_owned(), token.id.clone()));
        headers.push((SCOPES.to_owned(), scopes));
    }
    headers
}

/// For whom another node asks.
pub(crate) fn sender(headers: &HeaderMap) -> Sender {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let scopes = text(SCOPES).unwrap_or_default().split(", ");
    // Of a scope that this node does not know yet nothing follows here.
    let scopes = Scopes::of(scopes.filter_map(|scope| scope.parse().ok()));
    Sender {
        name: text(CALLER).unwrap_or("somebody").to_owned(),
        token: text(TOKEN).map(|id| (id.to_owned(), scopes)),
    }
}

/// An answer as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    /// The node does not have what the request is about.
    pub(crate) is_unknown: bool,
    pub(crate) body: Vec<u8>,
}

impl Told {
    async fn from_response(response: Response) -> Self {
        let code = response.extensions().get::<Code>().copied();
        let passed = |name: &HeaderName| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some((name.to_string(), value.to_owned()))
        };
        let headers = TOLD_HEADERS.iter().filter_map(passed).collect();
        let status = response.status().as_u16();
        // Within the topic's limit, with room for the rest.
        let body = to_bytes(response.into_body(), Topic::Desk.bytes_max() - 8_192).await;
        let Ok(body) = body else {
            let detail = "the answer is too large to travel between nodes; ask that node itself";
            return Self::problem(ApiError::new(Code::Internal, detail));
        };
        Self {
            status,
            headers,
            is_unknown: code.is_some_and(Code::is_unknown),
            body: body.to_vec(),
        }
    }

    fn problem(error: ApiError) -> Self {
        let problem = error.into_problem();
        Self {
            status: problem["status"]
                .as_u64()
                .and_then(|status| status.try_into().ok())
                .unwrap_or(500),
            headers: vec![(
                CONTENT_TYPE.to_string(),
                "application/problem+json".to_owned(),
            )],
            is_unknown: false,
            body: problem.to_string().into_bytes(),
        }
    }

    /// The node does not listen to whoever asks through this one.
    pub(crate) fn is_refusal(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED.as_u16()
    }

    /// Whether what was asked for was done.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The answer for the client, with the node that gave it: in a header, and, of an object,
    /// in a member `node`.
    pub(crate) fn into_response(self, node: &NodeName) -> Response {
        let is_success = self.is_success();
        let body = match self.body.strip_prefix(b"{") {
            Some(rest) if is_success => {
                let comma = if rest.trim_ascii_start().starts_with(b"}") {
                    ""
                } else {
                    ","
                };
                // Names of nodes need no escapes: letters, digits and a few signs.
                let named = format!("{{\"node\":\"{node}\"{comma}");
                [named.as_bytes(), rest].concat()
            }
            Some(_) | None => self.body,
        };
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let mut response = (status, body).into_response();
        for (name, value) in self.headers {
            if let (Ok(name), Ok(value)) = (
                HeaderName::try_from(name.as_str()),
                HeaderValue::try_from(value),
            ) {
                response.headers_mut().insert(name, value);
            }
        }
        if let Ok(value) = HeaderValue::from_str(node.as_str()) {
            response.headers_mut().insert(NODE, value);
        }
        response
    }
}

/// Answers requests of other nodes with this node's surface.
pub(crate) struct Desk {
    surface: TowerToHyperService<Router>,
    node: String,
}

impl Desk {
    /// The same routes as clients have.
    pub(crate) fn new(surface: Router, node: String) -> Self {
        Self {
            surface: TowerToHyperService::new(surface),
            node,
        }
    }
}

impl Answers for Desk {
    fn answer(&self, asked: Incoming) -> BoxFuture<'static, Result<Bytes, Rejection>> {
        let (surface, node) = (self.surface.clone(), self.node.clone());
        async move {
            let unread =
                |error: &dyn std::fmt::Display| Rejection(format!("not understood: {error}"));
            let request: Asked = codec::decode(&asked.payload).map_err(|error| unread(&error))?;
            let request = request.into_request().map_err(|error| unread(&error))?;
            let response = match surface.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            let told = match is_stream(&response) {
                true => Told::problem(ApiError::streams_here(&node)),
                false => Told::from_response(response).await,
            };
            // Plain data; it cannot fail to be written.
            let bytes = codec::encode(&told).map_err(|error| unread(&error))?;
            Ok(Bytes::from(bytes))
        }
        .boxed()
    }
}

type Bytes = axum::body::Bytes;

fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// Asks another node's surface.
///
/// # Errors
///
/// [`AskError`] says whether something may have happened.
pub(crate) async fn ask(
    state: &ApiState,
    to: &NodeName,
    asked: &Asked,
    deadline: Duration,
    operation: Option<OperationId>,
) -> Result<Told, AskError> {
    state
        .exchange
        .ask(to, Topic::Desk, asked, deadline, operation)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, body: &str) -> Told {
        Told {
            status,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            is_unknown: false,
            body: body.as_bytes().to_vec(),
        }
    }

    #[tokio::test]
    async fn an_answer_says_which_node_gave_it() {
        for (status, body, expected) in [
            (200, "{\"id\":1}", "{\"node\":\"b\",\"id\":1}"),
            (200, "{}", "{\"node\":\"b\"}"),
            (200, "[1]", "[1]"),
            (409, "{\"code\":\"x\"}", "{\"code\":\"x\"}"),
        ] {
            let response = told(status, body).into_response(&"b".into());
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()[NODE], "b");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
            let found = to_bytes(response.into_body(), 1_000).await.expect("short");
            assert_eq!(found, expected);
        }
    }

    #[tokio::test]
    async fn whose_token_a_request_was_let_in_with_is_told_and_read_back() {
        use regrow_runtime::access::keyring::{Keyring, NewToken};
        use regrow_runtime::access::place::Place;
        use regrow_runtime::access::scope::Scope::{Submit, Work};
        let place = Place::Alone(regrow_runtime::store::Store::volatile());
        let clock = regrow_runtime::clock::Clock::system();
        let keyring = Keyring::open(place, clock).await.expect("readable");
        let new = NewToken {
            name: "ci".to_owned(),
            scopes: Scopes::of([Submit, Work]),
            term: None,
        };
        let (token, _) = keyring.create(new, "local").await.expect("made");
        let travels = |caller: &Caller| {
            let request = Asked::get("/v1/queue", caller).into_request();
            sender(request.expect("a request").headers())
        };
        let known = Caller::Token(std::sync::Arc::new(token.clone()));
        let expected = Sender {
            name: "ci".to_owned(),
            token: Some((token.id, token.scopes)),
        };
        assert_eq!(travels(&known), expected);
        assert_eq!(travels(&Caller::Local).token, None);
        let mut newer = HeaderMap::new();
        newer.insert(TOKEN, HeaderValue::from_static("x"));
        newer.insert(SCOPES, HeaderValue::from_static("dream, work"));
        let (_, scopes) = sender(&newer).token.expect("a token");
        assert_eq!(scopes, Scopes::of([Work]));
    }

    #[test]
    fn a_request_is_passed_on_with_what_matters_and_marked() {
        let (parts, ()) = axum::http::Request::builder()
            .method("POST")
            .uri("http://127.0.0.1:7/v1/tasks/x/retry?part=true")
            .header(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
            .header("cookie", "secret")
            .body(())
            .expect("a request")
            .into_parts();
        let asked = Asked::copy(&parts, b"{}".to_vec());
        assert!(asked.is_order());
        let request = asked.into_request().expect("a request");
        assert_eq!(request.uri(), "/v1/tasks/x/retry?part=true");
        assert!(request.headers().contains_key("traceparent"));
        assert!(!request.headers().contains_key("cookie"));
        assert!(request.extensions().get::<Relayed>().is_some());
    }
}
