//! The right to relay one stream: a Postgres session that holds an advisory lock. The cursor is written on that
//! session, so a relay that has lost the lock cannot write it, even if it has not noticed.

use std::{future::Future, sync::Arc, time::Duration};

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use crate::pool::{Pool, set_nodelay};

/// How long one statement, or connecting, may take. The server has the same limit; this one is for a server
/// that has vanished.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings of a relay's session.
///
/// A process that is frozen or cut off loses the session, and with it the lock, within ten seconds. A killed
/// process loses it at once.
///
/// Commits do not wait for the disk: if Postgres crashes, the cursor is a little behind, and the events in
/// between are republished under the same `Nats-Msg-Id`.
///
/// Each statement has one good plan, an index scan, whatever the statistics say.
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

/// A Postgres session. Every statement on it is [`bounded`].
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: PgConnection,
}

impl Session {
    /// Opens a session to the pool's database, outside the pool: requests that wait for a connection do not
    /// delay the relay.
    pub(crate) async fn open(pool: &Pool) -> Result<Self, sqlx::Error> {
        let options: Arc<PgConnectOptions> = pool.connect_options();
        let options = PgConnectOptions::clone(&options).options(SETTINGS);
        let connection = bounded(options.connect()).await?;
        set_nodelay();
        Ok(Self { connection })
    }

    /// Takes the right to relay a stream. `false` if another session has it.
    pub(crate) async fn lock(&mut self, stream: &str) -> Result<bool, sqlx::Error> {
        let lock = sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended($1, 0))")
            .bind(format!("bus relay {stream}"))
            .fetch_one(&mut self.connection);
        bounded(lock).await
    }
}

/// Waits for the database for at most [`STATEMENT_TIMEOUT`]. A session that times out must be dropped.
pub(crate) async fn bounded<T>(
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(STATEMENT_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Protocol("the database does not answer".to_owned())))
}
