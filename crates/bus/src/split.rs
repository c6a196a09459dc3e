//! How the good events of a bad batch take effect together: one transaction, in which the batch is
//! tried in pieces, each behind a savepoint, and a piece that fails in smaller ones. A bad event ends
//! up alone; one commit serves all the others.

use std::{ops::Range, time::Duration};

use sqlx::PgConnection;
use tokio::time::{Instant, timeout};

use crate::{
    attempts,
    effect::{BEGIN, Decoded, EFFECT_TIMEOUT, MemberContext},
    inbox::{self, Claim, Standing},
    listener::{Failure, Listener, Received},
};

/// Into how many pieces a piece is split that failed. With one event in ten bad, quarters take the
/// fewest calls.
const PIECES: usize = 4;
/// How long one piece may take. An event that takes longer alone is tried again in a transaction of
/// its own, with all the time that a listener has: its neighbours do not wait for that.
const PIECE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a transaction goes on beginning pieces. Then it commits what it has, and another one goes
/// on: good events do not wait for long, nor does anybody for their locks.
const SPLIT_TIME: Duration = Duration::from_secs(2);

/// What came of an event.
pub(crate) enum Verdict {
    /// It has taken effect.
    Effect,
    /// It took effect before.
    Known,
    /// Its id is another event's: why it never can.
    IdConflict(String),
    /// It failed, by itself.
    Failed(Failure),
    /// It took longer by itself than a piece may take.
    Slow,
    /// It was not tried any more.
    Untried,
}

impl<L: Listener> MemberContext<L> {
    /// Tries events in pieces of a size, and in smaller ones what fails. When it returns, what has
    /// taken effect is committed. `counted` says that attempts were counted for them.
    ///
    /// # Errors
    /// When the database could not serve or commit. Nothing has taken effect then.
    pub(crate) async fn take_effect_in_pieces(
        &self,
        events: &[&Decoded<L::Events>],
        size: Size,
        counted: bool,
    ) -> Result<Vec<Verdict>, Failure> {
        let begun = Instant::now();
        let pieces =
            async |tx: &mut PgConnection| self.try_pieces(tx, events, size, counted, begun).await;
        let verdicts = self.pool.transaction_within(EFFECT_TIMEOUT, BEGIN, pieces).await?;
        let known = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Known)).count();
        metrics::counter!("bus_duplicates_total", "group" => L::QUEUE_GROUP)
            .increment(known as u64);
        let effected = events.iter().zip(&verdicts);
        let effected = effected.filter(|(_, verdict)| matches!(verdict, Verdict::Effect));
        self.note_committed(begun, &effected.map(|(event, _)| &event.received).collect::<Vec<_>>());
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
        let fresh: Vec<_> = places.iter().map(|at| &events[*at].received).collect();
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
            attempts::forget(tx, L::QUEUE_GROUP, &ids(&taken)).await?;
        }
        Ok(verdicts)
    }

    /// Claims what is new, once for all pieces. Returns where that is. What took effect before has its
    /// verdict; the second copy of an event is for the next transaction.
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

    /// Tries one piece. Returns whether it was done in time. Unless it succeeded, nothing of it is
    /// left. The savepoint stands before and after.
    async fn take_piece(
        &self,
        tx: &mut PgConnection,
        piece: &[&Received<L::Events>],
    ) -> Result<bool, Failure> {
        let effect = async {
            self.call(tx, piece).await?;
            // Constraints that wait for the commit would fail the whole transaction there, and
            // nobody would know for whom.
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
    /// Quarters: the whole has failed.
    Pieces,
    /// One by one: each has failed.
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
    fn the_pieces_of_a_piece_are_all_of_it_and_smaller() {
        for length in 2..600 {
            let mut pieces = split(7..7 + length);
            assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() < length));
            pieces.reverse();
            let all: Vec<usize> = pieces.into_iter().flatten().collect();
            assert_eq!(all, (7..7 + length).collect::<Vec<_>>());
        }
    }
}
