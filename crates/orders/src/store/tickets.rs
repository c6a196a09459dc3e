//! The copy of the tickets: the newest state received of each.

use common::{
    columns::{self, Columns},
    events::{as_received::State, money::Price, ticket::Ticket},
};
use serde::{Serialize, Serializer};
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

common::columns! {
    /// The columns written for a ticket. Fields that this service computes with have a column; all others
    /// are in `state`, and one that the tickets service adds needs no change here.
    pub(super) struct Written {
        id: Uuid,
        version: i32,
        price: Price,
        state: State,
        state_version: i32,
        event_id: Uuid,
        processed_by: String,
    }
}

common::statements! {
    /// Keeps the newest state of each ticket. `distinct on` leaves one state per ticket, because a
    /// statement may not change a row twice. Sorting by id makes two batches with the same tickets
    /// wait for one another instead of deadlocking.
    UPSERT = {
        // Without the id: a statement that sets a key takes the lock that an order's foreign key waits for.
        let changed: Vec<_> = Written::NAMES.iter().filter(|name| **name != "id").collect();
        let list = |table: &str| {
            changed.iter().map(|name| format!("{table}{name}")).collect::<Vec<_>>().join(", ")
        };
        format!(
        "insert into tickets ({names})
         select distinct on (id) * from {received} order by id, version desc
         on conflict (id) do update
         set ({changed}, processed_at) = row({excluded}, excluded.processed_at)
         where tickets.version < excluded.version",
            names = columns::names::<Written>(),
            changed = list(""),
            received = columns::unnest::<Written>(1, "received"),
            excluded = list("excluded."),
        )
    };
    /// A page of tickets.
    PAGE = select("where id < $1 order by id desc limit $2");
    /// One ticket.
    FIND = select("where id = $1");
}

/// Reads a [`KnownTicket`]. A row from before 0.1.0 has no `state`: it is then built from the columns that were
/// written instead.
fn select(rest: &str) -> String {
    let time = |column| {
        format!("to_char({column} at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
    };
    format!(
        "select id, event_id, processed_by, processed_at,
                case when state_version = version then state else json_strip_nulls(json_build_object(
                    'id', id, 'title', title, 'price', price, 'version', version,
                    'createdAt', {created_at}, 'updatedAt', {updated_at}, 'seller', seller,
                    'hold', case when hold is not null then json_build_object(
                        'orderId', hold->'order_id', 'status', hold->'status') end)) end as state
         from tickets {rest}",
        created_at = time("created_at"),
        updated_at = time("updated_at"),
    )
}

/// A ticket's state as an event carried it.
#[derive(Debug, Clone, Copy)]
pub struct Copied<'a> {
    /// The state.
    pub ticket: &'a Ticket,
    /// The same state, with the fields that this release does not know.
    pub state: &'a State,
    /// The event.
    pub event_id: Uuid,
    /// The queue group member that handled the event.
    pub processed_by: &'a str,
}

/// Keeps the newer of the stored and the given state, ticket by ticket.
///
/// # Errors
/// Any database error.
pub async fn upsert_if_newer(
    tx: &mut PgConnection,
    copies: &[Copied<'_>],
) -> Result<(), sqlx::Error> {
    let written: Vec<Written> = copies.iter().map(Written::from).collect();
    let written: Vec<&Written> = written.iter().collect();
    Written::bind(&written, sqlx::query(&UPSERT)).execute(tx).await?;
    Ok(())
}

impl From<&Copied<'_>> for Written {
    fn from(copied: &Copied<'_>) -> Self {
        let ticket = copied.ticket;
        Self {
            id: ticket.id,
            version: ticket.version,
            price: ticket.price,
            state: copied.state.clone(),
            state_version: ticket.version,
            event_id: copied.event_id,
            processed_by: copied.processed_by.to_owned(),
        }
    }
}

/// A ticket as this service knows it: the state that the tickets service published, including fields
/// that this release does not know, and how it was received.
#[derive(Debug, Clone, Serialize, FromRow, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KnownTicket {
    /// The ticket's id, the same in every service.
    #[serde(skip)]
    #[schema(ignore)]
    pub id: Uuid,
    /// The state.
    #[serde(flatten, serialize_with = "without_added_names")]
    #[schema(value_type = Ticket)]
    pub state: State,
    /// The event that brought this version.
    pub event_id: Uuid,
    /// The client id of the queue group member that handled the event.
    pub processed_by: String,
    /// When it was handled.
    #[serde(with = "time::serde::rfc3339")]
    pub processed_at: OffsetDateTime,
}

/// The state, without fields whose names clash with those added here.
fn without_added_names<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    state.serialize_without(&["eventId", "processedBy", "processedAt"], serializer)
}

/// Returns a page of tickets, newest first, after the one with this id.
///
/// # Errors
/// Any database error.
pub async fn page(
    connection: &mut PgConnection,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<KnownTicket>, sqlx::Error> {
    sqlx::query_as(&PAGE).bind(after.unwrap_or(Uuid::max())).bind(limit).fetch_all(connection).await
}

/// Returns one ticket.
///
/// # Errors
/// Any database error.
pub async fn find(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<Option<KnownTicket>, sqlx::Error> {
    sqlx::query_as(&FIND).bind(id).fetch_optional(connection).await
}
