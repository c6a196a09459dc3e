//! `GET /api/orders/{id}`.

use axum::{Json, extract::State};
use common::pod::responses::CallerResponses;
use common::{
    events::order::Order,
    pod::{auth::Caller, page::PathId, problem::Problem},
};
use sqlx::PgConnection;

use super::api::{Api, no_order};
use crate::store::orders;

/// Read one of your orders.
#[utoipa::path(
    get,
    path = "/api/orders/{id}",
    tag = "orders",
    security(("buyer" = [])),
    params(
        ("id" = Uuid, Path, description = "The order's id.",
            example = "01936b2e-7c00-7000-8000-000000000002")
    ),
    responses(
        (status = 200, description = "The order.", body = Order),
        (status = 400, description = "The id is not a UUID.",
            body = Problem, content_type = "application/problem+json"),
        CallerResponses,
        (status = 404, description = "You have no order with this id.",
            body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn read(
    State(api): State<Api>,
    buyer: Caller,
    PathId(id): PathId,
) -> Result<Json<Order>, Problem> {
    let find =
        async |connection: &mut PgConnection| orders::find(connection, id, buyer.as_str()).await;
    let order = api.pool.run(find).await?;
    order.map(Json).ok_or_else(no_order)
}
