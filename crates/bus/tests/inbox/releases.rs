//! Members of two releases in one group. The newer one consumes an event that the older one does
//! not know.

use std::{collections::BTreeSet, time::Duration};

use async_nats::jetstream::{
    AckKind,
    consumer::{Consumer, pull},
    message::PublishMessage,
};
use bus::{
    Event, Failure, Listener, Received, Shutdown, Stream,
    dead_letters::{self, DeadLetter},
    envelope,
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::world::{GROUP, PARCELS, ParcelSent, World, join, until};

/// The stream of the newer release.
const NEWER: Stream = Stream {
    name: PARCELS.name,
    subjects: &["parcel:sent", "parcel:lost"],
    schema_prefix: PARCELS.schema_prefix,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ParcelLost(String);

impl Event for ParcelLost {
    const SUBJECT: &'static str = "parcel:lost";
    const STREAM: &'static Stream = &NEWER;
    const SCHEMA_VERSION: u32 = 1;
    const SOURCE: &'static str = "/parcels";
    fn entity_id(&self) -> String {
        self.0.clone()
    }
}

bus::event_set! {
    /// The events of the newer release.
    enum NewerEvents in NEWER {
        /// Both releases know it.
        Sent(ParcelSent),
        /// Only the newer release knows it.
        Lost(ParcelLost),
    }
}

struct NewerParcels;

impl Listener for NewerParcels {
    type Events = NewerEvents;
    const QUEUE_GROUP: &'static str = GROUP;

    async fn handle(
        &self,
        tx: &mut PgConnection,
        batch: &[&Received<NewerEvents>],
    ) -> Result<(), Failure> {
        let ids: Vec<Uuid> = batch.iter().map(|received| received.id).collect();
        let names = batch.iter().map(|received| match &received.event {
            NewerEvents::Sent(ParcelSent(name)) | NewerEvents::Lost(ParcelLost(name)) => {
                name.as_str()
            }
        });
        sqlx::query("insert into effects select * from unnest($1::uuid[], $2::text[])")
            .bind(ids)
            .bind(names.collect::<Vec<_>>())
            .execute(tx)
            .await?;
        Ok(())
    }
}

async fn newer_member(world: &World, name: &str) -> Shutdown {
    join(NewerParcels, world.nats.url(), world.pool.clone(), name).await
}

async fn until_the_filter_has(world: &World, subjects: usize) {
    until("the group's filter is correct", || async {
        world.group().await.is_some_and(|group| {
            let several = group.config.filter_subjects.len();
            several + usize::from(!group.config.filter_subject.is_empty()) == subjects
        })
    })
    .await;
}

async fn publish_lost(world: &World, events: usize) {
    for _ in 0..events {
        let event = ParcelLost("lost".to_owned());
        let encoded = envelope::encode(Uuid::now_v7(), OffsetDateTime::now_utc(), &event).unwrap();
        let message = PublishMessage::build().payload(encoded.into());
        world.jetstream.send_publish("parcel:lost", message).await.unwrap().await.unwrap();
    }
}

async fn letters(world: &World) -> Vec<DeadLetter> {
    let mut connection = world.pool.acquire().await.unwrap();
    dead_letters::list(&mut connection, None, 100).await.unwrap()
}

#[tokio::test]
async fn an_event_only_a_newer_release_knows_is_left_to_its_members() {
    let world = World::start().await;
    world.member("old").await;
    until_the_filter_has(&world, 1).await;
    let _newer = newer_member(&world, "new").await;
    until_the_filter_has(&world, 2).await;
    let mut published = 0;
    // Until the older member has received some too: each event goes to whichever member asked
    // first.
    while world.group().await.unwrap().delivered.consumer_sequence <= published {
        assert!(published < 5_000, "the older member gets nothing");
        publish_lost(&world, 10).await;
        published += 10;
        until("the events are delivered", || async {
            world.group().await.unwrap().num_pending == 0
        })
        .await;
        assert!(letters(&world).await.is_empty(), "{:?}", letters(&world).await);
    }
    let all = i64::try_from(published).unwrap();
    until("the newer member has taken all", || async { world.effects().await == (all, all) }).await;
    assert!(letters(&world).await.is_empty(), "{:?}", letters(&world).await);
}

#[tokio::test]
async fn members_do_not_pull_in_lockstep() {
    let world = World::start().await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{GROUP}", PARCELS.name);
    let mut requests = client.subscribe(subject).await.unwrap();
    client.flush().await.unwrap();
    world.member("idle").await;
    let mut times = BTreeSet::new();
    for _ in 0..4 {
        let request = requests.next().await.unwrap();
        let request: Value = serde_json::from_slice(&request.payload).unwrap();
        times.insert(request["expires"].as_u64().unwrap());
    }
    assert!(times.len() > 1, "the server serves members in the same order every time: {times:?}");
}

#[tokio::test]
async fn an_event_no_member_knows_eventually_becomes_a_dead_letter() {
    let world = World::start().await;
    let newer = newer_member(&world, "new").await;
    until_the_filter_has(&world, 2).await;
    newer.begin();
    assert!(newer.finish(Duration::from_secs(20)).await);
    publish_lost(&world, 1).await;
    // As often as an older member would have returned it within some minutes.
    let group: Consumer<pull::Config> =
        world.jetstream.get_consumer_from_stream(GROUP, PARCELS.name).await.unwrap();
    let mut messages = group.messages().await.unwrap();
    for _ in 0..120 {
        let message = messages.next().await.unwrap().unwrap();
        message.ack_with(AckKind::Nak(None)).await.unwrap();
    }
    drop(messages);
    world.member("old").await;
    until("it is a dead letter", || async { letters(&world).await.len() == 1 }).await;
    assert!(letters(&world).await[0].reason.contains("parcel:lost"));
}

#[tokio::test]
async fn members_of_two_releases_do_not_keep_editing_the_group() {
    let world = World::start().await;
    world.member("old").await;
    until_the_filter_has(&world, 1).await;
    let _newer = newer_member(&world, "new").await;
    until_the_filter_has(&world, 2).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let subject = format!("{}.{GROUP}", PARCELS.name);
    let mut looks = client.subscribe(format!("$JS.API.CONSUMER.INFO.{subject}")).await.unwrap();
    let mut edits = client.subscribe(format!("$JS.API.CONSUMER.CREATE.{subject}.>")).await.unwrap();
    let mut plain_edits =
        client.subscribe(format!("$JS.API.CONSUMER.CREATE.{subject}")).await.unwrap();
    let mut deletions =
        client.subscribe(format!("$JS.API.CONSUMER.DELETE.{subject}")).await.unwrap();
    let mut stream_edits =
        client.subscribe(format!("$JS.API.STREAM.UPDATE.{}", PARCELS.name)).await.unwrap();
    // Two checks per member.
    for _ in 0..4 {
        looks.next().await.unwrap();
    }
    let soon = Instant::now() + Duration::from_millis(500);
    tokio::select! {
        edit = edits.next() => panic!("edited: {edit:?}"),
        edit = plain_edits.next() => panic!("edited: {edit:?}"),
        deletion = deletions.next() => panic!("deleted: {deletion:?}"),
        edit = stream_edits.next() => panic!("edited: {edit:?}"),
        () = sleep_until(soon) => {}
    }
    until_the_filter_has(&world, 2).await;
}
