//! All SQL of the service. Whoever begins a transaction commits it; everything here receives a
//! connection and never commits.
//!
//! - [`orders`]: its own orders.
//! - [`reservations`]: how an order comes to be one.
//! - [`tickets`]: its copy of the tickets.

pub mod orders;
pub mod reservations;
pub mod tickets;

use sqlx::PgPool;

/// Makes or updates the service's tables. Idempotent, and safe from several processes at once. A
/// schema that a newer release has already migrated is left as it is: the release before runs on it.
///
/// # Errors
/// Any database error, or a migration that was edited after it was applied.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::migrate!().set_ignore_missing(true).run(pool).await?;
    Ok(())
}
