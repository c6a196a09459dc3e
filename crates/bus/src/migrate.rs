//! The schema `bus`.

use sqlx::{
    PgPool,
    migrate::{MigrateError, Migrator},
};

/// Creates or updates the schema `bus`. Idempotent, and safe to run from several processes at once. A schema
/// that the next release has migrated is left as it is.
///
/// # Errors
/// Any database error, or a migration that was edited after it was applied.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    let mut migrator: Migrator = sqlx::migrate!();
    migrator.set_ignore_missing(true);
    // A service has migrations of its own in `public`; each set has its own table.
    migrator.create_schema("bus");
    migrator.dangerous_set_table_name("bus.migrations");
    migrator.run(pool).await
}
