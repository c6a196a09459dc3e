//! The header Idempotency-Key: a client's name for one request, so that it can repeat it without
//! knowing whether it took effect. The key is claimed, and the answer stored, in the transaction of
//! what the request makes: [`once`].

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
use bus::Shutdown;
use bus::{BusError, Pool};

/// The header's name.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header of an answer that is given for a second time.
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key, in characters.
const MAX_LENGTH: usize = 255;
/// How long a key is kept at least: the day within which a client is expected to have repeated a
/// request whose answer it never saw.
const RETENTION: Duration = Duration::from_hours(24);
/// How long whoever holds a key may say nothing to the database: milliseconds, if it lives. After that
/// the server ends its transaction, which frees the key within two seconds of its holder's death; a
/// holder that was only frozen cannot commit any more.
const HOLDER_SILENCE: &str = "1500ms";
/// How often to look for old keys. They may live this much longer than [`RETENTION`].
const EVERY: Duration = Duration::from_mins(1);
/// How many keys one statement deletes: short locks, and a transaction log in small pieces.
const BATCH: i64 = 1_000;

crate::statements! {
    /// Limits how long this transaction's process may fall silent, and tries the key's lock.
    CLAIM =
        "select set_config('idle_in_transaction_session_timeout', $1, true),
                pg_try_advisory_xact_lock($2)";
    /// What is stored under a key, or for the same request under the key of the release before.
    FIND =
        "select request_hash, resource_id, answer from chassis.idempotency_keys
         where key = $1 or (key = $2 and request_hash = $3)
         order by key = $1 desc limit 1";
    /// Stores an answer.
    STORE =
        "insert into chassis.idempotency_keys (key, request_hash, resource_id, answer)
         values ($1, $2, $3, $4)";
    /// Deletes some old keys.
    PRUNE =
        "delete from chassis.idempotency_keys where key in (
             select key from chassis.idempotency_keys where created_at < now() - $1::interval
             order by created_at limit $2 for update skip locked)";
}

/// A request's key: 1–255 visible ASCII characters. `None` without the header.
///
/// # Errors
/// 400 when it is malformed.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(&IDEMPOTENCY_KEY).iter().map(HeaderValue::as_bytes);
    let Some(bytes) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad_request("Idempotency-Key", "must be given once"));
    }
    let fits = (1..=MAX_LENGTH).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    match str::from_utf8(bytes) {
        Ok(key) if fits => Ok(Some(key.to_owned())),
        _ => Err(bad_request("Idempotency-Key", "must be 1-255 visible ASCII characters")),
    }
}

/// A request that may be repeated.
#[derive(Debug, Clone)]
pub struct IdempotentRequest {
    key: String,
    before: Option<String>,
    hash: [u8; 32],
}

/// What a request made, and was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The thing that was made.
    pub resource_id: Uuid,
    /// The body of the answer.
    pub body: String,
}

impl Answer {
    /// 201 with the body, and where the thing is: under this path, by its id.
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

    /// The same, as an answer that was given before.
    #[must_use]
    pub fn replayed(self, path: &str) -> Response {
        let mut response = self.created(path);
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It took effect now: its answer, and what else the work returned.
    Made(Answer, T),
    /// It took effect before, and was answered this.
    Replayed(Answer),
}

/// Does the work of a request once, in one transaction with its answer: claims the key, runs the work,
/// stores the answer, commits. A repetition gets that answer, and does nothing. Without a key, it is a
/// transaction like any other.
///
/// # Errors
/// 409 while another transaction has the key, 422 when the key came with another request; what the work
/// refuses; any database error.
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
        request.store_answer(tx, &answer).await?;
        Ok(Outcome::Made(answer, made))
    })
    .await
}

impl IdempotentRequest {
    /// A request by its key, and by what tells it from another: its values, not its bytes, so that
    /// a client may write the same JSON differently.
    #[must_use]
    pub fn new(key: String, request: &str) -> Self {
        Self { key, before: None, hash: Sha256::digest(request.as_bytes()).into() }
    }

    /// Finds the same request under this key as well: the one that the release before kept it by. Another
    /// request's does not count.
    #[must_use]
    pub fn or_before(self, key: String) -> Self {
        Self { before: Some(key), ..self }
    }

    /// Claims the key for this transaction, until its end. What the request was answered before, if it was.
    async fn claim(&self, tx: &mut PgConnection) -> Result<Option<Answer>, Problem> {
        // First the limit, then the lock, in one round trip.
        let (_, free): (String, bool) = sqlx::query_as(&CLAIM)
            .bind(HOLDER_SILENCE)
            .bind(self.lock())
            .fetch_one(&mut *tx)
            .await?;
        if !free {
            let detail = "The first request with this Idempotency-Key is still under way. Repeat this one later.";
            return Err(Problem::new(StatusCode::CONFLICT, detail).retry_after(1));
        }
        // A statement of its own: its snapshot is taken after the lock, so that it sees what the
        // lock's holder before us has committed.
        let known: Option<(Vec<u8>, Uuid, String)> = sqlx::query_as(&FIND)
            .bind(&self.key)
            .bind(&self.before)
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

    /// Stores what the request is answered.
    async fn store_answer(
        &self,
        tx: &mut PgConnection,
        answer: &Answer,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(&STORE)
            .bind(&self.key)
            .bind(&self.hash[..])
            .bind(answer.resource_id)
            .bind(&answer.body)
            .execute(tx)
            .await?;
        Ok(())
    }

    /// The advisory lock of the key. Two keys that share one by chance cost a needless 409, no more.
    fn lock(&self) -> i64 {
        let hash: [u8; 32] =
            Sha256::digest(format!("idempotency key {}", self.key).as_bytes()).into();
        let [a, b, c, d, e, f, g, h, ..] = hash;
        i64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Forgets keys that are past their time, so that their table stays bounded, until the process
/// stops.
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
