//! Connections to NATS and Postgres that have fallen silent are detected and replaced.

use std::{future::pending, time::Duration};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use common::{
    bus::{Pool, Shutdown},
    pod::{database, health::Health},
};
use embedded::{NatsServer, Postgres};
use sqlx::{PgConnection, postgres::PgConnectOptions};
use testkit::{Direction, FaultProxy};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::member::{connect, until};

#[tokio::test]
async fn a_one_way_loss_of_the_nats_connection_is_detected_within_15_s() {
    const NOTICED: Duration = Duration::from_secs(15);
    let nats = NatsServer::builder().start().await.unwrap();
    let noticed = async |direction| {
        let link = FaultProxy::to(nats.client_port()).await.unwrap();
        let (bus, _shutdown) =
            connect(&format!("nats://127.0.0.1:{}", link.port()), "cut-off").await;
        bus.connected().await;
        // The server has just received something: the worst case, because it postpones its first
        // ping.
        bus.client.flush().await.unwrap();
        link.hold(direction).await;
        let begun = Instant::now();
        until("the loss is detected", || async { !bus.connection_state().borrow().up }).await;
        begun.elapsed()
    };
    let (to_server, to_client) =
        tokio::join!(noticed(Direction::ToServer), noticed(Direction::ToClient));
    assert!(to_server < NOTICED && to_client < NOTICED, "{to_server:?}, {to_client:?}");
}

/// A pool of two connections.
fn pool_of_two(url: &str) -> Pool {
    Pool::new(url.parse::<PgConnectOptions>().unwrap(), 2)
}

async fn ask(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_sleep(0.05)").execute(connection).await.map(drop)
}

#[tokio::test]
async fn connections_that_fall_silent_in_use_are_dropped_and_the_pool_recovers() {
    let postgres = Postgres::builder().start().await.unwrap();
    let url = postgres.create_database("pool").await.unwrap();
    let link = FaultProxy::to(postgres.port()).await.unwrap();
    let pool =
        pool_of_two(&url.replace(&format!(":{}/", postgres.port()), &format!(":{}/", link.port())));
    let work = || async { while pool.run(ask).await.is_ok() {} };
    let silent = async {
        until("both are in use", || async { link.connections() == 2 }).await;
        link.vanish().await;
        Instant::now()
    };
    let (vanished, (), (), ()) = tokio::join!(silent, work(), work(), work());
    // Both at once: the pool loses neither.
    let (first, second) = tokio::join!(pool.run(ask), pool.run(ask));
    first.and(second).unwrap();
    let took = vanished.elapsed();
    assert!(took < Duration::from_secs(10), "served again only after {took:?}");
}

#[tokio::test]
async fn a_failed_transaction_has_released_its_locks_when_it_returns() {
    let postgres = Postgres::builder().start().await.unwrap();
    let pool = pool_of_two(&postgres.create_database("pool").await.unwrap());
    for _ in 0..50 {
        let failed: Result<(), sqlx::Error> = pool
            .transaction(async |tx| {
                sqlx::query("select pg_advisory_xact_lock(1)").execute(tx).await?;
                Err(sqlx::Error::RowNotFound)
            })
            .await;
        assert!(matches!(failed, Err(sqlx::Error::RowNotFound)), "{failed:?}");
        let free: bool = pool
            .transaction(async |tx| {
                sqlx::query_scalar("select pg_try_advisory_xact_lock(1)").fetch_one(tx).await
            })
            .await
            .unwrap();
        assert!(free);
    }
}

#[tokio::test]
async fn a_service_with_a_stuck_pool_is_not_ready_although_the_database_answers() {
    let postgres = Postgres::builder().start().await.unwrap();
    let pool = pool_of_two(&postgres.create_database("pool").await.unwrap());
    let (health, (shutdown, _)) = (Health::default(), Shutdown::new());
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
    let routes = common::pod::health::routes(health.clone(), metrics);
    let is_ready = || async {
        let asked = Request::get("/readyz").body(Body::empty()).unwrap();
        routes.clone().oneshot(asked).await.unwrap().status() == StatusCode::OK
    };
    tokio::spawn(database::watch(pool.clone(), health, shutdown));
    until("the service is ready", is_ready).await;

    // Work that hangs: the pool cannot know whether it will ever finish.
    let stuck = async || pool.run(async |_| pending::<Result<(), sqlx::Error>>().await).await;
    let look = async {
        let begun = Instant::now();
        until("the service is not ready", || async { !is_ready().await }).await;
        begun.elapsed()
    };
    let (first, second, noticed) = tokio::join!(stuck(), stuck(), look);
    assert!(noticed < Duration::from_secs(6), "it stayed ready for {noticed:?}");
    assert!(first.is_err() && second.is_err(), "hung work was not cancelled");
    until("the service is ready again", is_ready).await;
}
