//! All SQL of the service. The caller that begins a transaction also commits it: functions here
//! take a connection and never commit.

use common::{
    columns::{self, Columns},
    events::{
        order::Order,
        ticket::{Hold, Ticket},
    },
    pod::database::now,
};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{sellers::Seller, ticket::NewTicket};

common::statements! {
    /// Stores new tickets.
    INSERT = format!(
        "insert into tickets ({names}) select * from {new}",
        names = columns::names::<Ticket>(),
        new = columns::unnest::<Ticket>(1, "new"),
    );
    /// One ticket.
    FIND = format!("select {} from tickets where id = $1", ticket());
    /// A page of tickets. The first page and the others share one plan: a scan of the primary key.
    PAGE = format!("select {} from tickets where id < $1 order by id desc limit $2", ticket());
    /// Applies a seller's change. The clocks of replicas may differ; a ticket's time still never
    /// runs backwards.
    CHANGE = format!(
        "update tickets set ({names}) = row({new}), version = version + 1,
                            updated_at = greatest(updated_at, $2), seller = $4
         from {rows}
         where id = $1 and hold_order_id is null and (seller = $4 or seller is null and $5)
           and ($3::integer[] is null or version = any ($3))
         returning {ticket}",
        names = columns::names::<NewTicket>(),
        new = columns::of::<NewTicket>("new"),
        rows = columns::unnest::<NewTicket>(6, "new"),
        ticket = ticket(),
    );
    /// Keeps the newest state of each order. `distinct on` leaves one state per order, because a
    /// statement may not change a row twice. Sorting by id makes two batches with the same orders
    /// wait for one another instead of deadlocking.
    UPSERT_ORDERS =
        "insert into orders (id, ticket_id, status, version)
         select distinct on (id) *
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::integer[])
              as received (id, ticket_id, status, version)
         order by id, version desc
         on conflict (id) do update set status = excluded.status, version = excluded.version
         where orders.version < excluded.version";
    /// Locks tickets, sorted by id.
    LOCK = "select from tickets where id = any($1) order by id for update";
    /// Sets or clears the orders that hold tickets. The orders service lets one order at a time
    /// hold a ticket. Two can appear here only while the end of the earlier one is still on its
    /// way: a paid one wins, else the later one.
    HOLD = format!(
        "update tickets set version = version + 1, updated_at = greatest(updated_at, $2),
                            hold_order_id = holding.order_id, hold_status = holding.status
         from (select held.id as ticket_id, holder.id as order_id,
                      case holder.status when 'completed' then 'sold' else holder.status end
                          as status
               from tickets as held left join lateral (
                   select * from orders
                   where ticket_id = held.id and status in ('reserved', 'completed')
                   order by status = 'completed' desc, id desc limit 1
               ) as holder on true
               where held.id = any($1)) as holding
         where tickets.id = holding.ticket_id
           and (hold_order_id, hold_status) is distinct from (holding.order_id, holding.status)
         returning {}",
        ticket(),
    );
}

/// The columns that make a [`Ticket`] from a row of `tickets`.
fn ticket() -> String {
    let columns = columns::of::<Ticket>("tickets");
    format!(
        "{columns}, case when hold_order_id is not null then json_build_object(
             'orderId', hold_order_id, 'status', hold_status) end as hold"
    )
}

/// Creates or updates the service's own tables. Idempotent, and safe from several processes at once. A schema
/// that a newer release has migrated is left as it is, so that this release can start on it after a rollback.
///
/// # Errors
/// Any database error, or a migration that was edited after it was applied.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::migrate!().set_ignore_missing(true).run(pool).await?;
    Ok(())
}

/// Stores new tickets.
///
/// # Errors
/// Any database error.
pub async fn insert<'a>(
    tx: &mut PgConnection,
    tickets: impl IntoIterator<Item = &'a Ticket>,
) -> Result<(), sqlx::Error> {
    let tickets: Vec<&Ticket> = tickets.into_iter().collect();
    Ticket::bind(&tickets, sqlx::query(&INSERT)).execute(tx).await?;
    Ok(())
}

/// The result of a change.
#[derive(Debug)]
pub enum Change {
    /// The changed ticket.
    Made(Ticket),
    /// The ticket is at this version, which is not an expected one.
    Stale(i32),
    /// The ticket has this seller, or none, and the caller may not change it.
    NotYours(Option<String>),
    /// An order holds the ticket, so it cannot be changed.
    Held(Hold),
    /// The ticket does not exist.
    NoTicket,
}

/// Replaces the title and price of a seller's ticket, if no order holds it and its version is one
/// of `expected` (`None`: any version). Of two concurrent changes, the second waits for the first
/// to commit and then sees its version, so never both win.
///
/// # Errors
/// Any database error.
pub async fn change(
    tx: &mut PgConnection,
    id: Uuid,
    seller: Seller<'_>,
    to: &NewTicket,
    expected: Option<&[i32]>,
) -> Result<Change, sqlx::Error> {
    loop {
        if let Some(changed) = try_change(tx, id, seller, to, expected).await? {
            return Ok(Change::Made(changed));
        }
        return Ok(match find(tx, id).await? {
            None => Change::NoTicket,
            Some(ticket) if !seller.may_change(ticket.seller.as_deref()) => {
                Change::NotYours(ticket.seller)
            }
            Some(Ticket { hold: Some(hold), .. }) => Change::Held(hold),
            // It was held when the change was tried, and has been released since.
            Some(ticket) if expected.is_none_or(|some| some.contains(&ticket.version)) => continue,
            Some(ticket) => Change::Stale(ticket.version),
        });
    }
}

async fn try_change(
    tx: &mut PgConnection,
    id: Uuid,
    seller: Seller<'_>,
    to: &NewTicket,
    expected: Option<&[i32]>,
) -> Result<Option<Ticket>, sqlx::Error> {
    let change = sqlx::query_as(&CHANGE)
        .bind(id)
        .bind(now())
        .bind(expected)
        .bind(seller.name)
        .bind(seller.adopts);
    NewTicket::bind(&[to], change).fetch_optional(tx).await
}

/// Keeps the newer of the stored and the given state, order by order. Call it before [`hold`] for
/// these orders' tickets, in the same transaction.
///
/// # Errors
/// Any database error.
pub async fn upsert_if_newer(tx: &mut PgConnection, orders: &[&Order]) -> Result<(), sqlx::Error> {
    sqlx::query(&UPSERT_ORDERS)
        .bind(orders.iter().map(|order| order.id).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.ticket_id).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.status.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|order| order.version).collect::<Vec<_>>())
        .execute(tx)
        .await?;
    Ok(())
}

/// Makes each ticket held by the order that the stored orders name, or by none. Returns the changed
/// tickets in their new state.
///
/// # Errors
/// Any database error.
pub async fn hold(tx: &mut PgConnection, tickets: &[Uuid]) -> Result<Vec<Ticket>, sqlx::Error> {
    // The lock is a statement of its own, so that the next one sees what the previous holder of the
    // lock wrote about orders.
    sqlx::query(&LOCK).bind(tickets).execute(&mut *tx).await?;
    sqlx::query_as(&HOLD).bind(tickets).bind(now()).fetch_all(tx).await
}

/// Returns one ticket.
///
/// # Errors
/// Any database error.
pub async fn find(connection: &mut PgConnection, id: Uuid) -> Result<Option<Ticket>, sqlx::Error> {
    sqlx::query_as(&FIND).bind(id).fetch_optional(connection).await
}

/// Returns at most `limit` tickets, newest first. With `after`, only older ones.
///
/// # Errors
/// Any database error.
pub async fn page(
    connection: &mut PgConnection,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Ticket>, sqlx::Error> {
    // No real id is the greatest UUID.
    let before = after.unwrap_or(Uuid::max());
    sqlx::query_as(&PAGE).bind(before).bind(limit).fetch_all(connection).await
}

#[cfg(test)]
mod tests {
    use common::pod::idempotency;
    use testkit::Database;

    use super::*;

    /// The columns that no type of this crate declares: the parts of a hold.
    const HOLD_COLUMNS: &[&str] = &["hold_order_id", "hold_status"];

    #[tokio::test]
    async fn every_statement_and_every_column_fits_the_schema() {
        let database = Database::new("tickets", migrate).await;
        let tables: &[(&str, &[&[&str]])] = &[
            ("tickets", &[Ticket::NAMES, HOLD_COLUMNS]),
            ("orders", &[&["id", "ticket_id", "status", "version"]]),
        ];
        let mut connection = database.pool.acquire().await.unwrap();
        let keys = [idempotency::statements(), idempotency::claims::statements()];
        let statements = [statements(), keys.concat()].concat();
        let checked = columns::check(&mut connection, &statements, tables).await;
        checked.unwrap_or_else(|faults| panic!("{faults}"));
        assert!(!columns::has_unnamed(include_str!("store.rs")), "SQL without a name");
    }
}
