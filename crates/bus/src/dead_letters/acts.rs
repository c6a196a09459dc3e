//! The acts of operators on dead letters, and the audit record of each: who, when, and on which events. The act and its
//! record are one transaction. A large selection takes several acts of at most [`AT_ONCE`] dead letters, because
//! each has to fit into the time of one statement.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::{
    Which,
    search::{Filter, LOOKED_AT, SEARCHED_BYTES, fits},
};
use crate::text::storable;

/// The most dead letters of one act.
pub const AT_ONCE: usize = 1_000;

/// An operator's act on dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// Return them to the group in which they failed, which tries them again.
    Redrive,
    /// Delete them permanently.
    Discard,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redrive => "redrive",
            Self::Discard => "discard",
        })
    }
}

/// Who acts.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The name that the operator gave.
    pub name: String,
    /// The process that acts for them.
    pub via: String,
}

/// Dead letters to act on.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Selection {
    /// Those with these numbers, at most [`AT_ONCE`] of them.
    Ids(Vec<i64>),
    /// Those that fit a filter, in the order of their numbers.
    Filter {
        /// The condition.
        filter: Filter,
        /// Numbers above this one.
        after: i64,
        /// Numbers up to this one, so that later arrivals are left alone.
        up_to: i64,
    },
}

/// Dead letters that were selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// Their numbers, at most [`AT_ONCE`].
    pub ids: Vec<i64>,
    /// The number after which the selection continues; `None` when that was all.
    pub next: Option<i64>,
}

/// The number of the newest dead letter; 0 when there is none.
///
/// # Errors
/// Any database error.
pub async fn newest(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select coalesce(max(id), 0) from bus.dead_letters")
        .fetch_one(connection)
        .await
}

/// Finds the dead letters of a selection. With a filter, a redrive skips those already redriven and waiting.
///
/// # Errors
/// Any database error.
pub async fn select(
    connection: &mut PgConnection,
    act: Act,
    selection: &Selection,
) -> Result<Selected, sqlx::Error> {
    let limit = i64::try_from(AT_ONCE).unwrap_or(i64::MAX);
    let (filter, after, up_to) = match selection {
        Selection::Ids(ids) => {
            let found = "select id from bus.dead_letters where id = any($1) order by id limit $2";
            let found = sqlx::query_scalar(found).bind(ids).bind(limit);
            let ids = found.fetch_all(connection).await?;
            return Ok(Selected { ids, next: None });
        }
        Selection::Filter { filter, after, up_to } => (filter, *after, *up_to),
    };
    let (looked_at, last): (i64, Option<i64>) = sqlx::query_as(LOOK)
        .bind(after)
        .bind(filter.text.is_some())
        .bind(up_to)
        .bind(LOOKED_AT)
        .bind(SEARCHED_BYTES)
        .fetch_one(&mut *connection)
        .await?;
    let Some(last) = last else { return Ok(Selected { ids: Vec::new(), next: None }) };
    let ids: Vec<i64> = sqlx::query_scalar(concat!(
        "select id from bus.dead_letters
         where id > $1 and id <= $6 and (not $7 or redrive_at is null) and ",
        fits!(),
        " order by id limit $8"
    ))
    .bind(after)
    .bind(&filter.queue_group)
    .bind(&filter.subject)
    .bind(&filter.reason)
    .bind(&filter.text)
    .bind(last)
    .bind(act == Act::Redrive)
    .bind(limit)
    .fetch_all(&mut *connection)
    .await?;
    let full = ids.len() == AT_ONCE;
    let reached = if full { ids.last().copied().unwrap_or(last) } else { last };
    let more = full || looked_at > 0 && reached < up_to;
    Ok(Selected { ids, next: more.then_some(reached) })
}

/// How many dead letters a selection reads, in the order of their numbers, and the number of the last one. $2: whether
/// their payloads are searched; $4: [`LOOKED_AT`]; $5: [`SEARCHED_BYTES`].
const LOOK: &str = "
    select count(*), max(id)
    from (select id, sum(bytes) over (order by id) - bytes as before
          from (select id, octet_length(payload)::bigint as bytes from bus.dead_letters
                where id > $1 and id <= $3 order by id limit $4) as next) as looked_at
    where not $2 or before < $5";

/// An act and its audit record in one statement. Locks in the order of numbers, so that two operators wait for one
/// another instead of deadlocking.
macro_rules! act_sql {
    ($act:literal) => {
        concat!(
            "with chosen as materialized (
                 select id from bus.dead_letters where id = any($1) order by id for update),
             done as (",
            $act,
            " returning letter.id, letter.event_id, letter.queue_group, letter.subject, letter.reason),
             record as (
                 insert into bus.operator_acts (act, operator, via, selection, letters)
                 select $2::text, $3::text, $4::text, $5::jsonb, count(*) from done having count(*) > 0 returning id),
             of_record as (
                 insert into bus.operator_act_letters (act, dead_letter, event_id, queue_group, subject, reason)
                 select record.id, done.id, event_id, queue_group, subject, reason from done, record)
             select count(*) from done"
        )
    };
}

/// The statement of an act on the dead letters whose numbers are $1.
fn statement(act: Act) -> &'static str {
    match act {
        Act::Redrive => act_sql!(
            "update bus.dead_letters as letter set redrive_at = clock_timestamp()
             from chosen where letter.id = chosen.id"
        ),
        Act::Discard => act_sql!(
            "delete from bus.dead_letters as letter using chosen where letter.id = chosen.id"
        ),
    }
}

/// Acts on the dead letters with these numbers that are still there. `asked` is the selection that they come from,
/// for the audit record. Returns how many there were.
///
/// # Errors
/// Any database error. Then nothing was done.
pub async fn act(
    connection: &mut PgConnection,
    act: Act,
    ids: &[i64],
    operator: &Operator,
    asked: &Selection,
) -> Result<i64, sqlx::Error> {
    let asked = match asked {
        // Only their count: the record lists the dead letters anyway.
        Selection::Ids(_) => json!({ "ids": ids.len() }),
        filter => serde_json::to_value(filter).unwrap_or_default(),
    };
    run(connection, act, ids, operator, &asked).await
}

/// Acts on one dead letter, or on all that there are now, [`AT_ONCE`] at a time. With the previous release's tables,
/// nothing is recorded.
///
/// # Errors
/// Any database error. With [`Which::All`], those with the lowest numbers may be done; acting again continues.
pub async fn act_on(
    connection: &mut PgConnection,
    act: Act,
    which: Which,
    operator: &Operator,
) -> Result<i64, sqlx::Error> {
    let recorded: bool = sqlx::query_scalar("select to_regclass('bus.operator_acts') is not null")
        .fetch_one(&mut *connection)
        .await?;
    if !recorded {
        let done = match act {
            Act::Redrive => super::redrive(connection, which).await?,
            Act::Discard => super::discard(connection, which).await?,
        };
        return Ok(i64::try_from(done).unwrap_or(i64::MAX));
    }
    let (mut after, up_to) = match which {
        Which::One(id) => {
            return run(connection, act, &[id], operator, &json!({ "ids": 1 })).await;
        }
        Which::All => (0, newest(connection).await?),
    };
    let page = "select id from bus.dead_letters where id > $1 and id <= $2 order by id limit $3";
    let limit = i64::try_from(AT_ONCE).unwrap_or(i64::MAX);
    let mut done = 0;
    loop {
        let page = sqlx::query_scalar(page).bind(after).bind(up_to).bind(limit);
        let ids: Vec<i64> = page.fetch_all(&mut *connection).await?;
        let Some(last) = ids.last() else { return Ok(done) };
        after = *last;
        done += run(connection, act, &ids, operator, &json!({ "all": true })).await?;
    }
}

async fn run(
    connection: &mut PgConnection,
    act: Act,
    ids: &[i64],
    operator: &Operator,
    asked: &serde_json::Value,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(statement(act))
        .bind(ids)
        .bind(act.to_string())
        .bind(storable(&operator.name))
        .bind(&operator.via)
        .bind(asked)
        .fetch_one(connection)
        .await
}
