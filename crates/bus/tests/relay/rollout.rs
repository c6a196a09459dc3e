//! A rollout: replicas of the previous release keep writing to `bus.outbox` and publishing from
//! there, alongside new ones. Their statements are copied verbatim from that release.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_nats::jetstream::{self, message::PublishMessage};
use bus::outbox;
use sqlx::PgPool;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::world::{ParcelSent, World, until};

/// A replica of the previous release: commits these parcels' events, one per transaction.
async fn write_as_before(pool: &PgPool, number: i64) {
    let event = outbox::prepare(&ParcelSent::numbered(number)).unwrap();
    let envelope = bus::envelope::encode(
        event.id,
        time::OffsetDateTime::now_utc(),
        &ParcelSent::numbered(number),
    );
    sqlx::query(
        "insert into bus.outbox (id, stream, subject, envelope)
         select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[])",
    )
    .bind([event.id])
    .bind(["PARCELS"])
    .bind(["parcel:sent"])
    .bind([envelope.unwrap()])
    .execute(pool)
    .await
    .unwrap();
}

/// A relay of the previous release, until it is told to stop.
async fn relay_as_before(pool: PgPool, nats_url: String, end: Arc<AtomicBool>) {
    let jetstream = jetstream::new(async_nats::connect(nats_url).await.unwrap());
    while !end.load(Ordering::Relaxed) {
        let mut tx = pool.begin().await.unwrap();
        let rows: Vec<(Uuid, String, String, String)> = sqlx::query_as(
            "select id, stream, subject, envelope from bus.outbox
             where published_at is null order by position limit $1
             for update skip locked",
        )
        .bind(512)
        .fetch_all(&mut *tx)
        .await
        .unwrap();
        for (id, stream, subject, envelope) in rows {
            let message = PublishMessage::build()
                .message_id(id.to_string())
                .expected_stream(stream)
                .payload(envelope.into());
            // Until the stream exists, or while it is recreated, the row stays as it is.
            let Ok(ack) = jetstream.send_publish(subject, message).await.unwrap().await else {
                continue;
            };
            sqlx::query(
                "update bus.outbox
                 set published_at = clock_timestamp(), stream_created = $3, stream_sequence = sequence
                 from unnest($1::uuid[], $2::bigint[]) as published (event_id, sequence)
                 where id = event_id",
            )
            .bind([id])
            .bind([i64::try_from(ack.sequence).unwrap()])
            .bind(time::OffsetDateTime::UNIX_EPOCH)
            .execute(&mut *tx)
            .await
            .unwrap();
        }
        tx.commit().await.unwrap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn old_and_new_replicas_side_by_side_lose_no_event_and_publish_none_twice() {
    let world = World::start().await;
    let end = Arc::new(AtomicBool::new(false));
    let old = tokio::spawn(relay_as_before(world.pool.clone(), world.nats.url(), end.clone()));
    let _new = world.relay("new");
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let pool = world.pool.clone();
        writers.spawn(async move {
            for number in 0..250 {
                write_as_before(&pool, writer * 250 + number).await;
            }
        });
    }
    for round in 0..20 {
        world.send((0..50).map(|number| 1_000 + round * 50 + number)).await;
    }
    writers.join_all().await;
    world.until_stored(0..500).await;
    // The last old relay is aborted in the middle of its work.
    old.abort();
    end.store(true, Ordering::Relaxed);
    world.until_stored(0..2_000).await;
    world.until_quiet().await;
    until("all of the old table is imported", || async {
        sqlx::query_scalar::<_, bool>("select not exists (select from bus.outbox)")
            .fetch_one(&world.pool)
            .await
            .unwrap()
    })
    .await;
    let stored = world.stored().await;
    assert!(stored.values().all(|times| *times == 1), "some are stored more than once");
}
