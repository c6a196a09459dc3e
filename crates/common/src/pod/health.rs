//! How a process reports its health: `/livez`, `/readyz` and `/metrics`.
//!
//! Liveness never checks a dependency: a restart does not fix an unreachable database. Readiness is
//! a set of named gates, each opened and closed by the task that knows.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;

/// The process's readiness. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Health {
    gates: Arc<Mutex<BTreeMap<&'static str, Gate>>>,
}

#[derive(Debug, Clone, Serialize)]
struct Gate {
    ready: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

impl Health {
    /// Opens a gate: that part is ready.
    pub fn ready(&self, gate: &'static str) {
        self.set(gate, Gate { ready: true, reason: String::new() });
    }

    /// Closes a gate, with the reason that `/readyz` shows.
    pub fn not_ready(&self, gate: &'static str, reason: impl Into<String>) {
        self.set(gate, Gate { ready: false, reason: reason.into() });
    }

    /// Returns whether every gate is open.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.snapshot().values().all(|gate| gate.ready)
    }

    fn set(&self, name: &'static str, gate: Gate) {
        metrics::gauge!("process_ready", "gate" => name).set(f64::from(u8::from(gate.ready)));
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).insert(name, gate);
    }

    fn snapshot(&self) -> BTreeMap<&'static str, Gate> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The routes `/livez`, `/readyz` and `/metrics`.
pub fn routes(health: Health, metrics: PrometheusHandle) -> Router {
    let readyz = move || {
        let gates = health.snapshot();
        let ready = gates.values().all(|gate| gate.ready);
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        async move { (status, Json(serde_json::json!({ "ready": ready, "gates": gates }))) }
    };
    let scrape = move || {
        let text = metrics.render();
        async move {
            ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
    };
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
}
