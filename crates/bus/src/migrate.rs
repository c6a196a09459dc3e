//! The schema `bus`.

use sqlx::{
    PgPool,
    migrate::{MigrateError, Migrator},
};

/// Creates or updates the schema `bus`. Idempotent, and safe to run from several processes at once.
///
/// # Errors
/// Any database error, or a database that a newer release has migrated.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    let mut migrator: Migrator = sqlx::migrate!();
    // A service has migrations of its own in `public`; each set has its own table.
    migrator.create_schema("bus");
    migrator.dangerous_set_table_name("bus.migrations");
    migrator.run(pool).await
}
