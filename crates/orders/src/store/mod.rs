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

/// Makes or updates the service's tables. Idempotent, and safe from several processes at once.
///
/// # Errors
/// When the database fails, or was migrated by a newer release.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::migrate!().run(pool).await?;
    Ok(())
}
