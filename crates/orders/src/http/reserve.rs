//! `POST /api/orders`. One transaction stores the order, its event and the answer kept for a
//! repetition; orders that arrive together share it. The database ensures that a ticket has one order, and
//! that no buyer exceeds the limit.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use common::pod::responses::{BodyResponses, CallerResponses};
use common::{
    bus::{TraceContext, outbox},
    events::order::{Order, OrderStatus},
    pod::{
        auth::Caller,
        body::Fields,
        idempotency::{self, Answer, IdempotentRequest, Outcome},
        problem::Problem,
    },
};
use serde::Serialize;
use sqlx::PgConnection;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::info;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{api::Api, tickets::no_ticket};
use crate::{
    order,
    reservations::{Request, Reservations},
    store::{orders, reservations},
};

/// The path of the orders.
const PATH: &str = "/api/orders";

/// A new order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "ticketId": "01936b2e-7c00-7000-8000-000000000001" }))]
pub(super) struct NewOrder {
    /// The ticket.
    ticket_id: Uuid,
}

impl NewOrder {
    fn parse(mut fields: Fields) -> Result<Self, Problem> {
        let ticket_id = fields.required("ticketId");
        fields.finish(ticket_id.map(|ticket_id| Self { ticket_id }))
    }
}

/// Reserve a ticket.
///
/// Publishes `order:created`. The ticket is reserved for this buyer until `expiresAt`, and must be paid
/// by then. The number of tickets that one buyer may have reserved at a time is limited.
/// With an Idempotency-Key, a repetition within 24 hours of a request that was answered 201 gets the same
/// response and creates no second order.
#[utoipa::path(
    post,
    path = "/api/orders",
    tag = "orders",
    security(("buyer" = [])),
    params(("Idempotency-Key" = Option<String>, Header)),
    request_body = NewOrder,
    responses(
        (status = 201, description = "The ticket is reserved, by this request or the first one with this Idempotency-Key.",
            body = Order,
            headers(
                ("Location" = String, description = "The order's path."),
                ("Idempotency-Replayed" = bool, description = "`true` when the first request's answer is repeated."),
            )),
        (status = 400, description = "The body is not a JSON object, or a header is malformed.",
            body = Problem, content_type = "application/problem+json"),
        CallerResponses,
        (status = 404, description = "This service has no ticket with this id. With Retry-After, the id is recent, and the ticket's event may still be on its way.",
            body = Problem, content_type = "application/problem+json",
            headers(("Retry-After" = u64, description = "Seconds to wait."))),
        (status = 409, description = "The ticket is reserved or sold; or you have reached the limit of reservations; or the first request with this Idempotency-Key is still under way.",
            body = Problem, content_type = "application/problem+json",
            headers(("Retry-After" = u64, description = "If you have too many reservations: seconds until the first one ends."))),
        BodyResponses,
        (status = 422, description = "Fields are invalid, missing or unknown; or this Idempotency-Key was used with a different request.",
            body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn reserve(
    State(api): State<Api>,
    buyer: Caller,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response, Problem> {
    let key = idempotency::key(&headers)?;
    let NewOrder { ticket_id } = NewOrder::parse(fields)?;
    let request =
        key.map(|key| IdempotentRequest::new(buyer.own_key(&key), &ticket_id.to_string()));

    let item =
        Request { ticket_id, buyer: buyer.as_str().to_owned(), trace: TraceContext::current() };
    let alone = async |tx: &mut PgConnection| make(tx, &api, &buyer, ticket_id).await;
    let (answer, event_id) = match api.group_commit.once(request.as_ref(), item, alone).await? {
        Outcome::Made(answer, event_id) => (answer, event_id),
        Outcome::Replayed(answer) => return Ok(answer.replayed(PATH)),
    };
    info!(
        notice = "order_created",
        order.id = %answer.resource_id,
        ticket.id = %ticket_id,
        event.id = %event_id,
        "order created",
    );
    Ok(answer.created(PATH))
}

/// Creates the order in a transaction of its own. Returns the answer and the event's id.
async fn make(
    tx: &mut PgConnection,
    api: &Api,
    buyer: &Caller,
    ticket_id: Uuid,
) -> Result<(Answer, Uuid), Problem> {
    let Reservations { time, limit } = api.reservations;
    let most = limit.most();
    let limited = most.map(|_| buyer.as_str());
    let price = reservations::price(tx, ticket_id, limited).await?;
    let (price, now) = price.ok_or_else(|| no_ticket(ticket_id))?;
    let order = order::reserve(ticket_id, buyer.as_str(), price, now, time);
    if reservations::insert(tx, &[&order], most).await?.is_empty() {
        return Err(refused(tx, ticket_id, buyer, most, now).await?);
    }
    let body = serde_json::to_string(&order).map_err(|error| Problem::internal(&error.into()))?;
    let answer = Answer { resource_id: order.id, body };
    let event = order::event(order)?;
    outbox::put_prepared(tx, [&event]).await?;
    Ok((answer, event.id))
}

/// Returns why nothing was stored.
async fn refused(
    tx: &mut PgConnection,
    ticket_id: Uuid,
    buyer: &Caller,
    most: Option<i64>,
    now: OffsetDateTime,
) -> Result<Problem, Problem> {
    let by = orders::of_ticket(tx, ticket_id).await?;
    if let (None, Some(most)) = (&by, most)
        && let Some(until) = reservations::full_until(tx, buyer.as_str(), most, now).await?
    {
        return Ok(too_many(most, until, now));
    }
    Ok(taken(by, buyer, now))
}

/// Tells the buyer to pay, to cancel or to wait.
fn too_many(most: i64, until: OffsetDateTime, now: OffsetDateTime) -> Problem {
    let detail = format!(
        "One buyer may have {most} tickets reserved at a time, and you have reached that limit. Pay for \
         one of your orders or cancel one; the first expires at {}.",
        until.format(&Rfc3339).unwrap_or_default()
    );
    let seconds = u64::try_from((until - now).whole_seconds()).unwrap_or_default() + 1;
    Problem::new(StatusCode::CONFLICT, detail).retry_after(seconds)
}

/// Tells why the ticket is unavailable. Only its own buyer learns who has it.
fn taken(by: Option<Order>, buyer: &Caller, now: OffsetDateTime) -> Problem {
    let detail = match by {
        Some(order) if order.buyer == buyer.as_str() => match order.status {
            OrderStatus::Completed => {
                format!("You have already bought this ticket with order {}.", order.id)
            }
            _ => format!("You have already reserved this ticket with order {}.", order.id),
        },
        Some(order) if order.status == OrderStatus::Completed => "The ticket is sold.".to_owned(),
        Some(order) if order.expires_at > now => format!(
            "The ticket is reserved until {}. If it is not paid by then, it becomes available again.",
            order.expires_at.format(&Rfc3339).unwrap_or_default()
        ),
        // The ticket was given back between the two statements, or its order is about to expire.
        _ => {
            let detail = "The ticket was reserved a moment ago. Try again.";
            return Problem::new(StatusCode::CONFLICT, detail).retry_after(1);
        }
    };
    Problem::new(StatusCode::CONFLICT, detail)
}
