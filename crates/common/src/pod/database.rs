//! The service's Postgres: a pool whose timeouts are shorter than a request's, and a readiness gate
//! that tells whether requests can be served.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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

/// How long a start waits for a Postgres that is still starting.
const START_WAIT: Duration = Duration::from_secs(30);
/// The pause between two attempts at startup.
const START_RETRY: Duration = Duration::from_secs(1);
/// How long one attempt to connect may take at startup.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one statement may take, including waits for locks. Shorter than [`Pool`]'s timeout for
/// a piece of work, so that the database's error comes first.
const STATEMENT_TIMEOUT: &str = "5s";
/// How long a transaction may hold its locks while its process is silent, such as when it is
/// suspended or its node is cut off.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "10s";
/// How often to check that the database answers, and how long the check may take. Connections that
/// fall silent are replaced within three seconds.
const WATCH_EVERY: Duration = Duration::from_secs(1);
const WATCH_TIMEOUT: Duration = Duration::from_secs(1);
/// A pool that is too busy to answer a check is still healthy if it has served within this time:
/// three checks.
const SERVED: Duration = Duration::from_secs(3);
/// The readiness gate.
const GATE: &str = "database";
/// How long closing waits for connections in use.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the process's database was away at the last check.
static AWAY: AtomicBool = AtomicBool::new(false);

/// Whether the process's database is known to be away: [`watch`] has logged it.
pub(super) fn is_away() -> bool {
    AWAY.load(Ordering::Relaxed)
}

/// Opens the pool. Waits up to 30 seconds for an unreachable server, but not for one that refuses
/// (the password, the database's name).
///
/// # Errors
/// If the URL is malformed, the server refuses, or the time has passed.
pub async fn connect(settings: &DatabaseSettings, client_id: &ClientId) -> anyhow::Result<Pool> {
    let options = options(&settings.database_url, client_id)?;
    wait_for(&options).await?;
    Ok(Pool::new(options, settings.database_max_connections as usize))
}

/// Returns a pool of one connection for migrations. Their statements have no time limit: they may
/// take long, or wait for another replica. A session whose process falls silent ends after 10 s,
/// which releases its locks.
#[must_use]
pub fn migration_pool(pool: &Pool) -> PgPool {
    let options = PgConnectOptions::clone(&pool.connect_options()).options([
        ("statement_timeout", "0"),
        ("idle_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
    ]);
    // Never replaced, because its session may hold a lock.
    PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with(options)
}

/// Keeps the gate `database` open while the database answers and the pool serves, and renews the
/// pool when its connections fall silent.
///
/// It checks with a connection of its own. If that connection fell silent but a new one is
/// answered, all older connections are lost: another server has taken over the address, or a device
/// in between has forgotten them. Without this check, each of the pool's connections would have to
/// time out on a request first.
///
/// # Errors
/// Never; the type is what [`Shutdown::spawn`] takes.
pub async fn watch(pool: Pool, health: Health, shutdown: Shutdown) -> anyhow::Result<()> {
    health.not_ready(GATE, "not asked yet");
    let mut witness = Witness { options: pool.connect_options(), connection: None, silent: false };
    let (mut served, mut away_since) = (None, None::<Instant>);
    while !shutdown.has_begun() {
        let asked = serves(&pool, &mut witness, away_since.is_some()).await;
        AWAY.store(asked.is_err(), Ordering::Relaxed);
        pool.watched(asked.is_err());
        match &asked {
            Ok(()) => health.ready(GATE),
            Err(_) => health.not_ready(GATE, "does not answer; the log says why"),
        }
        if served.replace(asked.is_ok()) != Some(asked.is_ok()) {
            match asked {
                Ok(()) => match away_since.take() {
                    Some(since) => {
                        let seconds = since.elapsed().as_secs();
                        info!(
                            notice = "outage",
                            outage.seconds = seconds,
                            "database available again"
                        );
                    }
                    None => info!(notice = "routine", "database available"),
                },
                Err(reason) => {
                    away_since = Some(Instant::now());
                    warn!(notice = "outage", reason, "database unavailable");
                }
            }
        }
        tokio::select! {
            () = shutdown.begun() => {}
            () = sleep(WATCH_EVERY) => {}
        }
    }
    Ok(())
}

/// Checks whether requests can be served. The database may answer although the pool has no working
/// connection. A logged outage explains connections that fell silent.
async fn serves(pool: &Pool, witness: &mut Witness, outage_is_logged: bool) -> Result<(), String> {
    witness.ask().await?;
    if witness.silent && pool.renew() {
        const WHAT: &str = "database connections stopped responding, opening new ones";
        if outage_is_logged {
            debug!("{WHAT}");
        } else {
            warn!("{WHAT}");
        }
        witness.silent = false;
    }
    let asked = pool.run(async |connection| sqlx::query("select 1").execute(connection).await);
    match timeout(WATCH_TIMEOUT, asked).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) if pool.served_within(SERVED) => Ok(()),
        Err(_) => Err("no connection of the pool answers".to_owned()),
    }
}

/// A connection that shows whether the open ones still work.
struct Witness {
    options: Arc<PgConnectOptions>,
    connection: Option<PgConnection>,
    /// A connection fell silent, so the pool may have silent ones too.
    silent: bool,
}

impl Witness {
    /// Pings the current connection, or opens a new one if it does not answer.
    async fn ask(&mut self) -> Result<(), String> {
        if let Some(mut connection) = self.connection.take() {
            match timeout(WATCH_TIMEOUT, connection.ping()).await {
                Ok(Ok(())) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                // The server has ended it; the pool's connections get the same error when used.
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

/// Returns the current time in microseconds, the precision of Postgres, so that the row, the event
/// and the answer agree.
#[must_use]
pub fn now() -> OffsetDateTime {
    bus::to_microseconds(OffsetDateTime::now_utc())
}

/// Closes the pool, after the tasks that use it have ended.
pub async fn close(pool: Pool) {
    if timeout(CLOSE_TIMEOUT, pool.close()).await.is_err() {
        warn!("dropped database connections that were still in use");
    }
}

fn options(url: &str, client_id: &ClientId) -> anyhow::Result<PgConnectOptions> {
    // The reason may contain a part of the URL but never the password: the parser names the option.
    let options = PgConnectOptions::from_str(url).context("DATABASE_URL is not a Postgres URL")?;
    Ok(options
        .application_name(client_id.as_str())
        .options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
            // If a client vanishes, the server closes its side within 10 s.
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "10000"),
            // Also while a statement runs or waits for a lock, so that a killed process holds no
            // locks.
            ("client_connection_check_interval", "500ms"),
        ])
        .disable_statement_logging())
}

async fn wait_for(options: &PgConnectOptions) -> anyhow::Result<()> {
    let (begun, mut waits) = (Instant::now(), false);
    loop {
        let error = match timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await {
            Ok(Ok(connection)) => {
                let _ = connection.close().await;
                if waits {
                    let seconds = begun.elapsed().as_secs();
                    info!(notice = "outage", outage.seconds = seconds, "database available");
                }
                return Ok(());
            }
            Ok(Err(error)) if !database_is_away(&error) => {
                return Err(error).context("the database refused the connection");
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if begun.elapsed() >= START_WAIT {
            anyhow::bail!("the database cannot be reached: {error}");
        }
        if !std::mem::replace(&mut waits, true) {
            warn!(
                notice = "outage",
                database.host = options.get_host(),
                database.port = options.get_port(),
                error,
                "waiting for the database",
            );
        }
        sleep(START_RETRY).await;
    }
}
