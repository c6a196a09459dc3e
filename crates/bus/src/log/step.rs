//! One page of new events: read, published, and recorded, in this order.

use sqlx::Connection;
use tracing::debug;

use super::{
    error::RelayError,
    page::{self, Part},
    place::Place,
    ranges::Span,
    session::bounded,
    state::StreamRelay,
};

impl StreamRelay {
    /// Publishes every event that waits.
    pub(super) async fn publish_all(&mut self) -> Result<(), RelayError> {
        while self.publish_page().await? {}
        Ok(())
    }

    /// Publishes the next page of new events. `false` if there are no more.
    pub(super) async fn publish_page(&mut self) -> Result<bool, RelayError> {
        let cursor = self.cursor.clone();
        let part = Part {
            stream: self.stream.name,
            done: &cursor.done,
            target: cursor.target.as_deref(),
            after: cursor.at(),
            up_to: Place::END,
        };
        let page = bounded(page::read(&mut self.session()?.connection, part)).await?;
        if page.events.is_empty() && cursor.target.is_none() {
            // Nothing to record.
            return Ok(false);
        }
        let mut stored = None;
        if !page.events.is_empty() {
            stored = Some(self.publish(&page.events, None).await?);
        }
        let end = if page.full { page.end } else { None };
        let span = Span {
            done: cursor.done.clone(),
            target: page.target.clone(),
            from: part.after,
            to: end.unwrap_or(Place::END),
        };
        let stream = self.stream.name;
        let (ranges, cursor) = (&mut self.ranges, &mut self.cursor);
        let session = self.session.as_mut().ok_or(RelayError::NoTurn)?;
        // One transaction: the events of a range beyond the cursor are published again, and that would look
        // like a loss of the range.
        let recorded = bounded(async {
            let mut tx = session.connection.begin().await?;
            ranges.record(&mut tx, stream, span, stored, end.is_none()).await?;
            cursor.advanced(&page.target, end);
            let written = cursor.store(&mut tx, stream).await?;
            tx.commit().await?;
            Ok(written)
        });
        if !recorded.await? {
            return Err(RelayError::Overtaken);
        }
        let published = page.events.len() as u64;
        metrics::counter!("bus_published_total").increment(published);
        debug!(stream, events = published, last_sequence = self.cursor.last_sequence, "published");
        Ok(page.full)
    }
}
