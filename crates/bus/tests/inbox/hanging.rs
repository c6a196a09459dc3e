//! An event on which the listener hangs, among good ones.

use std::future::pending;

use bus::{Failure, Listener, Received};
use sqlx::PgConnection;
use testkit::parcels::ParcelSent;
use uuid::Uuid;

use crate::world::{GROUP, World, join, until};

/// Writes every event but "hang", on which it waits for ever.
struct Hangs;

impl Listener for Hangs {
    type Events = ParcelSent;
    const QUEUE_GROUP: &'static str = GROUP;

    async fn handle(
        &self,
        tx: &mut PgConnection,
        batch: &[&Received<ParcelSent>],
    ) -> Result<(), Failure> {
        for received in batch {
            let name = received.event.0.as_str();
            if name == "hang" {
                pending::<()>().await;
            }
            let insert = sqlx::query("insert into effects values ($1, $2)");
            insert.bind(received.id).bind(name).execute(&mut *tx).await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn an_event_on_which_the_listener_hangs_holds_back_none_of_its_batch() {
    let world = World::start().await;
    let events: Vec<_> = ["good", "hang"].into_iter().chain(["good"; 7]).collect();
    let events: Vec<_> = events.into_iter().map(|name| (Uuid::now_v7(), name)).collect();
    // Stored before the member asks: the first is a batch, and the others are the next one.
    world.publish(&events).await;
    join(Hangs, world.nats.url(), world.pool.clone(), "member").await;
    until("the good ones took effect", || async { world.effects().await == (8, 8) }).await;
}
