//! A ticket is reserved: no more than one order has it, and no buyer has more than so many.
//!
//! Both are the database's word, whichever replicas are asked at the same time. The first is a unique
//! index. For the second, who reserves something waits for the same buyer's other reservations that are
//! under way ([`price`]), and then counts and inserts in one statement ([`insert`]): none can be added in
//! between. Other buyers do not wait.

use common::{
    columns::{self, Columns},
    events::{money::Price, order::Order},
};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

common::statements! {
    /// What a ticket costs, after waiting for the buyer's other reservations. Two names that share a lock
    /// by chance cost a needless wait, no more.
    PRICE =
        "select case when $2::text is not null
                     then pg_advisory_xact_lock(hashtextextended('reservations of ' || $2, 0))::text
                end,
                price, clock_timestamp()
         from tickets where id = $1";
    /// Stores an order, if its buyer has fewer than $1 reservations and nobody else has its ticket.
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
    /// When the $3rd reservation of a buyer ends.
    FULL_UNTIL =
        "select min(expires_at) from (
             select expires_at from orders
             where buyer = $1 and status = 'reserved' and expires_at > $2
             order by expires_at limit $3) as open
         having count(*) = $3";
}

/// What a ticket costs, and the time by the database's clock. `None` when it is not known here. With a
/// buyer, waits until none of their reservations is under way, and keeps others from beginning until the
/// transaction's end.
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

/// Stores a new order, unless another has its ticket, or its buyer has `most` reservations already.
/// Waits for one of the ticket that is just being stored. Returns whether it did. With `most`, [`price`]
/// must have been asked for the buyer in this transaction.
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

/// When a buyer who has `most` reservations or more may have another, if none is paid or cancelled
/// before. `None` when they have fewer.
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
