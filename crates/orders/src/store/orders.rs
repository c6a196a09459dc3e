//! Finds, locks, saves and claims orders, and keeps the payments to capture.

use std::time::Duration;

use common::{
    columns,
    events::{
        money::Price,
        order::{Order, Payment},
    },
};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

common::statements! {
    /// The current time.
    NOW = "select clock_timestamp()";
    /// The order that holds a ticket.
    OF_TICKET = select("where ticket_id = $1 and status in ('reserved', 'completed')");
    /// A buyer's order.
    FIND = select("where id = $1 and buyer = $2");
    /// A buyer's order, locked.
    LOCK = select("where id = $1 and buyer = $2 for update");
    /// A page of a buyer's orders.
    PAGE = select("where buyer = $1 and id < $2 order by id desc limit $3");
    /// The seconds until the next order is due.
    NEXT_DUE =
        "select extract(epoch from expires_at - clock_timestamp())::float8
         from orders where status = 'reserved' order by expires_at limit 1";
    /// Whether a payment is due for capture.
    OWES_CAPTURES =
        "select due_at <= statement_timestamp() from captures order by due_at limit 1";
    /// Locks due orders, and skips those that are locked already.
    LOCK_DUE = select(
        "where status = 'reserved' and expires_at <= $1
         order by expires_at limit $2 for update skip locked",
    );
    /// Stores the next version of orders (only the columns that a transition changes), and queues
    /// the payments to capture.
    SAVE =
        "with saved as (
             update orders
             set status = next.status, version = next.version, updated_at = next.updated_at,
                 payment_amount = next.amount, payment_reference = next.reference
             from unnest($1::uuid[], $2::text[], $3::integer[], $4::timestamptz[], $5::numeric[],
                         $6::text[])
                  as next (id, status, version, updated_at, amount, reference)
             where orders.id = next.id and orders.version = next.version - 1
             returning orders.id, orders.status),
         owed as (
             insert into captures (order_id) select id from saved where status = 'completed')
         select count(*) from saved";
    /// Locks payments that are due for capture, and skips those that are locked already.
    LOCK_CAPTURES =
        "select order_id, payment_amount, payment_reference
         from captures join orders on orders.id = order_id
         where due_at <= statement_timestamp()
         order by due_at limit $1 for update of captures skip locked";
    /// Deletes captured payments.
    CAPTURED = "delete from captures where order_id = any($1)";
    /// Postpones captures.
    CAPTURE_LATER = "update captures set due_at = clock_timestamp() + $2 where order_id = any($1)";
}

/// Reads an [`Order`] from rows of `orders`.
fn select(rest: &str) -> String {
    let columns = columns::of::<Order>("orders");
    format!(
        "select {columns}, case when payment_reference is not null then json_build_object(
             'amount', payment_amount, 'reference', payment_reference) end as payment
         from orders {rest}"
    )
}

/// Returns the current time of the database's clock, which all replicas share.
///
/// # Errors
/// Any database error.
pub async fn now(connection: &mut PgConnection) -> Result<OffsetDateTime, sqlx::Error> {
    sqlx::query_scalar(&NOW).fetch_one(connection).await
}

/// Returns the seconds until the next order is due: at most 0 if one is due now. `None` if none is reserved.
///
/// # Errors
/// Any database error.
pub async fn next_due(connection: &mut PgConnection) -> Result<Option<f64>, sqlx::Error> {
    sqlx::query_scalar(&NEXT_DUE).fetch_optional(connection).await
}

/// Returns whether a payment is due for capture.
///
/// # Errors
/// Any database error.
pub async fn owes_captures(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let is_due: Option<bool> =
        sqlx::query_scalar(&OWES_CAPTURES).fetch_optional(connection).await?;
    Ok(is_due.unwrap_or(false))
}

/// Returns the order that holds a ticket.
///
/// # Errors
/// Any database error.
pub async fn of_ticket(
    connection: &mut PgConnection,
    ticket_id: Uuid,
) -> Result<Option<Order>, sqlx::Error> {
    sqlx::query_as(&OF_TICKET).bind(ticket_id).fetch_optional(connection).await
}

/// Returns a buyer's order. `None` also for another buyer's order.
///
/// # Errors
/// Any database error.
pub async fn find(
    connection: &mut PgConnection,
    id: Uuid,
    buyer: &str,
) -> Result<Option<Order>, sqlx::Error> {
    sqlx::query_as(&FIND).bind(id).bind(buyer).fetch_optional(connection).await
}

/// Returns a buyer's order and locks it until the transaction ends. Nothing else can change it
/// meanwhile.
///
/// # Errors
/// Any database error.
pub async fn lock(
    tx: &mut PgConnection,
    id: Uuid,
    buyer: &str,
) -> Result<Option<Order>, sqlx::Error> {
    sqlx::query_as(&LOCK).bind(id).bind(buyer).fetch_optional(tx).await
}

/// Returns at most `limit` of a buyer's orders, newest first. With `after`, only older ones.
///
/// # Errors
/// Any database error.
pub async fn page(
    connection: &mut PgConnection,
    buyer: &str,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Order>, sqlx::Error> {
    // No real id is the greatest UUID.
    let before = after.unwrap_or(Uuid::max());
    sqlx::query_as(&PAGE).bind(buyer).bind(before).bind(limit).fetch_all(connection).await
}

/// Locks at most `limit` reserved orders whose time has passed, the longest overdue first. Skips
/// orders that are locked: the holder of the lock decides their state.
///
/// # Errors
/// Any database error.
pub async fn lock_due(
    tx: &mut PgConnection,
    now: OffsetDateTime,
    limit: i64,
) -> Result<Vec<Order>, sqlx::Error> {
    sqlx::query_as(&LOCK_DUE).bind(now).bind(limit).fetch_all(tx).await
}

/// Stores the next version of orders that this transaction has locked, and queues the payments of
/// completed ones for capture.
///
/// # Errors
/// Any database error. [`sqlx::Error::RowNotFound`] if a stored order is not at the previous
/// version, which the row lock rules out.
pub async fn save(tx: &mut PgConnection, orders: &[Order]) -> Result<(), sqlx::Error> {
    let payments = || orders.iter().map(|order| order.payment.as_ref());
    let saved: i64 = sqlx::query_scalar(&SAVE)
        .bind(orders.iter().map(|order| order.id).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.status.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.version).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.updated_at).collect::<Vec<_>>())
        .bind(payments().map(|paid| paid.map(|payment| payment.amount)).collect::<Vec<_>>())
        .bind(
            payments()
                .map(|paid| paid.map(|payment| payment.reference.as_str()))
                .collect::<Vec<_>>(),
        )
        .fetch_one(tx)
        .await?;
    if usize::try_from(saved) == Ok(orders.len()) { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
}

/// Locks at most `limit` payments that are due for capture, and skips those that another replica
/// has claimed.
///
/// # Errors
/// Any database error.
pub async fn lock_captures(
    tx: &mut PgConnection,
    limit: i64,
) -> Result<Vec<(Uuid, Payment)>, sqlx::Error> {
    let rows: Vec<(Uuid, Price, String)> =
        sqlx::query_as(&LOCK_CAPTURES).bind(limit).fetch_all(tx).await?;
    let payments = rows.into_iter();
    Ok(payments.map(|(id, amount, reference)| (id, Payment { amount, reference })).collect())
}

/// Deletes payments that were captured.
///
/// # Errors
/// Any database error.
pub async fn captured(tx: &mut PgConnection, orders: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query(&CAPTURED).bind(orders).execute(tx).await?;
    Ok(())
}

/// Postpones payments that could not be captured.
///
/// # Errors
/// Any database error.
pub async fn capture_later(
    tx: &mut PgConnection,
    orders: &[Uuid],
    after: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query(&CAPTURE_LATER).bind(orders).bind(after).execute(tx).await?;
    Ok(())
}
