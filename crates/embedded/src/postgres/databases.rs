//! Databases of a running server.

use std::time::Duration;

use anyhow::{Context, ensure};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;
use url::Url;

use super::Postgres;

/// How long a server may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Postgres {
    /// Creates a database unless it exists. Returns its URL.
    ///
    /// # Errors
    /// Same as [`create_database`].
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        create_database(&self.url("postgres"), name).await
    }

    /// Creates a database as a copy of a template, which must have no open connections. Returns its
    /// URL.
    ///
    /// # Errors
    /// If the server does not answer, a name is not plain, the template does not exist, or the
    /// database exists already.
    pub async fn copy_database(&self, template: &str, name: &str) -> anyhow::Result<String> {
        ensure_plain(template)?;
        ensure_plain(name)?;
        let mut connection = PgConnection::connect(&self.url("postgres")).await?;
        // The names were checked above; such a statement takes no parameters.
        let copy = sqlx::AssertSqlSafe(format!("create database {name} template {template}"));
        sqlx::query(copy).execute(&mut connection).await?;
        connection.close().await?;
        Ok(self.url(name))
    }
}

fn ensure_plain(name: &str) -> anyhow::Result<()> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    ensure!(plain && !name.is_empty(), "{name:?} is not a plain name for a database");
    Ok(())
}

/// Creates a database on the server at this URL unless it exists. Returns the database's URL.
///
/// # Errors
/// If the server refuses or does not answer within 5 s, or the name contains anything but lowercase
/// letters, digits and `_`.
pub async fn create_database(server: &str, name: &str) -> anyhow::Result<String> {
    ensure_plain(name)?;
    let mut url = Url::parse(server).context("it is not a URL")?;
    let connected = timeout(CONNECT_TIMEOUT, PgConnection::connect(server)).await;
    let mut connection = connected.context("Postgres does not answer")??;
    let exists: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(name)
            .fetch_one(&mut connection)
            .await?;
    if !exists {
        // The name was checked above; such a statement takes no parameters.
        let statement = sqlx::AssertSqlSafe(format!("create database {name}"));
        let created = sqlx::query(statement).execute(&mut connection).await;
        created.with_context(|| format!("cannot create the database {name}"))?;
    }
    connection.close().await?;
    url.set_path(name);
    Ok(url.into())
}
