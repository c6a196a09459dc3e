//! Stores dead letters, many at once. Messages with the same bytes are one dead letter with a number of
//! copies. Messages with other bytes are never merged, whatever their ids.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{attempts, client_id::ClientId, text::shortened};

/// A message that becomes a dead letter, and the sequences of its copies.
#[derive(Debug)]
pub(crate) struct NewDeadLetter<'a> {
    pub(crate) event_id: Uuid,
    /// An id made from its bytes, in case a dead letter with other bytes has the event's id.
    pub(crate) id_of_bytes: Uuid,
    pub(crate) subject: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) headers: serde_json::Value,
    pub(crate) stream: &'a str,
    pub(crate) sequences: Vec<u64>,
    pub(crate) reason: &'a str,
    pub(crate) attempts: i32,
}

impl NewDeadLetter<'_> {
    /// The sequences as an array of Postgres ranges.
    fn ranges(&self) -> String {
        let ranges: Vec<_> = self.sequences.iter().map(|at| format!("[{at},{at}]")).collect();
        format!("{{{}}}", ranges.join(","))
    }
}

/// Stores dead letters. For those already stored, counts the copies and updates the reason. Deletes their
/// attempts.
pub(crate) async fn insert(
    tx: &mut PgConnection,
    group: &str,
    client_id: &ClientId,
    letters: &[NewDeadLetter<'_>],
) -> Result<(), sqlx::Error> {
    // One statement can write a row only once.
    let mut by_id: HashMap<Uuid, &NewDeadLetter<'_>> = HashMap::new();
    let (mut first, mut others) = (Vec::new(), Vec::new());
    for letter in letters {
        match by_id.entry(letter.event_id) {
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(letter);
                first.push((letter.event_id, letter));
            }
            std::collections::hash_map::Entry::Occupied(_) => others.push(letter),
        }
    }
    let written = write(tx, group, client_id, &first).await?;
    // Also those whose id belongs to a dead letter with other bytes.
    let refused = first.iter().filter(|(id, _)| !written.contains(id)).map(|(_, letter)| *letter);
    let others: Vec<_> =
        others.into_iter().chain(refused).map(|letter| (letter.id_of_bytes, letter)).collect();
    if !others.is_empty() {
        write(tx, group, client_id, &others).await?;
    }
    let tried = letters.iter().filter(|letter| letter.attempts > 0);
    let tried: Vec<Uuid> = tried.map(|letter| letter.event_id).collect();
    if tried.is_empty() { Ok(()) } else { attempts::forget(tx, group, &tried).await.map(drop) }
}

/// Stores dead letters under these ids. Returns the ids stored: not those that belong to a dead letter with
/// other bytes.
async fn write(
    tx: &mut PgConnection,
    group: &str,
    client_id: &ClientId,
    letters: &[(Uuid, &NewDeadLetter<'_>)],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    /// One column of all letters.
    fn column<'a, T>(
        letters: &[(Uuid, &'a NewDeadLetter<'a>)],
        of: impl Fn(&'a NewDeadLetter<'a>) -> T,
    ) -> Vec<T> {
        letters.iter().map(|(_, letter)| of(letter)).collect()
    }
    // Numbered in the order of arrival, but written in the order of ids, so that two members with copies
    // of the same messages wait for one another instead of deadlocking.
    let written: Vec<Uuid> = sqlx::query_scalar(
        "with given as materialized (
             select *, nextval('bus.dead_letters_id_seq') as id
             from (select * from unnest($3::uuid[], $4::text[], $5::bytea[], $6::jsonb[], $7::text[],
                                        $8::text[], $9::text[], $10::integer[]) with ordinality
                       as column_of (event_id, subject, payload, headers, stream, ranges, reason, attempts,
                                 place)
                   order by place) as ordered),
         letters as (
             insert into bus.dead_letters as letter
                    (id, queue_group, client_id, event_id, subject, payload, headers, stream,
                     stream_sequence, reason, attempts)
             overriding system value
             select id, $1, $2, event_id, subject, payload, headers, stream,
                    lower(ranges::int8multirange), reason, attempts
             from given order by event_id
             on conflict (queue_group, event_id) do update
             set reason = excluded.reason, attempts = excluded.attempts,
                 client_id = excluded.client_id
             where letter.payload = excluded.payload
             returning letter.id, letter.event_id, letter.stream_sequence),
         copies as (
             insert into bus.dead_letter_copies as kept (dead_letter, copies, sequences)
             select id, bus.size_of(sequences), sequences
             from (select letters.id,
                          ranges::int8multirange + int8multirange(
                              int8range(stream_sequence, stream_sequence, '[]')) as sequences
                   from letters join given using (event_id)) as told
             where upper(sequences) - lower(sequences) > 1
             on conflict (dead_letter) do update
             set copies = kept.copies + bus.size_of(excluded.sequences - kept.sequences),
                 sequences = bus.first_and_last(kept.sequences + excluded.sequences),
                 last_at = clock_timestamp())
         select event_id from letters",
    )
    .bind(group)
    .bind(client_id.as_str())
    .bind(letters.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    .bind(column(letters, |letter| letter.subject))
    .bind(column(letters, |letter| letter.payload))
    .bind(column(letters, |letter| letter.headers.clone()))
    .bind(column(letters, |letter| letter.stream))
    .bind(column(letters, NewDeadLetter::ranges))
    .bind(column(letters, |letter| shortened(letter.reason)))
    .bind(column(letters, |letter| letter.attempts))
    .fetch_all(tx)
    .await?;
    Ok(written.into_iter().collect())
}
