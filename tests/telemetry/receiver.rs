//! A receiver of OTLP over HTTP or gRPC, with TLS or without: what a collector understands of what
//! it gets.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flate2::read::GzDecoder;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::certified::Certified;
use crate::node::PATIENCE;

/// A span as it was received.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) node: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) failed: Option<String>,
}

/// A log line as it was received.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) node: String,
    pub(crate) trace: String,
    pub(crate) span: String,
    pub(crate) body: String,
}

/// What came with a request beside its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beside {
    pub(crate) authorization: Option<String>,
    pub(crate) encoding: Option<String>,
}

#[derive(Default)]
pub(crate) struct Received {
    spans: Vec<Span>,
    lines: Vec<Line>,
    requests: Vec<Beside>,
}

/// Receives until it is dropped.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    pub(crate) received: Arc<Mutex<Received>>,
    pub(crate) _serving: JoinSet<()>,
}

impl Receiver {
    /// Of OTLP over HTTP at `address`; port 0 takes a free one.
    pub(crate) async fn at(address: &str) -> Self {
        Self::over_http(address, None).await
    }

    /// The same with TLS, for whoever proves that an authority knows him.
    pub(crate) async fn over_https(certified: &Certified) -> Self {
        Self::over_http("127.0.0.1:0", Some(certified.acceptor())).await
    }

    async fn over_http(address: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let received = Arc::new(Mutex::new(Received::default()));
        let mut serving = JoinSet::new();
        let kept = received.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, tls) = (kept.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, kept).await,
                        // Whoever does not trust it is gone without a word.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, kept).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            received,
            _serving: serving,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until the spans are as wanted, and returns them.
    pub(crate) async fn until_spans(&self, wanted: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let spans = self.received.lock().await.spans.clone();
            if wanted(&spans) {
                return spans;
            }
            let names: Vec<_> = spans.iter().map(|span| (&span.node, &span.name)).collect();
            assert!(Instant::now() < deadline, "only {names:?} were received");
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn spans(&self) -> Vec<Span> {
        self.received.lock().await.spans.clone()
    }

    pub(crate) async fn lines(&self) -> Vec<Line> {
        self.received.lock().await.lines.clone()
    }

    /// What came beside all that was received.
    pub(crate) async fn requests(&self) -> Vec<Beside> {
        self.received.lock().await.requests.clone()
    }
}

/// Answers requests of one connection, as HTTP/1.1 has them.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, received: Arc<Mutex<Received>>) {
    let mut bytes = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if !more(&mut stream, &mut bytes).await {
                return;
            }
        };
        let said = String::from_utf8_lossy(&bytes[..head]).into_owned();
        let header = |name: &str| {
            let mut lines = said.lines().filter_map(|line| line.split_once(':'));
            let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().to_owned())
        };
        let text = said.to_lowercase();
        let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
        let length = length.expect("a length");
        let beside = Beside {
            authorization: header("authorization"),
            encoding: header("content-encoding"),
        };
        assert!(
            text.contains("content-type: application/x-protobuf"),
            "{text}"
        );
        while bytes.len() < head + length {
            if !more(&mut stream, &mut bytes).await {
                return;
            }
        }
        let body = &bytes[head..head + length];
        let mut whole = Vec::new();
        match beside.encoding.as_deref() {
            Some("gzip") => GzDecoder::new(body).read_to_end(&mut whole).expect("gzip"),
            _ => whole.write(body).await.expect("room"),
        };
        let received = &mut *received.lock().await;
        received.request(beside);
        keep(&text, &whole, received);
        bytes.drain(..head + length);
        let answer =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

async fn more(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> bool {
    let read = timeout(Duration::from_secs(600), stream.read_buf(bytes)).await;
    matches!(read, Ok(Ok(count)) if 0 < count)
}

fn keep(head: &str, body: &[u8], received: &mut Received) {
    if head.starts_with("post /v1/traces ") {
        received.spans(ExportTraceServiceRequest::decode(body).expect("spans"));
    } else if head.starts_with("post /v1/logs ") {
        received.lines(ExportLogsServiceRequest::decode(body).expect("lines"));
    } else {
        unreachable!("nobody asked for this: {head}");
    }
}

impl Received {
    pub(crate) fn request(&mut self, beside: Beside) {
        self.requests.push(beside);
    }

    pub(crate) fn spans(&mut self, request: ExportTraceServiceRequest) {
        for of_node in request.resource_spans {
            let node = instance(of_node.resource.map(|it| it.attributes).unwrap_or_default());
            let spans = of_node.scope_spans.into_iter();
            for span in spans.flat_map(|scope| scope.spans) {
                self.spans.push(Span {
                    node: node.clone(),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    name: span.name,
                    began: span.start_time_unix_nano,
                    ended: span.end_time_unix_nano,
                    attributes: texts(span.attributes),
                    failed: span.status.filter(|it| it.code == 2).map(|it| it.message),
                });
            }
        }
    }

    pub(crate) fn lines(&mut self, request: ExportLogsServiceRequest) {
        for of_node in request.resource_logs {
            let node = instance(of_node.resource.map(|it| it.attributes).unwrap_or_default());
            let lines = of_node.scope_logs.into_iter();
            for line in lines.flat_map(|scope| scope.log_records) {
                self.lines.push(Line {
                    node: node.clone(),
                    trace: hex(&line.trace_id),
                    span: hex(&line.span_id),
                    body: line.body.map(text).unwrap_or_default(),
                });
            }
        }
    }
}

fn instance(attributes: Vec<KeyValue>) -> String {
    let all = texts(attributes);
    assert_eq!(
        all.get("service.name").map(String::as_str),
        Some("regrow"),
        "{all:?}"
    );
    all.get("service.instance.id").cloned().unwrap_or_default()
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let attributes = attributes.into_iter();
    let texts = attributes.map(|one| (one.key, one.value.map(text).unwrap_or_default()));
    texts.collect()
}

fn text(value: AnyValue) -> String {
    match value.value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
