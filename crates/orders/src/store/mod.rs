//! All SQL of the service. The caller that begins a transaction also commits it: functions here
//! take a connection and never commit.
//!
//! - [`orders`]: orders after they are created.
//! - [`reservations`]: creation of orders.
//! - [`tickets`]: the copy of the tickets.

pub mod orders;
pub mod reservations;
pub mod tickets;

use sqlx::PgPool;

/// Creates or updates the service's own tables. Idempotent, and safe from several processes at once. A schema
/// that a newer release has migrated is left as it is, so that this release can start on it after a rollback.
///
/// # Errors
/// Any database error, or a migration that was edited after it was applied.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::migrate!().set_ignore_missing(true).run(pool).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use common::{
        columns::{self, Columns},
        events::order::Order,
    };
    use testkit::Database;

    use super::{tickets::Written, *};

    /// Columns that only the previous release writes.
    const WRITTEN_BY_0_1_0: [&str; 5] = ["title", "created_at", "updated_at", "seller", "hold"];

    #[tokio::test]
    async fn every_statement_and_every_column_fits_the_schema() {
        let database = Database::new("orders", migrate).await;
        let statements =
            [orders::statements(), reservations::statements(), tickets::statements()].concat();
        let tables: &[(&str, &[&[&str]])] = &[
            ("tickets", &[Written::NAMES, &["processed_at"], &WRITTEN_BY_0_1_0]),
            ("orders", &[Order::NAMES, &["payment_amount", "payment_reference"]]),
            ("captures", &[&["order_id", "due_at"]]),
        ];
        let mut connection = database.pool.acquire().await.unwrap();
        let checked = columns::check(&mut connection, &statements, tables).await;
        checked.unwrap_or_else(|faults| panic!("{faults}"));
        for source in
            [include_str!("orders.rs"), include_str!("reservations.rs"), include_str!("tickets.rs")]
        {
            assert!(!columns::has_unnamed(source), "SQL without a name");
        }
    }
}
