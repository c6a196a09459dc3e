//! `GET /api/tickets`: pages by cursor, newest first. A ticket made meanwhile never moves the
//! pages that follow, because a cursor names a ticket and not a count.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use common::{
    events::ticket::Ticket,
    pod::problem::{FieldError, Problem},
};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use crate::store;

/// The most tickets of one page.
const MAX_LIMIT: i64 = 100;
/// The tickets of one page when the client does not say.
const DEFAULT_LIMIT: i64 = 20;

/// A page of tickets.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page {
    /// The tickets, newest first.
    #[schema(max_items = 100)]
    tickets: Vec<Ticket>,
    /// The cursor of the next page, to be sent as `after`; null on the last page.
    #[schema(required = true)]
    next: Option<String>,
}

/// List tickets.
///
/// Newest first. Follow `next` until it is null.
#[utoipa::path(
    get,
    path = "/api/tickets",
    tag = "tickets",
    params(
        ("limit" = Option<i64>, Query, description = "The most tickets of the page.",
            minimum = 1, maximum = 100),
        ("after" = Option<String>, Query, description = "The cursor: `next` of the page before.",
            pattern = "^[0-9a-f]{32}$"),
    ),
    responses(
        (status = 200, description = "A page of tickets.", body = Page),
        (status = 422, description = "A parameter is wrong or unknown.",
            body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let Ok(Query(parameters)) = query else {
        return Err(Problem::invalid(vec![error("query", "must be pairs of name and value")]));
    };
    let Asked { limit, after } = Asked::parse(parameters)?;
    // One more than asked for: that there is one tells that there is a next page.
    let mut tickets = store::page(&mut *api.pool.acquire().await?, after, limit + 1).await?;
    let size = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = tickets.len() > size;
    tickets.truncate(size);
    let last = tickets.last().filter(|_| more);
    let next = last.map(|ticket| ticket.id.simple().to_string());
    Ok(Json(Page { tickets, next }))
}

/// What the query asks for.
struct Asked {
    limit: i64,
    after: Option<Uuid>,
}

impl Asked {
    fn parse(parameters: Vec<(String, String)>) -> Result<Self, Problem> {
        let (mut limit, mut after, mut errors) = (None, None, Vec::new());
        for (name, value) in parameters {
            let given = match name.as_str() {
                "limit" => &mut limit,
                "after" => &mut after,
                _ => {
                    errors.push(error(&name, "is not a parameter of this request"));
                    continue;
                }
            };
            if given.replace(value).is_some() {
                errors.push(error(&name, "must be given once"));
            }
        }
        let limit = limit.map_or(Some(DEFAULT_LIMIT), |text| whole_number(&text));
        let limit = limit.filter(|limit| (1..=MAX_LIMIT).contains(limit));
        if limit.is_none() {
            errors.push(error("limit", "must be a whole number from 1 to 100"));
        }
        let cursor = after.as_deref().map(cursor);
        if matches!(cursor, Some(None)) {
            errors.push(error("after", "must be the next of an earlier page"));
        }
        match limit {
            Some(limit) if errors.is_empty() => Ok(Self { limit, after: cursor.flatten() }),
            _ => Err(Problem::invalid(errors)),
        }
    }
}

/// Digits and nothing else, where `parse` would take a sign as well.
fn whole_number(text: &str) -> Option<i64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The ticket that a cursor names. In one form only, so that nobody comes to rely on another.
fn cursor(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    (id.simple().to_string() == text).then_some(id)
}

fn error(field: &str, message: &str) -> FieldError {
    FieldError { field: field.to_owned(), message: message.to_owned() }
}
