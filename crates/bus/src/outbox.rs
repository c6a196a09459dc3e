//! Stores events for publication in the transaction of their cause, so that both are
//! committed or neither is.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

pub use crate::log::depth::{Depth, depth};
use crate::{
    envelope::{self, MAX_BYTES},
    error::BusError,
    event::Event,
    log::entity,
    spans,
};

/// An event with its id and envelope, ready to be stored.
#[derive(Debug, Clone)]
pub struct OutboxEvent {
    /// The event's id.
    pub id: Uuid,
    stream: &'static str,
    subject: &'static str,
    entity: i64,
    envelope: String,
}

/// Gives an event its id, time and envelope, as part of the current trace.
///
/// # Errors
/// When the event does not serialize, or is larger than [`MAX_BYTES`].
pub fn prepare<E: Event>(event: &E) -> Result<OutboxEvent, BusError> {
    let id = Uuid::now_v7();
    let encode = || envelope::encode(id, OffsetDateTime::now_utc(), event);
    let envelope = match spans::create(E::SUBJECT, id) {
        Some(created) => created.sync_scope(encode)?,
        None => encode()?,
    };
    if envelope.len() > MAX_BYTES {
        return Err(BusError::TooLarge(envelope.len()));
    }
    let entity = entity::key(&event.entity_id());
    Ok(OutboxEvent { id, stream: E::STREAM.name, subject: E::SUBJECT, entity, envelope })
}

/// Stores an event in the outbox, in the transaction of its cause. Call [`Wake::wake`](crate::Wake::wake)
/// after the commit; otherwise the relay finds the event within a second.
///
/// Returns the event's id.
///
/// # Errors
/// When the event does not serialize or is too large, and any database error. Roll the transaction back.
pub async fn put<E: Event>(tx: &mut PgConnection, event: &E) -> Result<Uuid, BusError> {
    let event = prepare(event)?;
    put_prepared(tx, [&event]).await?;
    Ok(event.id)
}

/// Stores many prepared events in the outbox, in one statement.
///
/// # Errors
/// Any database error. Roll the transaction back.
pub async fn put_prepared(
    tx: &mut PgConnection,
    events: impl IntoIterator<Item = &OutboxEvent>,
) -> Result<(), sqlx::Error> {
    let (mut ids, mut streams, mut subjects, mut entities, mut envelopes) =
        (vec![], vec![], vec![], vec![], vec![]);
    for OutboxEvent { id, stream, subject, entity, envelope } in events {
        ids.push(*id);
        streams.push(*stream);
        subjects.push(*subject);
        entities.push(*entity);
        envelopes.push(envelope.as_str());
    }
    sqlx::query(
        "insert into bus.log (id, stream, subject, entity, envelope)
         select * from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[])",
    )
    .bind(ids)
    .bind(streams)
    .bind(subjects)
    .bind(entities)
    .bind(envelopes)
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::event::Stream;

    const NOTES: Stream =
        Stream { name: "NOTES", subjects: &["note:written"], schema_prefix: "urn:example:event:" };

    #[derive(Debug, Serialize, Deserialize)]
    struct NoteWritten(String);

    impl Event for NoteWritten {
        const SUBJECT: &'static str = "note:written";
        const STREAM: &'static Stream = &NOTES;
        const SCHEMA_VERSION: u32 = 1;
        const SOURCE: &'static str = "/notes";

        fn entity_id(&self) -> String {
            String::new()
        }
    }

    #[test]
    fn an_event_too_large_for_the_server_is_refused_before_it_is_written() {
        assert!(prepare(&NoteWritten("x".repeat(MAX_BYTES / 2))).is_ok());
        let refused = prepare(&NoteWritten("x".repeat(MAX_BYTES))).unwrap_err();
        assert!(matches!(refused, BusError::TooLarge(_)), "{refused}");
    }
}
