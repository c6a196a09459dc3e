//! Publishes a backlog while each disk sync of nats-server and Postgres takes 2 ms longer, as on a cloud
//! disk.

use std::time::Duration;

use common::{bus::outbox, events::ticket::TicketCreated};
use embedded::{NatsServer, Postgres};
use tokio::time::Instant;

use crate::{
    drain::ticket,
    post::stored,
    system::{Processors, System, show_memory, until},
};

const DELAY: Duration = Duration::from_millis(2);
const EVENTS: i64 = 100_000;
const IN_ONE_TRANSACTION: i64 = 1_000;

pub(crate) async fn run() {
    println!(
        "\nPublishing {EVENTS} waiting events, each disk sync {} ms slower",
        DELAY.as_millis()
    );
    let (nats, postgres) = tokio::join!(
        NatsServer::builder().slow_syncs(DELAY).start(),
        Postgres::builder().slow_syncs(DELAY).start()
    );
    let system = System::of(nats.unwrap(), postgres.unwrap()).await;
    // Creates stream and tables, then stops the replica while the events are written.
    let mut first = system.service("tickets", "tickets-1").await;
    until(async || stored(&system).await == 0).await;
    first.child.kill().await;
    for batch in 0..EVENTS / IN_ONE_TRANSACTION {
        let numbers = batch * IN_ONE_TRANSACTION..(batch + 1) * IN_ONE_TRANSACTION;
        let events: Vec<_> = numbers
            .map(|number| outbox::prepare(&TicketCreated(ticket(number))).unwrap())
            .collect();
        let mut tx = system.tickets_db.begin().await.unwrap();
        outbox::put_prepared(&mut tx, &events).await.unwrap();
        tx.commit().await.unwrap();
    }
    let tickets = system.service("tickets", "tickets-1").await;
    let (begun, before) = (Instant::now(), stored(&system).await);
    let processors = Processors::watch(&system, &[&tickets]);
    until(async || stored(&system).await == EVENTS).await;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = (EVENTS - before) as f64 / begun.elapsed().as_secs_f64();
    println!("  through NATS  {rate:.0}/s");
    processors.show();
    show_memory(&[&tickets]);
}
