//! Creates reservations: a ticket has at most one order, and a buyer at most a given number of
//! reservations.
//!
//! The database enforces both across replicas. The first is a unique index. For the second, a
//! transaction holds the buyer's lock ([`price`] waits for it, [`claim`] does not), and then counts
//! and inserts in one statement ([`insert`]), so that none can be added in between. Other buyers do
//! not wait. A ticket has a lock too, so that a transaction of many orders never waits for one of them.

use common::{
    columns::{self, Columns},
    events::{money::Price, order::Order},
};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

common::statements! {
    /// A ticket's price, read after waiting for the lock of the buyer (if any), and then for that of the ticket
    /// unless an order holds it: a refusal waits for nobody. Two whose locks have the same hash wait
    /// needlessly, nothing worse.
    PRICE = format!(
        "select case when $2::text is not null then pg_advisory_xact_lock({buyer})::text end,
                case when not exists (select from orders
                                      where ticket_id = $1 and status in ('reserved', 'completed'))
                     then pg_advisory_xact_lock({ticket})::text end,
                price, clock_timestamp()
         from tickets where id = $1",
        buyer = buyer_lock("$2"),
        ticket = ticket_lock("$1"),
    );
    /// The prices of those tickets that no order holds and that are not locked, if their buyer (if any)
    /// is not locked either. Locks both, without waiting. Materialized, so that it locks none of the others.
    CLAIM = format!(
        "with free as materialized (
             select at, ticket_id, buyer, price
             from unnest($1::uuid[], $2::text[]) with ordinality as asked (ticket_id, buyer, at)
                  join tickets on tickets.id = asked.ticket_id
             where not exists (select from orders where orders.ticket_id = asked.ticket_id
                                                    and status in ('reserved', 'completed')))
         select at, price, clock_timestamp() from free
         where pg_try_advisory_xact_lock({ticket})
           and (buyer is null or pg_try_advisory_xact_lock({buyer}))",
        ticket = ticket_lock("ticket_id"),
        buyer = buyer_lock("buyer"),
    );
    /// Stores orders, each if its buyer has fewer than $1 reservations and no other order holds its
    /// ticket.
    INSERT = format!(
        "insert into orders ({names})
         select {columns} from {new}
         where $1::bigint is null or $1 > (
             select count(*) from (
                 select from orders
                 where buyer = new.buyer and status = 'reserved' and expires_at > new.created_at
                 limit $1) as open)
         on conflict (ticket_id) where status in ('reserved', 'completed') do nothing
         returning id",
        names = columns::names::<Order>(),
        columns = columns::of::<Order>("new"),
        new = columns::unnest::<Order>(2, "new"),
    );
    /// When the buyer's $3rd reservation ends.
    FULL_UNTIL =
        "select min(expires_at) from (
             select expires_at from orders
             where buyer = $1 and status = 'reserved' and expires_at > $2
             order by expires_at limit $3) as open
         having count(*) = $3";
}

/// The number of a buyer's lock.
fn buyer_lock(buyer: &str) -> String {
    format!("hashtextextended('reservations of ' || {buyer}, 0)")
}

/// The number of a ticket's lock.
fn ticket_lock(ticket: &str) -> String {
    format!("hashtextextended('order of ticket ' || {ticket}, 0)")
}

/// Returns a ticket's price and the time of the database's clock. `None` if this service does not
/// know the ticket. With a buyer, waits until none of their reservations is in progress. Unless an order
/// holds the ticket, waits until nobody else is reserving it. Blocks new ones until the transaction ends.
///
/// # Errors
/// Any database error.
pub async fn price(
    tx: &mut PgConnection,
    ticket_id: Uuid,
    buyer: Option<&str>,
) -> Result<Option<(Price, OffsetDateTime)>, sqlx::Error> {
    let row: Option<(Option<String>, Option<String>, Price, OffsetDateTime)> =
        sqlx::query_as(&PRICE).bind(ticket_id).bind(buyer).fetch_optional(tx).await?;
    Ok(row.map(|(_, _, price, now)| (price, now)))
}

/// Like [`price`], for many tickets, but waits for nobody. Returns the place of each ticket that can be
/// reserved now, with its price and the time of the database's clock. The tickets differ, and so do the
/// buyers.
///
/// # Errors
/// Any database error.
pub async fn claim(
    tx: &mut PgConnection,
    tickets: &[Uuid],
    buyers: &[Option<&str>],
) -> Result<Vec<(usize, Price, OffsetDateTime)>, sqlx::Error> {
    let rows: Vec<(i64, Price, OffsetDateTime)> =
        sqlx::query_as(&CLAIM).bind(tickets).bind(buyers).fetch_all(tx).await?;
    // Postgres counts from 1.
    let place = |at: i64| usize::try_from(at).ok()?.checked_sub(1);
    Ok(rows.into_iter().filter_map(|(at, price, now)| Some((place(at)?, price, now))).collect())
}

/// Stores new orders, unless another order holds the ticket or the buyer has `most` reservations
/// already. Waits for an order of the same ticket that is not committed yet. Returns the ids of those
/// that were stored. Call [`price`] or [`claim`] first in this transaction; with `most`, for the buyers
/// too.
///
/// # Errors
/// Any database error.
pub async fn insert(
    tx: &mut PgConnection,
    orders: &[&Order],
    most: Option<i64>,
) -> Result<Vec<Uuid>, sqlx::Error> {
    Order::bind(orders, sqlx::query_scalar(&INSERT).bind(most)).fetch_all(tx).await
}

/// Returns when a buyer with at least `most` reservations may make another one, if none is paid or
/// cancelled before. `None` if they have fewer.
///
/// # Errors
/// Any database error.
pub async fn full_until(
    connection: &mut PgConnection,
    buyer: &str,
    most: i64,
    now: OffsetDateTime,
) -> Result<Option<OffsetDateTime>, sqlx::Error> {
    sqlx::query_scalar(&FULL_UNTIL)
        .bind(buyer)
        .bind(now)
        .bind(most)
        .fetch_optional(connection)
        .await
}
