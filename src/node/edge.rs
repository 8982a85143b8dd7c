//! The HTTP surface in the node's tree, and when its address is bound.

use std::sync::Arc;
use std::time::Duration;

use regrow_http::config::HttpConfig;
use regrow_http::server::{BindError, Server};
use regrow_http::state::ApiParts;
use regrow_runtime::access::Access;
use regrow_runtime::actor::Crash;
use regrow_runtime::store::writer::Writer;
use regrow_runtime::supervision::{ChildSpec, Shutdown, Strategy, SupervisorSpec};
use tokio::sync::Mutex;

use crate::config::NodeConfig;

/// Binds before the store is opened, where nobody else reaches the node: a taken port is then
/// found out first.
pub(super) async fn bind_early(
    config: &NodeConfig,
    http: bool,
) -> Result<Option<Server>, BindError> {
    if !http || config.http.is_reachable_by_others() {
        return Ok(None);
    }
    Server::bind(config.http.clone(), false).await.map(Some)
}

/// Binds once it is known whether tokens keep others out. Refused, the store is closed.
pub(super) async fn bind(
    config: &NodeConfig,
    access: &Access,
    writer: &Writer,
) -> Result<Server, BindError> {
    let bound = Server::bind(config.http.clone(), !access.keyring.is_empty()).await;
    if bound.is_err() {
        writer.close().await;
    }
    bound
}

/// The HTTP server. Its socket is bound before the tree starts, so that a taken port is a
/// clear error; a restarted server binds the same address again.
pub(super) fn edge(server: Server, parts: ApiParts, config: &NodeConfig) -> SupervisorSpec {
    let address = server.address();
    let rebind = HttpConfig {
        address,
        ..config.http.clone()
    };
    let patience = config.http.shutdown_grace + Duration::from_secs(2);
    let bound = Arc::new(Mutex::new(Some(server)));
    let server = ChildSpec::task("http", move |stop| {
        let (bound, parts, rebind) = (bound.clone(), parts.clone(), rebind.clone());
        async move {
            let first = bound.lock().await.take();
            let server = match first {
                Some(server) => server,
                None => Server::bind(rebind, !parts.access.keyring.is_empty()).await?,
            };
            server.serve(parts, stop.cancelled_owned()).await;
            Ok::<(), Crash>(())
        }
    });
    SupervisorSpec::new("edge", Strategy::OneForOne)
        .intensity(5, Duration::from_secs(30))
        .child(server.role("http").shutdown(Shutdown::Timeout(patience)))
}
