//! Generates history with SQL.

use std::sync::LazyLock;

use common::events::ticket::{Ticket, TicketCreated};
use sqlx::{AssertSqlSafe, PgPool};
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use crate::system::{System, until};

/// An envelope with `ID` for the event's and the ticket's id, and `AT` for their time.
static ENVELOPE: LazyLock<String> = LazyLock::new(|| {
    let now = OffsetDateTime::UNIX_EPOCH;
    let ticket = Ticket {
        id: Uuid::nil(),
        created_at: now,
        updated_at: now,
        seller: None,
        ..Ticket::example()
    };
    common::bus::envelope::encode(Uuid::nil(), now, &TicketCreated(ticket))
        .unwrap()
        .replace(&Uuid::nil().to_string(), "ID")
        .replace("1970-01-01T00:00:00Z", "AT")
});

/// Event number `n` of `$1`: its UUIDv7, and the time in it. The newest is an hour old, the oldest
/// almost two weeks.
const EVENTS: &str = "
    select n, at, (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0')
                   || '7' || lpad(to_hex(n % 4096), 3, '0') || '8' || lpad(to_hex(n), 15, '0'))::uuid as id
    from (select n, date_trunc('day', now()) - interval '1 hour'
                    - ($1 - n) * interval '13 days' / $1 as at
          from generate_series(1, $1::bigint) as n) as times";

/// Generates the history: tickets, their events in the log with their positions in the stream, the copies
/// in orders, and its inbox.
pub(super) async fn fill(system: &System, history: i64) {
    let begun = Instant::now();
    until(async || created(system).await.is_some()).await;
    let created = created(system).await;
    let sql = async |pool: &PgPool, statement: &str| {
        let statement = statement.replace("EVENTS", EVENTS).replace("ENVELOPE", &ENVELOPE);
        sqlx::query(AssertSqlSafe(statement)).bind(history).execute(pool).await.unwrap();
    };
    sql(
        &system.tickets_db,
        "insert into bus.log (slot, transaction, written_at, id, stream, subject, envelope)
         select bus.log_slot(at), '2', at, id, 'TICKETS', 'ticket:created',
                replace(replace('ENVELOPE', 'ID', id::text), 'AT',
                        to_char(at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'))
         from (EVENTS) as events order by n",
    )
    .await;
    sqlx::query(
        "insert into bus.ranges (stream, created, first_sequence, last_sequence, last_id, done, target,
                                 from_transaction, from_position, to_transaction, to_position, events)
         select 'TICKETS', $1, 0, 0, gen_random_uuid(), '1:2:', '3:3:', '2', first - 1, '2',
                least(first + 99999, last), least(100000, last - first + 1)
         from (select min(position) as begin, max(position) as last from bus.log
               where transaction = '2') as log,
              lateral generate_series(begin, last, 100000) as first",
    )
    .bind(created)
    .execute(&system.tickets_db)
    .await
    .unwrap();
    sql(
        &system.tickets_db,
        "insert into tickets (id, title, price, version, created_at, updated_at)
         select id, 'Concert', 20.50, 1, at, at from (EVENTS) as events",
    )
    .await;
    sql(
        &system.orders_db,
        "insert into tickets (id, title, price, version, created_at, updated_at, event_id, processed_by)
         select id, 'Concert', 20.50, 1, at, at, id, 'orders-1' from (EVENTS) as events",
    )
    .await;
    sql(
        &system.orders_db,
        "insert into bus.inbox (queue_group, event_id, client_id, processed_at)
         select 'orders-service', id, 'orders-1', at from (EVENTS) as events",
    )
    .await;
    for pool in [&system.tickets_db, &system.orders_db] {
        sqlx::raw_sql("vacuum analyze").execute(pool).await.unwrap();
        sqlx::raw_sql("checkpoint").execute(pool).await.unwrap();
    }
    println!("  {history} events of history made in {:.0} s", begun.elapsed().as_secs_f64());
}

async fn created(system: &System) -> Option<OffsetDateTime> {
    let created = "select created from bus.progress where stream = 'TICKETS'";
    sqlx::query_scalar(created).fetch_optional(&system.tickets_db).await.ok().flatten().flatten()
}
