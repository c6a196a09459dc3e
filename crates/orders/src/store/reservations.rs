//! Creates reservations: a ticket has at most one order, and a buyer at most a given number of
//! reservations.
//!
//! The database enforces both across replicas. The first is a unique index. For the second, a
//! request waits for the same buyer's other reservations in progress ([`price`]), and then counts
//! and inserts in one statement ([`insert`]), so that none can be added in between. Other buyers do
//! not wait.

use common::{
    columns::{self, Columns},
    events::{money::Price, order::Order},
};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

common::statements! {
    /// A ticket's price, read after waiting for the buyer's other reservations. Two buyers whose
    /// names hash to the same lock wait needlessly, nothing worse.
    PRICE =
        "select case when $2::text is not null
                     then pg_advisory_xact_lock(hashtextextended('reservations of ' || $2, 0))::text
                end,
                price, clock_timestamp()
         from tickets where id = $1";
    /// Stores an order, if its buyer has fewer than $1 reservations and no other order holds its
    /// ticket.
    INSERT = format!(
        "insert into orders ({names})
         select {columns} from {new}
         where $1::bigint is null or $1 > (
             select count(*) from (
                 select from orders
                 where buyer = new.buyer and status = 'reserved' and expires_at > new.created_at
                 limit $1) as open)
         on conflict (ticket_id) where status in ('reserved', 'completed') do nothing",
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

/// Returns a ticket's price and the time of the database's clock. `None` if this service does not
/// know the ticket. With a buyer, waits until none of their reservations is in progress, and blocks
/// new ones until the transaction ends.
///
/// # Errors
/// Any database error.
pub async fn price(
    tx: &mut PgConnection,
    ticket_id: Uuid,
    buyer: Option<&str>,
) -> Result<Option<(Price, OffsetDateTime)>, sqlx::Error> {
    let row: Option<(Option<String>, Price, OffsetDateTime)> =
        sqlx::query_as(&PRICE).bind(ticket_id).bind(buyer).fetch_optional(tx).await?;
    Ok(row.map(|(_, price, now)| (price, now)))
}

/// Stores a new order, unless another order holds its ticket or its buyer has `most` reservations
/// already. Waits for an order of the same ticket that is not committed yet. Returns whether the
/// order was stored. With `most`, call [`price`] for the buyer first in this transaction.
///
/// # Errors
/// Any database error.
pub async fn insert(
    tx: &mut PgConnection,
    order: &Order,
    most: Option<i64>,
) -> Result<bool, sqlx::Error> {
    let inserted = Order::bind(&[order], sqlx::query(&INSERT).bind(most)).execute(tx).await?;
    Ok(inserted.rows_affected() == 1)
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
