//! Compares a stream with what it has confirmed. A server may lose its disk or the end of a stream, be
//! restored from an older store, or have messages purged or deleted. Events that a group may not have received are
//! marked as lost, for the [`refill`](super::refill) to republish.

use serde::Deserialize;
use time::OffsetDateTime;
use tracing::{debug, error};
use uuid::Uuid;

use super::{
    error::RelayError,
    losses::{Loss, PIECE, mark, newest},
    publish::Publisher,
    ranges::Stored,
    session::bounded,
    state::StreamRelay,
};
use crate::{
    connection::Bus,
    text::to_microseconds,
    topology::{self, GroupState, StreamState},
};

/// How many deleted messages are identified by their sequences. With more, everything that a group may not have
/// received counts as lost.
const MAX_LISTED_DELETIONS: i64 = 100_000;

impl StreamRelay {
    /// Ensures the stream, compares it, and marks what it has lost.
    pub(super) async fn verify(&mut self) -> Result<(), RelayError> {
        // Before the stream itself: a purge also advances the groups' acknowledged sequences.
        let groups = topology::groups(&self.bus, self.stream).await;
        let state = topology::stream(&self.bus, self.stream).await?;
        let created = to_microseconds(state.created);
        self.last_seen = false;
        let losses = self.compare(&state, created).await?;
        for loss in &losses {
            self.mark(created, loss).await?;
        }
        let before = self.cursor.clone();
        let replaced = self.cursor.created != Some(created);
        self.cursor.created = Some(created);
        if replaced || losses.iter().any(Loss::is_of_the_end) {
            self.look_up_last_confirmed().await?;
        }
        let last = i64::try_from(state.last_sequence)?;
        let cursor = &mut self.cursor;
        cursor.first_sequence = i64::try_from(state.first_sequence)?;
        cursor.deleted = i64::try_from(state.deleted)?;
        cursor.acknowledged = if replaced { 0 } else { cursor.acknowledged.min(last) };
        // Only if the stream is known to be the one whose events were acknowledged.
        if let Ok(groups) = groups
            && losses.is_empty()
            && self.last_seen
        {
            self.note_groups(groups)?;
        }
        if self.cursor != before {
            self.store_cursor().await?;
        }
        self.publisher = Some(Publisher {
            bus: self.bus.clone(),
            stream: self.stream.name,
            created,
            atomic: state.atomic,
        });
        Ok(())
    }

    /// Stores up to which sequence every group has acknowledged, unless a group is missing: its progress is unknown.
    fn note_groups(&mut self, groups: Vec<GroupState>) -> Result<(), RelayError> {
        let complete = self.groups.iter().all(|name| groups.iter().any(|g| g.name == *name));
        if let (Some(lowest), true) = (groups.iter().map(|g| g.acknowledged).min(), complete) {
            self.cursor.acknowledged = self.cursor.acknowledged.max(i64::try_from(lowest)?);
        }
        for group in groups {
            if !self.groups.contains(&group.name) {
                self.groups.push(group.name);
            }
        }
        Ok(())
    }

    async fn compare(
        &mut self,
        state: &StreamState,
        created: OffsetDateTime,
    ) -> Result<Vec<Loss>, RelayError> {
        let (first, last) =
            (i64::try_from(state.first_sequence)?, i64::try_from(state.last_sequence)?);
        let deleted = i64::try_from(state.deleted)?;
        let cursor = &self.cursor;
        let mut losses = Vec::new();
        match cursor.created {
            None => return Ok(losses),
            Some(known) if known != created => return Ok(vec![Loss::All]),
            Some(_) if last < cursor.last_sequence => {
                losses.push(Loss::From(last + 1));
                losses.extend(self.overwritten_below(last + 1).await?);
            }
            Some(_) => losses.extend(self.overwritten().await?),
        }
        // The first sequence of a stream that never held a message is 0 or 1.
        if first > self.cursor.first_sequence.max(1) {
            losses.push(Loss::Below(first));
        }
        if deleted > self.cursor.deleted {
            losses.push(match holes(&self.bus, self.stream.name, deleted).await? {
                Some(holes) => Loss::Holes(holes),
                None => Loss::Below(last + 1),
            });
        }
        Ok(losses)
    }

    /// The ranges that others have overwritten since the stream got an older store back.
    async fn overwritten(&mut self) -> Result<Vec<Loss>, RelayError> {
        let Some(last_id) = self.cursor.last_id else { return Ok(Vec::new()) };
        let held = self.holds(self.cursor.last_sequence, last_id).await?;
        self.last_seen = held == Some(true);
        if held == Some(false) {
            return self.overwritten_below(i64::MAX).await;
        }
        Ok(Vec::new())
    }

    /// Sets the cursor to the last message that the stream has confirmed and not lost. Without it, the next
    /// loss would go unnoticed.
    async fn look_up_last_confirmed(&mut self) -> Result<(), RelayError> {
        let Some(created) = self.cursor.created else { return Ok(()) };
        let stream = self.stream.name;
        let newest = newest(&mut self.session()?.connection, stream, created, i64::MAX);
        let last = bounded(newest).await?.into_iter().next();
        (self.cursor.last_sequence, self.cursor.last_id) =
            last.map_or((0, None), |(_, sequence, id)| (sequence, Some(id)));
        Ok(())
    }

    /// Each range below a sequence whose last message is gone, from the newest back to the first one whose
    /// last message is still there.
    async fn overwritten_below(&mut self, mut below: i64) -> Result<Vec<Loss>, RelayError> {
        let Some(created) = self.cursor.created else { return Ok(Vec::new()) };
        let mut losses = Vec::new();
        loop {
            let stream = self.stream.name;
            let ranges = newest(&mut self.session()?.connection, stream, created, below);
            let ranges = bounded(ranges).await?;
            if ranges.is_empty() {
                return Ok(losses);
            }
            for (number, last_sequence, last_id) in ranges {
                // Below the first sequence it was purged or expired, which is another kind of loss.
                let gone = last_sequence < self.cursor.first_sequence;
                if gone || self.holds(last_sequence, last_id).await? == Some(true) {
                    return Ok(losses);
                }
                losses.push(Loss::Range(number));
                below = last_sequence;
            }
        }
    }

    /// Whether the stream holds at a sequence what a publication stored there. `None` if it holds nothing
    /// there. Messages of the previous release have the event's id instead.
    async fn holds(&self, sequence: i64, id: Uuid) -> Result<Option<bool>, RelayError> {
        let sequence = u64::try_from(sequence)?;
        let found = topology::message(&self.bus, self.stream.name, sequence).await?;
        Ok(found.map(|message| match message.publication {
            Some(publication) => publication == id,
            None => message.message_id.starts_with(&id.to_string()),
        }))
    }

    /// Detects a loss from a confirmation. For every page, because a stream may lose its end and others may
    /// overwrite it between two verifications. Before the cursor moves, so that a relay that dies in between
    /// hides no loss.
    pub(super) async fn check_confirmation(&mut self, stored: &Stored) -> Result<(), RelayError> {
        let Some(created) = self.cursor.created else { return Ok(()) };
        let first = stored.first_sequence;
        let losses = if first <= self.cursor.last_sequence {
            // The sequence was confirmed before: the stream has lost its end and reuses sequences.
            let mut losses = vec![Loss::From(first)];
            losses.extend(self.overwritten_below(first).await?);
            losses
        } else {
            self.overwritten().await?
        };
        for loss in &losses {
            self.mark(created, loss).await?;
        }
        if !losses.is_empty() {
            // The deleted messages were in the lost part.
            self.cursor.deleted = 0;
            self.look_up_last_confirmed().await?;
        }
        Ok(())
    }

    /// Marks the ranges that a loss affects, piece by piece.
    async fn mark(&mut self, created: OffsetDateTime, loss: &Loss) -> Result<(), RelayError> {
        let retention = self.bus.options.retention;
        self.ranges.forget();
        let acknowledged = self.cursor.acknowledged;
        let mut events = 0;
        loop {
            let (stream, connection) = (self.stream.name, &mut self.session()?.connection);
            let (ranges, lost) =
                bounded(mark(connection, stream, created, acknowledged, retention, loss)).await?;
            events += lost;
            if ranges < PIECE {
                break;
            }
        }
        if events > 0 {
            self.lost = true;
            let (stream, loss) = (self.stream.name, loss.name());
            if self.bus.options.refills() {
                error!(stream, events, loss, "the stream has lost events, republishing them");
            } else {
                const WHAT: &str =
                    "the stream has lost events; with this store they are not republished";
                error!(stream, events, loss, store = "memory", "{WHAT}");
            }
        } else {
            // Expired or acknowledged by every group, for example: not a loss.
            debug!(stream = self.stream.name, loss = loss.name(), "the stream holds fewer events");
        }
        Ok(())
    }
}

/// The sequences of deleted messages. `None` if there are too many to list.
async fn holes(bus: &Bus, stream: &str, deleted: i64) -> Result<Option<Vec<i64>>, RelayError> {
    #[derive(Deserialize)]
    struct Info {
        state: State,
    }
    #[derive(Deserialize)]
    struct State {
        #[serde(default)]
        deleted: Vec<i64>,
    }
    if deleted > MAX_LISTED_DELETIONS {
        return Ok(None);
    }
    let asked = serde_json::json!({ "deleted_details": true });
    let info: Info = bus.jetstream.request(format!("STREAM.INFO.{stream}"), &asked).await?;
    Ok(Some(info.state.deleted))
}
