//! A server that answers late, as on a machine short of CPU time. Members come and go meanwhile,
//! and no event is delivered twice.

use std::time::Duration;

use bus::Shutdown;
use futures::future::join_all;
use testkit::{Direction, FaultProxy};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::world::{World, until};

/// How late the server's answers are: longer than a member waits for the end of a pull (4 s),
/// shorter than the server waits to redeliver events (8 s) or takes to notice a silent connection
/// (9 s).
const LATE: Duration = Duration::from_secs(5);
/// Fewer than a member requests at once.
const EVENTS: usize = 200;

/// A held connection, and until when.
struct Held {
    link: FaultProxy,
    until: Instant,
}

impl Held {
    async fn release(self) -> FaultProxy {
        sleep_until(self.until).await;
        self.link.release(Direction::ToClient).await;
        self.link
    }
}

/// A world with one member, whose connection holds back the events that the server has sent.
async fn events_on_their_way() -> (World, Held, Shutdown) {
    let world = World::start().await;
    let link = FaultProxy::to(world.nats.client_port()).await.unwrap();
    let member = world.member_at(link.port(), "old").await;
    until("the member has asked for events", || async {
        world.group().await.is_some_and(|group| group.num_waiting > 0)
    })
    .await;
    link.hold(Direction::ToClient).await;
    let until_late = Instant::now() + LATE;
    let events: Vec<(Uuid, &str)> = (0..EVENTS).map(|_| (Uuid::now_v7(), "parcel")).collect();
    world.publish(&events).await;
    until("the events are on their way", || async {
        world.group().await.unwrap().delivered.consumer_sequence == EVENTS as u64
    })
    .await;
    (world, Held { link, until: until_late }, member)
}

/// Waits until every event is acknowledged, and checks that each was delivered once.
async fn each_was_delivered_once(world: &World) {
    until("all are acknowledged", || async {
        world.group().await.unwrap().ack_floor.stream_sequence == EVENTS as u64
    })
    .await;
    assert_eq!(world.group().await.unwrap().delivered.consumer_sequence, EVENTS as u64);
    let events = i64::try_from(EVENTS).unwrap();
    assert_eq!(world.effects().await, (events, events));
}

#[tokio::test]
async fn while_a_server_answers_late_and_members_join_no_event_is_delivered_twice() {
    let (world, held, _member) = events_on_their_way().await;
    join_all(["b", "c", "d", "e"].map(|name| world.member(name))).await;
    let _link = held.release().await;
    each_was_delivered_once(&world).await;
}

#[tokio::test]
async fn while_a_server_answers_late_and_a_member_is_replaced_no_event_is_delivered_twice() {
    let (world, held, member) = events_on_their_way().await;
    member.begin();
    let stopped = tokio::spawn(async move { member.finish(Duration::from_secs(30)).await });
    world.member("new").await;
    let _link = held.release().await;
    each_was_delivered_once(&world).await;
    stopped.await.unwrap();
}
