//! The exporters: OTLP over gRPC, or over HTTP with protobuf, either of them with TLS or without.
//!
//! The SDK exports from threads of its own, which know no runtime; sockets belong to the runtime
//! in which the exporters were made.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    Compression, LogExporter, Protocol as Encoding, SpanExporter, WithExportConfig, WithHttpConfig,
    WithTonicConfig,
};
use parking_lot::Mutex;
use regrow_runtime::causes::chain;
use tokio::runtime::Handle;
use tonic::metadata::MetadataMap;

use super::headers::Headers;
use super::tls::{self, Tls};

/// What is spoken with the receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// OTLP over HTTP/1.1, in protobuf.
    #[default]
    HttpProtobuf,
    /// OTLP over gRPC.
    Grpc,
}

impl Protocol {
    /// What it is called by OpenTelemetry.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::HttpProtobuf => "http/protobuf",
            Self::Grpc => "grpc",
        }
    }
}

/// The receiver, and how it is spoken with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Receiver {
    /// Its address, such as `http://127.0.0.1:4318`.
    pub(crate) endpoint: String,
    /// What is spoken.
    pub(crate) protocol: Protocol,
    /// Sent with every request.
    pub(crate) headers: Headers,
    /// Longest time for one batch, all its attempts together.
    pub(crate) timeout: Duration,
    /// Whether batches are compressed.
    pub(crate) gzip: bool,
    /// Who is trusted, where the endpoint is `https`.
    pub(crate) tls: Tls,
}

/// Why the last request did not come through: the SDK keeps it to itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Cause(Arc<Mutex<Option<String>>>);

impl Cause {
    /// The cause, if there is one that the SDK's own report leaves out.
    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().take()
    }
}

impl Receiver {
    fn is_encrypted(&self) -> bool {
        self.endpoint.starts_with("https://")
    }

    /// Takes spans there. Within a runtime.
    pub(super) fn spans(&self, cause: &Cause) -> Result<SpanExporter, String> {
        let builder = SpanExporter::builder();
        let exporter = match self.protocol {
            Protocol::HttpProtobuf => self.http(builder.with_http(), "traces", cause)?.build(),
            Protocol::Grpc => self.grpc(builder.with_tonic()).build(),
        };
        exporter.map_err(|error| error.to_string())
    }

    /// Takes log lines there. Within a runtime.
    pub(super) fn logs(&self, cause: &Cause) -> Result<LogExporter, String> {
        let builder = LogExporter::builder();
        let exporter = match self.protocol {
            Protocol::HttpProtobuf => self.http(builder.with_http(), "logs", cause)?.build(),
            Protocol::Grpc => self.grpc(builder.with_tonic()).build(),
        };
        exporter.map_err(|error| error.to_string())
    }

    fn http<B>(&self, builder: B, signal: &str, cause: &Cause) -> Result<B, String>
    where
        B: WithExportConfig + WithHttpConfig,
    {
        let builder = builder
            .with_http_client(Sender::to(self, cause)?)
            .with_protocol(Encoding::HttpBinary)
            .with_endpoint(self.address(signal))
            .with_timeout(self.timeout);
        Ok(match self.gzip {
            true => builder.with_compression(Compression::Gzip),
            false => builder,
        })
    }

    fn grpc<B: WithExportConfig + WithTonicConfig>(&self, mut builder: B) -> B {
        builder = builder
            .with_endpoint(&self.endpoint)
            .with_timeout(self.timeout)
            .with_interceptor(adding(&self.headers));
        if self.gzip {
            builder = builder.with_compression(Compression::Gzip);
        }
        if self.is_encrypted() {
            builder = builder.with_tls_config(self.tls.for_grpc());
        }
        builder
    }

    /// Where a signal goes over HTTP.
    fn address(&self, signal: &str) -> String {
        format!("{}/v1/{signal}", self.endpoint.trim_end_matches('/'))
    }
}

/// Puts the headers into requests over gRPC, in place of any of the same name.
fn adding(
    headers: &Headers,
) -> impl FnMut(tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status>
+ Clone
+ Send
+ Sync
+ 'static {
    let headers = headers.map().clone();
    move |mut request| {
        let metadata = std::mem::take(request.metadata_mut());
        let mut all = metadata.into_headers();
        for name in headers.keys() {
            all.remove(name);
        }
        for (name, value) in &headers {
            all.append(name, value.clone());
        }
        *request.metadata_mut() = MetadataMap::from_headers(all);
        Ok(request)
    }
}

/// Sends requests over HTTP.
#[derive(Debug)]
struct Sender {
    client: Arc<HyperClient<HttpsConnector<HttpConnector>>>,
    headers: Headers,
    cause: Cause,
    runtime: Handle,
}

impl Sender {
    fn to(receiver: &Receiver, cause: &Cause) -> Result<Self, String> {
        let connector = match receiver.is_encrypted() {
            true => HttpsConnectorBuilder::new()
                .with_tls_config(receiver.tls.for_http()?)
                .https_only()
                .enable_http1()
                .build(),
            false => HttpsConnectorBuilder::new()
                .with_tls_config(tls::trusting_nobody()?)
                .https_or_http()
                .enable_http1()
                .build(),
        };
        let client = HyperClient::new(connector, receiver.timeout, None);
        Ok(Self {
            client: Arc::new(client),
            headers: receiver.headers.clone(),
            cause: cause.clone(),
            runtime: Handle::current(),
        })
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        for name in self.headers.map().keys() {
            request.headers_mut().remove(name);
        }
        for (name, value) in self.headers.map() {
            request.headers_mut().append(name.clone(), value.clone());
        }
        let client = self.client.clone();
        let sent = self
            .runtime
            .spawn(async move { client.send_bytes(request).await });
        let answer = match sent.await {
            Ok(answer) => answer,
            Err(ended) => Err(ended.into()),
        };
        *self.cause.0.lock() = answer.as_ref().err().map(|error| chain(&**error));
        answer
    }
}
