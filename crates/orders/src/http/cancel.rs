//! `DELETE /api/orders/{id}`.

use axum::{Json, extract::State};
use common::pod::responses::CallerResponses;
use common::{
    events::order::Order,
    pod::{auth::Caller, page::PathId, problem::Problem},
};

use super::{
    api::Api,
    change::{NotChanged, change},
};
use crate::order::Transition;

/// Cancel an order.
///
/// Releases its ticket and publishes `order:cancelled`. The order remains, in the state cancelled.
/// Cancelling it again changes nothing.
#[utoipa::path(
    delete,
    path = "/api/orders/{id}",
    tag = "orders",
    security(("buyer" = [])),
    params(
        ("id" = Uuid, Path, description = "The order's id.",
            example = "01936b2e-7c00-7000-8000-000000000002")
    ),
    responses(
        (status = 200, description = "The order is cancelled, by this request or an earlier one.", body = Order),
        (status = 400, description = "The id is not a UUID.",
            body = Problem, content_type = "application/problem+json"),
        CallerResponses,
        (status = 404, description = "You have no order with this id.",
            body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The order was paid, or has expired.",
            body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn cancel(
    State(api): State<Api>,
    buyer: Caller,
    PathId(id): PathId,
) -> Result<Json<Order>, Problem> {
    change(&api, id, &buyer, Transition::Cancel).await.map(Json).map_err(NotChanged::problem)
}
