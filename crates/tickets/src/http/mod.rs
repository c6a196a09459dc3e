//! The HTTP API: `POST` and `GET /api/tickets`, `GET` and `PUT /api/tickets/{id}`, the API's
//! description at `/openapi.json` and `/docs`, and the events' description at `/asyncapi.json`.

mod api;
mod change;
mod conditional;
mod create;
mod list;
mod read;

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
        .routes(routes!(create::create, list::list))
        .routes(routes!(read::read, change::change))
        .with_state(api)
        .split_for_parts();
    auth::describe(&mut description, "seller");
    let description = openapi::routes(description, "tickets", "Tickets, each with a version.");
    middleware(routes.merge(description).merge(asyncapi::routes(&EVENTS)), settings)
}
