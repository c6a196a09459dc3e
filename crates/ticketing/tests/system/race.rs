//! Many buyers compete for few tickets while replicas and nats-server are killed. No ticket is sold twice,
//! none is lost, and both services agree on each.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};
use uuid::Uuid;

use crate::{
    buyers::{SECRET, token},
    harness::{POLL_INTERVAL, Service, System, until},
};

const BUYERS: usize = 200;
const TICKETS: usize = 50;
const STAGES: usize = 5;

/// The state that buyers share.
struct Market {
    tickets: Vec<Uuid>,
    /// How many tickets are on sale so far.
    on_sale: AtomicUsize,
    /// The current URLs of orders.
    replicas: RwLock<Vec<String>>,
    /// Each 201: the order, its ticket and its buyer.
    answered: Mutex<HashMap<Uuid, (Uuid, String)>>,
    http: reqwest::Client,
}

impl Market {
    /// Tries one ticket after the other until it gets one, or none is left. A request without an answer
    /// is repeated with its key, at any replica.
    async fn buy(&self, number: usize) {
        let (buyer, mut taken) = (format!("buyer-{number}"), HashSet::new());
        let token = token(&buyer);
        let mut turn = number;
        while taken.len() < TICKETS {
            let on_sale = self.on_sale.load(Ordering::SeqCst);
            turn += 1;
            let wanted = (0..on_sale)
                .map(|at| self.tickets[(turn + at) % on_sale])
                .find(|ticket| !taken.contains(ticket));
            let Some(ticket) = wanted else {
                sleep(POLL_INTERVAL).await;
                continue;
            };
            match self.order(ticket, &token, &mut turn).await {
                Some(order) => {
                    self.answered.lock().unwrap().insert(order, (ticket, buyer));
                    return;
                }
                None => taken.insert(ticket),
            };
        }
    }

    /// The order, or `None` if another buyer has the ticket.
    async fn order(&self, ticket: Uuid, token: &str, turn: &mut usize) -> Option<Uuid> {
        loop {
            let url = {
                let replicas = self.replicas.read().unwrap();
                replicas[*turn % replicas.len()].clone()
            };
            let request = self
                .http
                .post(format!("{url}/api/orders"))
                .bearer_auth(token)
                .header("idempotency-key", ticket.to_string())
                .json(&json!({ "ticketId": ticket }));
            if let Ok(answer) = request.send().await {
                let status = answer.status();
                let said: Value = answer.json().await.unwrap_or_default();
                match status {
                    StatusCode::CREATED => {
                        return Some(said["id"].as_str().unwrap().parse().unwrap());
                    }
                    StatusCode::CONFLICT if said["detail"].to_string().contains("under way") => {}
                    StatusCode::CONFLICT => return None,
                    StatusCode::SERVICE_UNAVAILABLE => {}
                    // Without a body, the answer was cut off.
                    _ if said.is_null() => {}
                    _ => panic!("{status}: {said}"),
                }
            }
            // Rejected or not running: tries another replica, after a pause.
            *turn += 1;
            sleep(POLL_INTERVAL).await;
        }
    }
}

#[tokio::test]
async fn fifty_tickets_go_to_50_of_200_buyers_while_replicas_and_nats_are_killed() {
    let mut system = System::start().await;
    // Sellers need no token here; buyers do.
    let tickets = system.tickets().await;
    system.settings = vec![("AUTH", "hs256".to_owned()), ("JWT_KEY", SECRET.to_owned())];
    let mut replicas = Vec::new();
    for name in ["orders-1", "orders-2", "orders-3"] {
        replicas.push(system.orders(name).await);
    }
    let mut ids = Vec::new();
    for number in 0..TICKETS {
        ids.push(system.post(&tickets, &format!("seat {number}")).await);
    }
    until("orders knows the tickets", || async { system.known().await.len() == TICKETS }).await;

    let market = Arc::new(Market {
        tickets: ids,
        on_sale: AtomicUsize::new(0),
        replicas: RwLock::new(replicas.iter().map(|replica| replica.url.clone()).collect()),
        answered: Mutex::default(),
        http: system.http.clone(),
    });
    let mut buyers = JoinSet::new();
    for number in 0..BUYERS {
        let market = market.clone();
        buyers.spawn(async move { market.buy(number).await });
    }
    for stage in 0..STAGES {
        // All buyers try to get these, and then something is killed.
        let on_sale =
            market.on_sale.fetch_add(TICKETS / STAGES, Ordering::SeqCst) + TICKETS / STAGES;
        kill_and_replace(&mut system, &mut replicas, stage, &market).await;
        until("these are reserved", || async { market.answered.lock().unwrap().len() >= on_sale })
            .await;
    }
    while let Some(bought) = buyers.join_next().await {
        bought.unwrap();
    }

    let held = system.both_agree().await;
    let answered = market.answered.lock().unwrap().clone();
    let rows = reservations(&system).await;
    assert_eq!(rows, answered, "the stored orders are not those answered 201");
    assert_eq!(rows.len(), TICKETS);
    let buyers: HashSet<_> = rows.values().map(|(_, buyer)| buyer).collect();
    assert_eq!(buyers.len(), TICKETS, "a buyer has two tickets");
    let held: BTreeMap<_, _> = held
        .into_iter()
        .filter_map(|(ticket, (version, hold))| Some((ticket, (version, hold?.0))))
        .collect();
    assert_eq!(held.len(), TICKETS);
    for (ticket, (version, order)) in held {
        assert_eq!(version, 2, "{ticket} was locked once");
        assert_eq!(answered[&order].0, ticket);
    }
    system.no_dead_letters().await;
}

/// Kills what this stage of the sale kills, and replaces dead replicas.
async fn kill_and_replace(
    system: &mut System,
    replicas: &mut [Service],
    stage: usize,
    market: &Market,
) {
    match stage {
        0 => {
            replicas[0].child.kill().await;
        }
        1 => system.nats.kill().await,
        2 => {
            replicas[1].child.kill().await;
            system.nats.restart().await.unwrap();
        }
        3 => {
            system.nats.kill().await;
            replicas[2].child.kill().await;
            system.nats.restart().await.unwrap();
        }
        _ => {}
    }
    for (number, replica) in replicas.iter_mut().enumerate() {
        if replica.child.exited().is_some() {
            // Without NATS, a new replica accepts orders but does not report ready.
            let name = format!("orders-{}", number + 1);
            *replica = system.spawn("orders", &name, system.nats.client_port());
            market.replicas.write().unwrap()[number] = replica.url.clone();
        }
    }
}

/// The ticket and the buyer of every reservation in the database.
async fn reservations(system: &System) -> HashMap<Uuid, (Uuid, String)> {
    let rows: Vec<(Uuid, Uuid, String)> =
        sqlx::query_as("select id, ticket_id, buyer from orders where status = 'reserved'")
            .fetch_all(&system.orders_db)
            .await
            .unwrap();
    rows.into_iter().map(|(order, ticket, buyer)| (order, (ticket, buyer))).collect()
}
