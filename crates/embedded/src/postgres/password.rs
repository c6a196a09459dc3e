//! The password of a server's databases: random, created once, and kept in a file next to them that
//! only this user may read. Never an argument, which `ps` would show.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::chown,
    path::Path,
};

use anyhow::Context;
use sqlx::{Connection, PgConnection};
use tempfile::NamedTempFile;

use super::Postgres;
use crate::private;

/// The file next to the data folder.
const FILE: &str = "password";

/// Returns the password of the databases in a folder.
pub(super) fn of(folder: &Path) -> anyhow::Result<String> {
    let file = folder.join(FILE);
    match fs::read_to_string(&file) {
        Ok(password) => Ok(password.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let password = private::password();
            private::write(&file, password.as_bytes())?;
            Ok(password)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Writes the password to a file for `initdb`, which runs as the server's user. Deleted when
/// dropped.
pub(super) fn file(server: &Postgres) -> anyhow::Result<NamedTempFile> {
    let folder = server.data.parent().context("the databases are in a folder")?;
    // Only its owner may read it, from the start.
    let mut file = NamedTempFile::new_in(folder).context("cannot write the password")?;
    file.write_all(server.password.as_bytes())?;
    if let Some(user) = &server.user {
        chown(file.path(), Some(user.uid), Some(user.gid))?;
    }
    Ok(file)
}

/// Makes databases created by an earlier release, which had no password, require it.
pub(super) async fn required(server: &Postgres) -> anyhow::Result<()> {
    let file = server.data.join("pg_hba.conf");
    let rules = fs::read_to_string(&file).context("cannot read pg_hba.conf")?;
    let trusts = |line: &&str| !line.starts_with('#') && line.ends_with("trust");
    if !rules.lines().any(|line| trusts(&line)) {
        return Ok(());
    }
    let mut connection = PgConnection::connect(&server.url("postgres")).await?;
    // Contains only our own digits; such a statement takes no parameters.
    let alter =
        format!("set scram_iterations = 1; alter role postgres password '{}'", server.password);
    sqlx::raw_sql(sqlx::AssertSqlSafe(alter)).execute(&mut connection).await?;
    let lines = rules.lines().map(|line| match line.strip_suffix("trust") {
        Some(rule) if trusts(&line) => format!("{rule}scram-sha-256\n"),
        _ => format!("{line}\n"),
    });
    // Overwritten in place, so that the file keeps its owner.
    fs::write(&file, lines.collect::<String>()).context("cannot write pg_hba.conf")?;
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}
