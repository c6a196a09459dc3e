//! The chassis's tables, in a schema of their own next to those of the bus and the service.

use sqlx::{PgPool, migrate::Migrator};

/// Creates or updates the schema `chassis`. Run it after the bus's migrations and before the
/// service's. Idempotent, and safe from several processes at once.
///
/// # Errors
/// Any database error, or a migration that was edited after it was applied.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    let mut migrator: Migrator = sqlx::migrate!();
    // Each set of migrations has its own record of what was applied.
    migrator.create_schema("chassis");
    migrator.dangerous_set_table_name("chassis.migrations");
    migrator.set_ignore_missing(true).run(pool).await?;
    Ok(())
}
