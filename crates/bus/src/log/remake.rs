//! Makes a stream again whose disk was full, once there is room; the [`refill`](super::refill) fills it.
//!
//! Deleting a stream must lose nothing. So it is done only when the server itself says that it has stopped
//! writing because the disk was full, there is room now, and every message that some group has yet to
//! acknowledge is one of this log's. Otherwise it is said what is the matter, and looked at again.

use std::{collections::HashSet, time::Duration};

use anyhow::Context;
use futures::future::try_join_all;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    Place,
    page::{self, Part},
    session::bounded,
    stream_relay::StreamRelay,
};
use crate::{
    to_microseconds,
    topology::{self, TopologyError},
};

/// How long a stream that was made again must last before it is made again once more, and how long at
/// most: each time, all that the log keeps goes out.
const LASTS: Duration = Duration::from_secs(60);
const MAX_LASTS: Duration = Duration::from_secs(3_600);
/// How many messages are looked at that no range accounts for. A relay that died leaves a page of them.
const LOOKED_AT: i64 = 10_000;
/// How many pages of new events may be among them. One was under way, and what was committed late since
/// then may come before it.
const PAGES: usize = 4;
/// How many messages are asked for at once.
const AT_ONCE: usize = 256;

/// When a stream was made again, by this process.
#[derive(Debug)]
pub(crate) struct Remade {
    at: Option<Instant>,
    lasts: Duration,
}

impl Default for Remade {
    fn default() -> Self {
        Self { at: None, lasts: LASTS }
    }
}

impl Remade {
    /// How long to wait before it may be made again.
    fn wait(&self) -> Option<Duration> {
        self.at.and_then(|at| self.lasts.checked_sub(at.elapsed()))
    }

    fn now(&mut self) {
        let soon = self.at.is_some_and(|at| at.elapsed() < 2 * self.lasts);
        self.lasts = if soon { (2 * self.lasts).min(MAX_LASTS) } else { LASTS };
        self.at = Some(Instant::now());
    }
}

impl StreamRelay {
    /// What is to be done about a failure: nothing when the disk was full and the stream has been made
    /// again.
    pub(crate) async fn explain(&mut self, failure: anyhow::Error) -> anyhow::Result<()> {
        let known = failure.downcast_ref::<TopologyError>();
        if matches!(known, Some(TopologyError::Drift { .. })) || !self.bus.link().borrow().up {
            return Err(failure);
        }
        match self.remake_if_stopped().await {
            Ok(true) => Ok(()),
            Err(error) if error.is::<TopologyError>() => Err(error),
            Ok(false) => Err(failure),
            Err(error) => {
                debug!(
                    stream = self.stream.name,
                    error = format!("{error:#}"),
                    "no look at its disk"
                );
                Err(failure)
            }
        }
    }

    /// Makes the stream again if its server has stopped writing to it and has room now.
    ///
    /// # Errors
    /// [`TopologyError::Drift`] when it is to stay as it is for now, with the reason.
    pub(crate) async fn remake_if_stopped(&mut self) -> anyhow::Result<bool> {
        let Some((_, words)) = topology::stopped_by_full_disk(&self.bus, self.stream).await else {
            return Ok(false);
        };
        if let Some(wait) = self.remade.wait() {
            let seconds = wait.as_secs();
            let why = format!("it was made again a moment ago; the next try is in {seconds} s");
            return Err(self.stays(&words, &why).into());
        }
        // Such as where the rights for it were taken away.
        let cannot = |error: TopologyError| {
            self.stays(&words, &format!("once there is room, restart nats-server ({error})"))
        };
        if !topology::has_room(&self.bus, self.stream).await.map_err(cannot)? {
            let why = "free some room, and it is made and filled again";
            return Err(self.stays(&words, why).into());
        }
        self.verify().await?;
        if let Some(why) = self.holds_what_the_log_does_not().await? {
            return Err(self.stays(&words, &why).into());
        }
        // Once more, as late as can be: somebody may have restarted the server meanwhile.
        let Some((found, words)) = topology::stopped_by_full_disk(&self.bus, self.stream).await
        else {
            return Ok(false);
        };
        if Some(to_microseconds(found.created)) != self.cursor.created {
            return Ok(false);
        }
        warn!(
            stream = self.stream.name,
            error = words,
            "the server had no room and writes to the stream no more; there is room now: making the stream again"
        );
        topology::remake(&self.bus, &found).await.map_err(|error| {
            let why = format!("it cannot be made again ({error}); restart nats-server");
            self.stays(&words, &why)
        })?;
        self.remade.now();
        metrics::counter!("bus_streams_remade_total", "stream" => self.stream.name).increment(1);
        Ok(true)
    }

    fn stays(&self, words: &str, why: &str) -> TopologyError {
        TopologyError::Drift {
            what: format!("stream {}", self.stream.name),
            why: format!("its server had no room, and writes to it no more ({words}): {why}"),
        }
    }

    /// Why the stream cannot be filled again from the log, if it cannot: a message above what every group
    /// has acknowledged that is not one of the log's.
    async fn holds_what_the_log_does_not(&mut self) -> anyhow::Result<Option<String>> {
        let ours = self.under_way().await?;
        let (stream, created) = (self.stream.name, self.cursor.created.context("not verified")?);
        let state = topology::stream(&self.bus, self.stream).await?;
        let from = self.cursor.acknowledged.max(i64::try_from(state.first_sequence)? - 1) + 1;
        let last = i64::try_from(state.last_sequence)?;
        let gaps =
            bounded(gaps(&mut self.session()?.connection, stream, created, from, last)).await?;
        if gaps.iter().map(|(from, to)| to - from).sum::<i64>() > LOOKED_AT {
            return Ok(Some(format!(
                "it holds too many messages that are not known to be of this log; restart \
                 nats-server, or delete the stream and lose those that others published (more than \
                 {LOOKED_AT})"
            )));
        }
        let sequences: Vec<i64> = gaps.into_iter().flat_map(|(from, to)| from..to).collect();
        for sequences in sequences.chunks(AT_ONCE) {
            let found = try_join_all(sequences.iter().map(async |sequence| {
                topology::message(&self.bus, stream, sequence.unsigned_abs()).await
            }));
            for (sequence, found) in sequences.iter().zip(found.await?) {
                let Some(message) = found else { continue };
                // `event` or `event:range`.
                let id = message.message_id.split(':').next().and_then(|id| id.parse().ok());
                if !id.is_some_and(|id| ours.contains(&id)) {
                    return Ok(Some(format!(
                        "message {sequence} is not of this log and would be lost; restart \
                         nats-server, or delete the stream if you can do without it"
                    )));
                }
            }
        }
        Ok(None)
    }

    /// The events that may be in the stream though no range says so: those that are next, of the new ones
    /// and of those that are published again. Whoever published a page failed before it took note of that.
    async fn under_way(&mut self) -> anyhow::Result<HashSet<Uuid>> {
        let (cursor, mut ids) = (self.cursor.clone(), HashSet::new());
        let mut part = Part {
            stream: self.stream.name,
            done: &cursor.done,
            target: cursor.target.as_deref(),
            after: cursor.at(),
            up_to: Place::END,
        };
        for _ in 0..PAGES {
            let page = bounded(page::read(&mut self.session()?.connection, part)).await?;
            ids.extend(page.events.iter().map(|event| event.id));
            match page.end {
                Some(end) if page.full => part.after = end,
                _ => break,
            }
        }
        if let Some((_, page)) = self.next_lost().await? {
            ids.extend(page.events.iter().map(|event| event.id));
        }
        Ok(ids)
    }
}

/// The sequences from one up to another that no range accounts for, each from and up to but without its
/// end. A range accounts for its sequences when it has as many events.
async fn gaps(
    connection: &mut PgConnection,
    stream: &str,
    created: OffsetDateTime,
    from: i64,
    last: i64,
) -> Result<Vec<(i64, i64)>, sqlx::Error> {
    sqlx::query_as(
        "with known as (
             select range_agg(int8range(first_sequence, last_sequence, '[]')) as sequences
             from bus.ranges
             where stream = $1 and created = $2 and not lost and last_sequence >= $3::bigint
               and events = last_sequence - first_sequence + 1)
         select lower(gap), upper(gap)
         from known, unnest(int8multirange(int8range($3::bigint, greatest($4::bigint + 1, $3::bigint)))
                            - coalesce(sequences, '{}')) as gap",
    )
    .bind(stream)
    .bind(created)
    .bind(from)
    .bind(last)
    .fetch_all(connection)
    .await
}
