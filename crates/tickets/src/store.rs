//! All SQL of the service. Whoever begins a transaction commits it; everything here receives a
//! connection and never commits.

use common::{
    events::{
        money::Price,
        order::Order,
        ticket::{Hold, HoldStatus, Ticket},
    },
    pod::database::now,
};
use sqlx::{FromRow, PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{sellers::Seller, ticket::ChangedTicket};

/// A [`Row`]'s columns, by name: with `*`, a release that adds one would break the statements that
/// the release before has prepared.
macro_rules! columns {
    () => {
        "tickets.id, title, price, tickets.version, created_at, updated_at, seller, hold_order_id,
         hold_status"
    };
}

/// Makes or updates the service's tables. Idempotent, and safe from several processes at once. A
/// schema that a newer release has already migrated is left as it is: the release before runs on it.
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
/// When the database does.
pub async fn insert<'a>(
    tx: &mut PgConnection,
    tickets: impl IntoIterator<Item = &'a Ticket>,
) -> Result<(), sqlx::Error> {
    let mut columns = Columns::default();
    for ticket in tickets {
        columns.ids.push(ticket.id);
        columns.titles.push(&ticket.title);
        columns.prices.push(ticket.price);
        columns.versions.push(ticket.version);
        columns.created.push(ticket.created_at);
        columns.updated.push(ticket.updated_at);
        columns.sellers.push(ticket.seller.as_deref());
    }
    sqlx::query(
        "insert into tickets (id, title, price, version, created_at, updated_at, seller)
         select * from unnest($1::uuid[], $2::text[], $3::numeric[], $4::integer[],
                              $5::timestamptz[], $6::timestamptz[], $7::text[])",
    )
    .bind(columns.ids)
    .bind(columns.titles)
    .bind(columns.prices)
    .bind(columns.versions)
    .bind(columns.created)
    .bind(columns.updated)
    .bind(columns.sellers)
    .execute(tx)
    .await?;
    Ok(())
}

/// Tickets by column, as one statement takes them.
#[derive(Default)]
struct Columns<'a> {
    ids: Vec<Uuid>,
    titles: Vec<&'a str>,
    prices: Vec<Price>,
    versions: Vec<i32>,
    created: Vec<OffsetDateTime>,
    updated: Vec<OffsetDateTime>,
    sellers: Vec<Option<&'a str>>,
}

/// How a change went.
#[derive(Debug)]
pub enum Change {
    /// The ticket after the change.
    Made(Ticket),
    /// It is at this version, which is none of those expected.
    Stale(i32),
    /// It has this seller, or none, and is not the caller's to change.
    NotYours(Option<String>),
    /// An order holds it, so that it must stay as it is.
    Held(Hold),
    /// There is no such ticket.
    NoTicket,
}

/// Replaces the title and price of a seller's ticket, if no order holds it and its version is one of
/// `expected` (`None`: whatever it is). Of two changes at the same time, the second waits for the first to
/// commit and then sees its version, so never both win.
///
/// # Errors
/// When the database does.
pub async fn change(
    tx: &mut PgConnection,
    id: Uuid,
    seller: Seller<'_>,
    to: &ChangedTicket,
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
            // Held when it was to be changed, and free by now.
            Some(ticket) if expected.is_none_or(|some| some.contains(&ticket.version)) => continue,
            Some(ticket) => Change::Stale(ticket.version),
        });
    }
}

async fn try_change(
    tx: &mut PgConnection,
    id: Uuid,
    seller: Seller<'_>,
    to: &ChangedTicket,
    expected: Option<&[i32]>,
) -> Result<Option<Ticket>, sqlx::Error> {
    // Clocks of replicas differ; a ticket's time never runs backwards all the same.
    let changed: Option<Row> = sqlx::query_as(concat!(
        "update tickets set title = $2, price = $3, version = version + 1,
                            updated_at = greatest(updated_at, $4), seller = $6
         where id = $1 and hold_order_id is null
           and (seller = $6 or seller is null and $7)
           and ($5::integer[] is null or version = any ($5))
         returning ",
        columns!(),
    ))
    .bind(id)
    .bind(to.title.as_str())
    .bind(to.price)
    .bind(now())
    .bind(expected)
    .bind(seller.name)
    .bind(seller.adopts)
    .fetch_optional(tx)
    .await?;
    Ok(changed.map(Ticket::from))
}

/// Keeps the newest of what is known and what is given, order by order. Before [`hold`], for these
/// orders' tickets, in the same transaction.
///
/// # Errors
/// When the database does.
pub async fn upsert_if_newer(tx: &mut PgConnection, orders: &[&Order]) -> Result<(), sqlx::Error> {
    // One state an order, because a statement may not change a row twice; and in the order of ids,
    // so that two batches with the same orders wait for one another and do not deadlock.
    sqlx::query(
        "insert into orders (id, ticket_id, status, version)
         select distinct on (id) *
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::integer[])
              as told (id, ticket_id, status, version)
         order by id, version desc
         on conflict (id) do update set status = excluded.status, version = excluded.version
         where orders.version < excluded.version",
    )
    .bind(orders.iter().map(|order| order.id).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.ticket_id).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.status.as_str()).collect::<Vec<_>>())
    .bind(orders.iter().map(|order| order.version).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Has each of the tickets held by the order that its orders say, or by none. Returns those for which
/// that is a change, in their new state.
///
/// # Errors
/// When the database does.
pub async fn hold(tx: &mut PgConnection, tickets: &[Uuid]) -> Result<Vec<Ticket>, sqlx::Error> {
    // Locked first, in the order of ids, by a statement of its own: the next one then sees what
    // whoever had a ticket before us has written of its orders.
    sqlx::query("select from tickets where id = any($1) order by id for update")
        .bind(tickets)
        .execute(&mut *tx)
        .await?;
    // The orders service lets one order at a time have a ticket. Two are seen here only while the
    // end of the earlier one is still on its way: a paid one stands, else the later one.
    let changed: Vec<Row> = sqlx::query_as(concat!(
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
         returning ",
        columns!(),
    ))
    .bind(tickets)
    .bind(now())
    .fetch_all(tx)
    .await?;
    Ok(changed.into_iter().map(Ticket::from).collect())
}

/// One ticket.
///
/// # Errors
/// When the database does.
pub async fn find(connection: &mut PgConnection, id: Uuid) -> Result<Option<Ticket>, sqlx::Error> {
    let row: Option<Row> =
        sqlx::query_as(concat!("select ", columns!(), " from tickets where id = $1"))
            .bind(id)
            .fetch_optional(connection)
            .await?;
    Ok(row.map(Ticket::from))
}

/// At most `limit` tickets, newest first, all older than `after` when it is given.
///
/// # Errors
/// When the database does.
pub async fn page(
    connection: &mut PgConnection,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Ticket>, sqlx::Error> {
    // One plan for both cases, straight from the primary key: no id is as great as the greatest.
    let rows: Vec<Row> = sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from tickets where id < $1 order by id desc limit $2",
    ))
    .bind(after.unwrap_or(Uuid::max()))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Ticket::from).collect())
}

/// A row of `tickets`.
#[derive(FromRow)]
struct Row {
    id: Uuid,
    title: String,
    price: Price,
    version: i32,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
    seller: Option<String>,
    hold_order_id: Option<Uuid>,
    hold_status: Option<HoldStatus>,
}

impl From<Row> for Ticket {
    fn from(row: Row) -> Self {
        let Row { id, title, price, version, created_at, updated_at, seller, .. } = row;
        let hold = row.hold_order_id.zip(row.hold_status);
        let hold = hold.map(|(order_id, status)| Hold { order_id, status });
        Self { id, title, price, version, created_at, updated_at, seller, hold }
    }
}
