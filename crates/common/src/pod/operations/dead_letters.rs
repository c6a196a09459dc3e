//! `/operations/dead-letters`: grouped, searched, shown byte for byte, redriven and discarded.

use axum::{
    Json,
    extract::{Path, State},
    http::{StatusCode, Uri},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bus::dead_letters::{
    self, DeadLetter,
    acts::{self, Act, Operator, Selection},
    audit::{self, AuditRecord},
    search::{self, Filter, Found, Groups},
};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    input::{Wanted, checked, limit, query},
    state::Operations,
};
use crate::pod::{body::Fields, problem::Problem};

/// The query of a search.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Search {
    queue_group: Option<String>,
    subject: Option<String>,
    reason: Option<String>,
    text: Option<String>,
    /// The `next` of an earlier answer.
    after: Option<i64>,
    limit: Option<i64>,
}

/// The newest dead letters, by queue group, subject and reason.
pub(super) async fn groups(State(service): State<Operations>) -> Result<Json<Groups>, Problem> {
    Ok(Json(service.pool.run(async |connection| search::groups(connection).await).await?))
}

/// Dead letters that match, newest first.
pub(super) async fn search(
    State(service): State<Operations>,
    uri: Uri,
) -> Result<Json<Found>, Problem> {
    let Search { queue_group, subject, reason, text, after, limit: most } = query(&uri)?;
    let filter = checked(Filter { queue_group, subject, reason, text })?;
    let most = limit(most)?;
    let found = async |connection: &mut PgConnection| {
        search::search(connection, &filter, after, most).await
    };
    Ok(Json(service.pool.run(found).await?))
}

/// One dead letter, byte for byte.
pub(super) async fn show(
    State(service): State<Operations>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let missing =
        || Problem::new(StatusCode::NOT_FOUND, "There is no dead letter with this number.");
    let id: i64 = id.parse().map_err(|_| missing())?;
    let found = async |connection: &mut PgConnection| dead_letters::show(connection, id).await;
    let letter = service.pool.run(found).await?;
    letter.map(|letter| Json(whole(&letter))).ok_or_else(missing)
}

fn whole(letter: &DeadLetter) -> Value {
    let at = |at: OffsetDateTime| at.format(&Rfc3339).ok();
    json!({
        "id": letter.id,
        "queueGroup": letter.queue_group,
        "eventId": letter.event_id,
        "subject": letter.subject,
        "stream": letter.stream,
        "streamSequence": letter.stream_sequence,
        "copies": letter.copies,
        "sequences": letter.sequences,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "clientId": letter.client_id,
        "deadAt": at(letter.dead_at),
        "lastAt": at(letter.last_at),
        "redriveAt": letter.redrive_at.and_then(at),
        "headers": letter.headers,
        "payloadBase64": STANDARD.encode(&letter.payload),
    })
}

/// The acts of operators, newest first.
pub(super) async fn acts(
    State(service): State<Operations>,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    #[derive(Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Page {
        after: Option<i64>,
        limit: Option<i64>,
    }
    let Page { after, limit: most } = query(&uri)?;
    let most = limit(most)?;
    let read =
        async |connection: &mut PgConnection| audit::newest(connection, after, most + 1).await;
    let mut found: Vec<AuditRecord> = service.pool.run(read).await?;
    let size = usize::try_from(most).unwrap_or(usize::MAX);
    let more = found.len() > size;
    found.truncate(size);
    let next = found.last().filter(|_| more).map(|last| last.id);
    Ok(Json(json!({ "acts": found, "next": next })))
}

/// Returns dead letters to the group in which they failed.
pub(super) async fn redrive(
    State(service): State<Operations>,
    fields: Fields,
) -> Result<Json<Value>, Problem> {
    act(&service, Act::Redrive, fields).await
}

/// Deletes dead letters.
pub(super) async fn discard(
    State(service): State<Operations>,
    fields: Fields,
) -> Result<Json<Value>, Problem> {
    act(&service, Act::Discard, fields).await
}

/// Acts on part of the selection, or counts that part for a dry run. With `next` in the answer, the selection
/// continues after that number: ask again with it as `after`, and with the `upTo` of this answer.
async fn act(service: &Operations, act: Act, fields: Fields) -> Result<Json<Value>, Problem> {
    let Wanted { by, mut selection, up_to, dry_run } = Wanted::read(fields)?;
    let operator = Operator { name: by, via: service.client_id.to_string() };
    let work = async |tx: &mut PgConnection| {
        let newest = match up_to {
            Some(up_to) => up_to,
            None => acts::newest(tx).await?,
        };
        if let Selection::Filter { up_to, .. } = &mut selection {
            *up_to = newest;
        }
        let selected = acts::select(tx, act, &selection).await?;
        let letters = if dry_run || selected.ids.is_empty() {
            i64::try_from(selected.ids.len()).unwrap_or(i64::MAX)
        } else {
            acts::act(tx, act, &selected.ids, &operator, &selection).await?
        };
        Ok::<_, sqlx::Error>((letters, selected.next, newest))
    };
    let (letters, next, up_to) = service.pool.transaction(work).await?;
    if !dry_run && letters > 0 {
        tracing::warn!(act = %act, operator = operator.name, letters, "an operator acted on dead letters");
    }
    Ok(Json(json!({ "letters": letters, "next": next, "upTo": up_to, "dryRun": dry_run })))
}
