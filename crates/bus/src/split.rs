//! Lets the good events of a bad batch take effect together: one transaction tries the batch in pieces, each
//! behind a savepoint, and splits a piece that fails. A bad event ends up alone; one commit serves all others.

use std::{ops::Range, time::Duration};

use sqlx::PgConnection;
use tokio::time::{Instant, timeout};

use crate::{
    attempts,
    decode::Decoded,
    effect::{BEGIN, EFFECT_TIMEOUT, MemberContext},
    inbox::{self, Claim, Standing},
    listener::{Failure, Listener},
    spans,
};

/// Into how many pieces a failed piece is split. With one bad event in ten, quarters need the fewest
/// calls.
const PIECES: usize = 4;
/// How long one piece may take. A single event that takes longer is retried in a transaction of its own,
/// with the listener's full time, so that its neighbours do not wait.
const PIECE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a transaction keeps starting pieces. Then it commits, and another one continues: good events
/// commit soon, and their locks are short.
const SPLIT_TIME: Duration = Duration::from_secs(2);

/// The result of an event.
pub(crate) enum Verdict {
    /// It has taken effect.
    Effect,
    /// It took effect before.
    Known,
    /// It has another event's id, with the reason. It can never take effect.
    IdConflict(String),
    /// It failed on its own.
    Failed(Failure),
    /// It took longer on its own than a piece may take.
    Slow,
    /// Time ran out before it was tried.
    Untried,
}

impl<L: Listener> MemberContext<L> {
    /// Tries events in pieces of a size, and splits those that fail. On return, all effects are committed.
    /// `counted`: attempts were counted for the events.
    ///
    /// # Errors
    /// When the transaction failed. Nothing has taken effect then.
    pub(crate) async fn take_effect_in_pieces(
        &self,
        events: &[&Decoded<L::Events>],
        size: Size,
        counted: bool,
    ) -> Result<Vec<Verdict>, Failure> {
        let begun = Instant::now();
        let pieces =
            async |tx: &mut PgConnection| self.try_pieces(tx, events, size, counted, begun).await;
        let spans = self.transaction_spans(events);
        let committed = self.pool.transaction_within(EFFECT_TIMEOUT, BEGIN, pieces).await;
        let verdicts = committed.inspect_err(|failure| spans::failed(&spans, failure))?;
        drop(spans);
        let known = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Known)).count();
        metrics::counter!("bus_duplicates_total", "group" => L::QUEUE_GROUP)
            .increment(known as u64);
        let effected = events.iter().zip(&verdicts);
        let effected = effected.filter(|(_, verdict)| matches!(verdict, Verdict::Effect));
        self.after_commit(begun, &effected.map(|(event, _)| *event).collect::<Vec<_>>());
        Ok(verdicts)
    }

    async fn try_pieces(
        &self,
        tx: &mut PgConnection,
        events: &[&Decoded<L::Events>],
        size: Size,
        counted: bool,
        begun: Instant,
    ) -> Result<Vec<Verdict>, Failure> {
        let mut verdicts: Vec<Verdict> = events.iter().map(|_| Verdict::Untried).collect();
        let places = self.claim_places(tx, events, &mut verdicts).await?;
        let fresh: Vec<_> = places.iter().map(|at| events[*at]).collect();
        let mut pieces = match size {
            Size::Pieces => split(0..fresh.len()),
            Size::Single => (0..fresh.len()).rev().map(|at| at..at + 1).collect(),
        };
        sqlx::raw_sql("savepoint piece").execute(&mut *tx).await?;
        while let Some(piece) = pieces.pop() {
            match self.take_piece(tx, &fresh[piece.clone()]).await {
                Ok(true) => piece.for_each(|at| verdicts[places[at]] = Verdict::Effect),
                Err(Failure::Away(error)) => return Err(Failure::Away(error)),
                Err(_) | Ok(false) if piece.len() > 1 => pieces.append(&mut split(piece)),
                Err(failure) => verdicts[places[piece.start]] = Verdict::Failed(failure),
                Ok(false) => verdicts[places[piece.start]] = Verdict::Slow,
            }
            if begun.elapsed() > SPLIT_TIME {
                break;
            }
        }
        let ids = |wanted: &dyn Fn(usize) -> bool| {
            (0..events.len())
                .filter(|at| wanted(*at))
                .map(|at| events[at].claim.id)
                .collect::<Vec<_>>()
        };
        let taken = |at: usize| {
            matches!(verdicts[at], Verdict::Effect | Verdict::Known | Verdict::IdConflict(_))
        };
        let undone = ids(&|at| places.contains(&at) && !taken(at));
        if !undone.is_empty() {
            inbox::unclaim(tx, L::QUEUE_GROUP, &undone).await?;
        }
        if counted {
            let attempts = attempts::forget(tx, L::QUEUE_GROUP, &ids(&taken)).await?;
            inbox::note_attempts(tx, L::QUEUE_GROUP, &attempts).await?;
        }
        Ok(verdicts)
    }

    /// Claims the new events, once for all pieces, and returns their places. Duplicates get their verdict.
    /// The second copy of a new event is left to the next transaction.
    async fn claim_places(
        &self,
        tx: &mut PgConnection,
        events: &[&Decoded<L::Events>],
        verdicts: &mut [Verdict],
    ) -> Result<Vec<usize>, Failure> {
        let claims: Vec<Claim> = events.iter().map(|event| event.claim).collect();
        let mut places = Vec::new();
        let standings = inbox::claim(tx, L::QUEUE_GROUP, &self.client_id, &claims).await?;
        for (at, standing) in standings.into_iter().enumerate() {
            match standing {
                Standing::New => places.push(at),
                Standing::Known => verdicts[at] = Verdict::Known,
                Standing::IdConflict(reason) => verdicts[at] = Verdict::IdConflict(reason),
                Standing::Twin(_) => {}
            }
        }
        Ok(places)
    }

    /// Tries one piece. Returns whether it was done in time. A piece that does not succeed leaves no effect.
    /// The savepoint exists before and after.
    async fn take_piece(
        &self,
        tx: &mut PgConnection,
        piece: &[&Decoded<L::Events>],
    ) -> Result<bool, Failure> {
        let effect = async {
            self.call(tx, piece).await?;
            // A deferred constraint would otherwise fail the whole transaction at commit, without telling
            // which event violated it.
            let checked = "set constraints all immediate; set constraints all deferred;
                           release savepoint piece; savepoint piece";
            sqlx::raw_sql(checked).execute(&mut *tx).await?;
            Ok(true)
        };
        let outcome = timeout(PIECE_TIMEOUT, effect).await.unwrap_or(Ok(false));
        if !matches!(outcome, Ok(true) | Err(Failure::Away(_))) {
            sqlx::raw_sql("rollback to savepoint piece").execute(tx).await?;
        }
        outcome
    }
}

/// How large the first pieces are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Size {
    /// Quarters: the whole batch failed.
    Pieces,
    /// Single events: each failed before.
    Single,
}

/// The pieces of a piece, the last one first.
fn split(piece: Range<usize>) -> Vec<Range<usize>> {
    let size = piece.len().div_ceil(PIECES).max(1);
    let end = piece.end;
    let mut pieces: Vec<_> =
        piece.step_by(size).map(|start| start..(start + size).min(end)).collect();
    pieces.reverse();
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_a_piece_covers_all_of_it_with_smaller_pieces() {
        for length in 2..600 {
            let mut pieces = split(7..7 + length);
            assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() < length));
            pieces.reverse();
            let all: Vec<usize> = pieces.into_iter().flatten().collect();
            assert_eq!(all, (7..7 + length).collect::<Vec<_>>());
        }
    }
}
