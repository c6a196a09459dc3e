//! The ports of a process: that of its API, and the one beside it for probes, metrics and the operations API.

use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tracing::info;

use super::server::{self, Bounds};
use crate::pod::{
    config::{HttpSettings, PodSettings},
    health,
    process::Pod,
};

/// The API's port, and the separate port for probes and metrics, if there is one.
#[derive(Debug)]
pub struct Http {
    api: TcpListener,
    operations: Option<TcpListener>,
    operations_api: Router,
    settings: HttpSettings,
    stop_within: Duration,
}

impl Http {
    /// Opens the ports.
    ///
    /// # Errors
    /// If an address cannot be bound.
    pub fn bind(settings: &PodSettings) -> anyhow::Result<Self> {
        let http = settings.http.clone();
        Ok(Self {
            api: server::bind(http.http_address)?,
            operations: http.operations_address.map(server::bind).transpose()?,
            operations_api: Router::new(),
            // The rest of the grace period is for closing what the requests used.
            stop_within: settings.shutdown_grace * 9 / 10,
            settings: http,
        })
    }

    /// Serves this API only at the separate port for probes and metrics; nowhere if there is none.
    #[must_use]
    pub fn with_operations_api(self, operations_api: Router) -> Self {
        Self { operations_api, ..self }
    }

    /// Serves an API, and the process's probes and metrics, until the process stops.
    ///
    /// # Errors
    /// If a listener has no address.
    pub fn spawn(self, api: Router, pod: &Pod) -> anyhow::Result<()> {
        let probes = health::routes(pod.health.clone(), pod.metrics.clone());
        let bounds = Bounds {
            connections: self.settings.http_max_connections.get(),
            drain: self.settings.http_drain,
            stop_within: self.stop_within,
            ..Bounds::default()
        };
        info!(notice = "listening", http.address = %self.api.local_addr()?, "listening");
        // Outside the limit on requests: a busy process must still answer its probes.
        let api = if let Some(listener) = self.operations {
            info!(operations.address = %listener.local_addr()?, "serving probes and metrics");
            let bounds = Bounds { connections: OPERATIONS_CONNECTIONS, ..bounds };
            let operations = self.operations_api.merge(probes);
            let serve = server::serve(listener, operations, bounds, pod.shutdown.clone());
            pod.shutdown.spawn("operations", serve);
            api
        } else {
            api.merge(probes)
        };
        pod.shutdown.spawn("http", server::serve(self.api, api, bounds, pod.shutdown.clone()));
        Ok(())
    }
}

/// Enough for a kubelet, a few scrapers, and the console.
const OPERATIONS_CONNECTIONS: usize = 64;
