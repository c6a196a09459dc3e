//! A slow listener delays only its own event: neither the rest of its batch nor the next batch.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bus::{Failure, Listener, Options, Received};
use sqlx::PgConnection;
use testkit::{connection::options, parcels::ParcelSent};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use uuid::Uuid;

use crate::world::{GROUP, World, join, join_with, until};

/// How long a test watches that an event is not handled.
const PAUSE: Duration = Duration::from_secs(1);

/// The state of the event named "slow".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slow {
    NotDelivered,
    BeingHandled,
    Ended,
}

/// Handles "slow" once it has a permit, fails "again" the first few times, and handles every other event at once.
struct Gated {
    failures: usize,
    permits: Arc<Semaphore>,
    slow: watch::Sender<Slow>,
    /// The state of "slow" at each call for "again".
    again: Arc<Mutex<Vec<Slow>>>,
}

/// Marks the end of a call, however it ends.
struct UntilEnded<'a>(&'a watch::Sender<Slow>);

impl Drop for UntilEnded<'_> {
    fn drop(&mut self) {
        self.0.send_replace(Slow::Ended);
    }
}

impl Listener for Gated {
    type Events = ParcelSent;
    const QUEUE_GROUP: &'static str = GROUP;

    async fn handle(
        &self,
        tx: &mut PgConnection,
        batch: &[&Received<ParcelSent>],
    ) -> Result<(), Failure> {
        for received in batch {
            let name = received.event.0.as_str();
            let slow = (name == "slow").then(|| UntilEnded(&self.slow));
            if slow.is_some() {
                self.slow.send_replace(Slow::BeingHandled);
                let _permit = self.permits.acquire().await;
            }
            if name == "again" {
                let mut calls = self.again.lock().unwrap();
                calls.push(*self.slow.borrow());
                if calls.len() <= self.failures {
                    return Err(Failure::Retry("one of the first few times".into()));
                }
            }
            let insert = sqlx::query("insert into effects values ($1, $2)");
            insert.bind(received.id).bind(name).execute(&mut *tx).await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn while_one_batch_is_being_processed_the_next_one_takes_effect() {
    let world = World::start().await;
    let (slow, mut seen) = watch::channel(Slow::NotDelivered);
    let permits = Arc::new(Semaphore::new(0));
    let listener = Gated { failures: 1, permits: permits.clone(), slow, again: Arc::default() };
    let _member = join(listener, world.nats.url(), world.pool.clone(), "a").await;
    world.publish(&[(Uuid::now_v7(), "slow")]).await;
    seen.wait_for(|slow| *slow == Slow::BeingHandled).await.unwrap();

    world.publish(&[(Uuid::now_v7(), "quick")]).await;
    until("the next one has taken effect", || async { world.effects().await == (1, 1) }).await;
    assert_eq!(*seen.borrow(), Slow::BeingHandled, "it did not wait for the slow one");

    permits.add_permits(1);
    until("the slow one has taken effect", || async { world.effects().await == (2, 2) }).await;
    until("both are acknowledged", || async {
        world.group().await.unwrap().ack_floor.stream_sequence == 2
    })
    .await;
}

#[tokio::test]
async fn a_redelivered_event_is_not_tried_until_the_batch_in_progress_ends() {
    let world = World::start().await;
    let (slow, mut seen) = watch::channel(Slow::NotDelivered);
    let (permits, again) = (Arc::new(Semaphore::new(0)), Arc::<Mutex<Vec<Slow>>>::default());
    let listener = Gated { failures: 1, permits: permits.clone(), slow, again: again.clone() };
    let _member = join(listener, world.nats.url(), world.pool.clone(), "a").await;
    world.publish(&[(Uuid::now_v7(), "again")]).await;
    until("it has failed", || async { again.lock().unwrap().len() == 1 }).await;
    world.publish(&[(Uuid::now_v7(), "slow")]).await;
    seen.wait_for(|slow| *slow == Slow::BeingHandled).await.unwrap();
    until("it is delivered again", || async {
        world.group().await.unwrap().delivered.consumer_sequence == 3
    })
    .await;
    let handled = until("it is handled", || async { again.lock().unwrap().len() > 1 });
    assert!(timeout(PAUSE, handled).await.is_err(), "it did not wait for the slow one");
    permits.add_permits(1);
    until("both have taken effect", || async { world.effects().await == (2, 2) }).await;
    assert_eq!(*again.lock().unwrap(), [Slow::NotDelivered, Slow::Ended]);
}

#[tokio::test]
async fn an_event_on_which_the_listener_hangs_holds_back_none_of_its_batch() {
    let world = World::start().await;
    let (slow, _seen) = watch::channel(Slow::NotDelivered);
    let permits = Arc::new(Semaphore::new(0));
    let listener = Gated { failures: 0, permits, slow, again: Arc::default() };
    let names = ["good", "slow"].into_iter().chain(["good"; 7]);
    let events: Vec<_> = names.map(|name| (Uuid::now_v7(), name)).collect();
    // Stored before the member asks: the first is a batch, and the others are the next one.
    world.publish(&events).await;
    join(listener, world.nats.url(), world.pool.clone(), "member").await;
    until("the good ones took effect", || async { world.effects().await == (8, 8) }).await;
}

#[tokio::test]
async fn returned_events_are_redelivered_while_the_rest_of_their_batch_is_in_progress() {
    let world = World::start().await;
    let (slow, seen) = watch::channel(Slow::NotDelivered);
    let permits = Arc::new(Semaphore::new(0));
    let listener = Gated { failures: usize::MAX, permits, slow, again: Arc::default() };
    // Stored before the member asks: the first is a batch, and the others are the next one.
    let names = ["good"].into_iter().chain(["again"; 10]).chain(["slow"]);
    world.publish(&names.map(|name| (Uuid::now_v7(), name)).collect::<Vec<_>>()).await;
    // Progress is reported more often than events are redelivered.
    let ack_wait = Duration::from_secs(2);
    let options = Options { ack_wait, ..options(world.nats.url(), "a") };
    let _member = join_with(listener, options, world.pool.clone()).await;
    until("they are delivered again", || async {
        world.group().await.is_some_and(|group| group.delivered.consumer_sequence >= 12 + 10)
    })
    .await;
    assert_eq!(*seen.borrow(), Slow::BeingHandled, "they came back only after the slow one");
}
