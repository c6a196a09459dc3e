//! `GET /api/orders`: a buyer's orders, page by page.

use axum::{Json, extract::State};
use common::pod::responses::{CallerResponses, PageResponses};
use common::{
    events::order::Order,
    pod::{auth::Caller, page::PageQuery, problem::Problem},
};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::api::Api;
use crate::store::orders;

/// A page of orders.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OrderPage {
    /// The orders, newest first.
    #[schema(max_items = 100)]
    orders: Vec<Order>,
    /// The cursor of the next page, to be sent as `after`; null on the last page.
    #[schema(required = true)]
    next: Option<String>,
}

/// List your orders.
///
/// Newest first, in every state. Follow `next` until it is null.
#[utoipa::path(
    get,
    path = "/api/orders",
    tag = "orders",
    security(("buyer" = [])),
    params(PageQuery),
    responses(
        (status = 200, description = "A page of orders.", body = OrderPage),
        (status = 400, description = "Authorization was given more than once.",
            body = Problem, content_type = "application/problem+json"),
        CallerResponses,
        PageResponses,
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    buyer: Caller,
    query: PageQuery,
) -> Result<Json<OrderPage>, Problem> {
    let page = async |connection: &mut PgConnection| {
        orders::page(connection, buyer.as_str(), query.after, query.rows()).await
    };
    let mut orders = api.pool.run(page).await?;
    let next = query.cut(&mut orders, |order| order.id);
    Ok(Json(OrderPage { orders, next }))
}
