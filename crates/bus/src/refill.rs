//! What a stream has lost, from what it had confirmed: which incarnation of a stream confirmed an
//! event, and at which sequence, is kept with the event. A stream that comes back younger or shorter
//! has lost some; those go out again.

use std::collections::HashMap;

use sqlx::PgConnection;
use time::OffsetDateTime;
use tracing::{error, warn};
use uuid::Uuid;

use crate::{
    relay::{Published, Relay},
    to_microseconds,
    topology::{self, StreamState},
};

impl Relay {
    /// Compares each stream with what it had confirmed, and publishes the difference again.
    pub(crate) async fn verify(&mut self) -> anyhow::Result<()> {
        for stream in self.streams {
            let state = topology::stream(&self.bus, stream).await?;
            let mut tx = self.pool.begin().await?;
            let before: Option<(OffsetDateTime, i64)> = sqlx::query_as(
                "select created, last_sequence from bus.streams where name = $1 for update",
            )
            .bind(stream.name)
            .fetch_optional(&mut *tx)
            .await?;
            let last = i64::try_from(state.last_sequence)?;
            let created = to_microseconds(state.created);
            if let Some((known, confirmed)) = before
                && (known != created || confirmed > last)
            {
                let lost = refill(&mut tx, stream.name, created, last + 1, &[]).await?;
                if lost > 0 {
                    error!(
                        stream = stream.name,
                        events = lost,
                        "the stream has lost events, publishing them again"
                    );
                }
                sqlx::query(
                    "update bus.streams set created = $2, last_sequence = $3 where name = $1",
                )
                .bind(stream.name)
                .bind(created)
                .bind(last)
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await?;
            self.verified.insert(stream.name, StreamState { created, ..state });
        }
        Ok(())
    }

    /// A confirmation at a sequence that was confirmed before means that the stream has lost its
    /// tail and counts it anew.
    pub(crate) async fn refill_lost_tail(
        &self,
        published: &[Published],
        confirmed_before: &HashMap<String, (OffsetDateTime, i64)>,
    ) -> anyhow::Result<()> {
        for stream in self.streams {
            let (Some((created, before)), Some(state)) =
                (confirmed_before.get(stream.name), self.verified.get(stream.name))
            else {
                continue;
            };
            let fresh = || published.iter().filter(|e| e.stream == stream.name && !e.duplicate);
            let Some(first) = fresh().map(|event| event.sequence).min() else { continue };
            let first = i64::try_from(first)?;
            if *created != state.created || first > *before {
                continue;
            }
            let ids: Vec<Uuid> = fresh().map(|event| event.id).collect();
            let mut tx = self.pool.begin().await?;
            let lost = refill(&mut tx, stream.name, *created, first, &ids).await?;
            tx.commit().await?;
            warn!(
                stream = stream.name,
                events = lost,
                "the stream has lost its tail, publishing it again"
            );
            self.wake.wake();
        }
        Ok(())
    }
}

/// What each stream has confirmed so far.
pub(crate) async fn confirmed(
    tx: &mut PgConnection,
) -> Result<HashMap<String, (OffsetDateTime, i64)>, sqlx::Error> {
    let rows: Vec<(String, OffsetDateTime, i64)> =
        sqlx::query_as("select name, created, last_sequence from bus.streams")
            .fetch_all(tx)
            .await?;
    Ok(rows.into_iter().map(|(name, created, last)| (name, (created, last))).collect())
}

/// Keeps how far a stream has confirmed.
pub(crate) async fn record(
    tx: &mut PgConnection,
    stream: &str,
    created: OffsetDateTime,
    last: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into bus.streams (name, created, last_sequence) values ($1, $2, $3)
         on conflict (name) do update
         set last_sequence = greatest(streams.last_sequence, excluded.last_sequence)
         where streams.created = excluded.created",
    )
    .bind(stream)
    .bind(created)
    .bind(last)
    .execute(tx)
    .await?;
    Ok(())
}

/// Takes the mark off events that another incarnation of the stream confirmed, or this one at or
/// past `first_lost`, except those just published. Returns how many.
async fn refill(
    tx: &mut PgConnection,
    stream: &str,
    created: OffsetDateTime,
    first_lost: i64,
    except: &[Uuid],
) -> Result<u64, sqlx::Error> {
    let refilled = sqlx::query(
        "update bus.outbox set published_at = null, stream_created = null, stream_sequence = null
         where stream = $1 and published_at is not null
           and (stream_created <> $2 or stream_sequence >= $3) and id <> all($4)",
    )
    .bind(stream)
    .bind(created)
    .bind(first_lost)
    .bind(except)
    .execute(tx)
    .await?;
    Ok(refilled.rows_affected())
}
