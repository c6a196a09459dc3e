//! Retries dead letters that an operator redrove.

use sqlx::PgConnection;
use tracing::{info, warn};

use crate::{
    dead_letters,
    decode::{decode, log_span},
    effect::MemberContext,
    listener::{Failure, Listener},
};

/// The result of looking for a redriven dead letter.
pub(crate) enum Redrive {
    /// There was none.
    None,
    /// It was tried, with whatever result.
    Tried,
    /// An outage of the database or a lock interrupted it. The operator's redrive still stands.
    Interrupted(i64),
}

impl<L: Listener> MemberContext<L> {
    /// Retries one redriven dead letter of the group.
    pub(crate) async fn redrive(&self) -> Result<Redrive, sqlx::Error> {
        let take = async |connection: &mut PgConnection| {
            dead_letters::take_redriven(connection, L::QUEUE_GROUP).await
        };
        let letter = self.pool.run(take).await?;
        let Some(letter) = letter else { return Ok(Redrive::None) };
        let decoded = decode::<L>(&letter.subject, &letter.payload, &self.client_id);
        let span = match &decoded {
            Ok(event) => event.received.span().clone(),
            Err(_) => {
                let group = L::QUEUE_GROUP;
                log_span(letter.event_id, &letter.subject, group, &self.client_id, None)
            }
        };
        let outcome = match decoded {
            Ok(event) => match self.take_effect(&[&event], true, Some(letter.id)).await {
                Ok(mut id_conflicts) => {
                    id_conflicts.pop().map_or(Ok(()), |(_, why)| Err(Failure::Reject(why)))
                }
                Err(failure) => Err(failure),
            },
            Err(bad) => Err(Failure::Reject(bad.reason)),
        };
        match outcome {
            Ok(()) => {
                span.in_scope(|| {
                    info!(dead_letter = letter.id, "a redriven dead letter took effect");
                });
            }
            Err(Failure::Away(_) | Failure::Busy(_)) => return Ok(Redrive::Interrupted(letter.id)),
            Err(failure) => {
                let reason = failure.to_string();
                span.in_scope(|| {
                    warn!(dead_letter = letter.id, reason, "a redriven dead letter failed again");
                });
                let note = async |connection: &mut PgConnection| {
                    dead_letters::failed_again(connection, letter.id, &reason, &self.client_id)
                        .await
                };
                self.pool.run(note).await?;
            }
        }
        Ok(Redrive::Tried)
    }
}
