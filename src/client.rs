//! The node as the command line sees it: HTTP requests, bounded in time and size, and
//! failures that say what to do.
//!
//! Requests go straight to the node: proxies of the environment are left out, so that a
//! token never passes through one by accident.

use std::io::Read as _;
use std::time::Duration;

use clap::Args;
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer, on top of what the node was asked to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Which node to talk to.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeArgs {
    /// The node's address
    #[arg(
        long,
        value_name = "URL",
        env = "REGROW_URL",
        default_value = "http://127.0.0.1:7400",
        global = true
    )]
    url: String,
    /// Bearer token; use the variable, a flag is visible to every user of the machine
    #[arg(
        long,
        value_name = "TOKEN",
        env = "REGROW_TOKEN",
        hide_env_values = true,
        hide = true,
        global = true
    )]
    token: Option<String>,
    /// Print what the node answered, as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl NodeArgs {
    /// For a verb with flags of its own.
    pub(crate) fn new(url: String, token: Option<String>, json: bool) -> Self {
        Self { url, token, json }
    }
}

/// A request that did not work out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The address or the token cannot be used. Nothing was sent.
    #[error("REGROW_URL or --url is `{found}`, {problem}")]
    Address { found: String, problem: String },
    /// Nobody answers there. Nothing changed.
    #[error(
        "cannot reach the node at {url}: {cause}; start one with `regrow node` or set REGROW_URL"
    )]
    Unreachable { url: String, cause: String },
    /// The connection broke or the answer did not come: the node may have done it.
    #[error("no answer from the node at {url}: {cause}; it may have done what was asked or not")]
    NoAnswer { url: String, cause: String },
    /// The node refused.
    #[error("{}", .0.in_words())]
    Refused(Box<Refusal>),
    /// The answer is not what a node says.
    #[error("the answer of {url} cannot be read: {cause}; is a regrow node listening there?")]
    Unreadable { url: String, cause: String },
}

/// A refusal as the node explained it (RFC 9457).
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    status: StatusCode,
    retry_after: Option<String>,
    problem: Problem,
    /// The explanation as it arrived.
    pub(crate) text: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
    problems: Vec<FieldProblem>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FieldProblem {
    field: String,
    problem: String,
}

impl Refusal {
    fn in_words(&self) -> String {
        let Problem {
            code,
            detail,
            problems,
        } = &self.problem;
        let mut text = if code.is_empty() {
            format!("the node answered {}", self.status)
        } else if problems.is_empty() {
            format!("{detail} ({code})")
        } else {
            let mut text = format!("the node refused the request ({code}):");
            for one in problems {
                text.push_str(&format!("\n  {} {}", one.field, one.problem));
            }
            text
        };
        let way_out = match code.as_str() {
            "token_required" => {
                "; set REGROW_TOKEN to a token, which whoever runs the node makes with \
                 `regrow token create`"
            }
            "token_refused" => "; look at REGROW_TOKEN",
            _ => "",
        };
        text.push_str(way_out);
        if let Some(seconds) = &self.retry_after {
            text.push_str(&format!("; retry in {seconds} s"));
        }
        text
    }
}

/// An answer as the text it arrived in.
#[derive(Debug)]
pub(crate) struct Reply {
    url: String,
    /// The JSON.
    pub(crate) text: String,
}

impl Reply {
    /// Decodes what a person wants to see of it.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_str(&self.text).map_err(|error| ClientError::Unreadable {
            url: self.url.clone(),
            cause: error.to_string(),
        })
    }
}

/// Talks to one node.
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Client {
    pub(crate) fn new(node: &NodeArgs) -> Result<Self, ClientError> {
        let wrong = |problem: &str| ClientError::Address {
            found: node.url.clone(),
            problem: problem.to_owned(),
        };
        let parsed = reqwest::Url::parse(&node.url)
            .map_err(|error| wrong(&format!("which is no address ({error})")))?;
        match parsed.scheme() {
            "http" => {}
            "https" => {
                return Err(wrong(
                    "but this version speaks no TLS; tunnel to the node and use http://",
                ));
            }
            _ => return Err(wrong("must begin with http://")),
        }
        if parsed.host().is_none() || parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(wrong("must be like http://127.0.0.1:7400"));
        }
        let token = node.token.clone().filter(|token| !token.is_empty());
        if token
            .as_ref()
            .is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(wrong("and REGROW_TOKEN holds characters no token has"));
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("regrow/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| wrong(&format!("and no client can be made ({error})")))?;
        Ok(Self {
            http,
            base: node.url.trim_end_matches('/').to_owned(),
            token,
        })
    }

    /// Where the node is.
    pub(crate) fn address(&self) -> &str {
        &self.base
    }

    /// Reads `path`.
    pub(crate) async fn get(&self, path: &str) -> Result<Reply, ClientError> {
        self.ask(Method::GET, path, None, Duration::ZERO).await
    }

    /// Reads `path`, which the node was asked to answer within `wait`.
    pub(crate) async fn wait(&self, path: &str, wait: Duration) -> Result<Reply, ClientError> {
        self.ask(Method::GET, path, None, wait).await
    }

    /// Asks for a change.
    pub(crate) async fn post(&self, path: &str, body: String) -> Result<Reply, ClientError> {
        self.ask(Method::POST, path, Some(body), Duration::ZERO)
            .await
    }

    /// Sets a value.
    pub(crate) async fn put(&self, path: &str, body: String) -> Result<Reply, ClientError> {
        self.ask(Method::PUT, path, Some(body), Duration::ZERO)
            .await
    }

    /// Removes a value.
    pub(crate) async fn delete(&self, path: &str) -> Result<Reply, ClientError> {
        self.ask(Method::DELETE, path, None, Duration::ZERO).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        wait: Duration,
    ) -> Result<Reply, ClientError> {
        let mut request = self.request(method, path).timeout(ANSWER_TIMEOUT + wait);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body);
        }
        let answer = request.send().await.map_err(|error| self.failure(&error))?;
        self.read(answer).await
    }

    /// Opens the event stream at `path`, behind event `after`. `None` when nothing will
    /// follow.
    pub(crate) async fn stream(
        &self,
        path: &str,
        after: u64,
    ) -> Result<Option<EventStream>, ClientError> {
        let mut request = self
            .request(Method::GET, path)
            .header("accept", "text/event-stream");
        if 0 < after {
            request = request.header("last-event-id", after);
        }
        let answer = request.send().await.map_err(|error| self.failure(&error))?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        if answer.status() != StatusCode::OK {
            self.read(answer).await?;
            return Ok(None);
        }
        Ok(Some(EventStream {
            answer,
            buffer: Vec::new(),
        }))
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn read(&self, mut answer: Response) -> Result<Reply, ClientError> {
        let status = answer.status();
        let retry_after = answer
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.failure(&error))? {
            if ANSWER_BYTES_MAX < bytes.len() + chunk.len() {
                return Err(self.unreadable(format!("it has more than {ANSWER_BYTES_MAX} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(bytes).map_err(|error| self.unreadable(error.to_string()))?;
        // What is only ordered is not done.
        let ordered = status == StatusCode::ACCEPTED
            && serde_json::from_str(&text).is_ok_and(|told: Problem| told.code == "ordered");
        if status.is_success() && !ordered {
            return Ok(Reply {
                url: self.base.clone(),
                text,
            });
        }
        Err(ClientError::Refused(Box::new(Refusal {
            status,
            retry_after,
            problem: serde_json::from_str(&text).unwrap_or_default(),
            text,
        })))
    }

    fn unreadable(&self, cause: String) -> ClientError {
        ClientError::Unreadable {
            url: self.base.clone(),
            cause,
        }
    }

    fn failure(&self, error: &reqwest::Error) -> ClientError {
        let url = self.base.clone();
        // The outer layers only repeat the URL; the innermost says what happened.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let cause = if error.is_timeout() {
            "it took too long".to_owned()
        } else {
            cause.to_string()
        };
        if error.is_connect() {
            ClientError::Unreachable { url, cause }
        } else {
            ClientError::NoAnswer { url, cause }
        }
    }
}

/// Server-sent events, as they arrive.
pub(crate) struct EventStream {
    answer: Response,
    buffer: Vec<u8>,
}

impl EventStream {
    /// The data of the next event; `None` when the stream ended or broke.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let frame: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let frame = String::from_utf8_lossy(&frame);
                let mut data = frame.lines().filter_map(|line| line.strip_prefix("data: "));
                if let Some(data) = data.next() {
                    return Some(data.to_owned());
                }
                continue;
            }
            if ANSWER_BYTES_MAX < self.buffer.len() {
                return None;
            }
            let chunk = self.answer.chunk().await.ok()??;
            self.buffer.extend_from_slice(&chunk);
        }
    }
}

/// Reads a file that a person named, or standard input for `-`, up to what a node takes.
pub(crate) fn read_input(path: &str) -> std::io::Result<String> {
    const MAX: u64 = 64 << 20;
    let mut text = String::new();
    let read = if path == "-" {
        std::io::stdin().take(MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path)?
            .take(MAX + 1)
            .read_to_string(&mut text)
    };
    if MAX < read? as u64 {
        return Err(std::io::Error::other(format!(
            "it has more than {MAX} bytes"
        )));
    }
    Ok(text)
}
