//! The Idempotency-Key header: a client's name for a request, with which it can safely repeat the
//! request when it does not know whether it took effect. One transaction claims the key, does the
//! work and stores the answer: [`once`].

pub mod claims;

use std::time::Duration;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    page::bad_request,
    periodic::{self, Batch},
    problem::Problem,
};
use bus::{BusError, Pool, Shutdown};
pub(super) use claims::claim_free;

/// The header's name.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header of a replayed answer.
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key, in characters.
pub(super) const MAX_LENGTH: usize = 255;
/// How long a key is kept at least: the day within which a client is expected to retry a request
/// whose answer it never saw.
const RETENTION: Duration = Duration::from_hours(24);
/// How long the holder of a key may be silent towards the database: a live one needs milliseconds.
/// After that the server ends its transaction, which frees the key within two seconds of the
/// holder's death. A holder that was only frozen can no longer commit.
const HOLDER_SILENCE: &str = "1500ms";
/// How often to look for old keys. They may live this much longer than [`RETENTION`].
const EVERY: Duration = Duration::from_mins(1);
/// How many keys one statement deletes: few, for short locks and small pieces of transaction log.
const BATCH: i64 = 1_000;

crate::statements! {
    /// Limits how long this transaction's process may be silent, and tries the key's lock.
    CLAIM =
        "select set_config('idle_in_transaction_session_timeout', $1, true),
                pg_try_advisory_xact_lock($2)";
    /// The answer stored under a key, or for the same request under the previous release's key.
    FIND =
        "select request_hash, resource_id, answer from chassis.idempotency_keys
         where key = $1 or (key = $2 and request_hash = $3)
         order by key = $1 desc limit 1";
    /// Stores answers.
    STORE =
        "insert into chassis.idempotency_keys (key, request_hash, resource_id, answer)
         select * from unnest($1::text[], $2::bytea[], $3::uuid[], $4::text[])";
    /// Deletes some old keys.
    PRUNE =
        "delete from chassis.idempotency_keys where key in (
             select key from chassis.idempotency_keys where created_at < now() - $1::interval
             order by created_at limit $2 for update skip locked)";
}

/// Returns a request's key: 1–255 visible ASCII characters. `None` without the header.
///
/// # Errors
/// 400 if it is malformed.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(&IDEMPOTENCY_KEY).iter().map(HeaderValue::as_bytes);
    let Some(bytes) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad_request("Idempotency-Key", "must be given once"));
    }
    let fits = (1..=MAX_LENGTH).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    match str::from_utf8(bytes) {
        Ok(key) if fits => Ok(Some(key.to_owned())),
        _ => {
            let message = format!("must be 1-{MAX_LENGTH} visible ASCII characters");
            Err(bad_request("Idempotency-Key", &message))
        }
    }
}

/// A request that may be repeated.
#[derive(Debug, Clone)]
pub struct IdempotentRequest {
    key: String,
    previous_key: Option<String>,
    hash: [u8; 32],
}

/// What a request created, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The created thing.
    pub resource_id: Uuid,
    /// The body of the answer.
    pub body: String,
}

impl Answer {
    /// Returns 201 with the body and the Location: this path and the id.
    #[must_use]
    pub fn created(self, path: &str) -> Response {
        let content_type = HeaderValue::from_static("application/json");
        let headers = [(header::CONTENT_TYPE, content_type)];
        let mut response = (StatusCode::CREATED, headers, self.body).into_response();
        if let Ok(location) = HeaderValue::from_str(&format!("{path}/{}", self.resource_id)) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }

    /// The same, marked as a replay.
    #[must_use]
    pub fn replayed(self, path: &str) -> Response {
        let mut response = self.created(path);
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

/// The outcome of a request.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It took effect now: its answer, and the work's other result.
    Made(Answer, T),
    /// It took effect earlier, with this answer.
    Replayed(Answer),
}

/// Does the work of a request once, in one transaction with its answer: claims the key, runs the
/// work, stores the answer, commits. A repetition gets that answer and does nothing. Without a key,
/// it is an ordinary transaction.
///
/// # Errors
/// 409 while another transaction holds the key; 422 if the key came with a different request; any
/// error of the work; any database error.
pub async fn once<T>(
    pool: &Pool,
    request: Option<&IdempotentRequest>,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<(Answer, T), Problem>,
) -> Result<Outcome<T>, Problem> {
    pool.transaction(async |tx| {
        let Some(request) = request else {
            return work(tx).await.map(|(answer, made)| Outcome::Made(answer, made));
        };
        if let Some(answer) = request.claim(tx).await? {
            return Ok(Outcome::Replayed(answer));
        }
        let (answer, made) = work(tx).await?;
        store_answers(tx, [(request, &answer)]).await?;
        Ok(Outcome::Made(answer, made))
    })
    .await
}

impl IdempotentRequest {
    /// A request, identified by its key and by its values. Values, not bytes, so that a client may
    /// write the same JSON differently.
    #[must_use]
    pub fn new(key: String, request: &str) -> Self {
        Self { key, previous_key: None, hash: Sha256::digest(request.as_bytes()).into() }
    }

    /// Also finds this request under the key that the previous release used. A different request
    /// under that key is ignored.
    #[must_use]
    pub fn or_previous_key(self, key: String) -> Self {
        Self { previous_key: Some(key), ..self }
    }

    /// Claims the key until the transaction ends. Returns the earlier answer, if there is one.
    async fn claim(&self, tx: &mut PgConnection) -> Result<Option<Answer>, Problem> {
        // Sets the limit and takes the lock in one round trip.
        let (_, free): (String, bool) = sqlx::query_as(&CLAIM)
            .bind(HOLDER_SILENCE)
            .bind(self.lock())
            .fetch_one(&mut *tx)
            .await?;
        if !free {
            let detail = "The first request with this Idempotency-Key is still under way. Repeat this one later.";
            return Err(Problem::new(StatusCode::CONFLICT, detail).retry_after(1));
        }
        // A separate statement: its snapshot is taken after the lock, so it sees what the lock's
        // previous holder committed.
        let known: Option<(Vec<u8>, Uuid, String)> = sqlx::query_as(&FIND)
            .bind(&self.key)
            .bind(&self.previous_key)
            .bind(&self.hash[..])
            .fetch_optional(tx)
            .await?;
        match known {
            None => Ok(None),
            Some((hash, resource_id, body)) if hash == self.hash => {
                Ok(Some(Answer { resource_id, body }))
            }
            Some(_) => Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "This Idempotency-Key was used with a different request.",
            )),
        }
    }

    /// The key's advisory lock. Two keys that hash to the same lock cause a needless 409, nothing
    /// worse.
    fn lock(&self) -> i64 {
        let hash: [u8; 32] =
            Sha256::digest(format!("idempotency key {}", self.key).as_bytes()).into();
        let [a, b, c, d, e, f, g, h, ..] = hash;
        i64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Stores answers under their requests' keys.
///
/// # Errors
/// Any database error.
pub(super) async fn store_answers<'a>(
    tx: &mut PgConnection,
    answers: impl IntoIterator<Item = (&'a IdempotentRequest, &'a Answer)>,
) -> Result<(), sqlx::Error> {
    let (mut keys, mut hashes, mut ids, mut bodies) = (vec![], vec![], vec![], vec![]);
    for (request, answer) in answers {
        keys.push(&request.key);
        hashes.push(&request.hash[..]);
        ids.push(answer.resource_id);
        bodies.push(&answer.body);
    }
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query(&STORE).bind(keys).bind(hashes).bind(ids).bind(bodies).execute(tx).await?;
    Ok(())
}

/// Deletes expired keys until the process stops, so that their table stays bounded.
///
/// # Errors
/// Never; the type is what [`Shutdown::spawn`] takes.
pub async fn prune(pool: Pool, shutdown: Shutdown) -> anyhow::Result<()> {
    periodic::repeat("idempotency keys", EVERY, &pool, shutdown, |connection| {
        prune_batch(connection).boxed()
    })
    .await
}

async fn prune_batch(connection: &mut PgConnection) -> Result<Batch, BusError> {
    let pruned = sqlx::query(&PRUNE).bind(RETENTION).bind(BATCH).execute(connection).await?;
    Ok(Batch::of(pruned.rows_affected(), BATCH.unsigned_abs()))
}
