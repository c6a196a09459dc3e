//! The operations API: the console and operators' programs use it to query a service and to act on dead letters.
//! [`Service`](super::service::Service) serves it for every service, at the port for probes and metrics, if
//! `OPERATIONS_API` is on.
//!
//! - It is never at the port of the public API, and does not answer browsers: it is only for programs.
//! - Reading needs no token; its cost is bounded, however large the tables. Acting needs `OPERATIONS_TOKEN`.
//! - Every act is recorded, with the name that the operator gave: [`bus::dead_letters::audit`].

mod dead_letters;
mod events;
mod guard;
mod input;
mod state;

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    middleware::from_fn_with_state,
    routing::{get, post},
};
use bus::{BusError, Pool, Shutdown, dead_letters::audit};
use futures::FutureExt;
use serde_json::{Value, json};

use super::{
    bearer::Bearer,
    config::{HttpSettings, OperationsSettings, Switch},
    http::{Http, MiddlewareSettings, middleware},
    periodic::{self, Batch},
};
use guard::{Callers, programs_only, token_required};

pub use input::{LONGEST_NAME, LONGEST_TEXT};
pub(crate) use state::Operations;

/// How many requests may be in progress: each may read a few thousand rows, and the database is for the service.
const CONCURRENT: usize = 4;
/// How often to look for old audit records, and how many one statement deletes. Each has up to a thousand rows.
const PRUNE_EVERY: Duration = Duration::from_mins(10);
const PRUNE: i64 = 10;

/// Whether the settings fit together.
///
/// # Errors
/// Why they do not.
pub(crate) fn check(
    settings: &OperationsSettings,
    http: &HttpSettings,
) -> Result<(), &'static str> {
    if settings.operations_api == Switch::On && http.operations_address.is_none() {
        return Err("OPERATIONS_API is on, but OPERATIONS_ADDRESS, where to serve it, is not set");
    }
    Ok(())
}

/// Serves the operations API beside the public API, if it is on.
pub(crate) fn serve(
    http: Http,
    operations: Operations,
    settings: &OperationsSettings,
    ports: &HttpSettings,
) -> Http {
    match (settings.operations_api, ports.operations_address) {
        (Switch::On, Some(address)) => {
            let token = settings.operations_token.as_deref().map(Bearer::new);
            http.with_operations_api(router(operations, token, Callers::at(address)))
        }
        _ => http,
    }
}

/// The routes, behind their guards and the limits that every API has.
fn router(operations: Operations, token: Option<Bearer>, callers: Callers) -> Router {
    let may_act = token.is_some();
    let acting = Router::new()
        .route("/operations/dead-letters/redrive", post(dead_letters::redrive))
        .route("/operations/dead-letters/discard", post(dead_letters::discard))
        .layer(from_fn_with_state(token, token_required));
    let reading = Router::new()
        .route("/operations", get(async move |state| description(state, may_act)))
        .route("/operations/events", get(events::published))
        .route("/operations/events/newest", get(events::newest))
        .route("/operations/events/received", post(events::received))
        .route("/operations/dead-letters", get(dead_letters::search))
        .route("/operations/dead-letters/groups", get(dead_letters::groups))
        .route("/operations/dead-letters/acts", get(dead_letters::acts))
        .route("/operations/dead-letters/{id}", get(dead_letters::show));
    let client_id = operations.client_id.clone();
    let api = reading.merge(acting).with_state(operations);
    let settings = MiddlewareSettings { concurrent: CONCURRENT, origins: Vec::new(), client_id };
    middleware(api, &settings).layer(from_fn_with_state(callers, programs_only))
}

/// Describes the service, and whether acting is enabled.
fn description(State(operations): State<Operations>, may_act: bool) -> Json<Value> {
    let streams: Vec<_> = operations.streams.iter().map(|stream| stream.name).collect();
    Json(json!({
        "service": operations.service,
        "clientId": operations.client_id,
        "streams": streams,
        "queueGroups": operations.queue_groups,
        "mayAct": may_act,
    }))
}

/// Deletes expired audit records until the process stops.
///
/// # Errors
/// Never; the type is what [`Shutdown::spawn`] takes.
pub(crate) async fn prune(pool: Pool, shutdown: Shutdown) -> anyhow::Result<()> {
    periodic::repeat("audit log", PRUNE_EVERY, &pool, shutdown, |connection| {
        async move {
            let pruned = audit::prune(connection, PRUNE).await.map_err(BusError::from)?;
            Ok(Batch::of(pruned, PRUNE.unsigned_abs()))
        }
        .boxed()
    })
    .await
}
