//! Connections on which nothing comes any more, to NATS and to Postgres: noticed, and replaced.

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
async fn a_link_to_nats_that_falls_silent_in_one_direction_is_noticed_within_15_s() {
    const NOTICED: Duration = Duration::from_secs(15);
    let nats = NatsServer::builder().start().await.unwrap();
    let noticed = async |direction| {
        let link = FaultProxy::to(nats.client_port()).await.unwrap();
        let (bus, _shutdown) =
            connect(&format!("nats://127.0.0.1:{}", link.port()), "cut-off").await;
        bus.connected().await;
        // The server has heard something lately: the worst moment, for it puts off its first question.
        bus.client.flush().await.unwrap();
        link.hold(direction).await;
        let begun = Instant::now();
        until("it is noticed", || async { !bus.link().borrow().up }).await;
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
async fn connections_that_fall_silent_at_work_are_given_up_and_the_pool_is_whole_again() {
    let postgres = Postgres::builder().start().await.unwrap();
    let url = postgres.create_database("pool").await.unwrap();
    let link = FaultProxy::to(postgres.port()).await.unwrap();
    let pool =
        pool_of_two(&url.replace(&format!(":{}/", postgres.port()), &format!(":{}/", link.port())));
    let work = || async { while pool.run(ask).await.is_ok() {} };
    let silent = async {
        until("both are at work", || async { link.connections() == 2 }).await;
        link.vanish().await;
        Instant::now()
    };
    let (vanished, (), (), ()) = tokio::join!(silent, work(), work(), work());
    // Both at once: neither is lost to the pool.
    let (first, second) = tokio::join!(pool.run(ask), pool.run(ask));
    first.and(second).unwrap();
    let took = vanished.elapsed();
    assert!(took < Duration::from_secs(10), "served again only after {took:?}");
}

#[tokio::test]
async fn a_transaction_that_fails_has_let_go_of_its_locks_when_it_says_so() {
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
async fn a_service_whose_pool_does_not_serve_is_not_ready_though_the_database_answers() {
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
    until("it is ready", is_ready).await;

    // Work that does nothing: the pool cannot know whether it ever will.
    let stuck = async || pool.run(async |_| pending::<Result<(), sqlx::Error>>().await).await;
    let look = async {
        let begun = Instant::now();
        until("it is not ready", || async { !is_ready().await }).await;
        begun.elapsed()
    };
    let (first, second, noticed) = tokio::join!(stuck(), stuck(), look);
    assert!(noticed < Duration::from_secs(6), "it was ready for another {noticed:?}");
    assert!(first.is_err() && second.is_err(), "work has an end");
    until("it is ready again", is_ready).await;
}
