//! One page of new events: read, published, and taken note of, in this order.

use anyhow::{Context, ensure};
use sqlx::Connection;
use tracing::debug;

use super::{
    Place,
    page::{self, Part},
    ranges::Span,
    session::bounded,
    stream_relay::StreamRelay,
};

impl StreamRelay {
    /// Publishes everything that is there.
    pub(crate) async fn last_round(&mut self) -> anyhow::Result<()> {
        while self.publish_page().await? {}
        Ok(())
    }

    /// Publishes the next page of new events. `false` when there was no more than that.
    pub(crate) async fn publish_page(&mut self) -> anyhow::Result<bool> {
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
            // Nothing to take note of, but for a step that later pages will not have to look at.
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
        let session = self.session.as_mut().context("it is not this relay's turn")?;
        // One transaction: a range whose events the cursor does not know would be taken for the first
        // part of what the stream has lost, when they go out again.
        let recorded = bounded(async {
            let mut tx = session.connection.begin().await?;
            ranges.record(&mut tx, stream, span, stored, end.is_none()).await?;
            cursor.advanced(&page.target, end);
            let written = cursor.store(&mut tx, stream).await?;
            tx.commit().await?;
            Ok(written)
        });
        ensure!(recorded.await?, "the stream's progress was written by somebody else");
        let published = page.events.len() as u64;
        metrics::counter!("bus_published_total").increment(published);
        debug!(stream, events = published, last_sequence = self.cursor.last_sequence, "published");
        Ok(page.full)
    }

    pub(crate) async fn store_cursor(&mut self) -> anyhow::Result<()> {
        let connection =
            &mut self.session.as_mut().context("it is not this relay's turn")?.connection;
        let stored = bounded(self.cursor.store(connection, self.stream.name)).await?;
        anyhow::ensure!(stored, "the stream's progress was written by somebody else");
        Ok(())
    }
}
