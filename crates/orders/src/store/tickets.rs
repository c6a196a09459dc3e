//! The copy of the tickets: the newest state that has come of each.

use common::{
    columns,
    events::{
        money::Price,
        ticket::{Hold, Ticket},
    },
};
use serde::Serialize;
use sqlx::{FromRow, PgConnection, types::Json};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

common::statements! {
    /// Keeps the newest state of tickets. One state a ticket, because a statement may not change a row
    /// twice; and in the order of ids, so that two batches with the same tickets wait for one another and
    /// do not deadlock.
    UPSERT =
        "insert into tickets (id, title, price, version, created_at, updated_at, seller, hold,
                              event_id, processed_by)
         select distinct on (id) *
         from unnest($1::uuid[], $2::text[], $3::numeric[], $4::integer[], $5::timestamptz[],
                     $6::timestamptz[], $7::text[], $8::jsonb[], $9::uuid[], $10::text[])
              as copied (id, title, price, version, created_at, updated_at, seller, hold,
                         event_id, processed_by)
         order by id, version desc
         on conflict (id) do update
         set title = excluded.title, price = excluded.price, version = excluded.version,
             updated_at = excluded.updated_at, hold = excluded.hold, event_id = excluded.event_id,
             -- A replica of the release before leaves it out.
             seller = coalesce(excluded.seller, tickets.seller),
             processed_by = excluded.processed_by, processed_at = excluded.processed_at
         where tickets.version < excluded.version";
    /// A page of tickets.
    PAGE = select("where id < $1 order by id desc limit $2");
    /// One ticket.
    FIND = select("where id = $1");
}

fn select(rest: &str) -> String {
    format!("select {} from tickets {rest}", columns::of::<KnownTicket>("tickets"))
}

/// A ticket's state as an event brought it.
#[derive(Debug, Clone, Copy)]
pub struct Copied<'a> {
    /// The state.
    pub ticket: &'a Ticket,
    /// The event.
    pub event_id: Uuid,
    /// The member that took it.
    pub processed_by: &'a str,
}

/// Keeps the newest of what is known and what is given, ticket by ticket.
///
/// # Errors
/// Any database error.
pub async fn upsert_if_newer(
    tx: &mut PgConnection,
    copies: &[Copied<'_>],
) -> Result<(), sqlx::Error> {
    let column = |of: fn(&Copied<'_>) -> OffsetDateTime| copies.iter().map(of).collect::<Vec<_>>();
    sqlx::query(&UPSERT)
        .bind(copies.iter().map(|copy| copy.ticket.id).collect::<Vec<_>>())
        .bind(copies.iter().map(|copy| copy.ticket.title.as_str()).collect::<Vec<_>>())
        .bind(copies.iter().map(|copy| copy.ticket.price).collect::<Vec<Price>>())
        .bind(copies.iter().map(|copy| copy.ticket.version).collect::<Vec<_>>())
        .bind(column(|copy| copy.ticket.created_at))
        .bind(column(|copy| copy.ticket.updated_at))
        .bind(copies.iter().map(|copy| copy.ticket.seller.as_deref()).collect::<Vec<_>>())
        .bind(copies.iter().map(|copy| copy.ticket.hold.map(Json)).collect::<Vec<_>>())
        .bind(copies.iter().map(|copy| copy.event_id).collect::<Vec<_>>())
        .bind(copies.iter().map(|copy| copy.processed_by).collect::<Vec<_>>())
        .execute(tx)
        .await?;
    Ok(())
}

common::columns! {
    /// A ticket as this service knows it.
    #[derive(Debug, Clone, Serialize, FromRow, ToSchema)]
    pub struct KnownTicket {
        /// The ticket's id, the same in every service.
        pub id: Uuid,
        /// Its title.
        pub title: String,
        /// Its price.
        pub price: Price,
        /// The newest version that has arrived.
        pub version: i32,
        /// When the ticket was created.
        #[serde(with = "time::serde::rfc3339")]
        pub created_at: OffsetDateTime,
        /// When this version was committed by the tickets service.
        #[serde(with = "time::serde::rfc3339")]
        pub updated_at: OffsetDateTime,
        /// Who sells it, by the tickets service; missing where no event has said so.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        pub seller: Option<String>,
        /// Whose it is, by the tickets service; missing while nobody's.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false, value_type = Option<Hold>)]
        pub hold: Option<Json<Hold>>,
        /// The event that brought this version.
        pub event_id: Uuid,
        /// The member of the queue group that took the event, by its client id.
        pub processed_by: String,
        /// When.
        #[serde(with = "time::serde::rfc3339")]
        pub processed_at: OffsetDateTime,
    }
}

/// A page of tickets, newest first, after the one with this id.
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

/// One ticket.
///
/// # Errors
/// Any database error.
pub async fn find(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<Option<KnownTicket>, sqlx::Error> {
    sqlx::query_as(&FIND).bind(id).fetch_optional(connection).await
}
