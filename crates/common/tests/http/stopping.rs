//! A shutdown cuts off no request and waits for no idle client.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    balancer::Balancer,
    client::{BODY, Client, posting},
    service::Service,
};

/// The number of requests, the clients that share them, and how long each client pauses between two.
const REQUESTS: usize = 10_000;
const CLIENTS: usize = 100;
const PAUSE: Duration = Duration::from_millis(20);
/// How long after a shutdown begins the balancer learns of it.
const LATE: Duration = Duration::from_millis(300);
const GRACE: Duration = Duration::from_secs(10);

/// Posts on a connection that is kept as long as the server keeps it, until all are done.
async fn post(to: Balancer, left: Arc<AtomicUsize>) -> Vec<String> {
    let (mut client, mut faults) = (None, Vec::new());
    while left.fetch_sub(1, Ordering::Relaxed) as isize > 0 {
        let mut kept = match client.take() {
            Some(client) => client,
            None => Client::connect(to.address).await,
        };
        let sent = kept.try_send(posting(BODY)).await;
        let answer = match sent {
            Ok(()) => kept.try_answer().await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) if answer.status != 200 => faults.push(answer.head),
            Ok(answer) if answer.header("connection") == "close" => {}
            Ok(_) => client = Some(kept),
            Err(error) => faults.push(error.to_string()),
        }
        sleep(PAUSE).await;
    }
    faults
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_10000_requests_on_kept_connections_is_cut_off_by_rollouts() {
    let balancer = Balancer::start().await;
    let mut servers = vec![Service::start(), Service::start()];
    servers.iter().for_each(|server| balancer.add(server.address));

    let left = Arc::new(AtomicUsize::new(REQUESTS));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(post(balancer.clone(), left.clone()));
    }
    let mut stopped = 0;
    while (left.load(Ordering::Relaxed) as isize) > 0 {
        let new = Service::start();
        balancer.add(new.address);
        servers.push(new);
        let old = servers.remove(0);
        old.begin_stop();
        sleep(LATE).await;
        balancer.remove(old.address);
        assert!(old.stop(GRACE).await, "the shutdown left connections");
        stopped += 1;
    }
    let faults: Vec<String> = clients.join_all().await.into_iter().flatten().collect();
    assert!(faults.is_empty(), "{} of {REQUESTS}, such as {}", faults.len(), faults[0]);
    assert!(stopped >= 2, "{stopped} stops");
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_clients_that_neither_read_nor_write() {
    let stop_within = Duration::from_secs(3);
    let service = Service::stopping_within(stop_within);
    let mut waiting = Vec::new();
    for sends in [
        String::new(),
        "POST /things HTTP/1.1\r\nhost: a\r\n".to_owned(),
        posting(BODY).replace(BODY, ""),
        "GET /large HTTP/1.1\r\nhost: a\r\n\r\n".repeat(40),
        "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
    ] {
        let mut client = service.client().await;
        client.send(sends).await;
        waiting.push(client);
    }
    // The server has received all of it, because it has answered this later request.
    assert_eq!(service.client().await.post(BODY).await.status, 200);
    let begun = Instant::now();
    assert!(service.stop(GRACE).await, "the shutdown waited for its clients");
    assert!(begun.elapsed() < stop_within + Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_shutdown_lets_requests_finish_and_closes_their_connections() {
    let service = Service::start();
    let (mut slow, mut idle) = (service.client().await, service.client().await);
    slow.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(idle.get("/things/1", "").await.header("connection"), "");
    let stop = async {
        let stopped = service.stop(GRACE).await;
        assert!(stopped, "the shutdown left connections");
    };
    let clients = async {
        // While it drains, old and new connections get one last answer.
        let last = idle.get("/things/1", "").await;
        assert_eq!((last.status, last.header("connection")), (200, "close"));
        assert!(idle.until_closed().await.is_empty());
        let new = service.client().await.post(BODY).await;
        assert_eq!((new.status, new.header("connection")), (200, "close"));
        // A silent connection is closed at the end of the drain; then requests in progress finish.
        let mut silent = service.client().await;
        assert!(silent.until_closed().await.is_empty());
        service.finish_slow();
        let done = slow.answer().await;
        assert_eq!((&*done.body, done.header("connection")), ("done", "close"));
    };
    tokio::join!(stop, clients);
}
