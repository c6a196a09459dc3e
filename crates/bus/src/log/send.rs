//! Publishes a page and updates the cursor with what the stream confirmed.

use super::{error::RelayError, page::Outgoing, ranges::Stored, state::StreamRelay};
use crate::spans;

impl StreamRelay {
    /// Publishes events, and checks the confirmation for losses of the stream.
    pub(super) async fn publish(
        &mut self,
        events: &[Outgoing],
        again: Option<i64>,
    ) -> Result<Stored, RelayError> {
        let publisher = self.publisher.as_ref().ok_or(RelayError::Unverified)?;
        let told = events.iter().map(|event| (&*event.subject, event.id, &*event.envelope));
        let spans = spans::send(told);
        let stored = publisher.publish(events, again).await;
        if let Err(error) = &stored {
            spans::failed(&spans, error);
        }
        drop(spans);
        let stored = stored?;
        self.check_confirmation(&stored).await?;
        let cursor = &mut self.cursor;
        cursor.last_sequence = stored.last_sequence;
        cursor.last_id = Some(stored.last_id);
        // Earlier acknowledgements and deletions at these sequences were of other messages.
        cursor.acknowledged = cursor.acknowledged.min(stored.first_sequence - 1);
        cursor.first_sequence = cursor.first_sequence.min(stored.first_sequence);
        Ok(stored)
    }
}
