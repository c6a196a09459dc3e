//! Publishes what the outbox holds, and again what a stream has lost.
//!
//! Any number of processes may relay from one outbox: each takes rows that no other has in hand.
//! The rows stay locked from before the publish until after the mark, so a relay that dies in
//! between leaves them unpublished, and the same `Nats-Msg-Id` goes out again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::jetstream::{context::PublishAckFuture, message::PublishMessage};
use futures::future::join_all;
use sqlx::{PgConnection, PgPool};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::{
    connection::Bus,
    envelope, outbox,
    refill::{confirmed, record},
    topology::{self, StreamState, TopologyError},
};
use crate::{event::Stream, shutdown::Shutdown};

/// How many events go out before their confirmations are waited for.
const BATCH: i64 = 512;
/// How often the outbox is looked at when nobody wakes the relay: what another process left.
const POLL: Duration = Duration::from_secs(1);
/// How often streams are compared with what they had confirmed.
const VERIFY: Duration = Duration::from_secs(5);
/// How long a published event stays in the outbox, to be published again should its stream lose
/// it: as long as the stream would have kept it.
pub const RETENTION: Duration = topology::STREAM_MAX_AGE;
/// How long a batch, or a look at the streams, may take. The limits of the database and of NATS are
/// below; this one is for a database whose machine has vanished without a word.
const BATCH_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest pause after failures.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// How long a stopping relay tries to send off what is there.
const LAST_ROUND: Duration = Duration::from_secs(2);

/// A relay's transactions do not wait for the disk. Should Postgres crash, the last marks are lost
/// together, and what they marked goes out again under the same `Nats-Msg-Id`.
const BEGIN: &str = "begin; set local synchronous_commit to off";

/// Wakes the relay of this process after a commit. Clones wake the same one.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Tells the relay that something was committed to the outbox. Never waits.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// Publishes from one database's outbox to the streams that its service writes to.
#[derive(Debug)]
pub struct Relay {
    pub(crate) bus: Bus,
    pub(crate) pool: PgPool,
    pub(crate) streams: &'static [&'static Stream],
    pub(crate) wake: Wake,
    /// Which incarnation of each stream is being written to, as last verified.
    pub(crate) verified: HashMap<&'static str, StreamState>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    stream: String,
    subject: String,
    envelope: String,
}

/// An event that the stream has confirmed.
pub(crate) struct Published {
    pub(crate) id: Uuid,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    pub(crate) duplicate: bool,
}

impl Relay {
    /// A relay, and what wakes it.
    #[must_use]
    pub fn new(bus: Bus, pool: PgPool, streams: &'static [&'static Stream]) -> (Self, Wake) {
        let wake = Wake::default();
        let verified = HashMap::new();
        (Self { bus, pool, streams, wake: wake.clone(), verified }, wake)
    }

    /// Relays until the process stops.
    ///
    /// # Errors
    /// Only when a stream exists and can never serve; what passes by itself is waited out.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        shutdown.spawn("outbox", outbox::tend(self.pool.clone(), shutdown.clone()));
        let mut backoff = Duration::ZERO;
        while !shutdown.has_begun() {
            tokio::select! {
                () = shutdown.begun() => break,
                _ = self.bus.connected() => {}
            }
            let ended = tokio::select! {
                // Cut off at any point, the transaction rolls back and the rows go out again.
                () = shutdown.begun() => break,
                ended = self.relay_connected() => ended,
            };
            match ended {
                Ok(()) => backoff = Duration::ZERO,
                Err(error) => {
                    if let Some(TopologyError::Drift { .. }) = error.downcast_ref() {
                        return Err(error);
                    }
                    backoff = (backoff * 2).clamp(Duration::from_millis(50), MAX_BACKOFF);
                    warn!(
                        error = format!("{error:#}"),
                        retry.ms = backoff.as_millis(),
                        "the relay pauses"
                    );
                    tokio::select! {
                        () = shutdown.begun() => break,
                        () = sleep(backoff.mul_f64(rand::random_range(0.5..=1.0))) => {}
                    }
                }
            }
        }
        if self.bus.link().borrow().up {
            // Whatever is left is published by the next process; this only spares it the wait.
            let _ = timeout(LAST_ROUND, self.publish_all()).await;
        }
        Ok(())
    }

    /// Relays for as long as one connection holds and nothing fails.
    async fn relay_connected(&mut self) -> anyhow::Result<()> {
        let mut link = self.bus.link();
        let epoch = link.borrow_and_update().epoch;
        timeout(BATCH_TIMEOUT, self.verify()).await??;
        let mut verify_at = Instant::now() + VERIFY;
        loop {
            if link.borrow().epoch != epoch || !link.borrow().up {
                return Ok(());
            }
            if Instant::now() >= verify_at {
                timeout(BATCH_TIMEOUT, self.verify()).await??;
                verify_at = Instant::now() + VERIFY;
            }
            self.publish_all().await?;
            tokio::select! {
                () = self.wake.0.notified() => {}
                () = sleep(POLL) => {}
                _ = link.changed() => {}
            }
        }
    }

    async fn publish_all(&mut self) -> anyhow::Result<()> {
        while timeout(BATCH_TIMEOUT, self.publish_batch()).await?? == BATCH {}
        Ok(())
    }

    /// Publishes one batch. Returns how many rows it held.
    async fn publish_batch(&mut self) -> anyhow::Result<i64> {
        let mut tx = self.pool.begin_with(BEGIN).await?;
        let rows: Vec<Row> = sqlx::query_as(
            "select id, stream, subject, envelope from bus.outbox
             where published_at is null order by position limit $1
             for update skip locked",
        )
        .bind(BATCH)
        .fetch_all(&mut *tx)
        .await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let taken = i64::try_from(rows.len())?;
        // Read before anything goes out: whatever is confirmed below this has been lost.
        let confirmed_before = confirmed(&mut tx).await?;
        let (published, failed) = self.publish(rows).await;
        self.mark(&mut tx, &published).await?;
        tx.commit().await?;
        metrics::counter!("bus_published_total").increment(published.len() as u64);
        self.refill_lost_tail(&published, &confirmed_before).await?;
        match failed {
            Some(error) => Err(error.context("an event was not confirmed by its stream")),
            None => Ok(taken),
        }
    }

    /// Sends everything, then waits for every confirmation. The second part is the first failure.
    async fn publish(&self, rows: Vec<Row>) -> (Vec<Published>, Option<anyhow::Error>) {
        let mut sent: Vec<(Uuid, String, PublishAckFuture)> = Vec::with_capacity(rows.len());
        let mut failed = None;
        for row in rows {
            let message = PublishMessage::build()
                .header("content-type", envelope::CONTENT_TYPE)
                .message_id(row.id.to_string())
                .expected_stream(&row.stream)
                .payload(row.envelope.into());
            match self.bus.jetstream.send_publish(row.subject, message).await {
                Ok(ack) => sent.push((row.id, row.stream, ack)),
                Err(error) => {
                    failed = Some(error.into());
                    break;
                }
            }
        }
        let confirmations = sent.into_iter().map(|(id, stream, ack)| async move {
            let ack = ack.await?;
            let (sequence, duplicate) = (ack.sequence, ack.duplicate);
            anyhow::Ok(Published { id, stream, sequence, duplicate })
        });
        let mut published = Vec::new();
        for confirmation in join_all(confirmations).await {
            match confirmation {
                Ok(confirmed) => published.push(confirmed),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        (published, failed)
    }

    /// Marks events as published, and how far each stream has confirmed.
    async fn mark(&self, tx: &mut PgConnection, published: &[Published]) -> anyhow::Result<()> {
        for stream in self.streams {
            let Some(state) = self.verified.get(stream.name) else { continue };
            let of_stream = || published.iter().filter(|event| event.stream == stream.name);
            let ids: Vec<Uuid> = of_stream().map(|event| event.id).collect();
            let sequences = of_stream()
                .map(|event| event.sequence.try_into())
                .collect::<Result<Vec<i64>, _>>()?;
            let Some(last) = sequences.iter().max() else { continue };
            sqlx::query(
                "update bus.outbox
                 set published_at = clock_timestamp(), stream_created = $3, stream_sequence = sequence
                 from unnest($1::uuid[], $2::bigint[]) as published (event_id, sequence)
                 where id = event_id",
            )
            .bind(&ids)
            .bind(&sequences)
            .bind(state.created)
            .execute(&mut *tx)
            .await?;
            record(tx, stream.name, state.created, *last).await?;
            debug!(stream = stream.name, events = ids.len(), last_sequence = last, "published");
        }
        Ok(())
    }
}
