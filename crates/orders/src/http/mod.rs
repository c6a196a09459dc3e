//! The HTTP API: orders at `/api/orders`, the copy of the tickets at `/api/tickets`, the API's
//! description at `/openapi.json` and `/docs`, and the events' description at `/asyncapi.json`.

mod api;
mod cancel;
mod change;
mod list;
mod pay;
mod read;
mod reserve;
mod tickets;

use axum::Router;
use common::{
    events::asyncapi,
    pod::{
        auth,
        http::{MiddlewareSettings, middleware},
        openapi,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::events::EVENTS;

pub use api::Api;

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
    middleware(routes.merge(description).merge(asyncapi::routes(&EVENTS)), settings)
}
