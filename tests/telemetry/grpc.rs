//! The receiver over gRPC: the services that collectors offer, by the same definitions.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::certified::Certified;
use crate::receiver::{Beside, Received, Receiver};

#[derive(Clone)]
struct Services(Arc<Mutex<Received>>);

impl Services {
    async fn note<T>(&self, request: &Request<T>) {
        let header = |name: &str| {
            let value = request.metadata().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let beside = Beside {
            authorization: header("authorization"),
            encoding: header("grpc-encoding"),
        };
        self.0.lock().await.request(beside);
    }
}

#[tonic::async_trait]
impl TraceService for Services {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.note(&request).await;
        self.0.lock().await.spans(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Services {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.note(&request).await;
        self.0.lock().await.lines(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

impl Receiver {
    /// Of OTLP over gRPC; with certificates in TLS, for whoever proves that an authority knows him.
    pub(crate) async fn over_grpc(certified: Option<&Certified>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let received = Arc::new(Mutex::new(Received::default()));
        let services = Services(received.clone());
        let mut server = Server::builder();
        if let Some(certified) = certified {
            server = server.tls_config(certified.server()).expect("certificates");
        }
        let gzip = CompressionEncoding::Gzip;
        let served = server
            .add_service(TraceServiceServer::new(services.clone()).accept_compressed(gzip))
            .add_service(LogsServiceServer::new(services).accept_compressed(gzip))
            .serve_with_incoming(TcpIncoming::from(listener));
        let mut serving = JoinSet::new();
        serving.spawn(async move { served.await.expect("it serves") });
        Self {
            address,
            received,
            _serving: serving,
        }
    }
}
