//! Databases of a running server.

use anyhow::ensure;
use sqlx::{Connection, PgConnection};

use super::Postgres;

impl Postgres {
    /// Makes a database if there is none of that name. Returns its URL.
    ///
    /// # Errors
    /// When the server does not answer, or the name is no plain one.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        ensure_plain(name)?;
        let mut connection = PgConnection::connect(&self.url("postgres")).await?;
        let exists: bool =
            sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
                .bind(name)
                .fetch_one(&mut connection)
                .await?;
        if !exists {
            // The name was checked above; a statement like this takes no parameters.
            let statement = sqlx::AssertSqlSafe(format!("create database {name}"));
            sqlx::query(statement).execute(&mut connection).await?;
        }
        connection.close().await?;
        Ok(self.url(name))
    }
    /// Makes a database as a copy of another, to which nobody may be connected. Returns its URL.
    ///
    /// # Errors
    /// When the server does not answer, a name is no plain one, there is no such template, or there is a
    /// database of that name.
    pub async fn copy_database(&self, template: &str, name: &str) -> anyhow::Result<String> {
        ensure_plain(template)?;
        ensure_plain(name)?;
        let mut connection = PgConnection::connect(&self.url("postgres")).await?;
        // The names were checked above; a statement like this takes no parameters.
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
