//! The service's Postgres: connections that give up before a request does, and a gate of
//! readiness that knows whether the database answers.

use std::{str::FromStr, time::Duration};

use anyhow::Context;
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use bus::database_is_away;

use super::{client_id::ClientId, config::DatabaseSettings, health::Health, shutdown::Shutdown};

/// How long a start waits for a Postgres that is itself starting.
const START_WAIT: Duration = Duration::from_secs(30);
/// The pause between two tries of a start.
const START_RETRY: Duration = Duration::from_secs(1);
/// How long a request waits for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one statement may take, waiting for locks included. With [`ACQUIRE_TIMEOUT`] below the
/// HTTP stack's time for a whole request.
const STATEMENT_TIMEOUT: &str = "5s";
/// How long a transaction may hold its locks while its process says nothing, as when it was
/// suspended or its node was cut off.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "10s";
/// How long a connection may idle before it is asked whether it is alive. Below that the question
/// would cost more than it finds.
const FRESH: Duration = Duration::from_secs(1);
/// How long a connection may take to say that it is alive, when it is given out. One whose
/// peer has vanished gives way to a new one.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// How often to look whether the database answers, and how long it may take.
const WATCH_EVERY: Duration = Duration::from_secs(2);
const WATCH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long closing waits for connections that are in use.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the pool. Waits up to 30 seconds for a server that cannot be reached; one that refuses
/// (the password, the database's name) is not waited for.
///
/// # Errors
/// When the URL is malformed, the server refuses, or the time has passed.
pub async fn connect(settings: &DatabaseSettings, client_id: &ClientId) -> anyhow::Result<PgPool> {
    let options = options(&settings.database_url, client_id)?;
    wait_for(&options).await?;
    let pool = PgPoolOptions::new()
        .max_connections(settings.database_max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for >= FRESH { ping(connection).await } else { Ok(true) }
            })
        });
    Ok(pool.connect_lazy_with(options))
}

/// A pool of one connection without a limit on its statements, for migrations: they may take long,
/// and wait for another replica that runs them.
#[must_use]
pub fn unhurried(pool: &PgPool) -> PgPool {
    let options = PgConnectOptions::clone(&pool.connect_options())
        .options([("statement_timeout", "0"), ("idle_in_transaction_session_timeout", "0")]);
    PgPoolOptions::new().max_connections(1).connect_lazy_with(options)
}

/// Keeps the gate `database` open while the database answers. It asks on a connection of its own,
/// because a pool that is busy says nothing of the database.
///
/// # Errors
/// Never; the type is what [`Shutdown::spawn`] takes.
pub async fn watch(pool: PgPool, health: Health, shutdown: Shutdown) -> anyhow::Result<()> {
    const GATE: &str = "database";
    health.not_ready(GATE, "not asked yet");
    let options = pool.connect_options();
    let mut connection = None;
    let mut answers = None;
    while !shutdown.has_begun() {
        let asked = match timeout(WATCH_TIMEOUT, ask(connection.take(), &options)).await {
            Ok(Ok(alive)) => {
                connection = Some(alive);
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("does not answer".to_owned()),
        };
        match &asked {
            Ok(()) => health.ready(GATE),
            Err(_) => health.not_ready(GATE, "does not answer; the log says why"),
        }
        if answers.replace(asked.is_ok()) != Some(asked.is_ok()) {
            match asked {
                Ok(()) => info!("the database answers"),
                Err(reason) => warn!(reason, "the database is away"),
            }
        }
        tokio::select! {
            () = shutdown.begun() => {}
            () = sleep(WATCH_EVERY) => {}
        }
    }
    Ok(())
}

/// Now, to the microsecond, which is what Postgres keeps: the row, the event and the answer say
/// the same.
#[must_use]
pub fn now() -> OffsetDateTime {
    bus::to_microseconds(OffsetDateTime::now_utc())
}

/// Closes the pool, after the tasks that used it have ended.
pub async fn close(pool: PgPool) {
    if timeout(CLOSE_TIMEOUT, pool.close()).await.is_err() {
        warn!("connections to the database were still in use, dropped");
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
        ])
        .disable_statement_logging())
}

async fn wait_for(options: &PgConnectOptions) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_WAIT;
    loop {
        let error = match timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(options)).await {
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

/// Asks on the connection of last time, or a new one.
async fn ask(
    connection: Option<PgConnection>,
    options: &PgConnectOptions,
) -> Result<PgConnection, sqlx::Error> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => PgConnection::connect_with(options).await?,
    };
    sqlx::query("select 1").execute(&mut connection).await?;
    Ok(connection)
}

/// Whether a connection answers. An error makes the pool drop it without a farewell.
async fn ping(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match timeout(PING_TIMEOUT, connection.ping()).await {
        Ok(alive) => alive.map(|()| true),
        Err(_) => Err(sqlx::Error::Protocol("the connection does not answer".to_owned())),
    }
}
