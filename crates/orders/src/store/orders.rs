//! Orders: found, locked, saved, claimed when they are due; and the payments that are to be captured.

use std::time::Duration;

use common::events::{
    money::Price,
    order::{Order, OrderStatus, Payment},
};
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

/// A [`Row`]'s columns, by name: with `*`, a release that adds one would break the statements that
/// the release before has prepared.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select id, ticket_id, buyer, price, status, version, expires_at, created_at, updated_at,
                    payment_amount, payment_reference from orders ",
            $rest
        )
    };
}

/// Now, by the database's clock: the one that all replicas share.
///
/// # Errors
/// When the database does.
pub async fn now(connection: &mut PgConnection) -> Result<OffsetDateTime, sqlx::Error> {
    sqlx::query_scalar("select clock_timestamp()").fetch_one(connection).await
}

/// The order that has a ticket.
///
/// # Errors
/// When the database does.
pub async fn of_ticket(
    connection: &mut PgConnection,
    ticket_id: Uuid,
) -> Result<Option<Order>, sqlx::Error> {
    let row: Option<Row> =
        sqlx::query_as(select!("where ticket_id = $1 and status in ('reserved', 'completed')"))
            .bind(ticket_id)
            .fetch_optional(connection)
            .await?;
    Ok(row.map(Order::from))
}

/// A buyer's order. `None` as well when it is somebody else's.
///
/// # Errors
/// When the database does.
pub async fn find(
    connection: &mut PgConnection,
    id: Uuid,
    buyer: &str,
) -> Result<Option<Order>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(select!("where id = $1 and buyer = $2"))
        .bind(id)
        .bind(buyer)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(Order::from))
}

/// A buyer's order, locked until the transaction's end: what becomes of it meanwhile, becomes of it
/// here.
///
/// # Errors
/// When the database does.
pub async fn lock(
    tx: &mut PgConnection,
    id: Uuid,
    buyer: &str,
) -> Result<Option<Order>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(select!("where id = $1 and buyer = $2 for update"))
        .bind(id)
        .bind(buyer)
        .fetch_optional(tx)
        .await?;
    Ok(row.map(Order::from))
}

/// At most `limit` of a buyer's orders, newest first, all older than `after` when it is given.
///
/// # Errors
/// When the database does.
pub async fn page(
    connection: &mut PgConnection,
    buyer: &str,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Order>, sqlx::Error> {
    let rows: Vec<Row> =
        sqlx::query_as(select!("where buyer = $1 and id < $2 order by id desc limit $3"))
            .bind(buyer)
            .bind(after.unwrap_or(Uuid::max()))
            .bind(limit)
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().map(Order::from).collect())
}

/// Locks reserved orders whose time has passed, at most `limit`, the longest overdue first; and passes
/// over those that somebody else has locked, who will decide what becomes of them.
///
/// # Errors
/// When the database does.
pub async fn lock_due(
    tx: &mut PgConnection,
    now: OffsetDateTime,
    limit: i64,
) -> Result<Vec<Order>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(select!(
        "where status = 'reserved' and expires_at <= $1
         order by expires_at limit $2 for update skip locked"
    ))
    .bind(now)
    .bind(limit)
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(Order::from).collect())
}

/// Stores the next version of orders that this transaction has locked; those that were paid are to be
/// captured.
///
/// # Errors
/// When the database does; [`sqlx::Error::RowNotFound`] when one is not at the version before, which
/// whoever has locked them does not meet.
pub async fn save(tx: &mut PgConnection, orders: &[Order]) -> Result<(), sqlx::Error> {
    let payments = || orders.iter().map(|order| order.payment.as_ref());
    let saved: i64 = sqlx::query_scalar(
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
         select count(*) from saved",
    )
    .bind(orders.iter().map(|order| order.id).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.status.as_str()).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.version).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.updated_at).collect::<Vec<_>>())
    .bind(payments().map(|paid| paid.map(|payment| payment.amount)).collect::<Vec<_>>())
    .bind(payments().map(|paid| paid.map(|payment| payment.reference.as_str())).collect::<Vec<_>>())
    .fetch_one(tx)
    .await?;
    if usize::try_from(saved) == Ok(orders.len()) { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
}

/// Locks payments that are to be captured now, at most `limit`, and passes over those that another
/// replica has in hand.
///
/// # Errors
/// When the database does.
pub async fn lock_captures(
    tx: &mut PgConnection,
    limit: i64,
) -> Result<Vec<(Uuid, Payment)>, sqlx::Error> {
    let rows: Vec<(Uuid, Price, String)> = sqlx::query_as(
        "select order_id, payment_amount, payment_reference
         from captures join orders on orders.id = order_id
         where due_at <= statement_timestamp()
         order by due_at limit $1 for update of captures skip locked",
    )
    .bind(limit)
    .fetch_all(tx)
    .await?;
    let payments = rows.into_iter();
    Ok(payments.map(|(id, amount, reference)| (id, Payment { amount, reference })).collect())
}

/// These payments were captured.
///
/// # Errors
/// When the database does.
pub async fn captured(tx: &mut PgConnection, orders: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query("delete from captures where order_id = any($1)").bind(orders).execute(tx).await?;
    Ok(())
}

/// These payments could not be captured, and are to be after a while.
///
/// # Errors
/// When the database does.
pub async fn capture_later(
    tx: &mut PgConnection,
    orders: &[Uuid],
    after: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query("update captures set due_at = clock_timestamp() + $2 where order_id = any($1)")
        .bind(orders)
        .bind(after)
        .execute(tx)
        .await?;
    Ok(())
}

/// A row of `orders`.
#[derive(FromRow)]
struct Row {
    id: Uuid,
    ticket_id: Uuid,
    buyer: String,
    price: Price,
    status: OrderStatus,
    version: i32,
    expires_at: OffsetDateTime,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
    payment_amount: Option<Price>,
    payment_reference: Option<String>,
}

impl From<Row> for Order {
    fn from(row: Row) -> Self {
        let Row { id, ticket_id, buyer, price, status, version, .. } = row;
        let Row { expires_at, created_at, updated_at, .. } = row;
        let payment = row.payment_amount.zip(row.payment_reference);
        let payment = payment.map(|(amount, reference)| Payment { amount, reference });
        Self {
            id,
            ticket_id,
            buyer,
            price,
            status,
            version,
            expires_at,
            created_at,
            updated_at,
            payment,
        }
    }
}
