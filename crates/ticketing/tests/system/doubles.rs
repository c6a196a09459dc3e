//! Two processes with one client id: a second live one is rejected; one that is dead or does not answer
//! is replaced.

use std::{fs, time::Duration};

use embedded::{
    ports,
    process::{Child, Command},
};
use tempfile::TempDir;
use testkit::FaultProxy;
use tokio::time::{Instant, timeout};

use crate::harness::{PATIENCE, Service, System, until};

/// The longest wait for a holder that does not answer.
const LEASE: Duration = common::bus::lease::MAX_AGE;
/// What a busy machine may need in addition, to start a process.
const MARGIN: Duration = Duration::from_secs(10);

/// A process of orders with the client id `orders-1`, and the folder of its log.
struct Double {
    service: Service,
    folder: TempDir,
}

impl Double {
    fn spawn(system: &System) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", ports::free().unwrap());
        let child: Child = Command::new(env!("CARGO_BIN_EXE_ticketing"))
            .args(["orders"])
            .env("POD_NAME", "orders-1")
            .env("NODE_NAME", "node-a")
            .env("HTTP_ADDRESS", &address)
            .env("NATS_URL", system.nats.url())
            .env("DATABASE_URL", system.postgres.url("orders"))
            .env("AUTH", "off")
            .env("LOG", "info")
            .log_to(&folder.path().join("log"))
            .unwrap()
            .spawn()
            .unwrap();
        Self { service: Service { child, url: format!("http://{address}") }, folder }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    async fn until_ready(&self, system: &System) {
        until("the double is ready", || async {
            assert!(self.service.child.exited().is_none(), "it ended: {}", self.log());
            readiness(system, &self.service).await.is_some_and(|(ready, _)| ready)
        })
        .await;
    }

    /// Waits until it has exited because another process holds the id.
    async fn until_turned_away(&self, within: Duration) {
        let status = timeout(within, self.service.child.wait()).await;
        let status =
            status.unwrap_or_else(|_| panic!("the double is still running: {}", self.log()));
        assert_eq!(status.code(), Some(1));
        for part in ["clientID already registered", "pod orders-1", "node node-a", "since 20"] {
            assert!(self.log().contains(part), "{part:?} is missing in: {}", self.log());
        }
    }
}

/// Whether a service is ready, and its explanation. `None` while it does not answer.
async fn readiness(system: &System, service: &Service) -> Option<(bool, String)> {
    let answer = system.http.get(format!("{}/readyz", service.url)).send().await.ok()?;
    Some((answer.status().is_success(), answer.text().await.ok()?))
}

#[tokio::test]
async fn a_second_process_with_a_client_id_is_rejected_and_a_dead_ones_id_is_free_at_once() {
    let system = System::start().await;
    let mut first = system.orders("orders-1").await;
    Double::spawn(&system).until_turned_away(LEASE).await;
    assert!(first.child.exited().is_none());

    first.child.kill().await;
    let third = Double::spawn(&system);
    third.until_ready(&system).await;
    // No process waited for a lease to expire.
    assert!(third.log().contains("the holder of the client id is dead"), "{}", third.log());
    assert!(!third.log().contains("does not answer"), "{}", third.log());
}

#[tokio::test]
async fn a_replica_whose_machine_vanished_is_replaced_once_its_lease_expires() {
    let system = System::start().await;
    let link = FaultProxy::to(system.nats.client_port()).await.unwrap();
    let mut first = system.orders_through("orders-1", link.port()).await;
    // NATS does not notice the exit.
    link.vanish().await;
    first.child.kill().await;

    let begun = Instant::now();
    let next = Double::spawn(&system);
    until("it says what it waits for", || async {
        assert!(next.service.child.exited().is_none(), "it ended: {}", next.log());
        readiness(&system, &next.service)
            .await
            .is_some_and(|(ready, why)| !ready && why.contains("does not answer"))
    })
    .await;
    next.until_ready(&system).await;
    assert!(begun.elapsed() < LEASE + MARGIN, "it took {:?}", begun.elapsed());
    assert_eq!(next.log().matches("does not answer").count(), 1, "{}", next.log());
}

#[tokio::test]
async fn tickets_serves_and_publishes_while_the_lease_of_a_silent_predecessor_lasts() {
    let system = System::start().await;
    let _orders = system.orders("orders-1").await;
    let link = FaultProxy::to(system.nats.client_port()).await.unwrap();
    let mut first = system.tickets_through(link.port()).await;
    link.vanish().await;
    first.child.kill().await;

    let next = system.tickets().await;
    let ticket = system.post(&next, "posted without a lease").await;
    system.reached_once(&[ticket].into()).await;
    // It takes the lease in the end, and receives orders' events.
    until("it has joined its group", || async {
        assert!(next.child.exited().is_none(), "it ended");
        system.metric(&next, "bus_group_members").await == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_frozen_replica_is_replaced_and_exits_when_it_thaws() {
    let system = System::start().await;
    let tickets = system.tickets().await;
    let first = Double::spawn(&system);
    first.until_ready(&system).await;
    first.service.child.pause();
    let next = system.orders("orders-1").await;
    first.service.child.resume();
    first.until_turned_away(PATIENCE).await;
    assert!(next.child.exited().is_none());
    let ticket = system.post(&tickets, "after the thaw").await;
    system.reached_once(&[ticket].into()).await;
}
