//! `POST /api/orders/{id}/payment`. Authorizes the payment at the provider, then completes the
//! order unless it was cancelled or has expired. The capture follows the commit.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use common::pod::responses::{BodyResponses, CallerResponses};
use common::{
    events::order::{Order, Payment},
    pod::{auth::Caller, body::Fields, page::PathId, problem::Problem},
};
use serde::Serialize;
use sqlx::PgConnection;
use tokio::time::timeout;
use tracing::warn;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    api::{Api, no_order},
    change::{NotChanged, change},
};
use crate::{
    order::{self, Transition},
    payment::{Charge, NotAuthorized},
    store::orders,
};

/// How long the provider may take to authorize, and to void. Together with the time that a healthy
/// database takes, it is below the HTTP middleware's timeout for a whole request, so that the
/// client gets the decision as its answer.
const AUTHORIZE_TIMEOUT: Duration = Duration::from_secs(5);
const VOID_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest token, in characters.
const MAX_TOKEN: usize = 200;

/// A payment.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "token": "tok_visa" }))]
pub(super) struct NewPayment {
    /// The means of payment: a token that the provider issued to the buyer. The fake provider accepts any
    /// except `tok_declined` and `tok_unreachable`.
    #[schema(min_length = 1, max_length = 200, pattern = "^[!-~]{1,200}$")]
    token: String,
}

impl NewPayment {
    fn parse(mut fields: Fields) -> Result<Self, Problem> {
        let token = fields.required::<String>("token");
        let fits = |token: &String| {
            (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic())
        };
        if token.as_ref().is_some_and(|token| !fits(token)) {
            fields.refuse("token", format!("must have 1-{MAX_TOKEN} visible ASCII characters"));
        }
        fields.finish(token.map(|token| Self { token }))
    }
}

/// Pay for an order.
///
/// Completes the order, sells its ticket, and publishes `order:completed`. The amount is the order's
/// price. A completed order is returned as it is: nothing is charged twice. If the payment is declined,
/// the order stays reserved and can be paid with another token.
#[utoipa::path(
    post,
    path = "/api/orders/{id}/payment",
    tag = "orders",
    security(("buyer" = [])),
    params(
        ("id" = Uuid, Path, description = "The order's id.",
            example = "01936b2e-7c00-7000-8000-000000000002")
    ),
    request_body = NewPayment,
    responses(
        (status = 200, description = "The order is completed, by this request or an earlier one.", body = Order),
        (status = 400, description = "The id is not a UUID, or the body is not a JSON object.",
            body = Problem, content_type = "application/problem+json"),
        CallerResponses,
        (status = 402, description = "The payment was declined.",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "You have no order with this id.",
            body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The order was cancelled, or has expired. Nothing is charged.",
            body = Problem, content_type = "application/problem+json"),
        BodyResponses,
        (status = 422, description = "Fields are invalid, missing or unknown.",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The payment provider or the database is unavailable, or the service is overloaded. Retry with the same token.",
            body = Problem, content_type = "application/problem+json",
            headers(("Retry-After" = String, description = "Seconds to wait."))),
    )
)]
pub(super) async fn pay(
    State(api): State<Api>,
    buyer: Caller,
    PathId(id): PathId,
    fields: Fields,
) -> Result<Json<Order>, Problem> {
    let NewPayment { token } = NewPayment::parse(fields)?;
    let Some(order) = payable(&api, id, &buyer).await? else { return Err(no_order()) };
    if order.payment.is_some() {
        return Ok(Json(order));
    }
    let charge = Charge { order_id: id, amount: order.price, token: &token };
    let payment = authorize(&api, charge).await?;
    match change(&api, id, &buyer, Transition::Pay(payment.clone())).await {
        Ok(paid) => {
            // Another payment won the race. A repetition of the same one is the payment that
            // completed the order.
            if paid.payment.as_ref() != Some(&payment) {
                void(&api, id, &payment).await;
            }
            Ok(Json(paid))
        }
        Err(NotChanged::Refused(refused)) => {
            void(&api, id, &payment).await;
            let detail = format!("{refused} Nothing is charged.");
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
        // The commit may have succeeded, so the payment must stand. If not, its authorization
        // lapses.
        Err(NotChanged::Failed(unknown)) => Err(unknown),
    }
}

/// Returns the order if it can be paid or is paid already, to save useless calls to the provider.
/// `None` if it does not exist.
async fn payable(api: &Api, id: Uuid, buyer: &Caller) -> Result<Option<Order>, Problem> {
    let find = async |connection: &mut PgConnection| {
        let order = orders::find(connection, id, buyer.as_str()).await?;
        Ok::<_, sqlx::Error>(order.zip(Some(orders::now(connection).await?)))
    };
    let Some((order, now)) = api.pool.run(find).await? else { return Ok(None) };
    let nothing = Payment { amount: order.price, reference: String::new() };
    match order::decide(&order, Transition::Pay(nothing), now) {
        Ok(_) => Ok(Some(order)),
        Err(refused) => Err(Problem::new(StatusCode::CONFLICT, refused.to_string())),
    }
}

async fn authorize(api: &Api, charge: Charge<'_>) -> Result<Payment, Problem> {
    let authorized = timeout(AUTHORIZE_TIMEOUT, api.provider.authorize(charge)).await;
    let failed = match authorized {
        Ok(Ok(payment)) => return Ok(payment),
        Ok(Err(NotAuthorized::Declined(reason))) => {
            let detail = format!("The payment was declined: {reason}. The ticket stays reserved.");
            return Err(Problem::new(StatusCode::PAYMENT_REQUIRED, detail));
        }
        Ok(Err(NotAuthorized::Failed(error))) => format!("{error:#}"),
        Err(_) => format!("no answer within {} s", AUTHORIZE_TIMEOUT.as_secs()),
    };
    warn!(order.id = %charge.order_id, error = failed, "the payment provider failed");
    let detail = "The payment provider cannot be reached. Nothing is charged: pay again with the same token.";
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail))
}

/// Voids an authorization that completed no order. If that fails, the authorization lapses on
/// its own.
async fn void(api: &Api, id: Uuid, payment: &Payment) {
    let voided = timeout(VOID_TIMEOUT, api.provider.void(payment)).await;
    let error = match voided {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "no answer".to_owned(),
    };
    warn!(order.id = %id, payment.reference, error, "cannot void the authorization, which lapses on its own");
}
