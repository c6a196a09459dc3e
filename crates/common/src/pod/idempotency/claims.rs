//! Claims many requests' keys at once, for a transaction that they share.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::{HOLDER_SILENCE, IdempotentRequest};

crate::statements! {
    /// Limits how long this transaction's process may be silent, and tries many keys' locks.
    CLAIM_MANY =
        "select set_config('idle_in_transaction_session_timeout', $1, true), at
         from unnest($2::bigint[]) with ordinality as asked (lock, at)
         where pg_try_advisory_xact_lock(lock)";
    /// Which of many requests have an answer already, or reuse the key of another request.
    KNOWN =
        "select at
         from unnest($1::text[], $2::text[], $3::bytea[]) with ordinality
              as asked (key, before, hash, at)
         where exists (select from chassis.idempotency_keys where key = asked.key)
            or exists (select from chassis.idempotency_keys
                       where key = asked.before and request_hash = asked.hash)";
}

/// Claims the keys of many requests until the transaction ends, without waiting. Returns the places of those
/// whose work can be done now: their key is free and has no answer yet, or they have no key.
///
/// # Errors
/// Any database error.
pub(in crate::pod) async fn claim_free(
    tx: &mut PgConnection,
    requests: &[Option<&IdempotentRequest>],
) -> Result<Vec<usize>, sqlx::Error> {
    let mut locks = HashSet::new();
    let (mut free, mut keyed) = (vec![], vec![]);
    for (at, request) in requests.iter().enumerate() {
        match request {
            None => free.push(at),
            // This transaction would get the lock of a repeated key twice.
            Some(request) if locks.insert(request.lock()) => keyed.push((at, *request)),
            Some(_) => {}
        }
    }
    if keyed.is_empty() {
        return Ok(free);
    }
    let numbers: Vec<i64> = keyed.iter().map(|(_, request)| request.lock()).collect();
    let claimed: Vec<(String, i64)> =
        sqlx::query_as(&CLAIM_MANY).bind(HOLDER_SILENCE).bind(numbers).fetch_all(&mut *tx).await?;
    let keyed = pick(&keyed, claimed.into_iter().map(|(_, at)| at));
    // A separate statement: its snapshot is taken after the locks, so it sees
    // what their previous holders committed.
    let known: HashSet<i64> = sqlx::query_scalar(&KNOWN)
        .bind(keyed.iter().map(|(_, request)| &request.key).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(_, request)| request.previous_key.as_ref()).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(_, request)| &request.hash[..]).collect::<Vec<_>>())
        .fetch_all(tx)
        .await?
        .into_iter()
        .collect();
    let new = (1..).zip(keyed).filter(|(number, _)| !known.contains(number));
    free.extend(new.map(|(_, (at, _))| at));
    free.sort_unstable();
    Ok(free)
}

/// The items with these ordinal numbers, counted from 1.
fn pick<T: Copy>(items: &[T], numbers: impl Iterator<Item = i64>) -> Vec<T> {
    let place = |number: i64| usize::try_from(number).ok()?.checked_sub(1);
    numbers.filter_map(|number| items.get(place(number)?).copied()).collect()
}
