//! The HTTP API: orders at `/api/orders`, the copy of the tickets at `/api/tickets`, the API's
//! description at `/openapi.json` and `/docs`, and the events' description at `/asyncapi.json`.

mod cancel;
mod change;
mod list;
mod pay;
mod read;
mod reserve;
mod tickets;

use std::sync::Arc;

use axum::{Router, extract::FromRef, http::StatusCode};
use common::{
    bus::{Pool, Shutdown, Wake},
    events::asyncapi,
    pod::{
        auth::{self, Auth},
        group_commit::GroupCommit,
        http::{MiddlewareSettings, middleware},
        openapi,
        problem::Problem,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{payment::Provider, reservations::Reservations};

/// The state that all handlers share.
#[derive(Clone)]
pub struct Api {
    /// The service's database.
    pub pool: Pool,
    /// Wakes the relay after a commit.
    pub wake: Wake,
    /// Determines the buyer of a request.
    pub auth: Auth,
    /// The payment provider.
    pub provider: Arc<dyn Provider>,
    /// How tickets are reserved.
    pub reservations: Reservations,
    /// Reserves tickets for requests that arrive together.
    pub group_commit: GroupCommit<Reservations>,
}

impl Api {
    /// Starts what the handlers need.
    #[must_use]
    pub fn start(
        pool: Pool,
        wake: Wake,
        auth: Auth,
        provider: Arc<dyn Provider>,
        reservations: Reservations,
        shutdown: &Shutdown,
    ) -> Self {
        let group_commit = GroupCommit::start(reservations, &pool, &wake, shutdown);
        Self { pool, wake, auth, provider, reservations, group_commit }
    }
}

impl FromRef<Api> for Auth {
    fn from_ref(api: &Api) -> Self {
        api.auth.clone()
    }
}

/// The API and its description, behind the middleware.
pub fn router(api: Api, settings: &MiddlewareSettings) -> Router {
    let (routes, mut description) = OpenApiRouter::new()
        .routes(routes!(reserve::reserve, list::list))
        .routes(routes!(read::read, cancel::cancel))
        .routes(routes!(pay::pay))
        .routes(routes!(tickets::list))
        .routes(routes!(tickets::read))
        .with_state(api)
        .split_for_parts();
    auth::describe(&mut description, "buyer");
    let about =
        "Orders: each reserves a ticket for one buyer, until it is paid, cancelled or expires.";
    let description = openapi::routes(description, "orders", about);
    middleware(routes.merge(description).merge(asyncapi::routes(&crate::EVENTS)), settings)
}

/// 404, also for another buyer's order.
fn no_order() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "You have no order with this id.")
}
