//! How fast two replicas process stored events into Postgres, compared with one connection that inserts
//! the same rows in batches.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer, message::PublishMessage};
use common::{
    bus::envelope,
    events::ticket::{Ticket, TicketCreated},
};
use embedded::process::Signal;
use futures::{StreamExt, stream};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use crate::system::{PATIENCE, Processors, System, show_memory, until};

const EVENTS: i64 = 50_000;
/// Rows per statement, for both.
const BATCH: usize = 256;

pub(crate) async fn run() {
    println!("\nDrain of {EVENTS} stored events by two replicas");
    let system = System::start().await;
    // Creates stream, group and tables, then stops the replica while the events are stored.
    system.service("orders", "orders-1").await.child.stop(Signal::TERM, PATIENCE).await;
    let tickets: Vec<Ticket> = (0..EVENTS).map(ticket).collect();
    publish(&system, &tickets).await;
    let limit = insert(&system, &tickets, "plain", None).await;
    println!("  one connection, batches of {BATCH}    {limit:>8.0} rows/s");
    let (one, other) = tickets.split_at(tickets.len() / 2);
    let with_inbox = tokio::join!(
        insert(&system, one, "half_a", Some("bench")),
        insert(&system, other, "half_b", Some("bench"))
    );
    let with_inbox = with_inbox.0 + with_inbox.1;
    println!("  two connections, inbox rows too   {with_inbox:>8.0} events/s");

    let (first, second) =
        tokio::join!(system.service("orders", "orders-1"), system.service("orders", "orders-2"));
    let group = group(&system).await;
    // Both are working by now; earlier events are not counted.
    let (begun, before) = (Instant::now(), count(&system.orders_db).await);
    let processors = Processors::watch(&system, &[&first, &second]);
    until(async || {
        let info = group.get_info().await.unwrap();
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
    let (elapsed, after) = (begun.elapsed(), count(&system.orders_db).await);
    assert_eq!(after, EVENTS);
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let ours = (after - before) as f64 / elapsed.as_secs_f64();
    println!("  two replicas                      {ours:>8.0} events/s");
    processors.show();
    show_memory(&[&first, &second]);
    println!(
        "  ratio   {:.0} % of the batched insert, {:.0} % of the two with inbox rows",
        100.0 * ours / limit,
        100.0 * ours / with_inbox
    );
}

pub(crate) fn ticket(number: i64) -> Ticket {
    let now = OffsetDateTime::now_utc();
    let title = format!("Concert {number}");
    Ticket { title, created_at: now, updated_at: now, seller: None, ..Ticket::example() }
}

/// Inserts the rows that the listener would, into a copy of its table, and, if a group is given, the
/// rows of its inbox in the same transactions. Returns tickets per second.
async fn insert(system: &System, tickets: &[Ticket], table: &str, group: Option<&str>) -> f64 {
    let mut connection = PgConnection::connect(&system.postgres.url("orders")).await.unwrap();
    let make = AssertSqlSafe(format!("create table {table} (like tickets including all)"));
    sqlx::raw_sql(make).execute(&mut connection).await.unwrap();
    let begun = Instant::now();
    for batch in tickets.chunks(BATCH) {
        let mut tx = connection.begin().await.unwrap();
        let ids: Vec<Uuid> = batch.iter().map(|ticket| ticket.id).collect();
        if let Some(group) = group {
            sqlx::query(
                "insert into bus.inbox (queue_group, event_id, client_id)
                 select $1, id, 'orders-1' from unnest($2::uuid[]) as new (id)
                 on conflict do nothing returning event_id",
            )
            .bind(group)
            .bind(&ids)
            .fetch_all(&mut *tx)
            .await
            .unwrap();
        }
        let insert = AssertSqlSafe(format!(
            "insert into {table} (id, title, price, version, created_at, updated_at, event_id,
                                  processed_by)
             select id, title, price, version, created_at, updated_at, id, 'orders-1'
             from unnest($1::uuid[], $2::text[], $3::numeric[], $4::integer[], $5::timestamptz[],
                         $6::timestamptz[])
                  as new (id, title, price, version, created_at, updated_at)",
        ));
        sqlx::query(insert)
            .bind(&ids)
            .bind(batch.iter().map(|ticket| ticket.title.as_str()).collect::<Vec<_>>())
            .bind(batch.iter().map(|ticket| ticket.price).collect::<Vec<_>>())
            .bind(batch.iter().map(|ticket| ticket.version).collect::<Vec<_>>())
            .bind(batch.iter().map(|ticket| ticket.created_at).collect::<Vec<_>>())
            .bind(batch.iter().map(|ticket| ticket.updated_at).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = tickets.len() as f64 / begun.elapsed().as_secs_f64();
    rate
}

async fn publish(system: &System, tickets: &[Ticket]) {
    let client = async_nats::connect(system.nats.url()).await.unwrap();
    let jetstream = jetstream::context::ContextBuilder::new()
        .timeout(Duration::from_secs(30))
        .ack_timeout(Duration::from_secs(30))
        .build(client);
    let confirmations = stream::iter(tickets).map(async |ticket| {
        let id = Uuid::now_v7();
        let event = TicketCreated(ticket.clone());
        let encoded = envelope::encode(id, OffsetDateTime::now_utc(), &event).unwrap();
        let message = PublishMessage::build().message_id(id.to_string()).payload(encoded.into());
        jetstream.send_publish("ticket:created", message).await.unwrap().await.unwrap();
    });
    confirmations.buffer_unordered(512).collect::<()>().await;
}

async fn group(system: &System) -> PullConsumer {
    let client = async_nats::connect(system.nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    jetstream.get_consumer_from_stream("orders-service", "TICKETS").await.unwrap()
}

async fn count(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from tickets").fetch_one(pool).await.unwrap()
}
