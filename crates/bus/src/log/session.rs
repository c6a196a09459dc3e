//! The right to relay one stream's events: a session of its own with Postgres that holds an advisory
//! lock. What moves the cursor is written on that session, so a relay that has lost the lock cannot
//! write, whatever it still believes.

use std::{future::Future, sync::Arc, time::Duration};

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use crate::pool::Pool;

/// How long one statement, or connecting, may take. The server's limit is the same; this one is for a
/// server that has vanished without a word.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a relay's session asks of the server.
///
/// A process that is frozen or cut off loses its session, and the lock, within ten seconds. A process
/// that was killed loses it at once.
///
/// Commits do not wait for the disk: should Postgres crash, the cursor is a little behind, and what it
/// forgot goes out again under the same `Nats-Msg-Id`.
///
/// The statements have one right plan each, whatever the statistics say: along the index.
const SETTINGS: [(&str, &str); 11] = [
    ("idle_session_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("statement_timeout", "5s"),
    ("synchronous_commit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("tcp_keepalives_idle", "2"),
    ("tcp_keepalives_interval", "1"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "5000"),
];

/// A session with Postgres. Whatever is asked of it is [`bounded`].
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: PgConnection,
}

impl Session {
    /// Opens a session to the pool's database, beside the pool: requests that wait for one of its
    /// connections do not hold the relay up.
    pub(crate) async fn open(pool: &Pool) -> Result<Self, sqlx::Error> {
        let options: Arc<PgConnectOptions> = pool.connect_options();
        let options = PgConnectOptions::clone(&options).options(SETTINGS);
        Ok(Self { connection: bounded(options.connect()).await? })
    }

    /// Takes the right to relay a stream, if nobody has it.
    pub(crate) async fn lock(&mut self, stream: &str) -> Result<bool, sqlx::Error> {
        let lock = sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended($1, 0))")
            .bind(format!("bus relay {stream}"))
            .fetch_one(&mut self.connection);
        bounded(lock).await
    }
}

/// Waits for the database no longer than [`STATEMENT_TIMEOUT`]. A session on which that has passed is of
/// no use any more.
pub(crate) async fn bounded<T>(
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(STATEMENT_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Protocol("the database does not answer".to_owned())))
}
