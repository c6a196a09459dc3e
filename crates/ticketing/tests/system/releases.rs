//! A release alongside the next one, on one database. `.ci/rollout` runs the two binaries side by side.

use crate::harness::{System, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_service_starts_on_a_database_that_the_next_release_has_migrated() {
    let system = System::start().await;
    drop((system.tickets().await, system.orders("orders-1").await));
    for database in [&system.tickets_db, &system.orders_db] {
        for migrations in ["bus.migrations", "chassis.migrations", "_sqlx_migrations"] {
            let next = format!(
                "insert into {migrations} (version, description, success, checksum, execution_time)
                 values (9999, 'of the next release', true, '', 0)"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(next)).execute(database).await.unwrap();
        }
    }
    // As after a rollback, or when a pod of the old release restarts during a rollout.
    let (tickets, _orders) = (system.tickets().await, system.orders("orders-1").await);
    let ticket = system.post(&tickets, "Concert").await;
    until("orders knows the ticket", || async { system.known().await.contains_key(&ticket) }).await;
}
