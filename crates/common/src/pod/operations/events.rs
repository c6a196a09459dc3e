//! `/operations/events`: the events that this service committed about an entity, and their outcome in its groups.

use axum::{Json, extract::State, http::Uri};
use bus::timeline::{
    LONGEST_ENTITY, newest,
    published::{self, Page},
    received::{self, MAX_EVENTS},
};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{input::query, state::Operations};
use crate::pod::{body::Fields, page::bad_request, problem::Problem};

/// The events that this service committed about an entity, and where they were published.
pub(super) async fn published(
    State(service): State<Operations>,
    uri: Uri,
) -> Result<Json<Page>, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        entity: String,
        after: Option<i64>,
    }
    let Wanted { entity, after } = query(&uri)?;
    if !(1..=LONGEST_ENTITY).contains(&entity.chars().count()) {
        return Err(bad_request("entity", &format!("must have 1 to {LONGEST_ENTITY} characters")));
    }
    Ok(Json(published::events(&service.pool, &service.bus, &entity, after).await?))
}

/// The newest events that this service committed to one of its streams.
pub(super) async fn newest(
    State(service): State<Operations>,
    uri: Uri,
) -> Result<Json<newest::Page>, Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        stream: String,
        after: Option<String>,
        limit: Option<i64>,
    }
    let Wanted { stream, after, limit } = query(&uri)?;
    if !service.streams.iter().any(|known| known.name == stream) {
        return Err(bad_request("stream", "must be one that this service publishes to"));
    }
    let before = after.map(|text| text.parse::<newest::Place>()).transpose();
    let before = before.map_err(|error| bad_request("after", &error.to_string()))?;
    let limit = limit.unwrap_or(100);
    if !(1..=newest::MAX_EVENTS).contains(&limit) {
        return Err(bad_request("limit", &format!("must be 1 to {}", newest::MAX_EVENTS)));
    }
    let read = async |connection: &mut PgConnection| {
        newest::events(connection, &stream, before, limit).await
    };
    Ok(Json(service.pool.run(read).await?))
}

/// The records that this service's queue groups have of these events. A POST because of the size of its body; it
/// changes nothing.
pub(super) async fn received(
    State(service): State<Operations>,
    mut fields: Fields,
) -> Result<Json<Value>, Problem> {
    let ids = fields.required::<Vec<Uuid>>("ids");
    if ids.as_ref().is_some_and(|ids| !(1..=MAX_EVENTS).contains(&ids.len())) {
        fields.refuse("ids", format!("must be 1 to {MAX_EVENTS} event ids"));
    }
    let mut ids = fields.finish(ids)?;
    ids.sort_unstable();
    ids.dedup();
    let read = async |connection: &mut PgConnection| {
        received::events(connection, &service.queue_groups, &ids).await
    };
    let received = service.pool.run(read).await?;
    Ok(Json(json!({ "queueGroups": service.queue_groups, "received": received })))
}
