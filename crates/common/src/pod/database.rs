//! The service's Postgres: connections that give up before a request does, and a gate of
//! readiness that knows whether requests are served.

use std::{str::FromStr, sync::Arc, time::Duration};

use anyhow::Context;
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use bus::{Pool, database_is_away};

use super::{config::DatabaseSettings, health::Health};
use bus::{ClientId, Shutdown};

/// How long a start waits for a Postgres that is itself starting.
const START_WAIT: Duration = Duration::from_secs(30);
/// The pause between two tries of a start.
const START_RETRY: Duration = Duration::from_secs(1);
/// How long one attempt to connect may take at a start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one statement may take, waiting for locks included. Below what [`Pool`] gives to a piece of
/// work, so that the database speaks first.
const STATEMENT_TIMEOUT: &str = "5s";
/// How long a transaction may hold its locks while its process says nothing, as when it was
/// suspended or its node was cut off.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "10s";
/// How often to look whether the database answers, and how long it may take. Connections that have
/// fallen silent are replaced within three seconds.
const WATCH_EVERY: Duration = Duration::from_secs(1);
const WATCH_TIMEOUT: Duration = Duration::from_secs(1);
/// A pool that had no connection to spare for a question serves, if it has served within this time:
/// three looks.
const SERVED: Duration = Duration::from_secs(3);
/// The gate of readiness.
const GATE: &str = "database";
/// How long closing waits for connections that are in use.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the pool. Waits up to 30 seconds for a server that cannot be reached; one that refuses
/// (the password, the database's name) is not waited for.
///
/// # Errors
/// When the URL is malformed, the server refuses, or the time has passed.
pub async fn connect(settings: &DatabaseSettings, client_id: &ClientId) -> anyhow::Result<Pool> {
    let options = options(&settings.database_url, client_id)?;
    wait_for(&options).await?;
    Ok(Pool::new(options, settings.database_max_connections as usize))
}

/// A pool of one connection for migrations. Their statements have no time limit: they may take long, or
/// wait for another replica. A session whose process falls silent ends after 10 s, which releases its
/// locks.
#[must_use]
pub fn migration_pool(pool: &Pool) -> PgPool {
    let options = PgConnectOptions::clone(&pool.connect_options()).options([
        ("statement_timeout", "0"),
        ("idle_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
    ]);
    // Never replaced: its session may hold a lock.
    PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with(options)
}

/// Keeps the gate `database` open while the database answers and the pool serves, and renews the pool
/// when its connections have fallen silent.
///
/// It has a connection of its own to tell by. One that was answered a moment ago and is not now, while
/// a new one is, tells that what was open is lost: another server has taken the address, or something
/// between has forgotten its connections. Those of the pool would each be found out by whoever gets
/// it; this is faster.
///
/// # Errors
/// Never; the type is what [`Shutdown::spawn`] takes.
pub async fn watch(pool: Pool, health: Health, shutdown: Shutdown) -> anyhow::Result<()> {
    health.not_ready(GATE, "not asked yet");
    let mut witness = Witness { options: pool.connect_options(), connection: None, silent: false };
    let mut served = None;
    while !shutdown.has_begun() {
        let asked = serves(&pool, &mut witness).await;
        match &asked {
            Ok(()) => health.ready(GATE),
            Err(_) => health.not_ready(GATE, "does not answer; the log says why"),
        }
        if served.replace(asked.is_ok()) != Some(asked.is_ok()) {
            match asked {
                Ok(()) => info!(notice = "routine", "database available"),
                Err(reason) => warn!(reason, "database unavailable"),
            }
        }
        tokio::select! {
            () = shutdown.begun() => {}
            () = sleep(WATCH_EVERY) => {}
        }
    }
    Ok(())
}

/// Whether requests are served now: the database may answer, and the pool have no connection on which
/// it does.
async fn serves(pool: &Pool, witness: &mut Witness) -> Result<(), String> {
    witness.ask().await?;
    if witness.silent && pool.renew() {
        warn!("database connections stopped responding, opening new ones");
        witness.silent = false;
    }
    let asked = pool.run(async |connection| sqlx::query("select 1").execute(connection).await);
    match timeout(WATCH_TIMEOUT, asked).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) if pool.served_within(SERVED) => Ok(()),
        Err(_) => Err("no connection of the pool serves".to_owned()),
    }
}

/// A connection that shows what becomes of those that are open.
struct Witness {
    options: Arc<PgConnectOptions>,
    connection: Option<PgConnection>,
    /// One was not answered, and the pool may have others of its kind.
    silent: bool,
}

impl Witness {
    /// Asks on the connection of last time, and on a new one if it does not answer.
    async fn ask(&mut self) -> Result<(), String> {
        if let Some(mut connection) = self.connection.take() {
            match timeout(WATCH_TIMEOUT, connection.ping()).await {
                Ok(Ok(())) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                // The server has ended it, and others are told the same when they ask.
                Ok(Err(error)) => debug!(%error, "a connection to the database has ended"),
                Err(_) => self.silent = true,
            }
        }
        let connected = timeout(WATCH_TIMEOUT, self.options.connect()).await;
        let connection = connected
            .map_err(|_| "does not answer".to_owned())?
            .map_err(|error| error.to_string())?;
        self.connection = Some(connection);
        Ok(())
    }
}

/// Now, to the microsecond, which is what Postgres keeps: the row, the event and the answer say
/// the same.
#[must_use]
pub fn now() -> OffsetDateTime {
    bus::to_microseconds(OffsetDateTime::now_utc())
}

/// Closes the pool, after the tasks that used it have ended.
pub async fn close(pool: Pool) {
    if timeout(CLOSE_TIMEOUT, pool.close()).await.is_err() {
        warn!("dropped database connections that were still in use");
    }
}

fn options(url: &str, client_id: &ClientId) -> anyhow::Result<PgConnectOptions> {
    // The reason may hold a part of the URL but never the password: the parser names the option.
    let options = PgConnectOptions::from_str(url).context("DATABASE_URL is not a Postgres URL")?;
    Ok(options
        .application_name(client_id.as_str())
        .options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
            // The server's side of a connection whose client has vanished: gone within 10 s.
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "10000"),
            // Also while a statement runs or waits for a lock: a process that was killed holds nothing.
            ("client_connection_check_interval", "500ms"),
        ])
        .disable_statement_logging())
}

async fn wait_for(options: &PgConnectOptions) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_WAIT;
    loop {
        let error = match timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await {
            Ok(Ok(connection)) => {
                let _ = connection.close().await;
                return Ok(());
            }
            Ok(Err(error)) if !database_is_away(&error) => {
                return Err(error).context("the database refuses");
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() >= deadline {
            anyhow::bail!("the database cannot be reached: {error}");
        }
        warn!(
            database.host = options.get_host(),
            database.port = options.get_port(),
            error,
            "waiting for the database",
        );
        sleep(START_RETRY).await;
    }
}
