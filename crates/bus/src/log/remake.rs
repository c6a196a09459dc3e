//! Recreates a stream whose disk was full, once there is room. The [`refill`](super::refill) fills it again.
//!
//! Deleting a stream must lose nothing. So the stream is only recreated if the server itself says that it
//! stopped writing because the disk was full, there is room now, and every message that a group has yet to
//! acknowledge is in this log. Otherwise the reason is logged, and the relay checks again.

use std::collections::HashSet;

use futures::future::try_join_all;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    error::RelayError,
    page::{self, Part},
    place::Place,
    session::bounded,
    state::StreamRelay,
};
use crate::{
    text::to_microseconds,
    topology::{self, TopologyError},
};

/// How many messages outside every range are checked. A relay that died leaves a page of them.
const LOOKED_AT: i64 = 10_000;
/// How many pages of new events may be among them. One was being published; events committed late since then
/// may come before it.
const PAGES: usize = 4;
/// How many messages are requested at once.
const AT_ONCE: usize = 256;

impl StreamRelay {
    /// Recreates the stream if a full disk explains the failure. Otherwise returns the failure, or why the
    /// stream cannot be recreated yet.
    pub(super) async fn recover(&mut self, failure: RelayError) -> Result<(), RelayError> {
        let drift = matches!(failure, RelayError::Topology(TopologyError::Drift { .. }));
        if drift || !self.bus.connection_state().borrow().up {
            return Err(failure);
        }
        match self.remake_if_stopped().await {
            Ok(true) => Ok(()),
            Err(error @ RelayError::Topology(_)) => Err(error),
            Ok(false) => Err(failure),
            Err(error) => {
                debug!(stream = self.stream.name, %error, "cannot tell whether its disk was full");
                Err(failure)
            }
        }
    }

    /// Recreates the stream if its server has stopped writing to it and has room now.
    ///
    /// # Errors
    /// [`TopologyError::Drift`] with the reason if it must stay for now.
    pub(super) async fn remake_if_stopped(&mut self) -> Result<bool, RelayError> {
        let Some((_, words)) = topology::stopped_by_full_disk(&self.bus, self.stream).await else {
            return Ok(false);
        };
        if let Some(wait) = self.remade.wait() {
            let seconds = wait.as_secs();
            let why = format!("it was recreated a moment ago; the next attempt is in {seconds} s");
            return Err(self.stays(&words, &why).into());
        }
        // For example, because the user lacks the permission.
        let cannot = |error: TopologyError| {
            self.stays(&words, &format!("once there is room, restart nats-server ({error})"))
        };
        if !topology::has_room(&self.bus, self.stream).await.map_err(cannot)? {
            let why = "free disk space, and it is recreated and refilled";
            return Err(self.stays(&words, why).into());
        }
        self.verify().await?;
        if let Some(why) = self.holds_what_the_log_does_not().await? {
            return Err(self.stays(&words, &why).into());
        }
        // Once more, as late as possible: an operator may have restarted the server meanwhile.
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
            "the disk was full and the server stopped writing to the stream; there is room now, recreating the stream"
        );
        topology::remake(&self.bus, &found).await.map_err(|error| {
            let why = format!("it cannot be recreated ({error}); restart nats-server");
            self.stays(&words, &why)
        })?;
        self.remade.now();
        metrics::counter!("bus_streams_remade_total", "stream" => self.stream.name).increment(1);
        Ok(true)
    }

    fn stays(&self, words: &str, why: &str) -> TopologyError {
        TopologyError::Drift {
            what: format!("stream {}", self.stream.name),
            why: format!("its disk was full and the server stopped writing to it ({words}): {why}"),
        }
    }

    /// Why the stream cannot be refilled from the log, if it cannot: a message that some group has not
    /// acknowledged is not in the log.
    async fn holds_what_the_log_does_not(&mut self) -> Result<Option<String>, RelayError> {
        let ours = self.under_way().await?;
        let (stream, created) =
            (self.stream.name, self.cursor.created.ok_or(RelayError::Unverified)?);
        let state = topology::stream(&self.bus, self.stream).await?;
        let from = self.cursor.acknowledged.max(i64::try_from(state.first_sequence)? - 1) + 1;
        let last = i64::try_from(state.last_sequence)?;
        let gaps =
            bounded(gaps(&mut self.session()?.connection, stream, created, from, last)).await?;
        if gaps.iter().map(|(from, to)| to - from).sum::<i64>() > LOOKED_AT {
            return Ok(Some(format!(
                "more than {LOOKED_AT} of its messages may not be in this log; restart nats-server, or \
                 delete the stream and lose those that others published"
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
                        "message {sequence} is not in this log and would be lost; restart nats-server, \
                         or delete the stream if you can do without the message"
                    )));
                }
            }
        }
        Ok(None)
    }

    /// The events that may be in the stream although no range records them: the next new ones, and
    /// the next to republish. A relay may have published a page and died before it recorded that.
    async fn under_way(&mut self) -> Result<HashSet<Uuid>, RelayError> {
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

/// The sequences outside every range, as half-open intervals. A range counts only if it has as many events as
/// sequences.
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
