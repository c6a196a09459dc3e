//! Clients that post tickets, one at a time or continuously.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};
use testkit::{POLL_INTERVAL, until};
use tokio::{task::JoinSet, time::sleep};
use uuid::Uuid;

use super::{Service, System};

/// `None` if there was no answer, `Some(None)` if it was not 201.
pub(super) async fn post(http: &reqwest::Client, url: &str, title: &str) -> Option<Option<Uuid>> {
    let body = json!({ "title": title, "price": 20 });
    let answer = http.post(format!("{url}/api/tickets")).json(&body).send().await.ok()?;
    if answer.status() != reqwest::StatusCode::CREATED {
        return Some(None);
    }
    let ticket: Value = answer.json().await.ok()?;
    Some(Some(ticket["id"].as_str().unwrap().parse().unwrap()))
}

/// Clients that post tickets continuously, whatever the answers.
pub(crate) struct Load {
    going: Arc<AtomicBool>,
    created: Arc<Mutex<HashSet<Uuid>>>,
    people: JoinSet<()>,
}

impl Load {
    pub(crate) fn begin(system: &System, tickets: &Service, people: usize) -> Self {
        let (going, created) = (Arc::new(AtomicBool::new(true)), Arc::default());
        let mut load = Self { going, created, people: JoinSet::new() };
        for person in 0..people {
            let (http, url) = (system.http.clone(), tickets.url.clone());
            let (going, created) = (load.going.clone(), load.created.clone());
            load.people.spawn(async move {
                while going.load(Ordering::Relaxed) {
                    match post(&http, &url, &format!("of person {person}")).await {
                        Some(Some(id)) => {
                            created.lock().unwrap().insert(id);
                        }
                        // Rejected or not running: avoids a busy loop.
                        _ => sleep(POLL_INTERVAL).await,
                    }
                }
            });
        }
        load
    }

    /// How many have been answered 201 so far.
    pub(crate) fn created(&self) -> usize {
        self.created.lock().unwrap().len()
    }

    /// Waits until this many more are answered 201.
    pub(crate) async fn more(&self, tickets: usize) {
        let wanted = self.created() + tickets;
        until("more tickets were created", || async { self.created() >= wanted }).await;
    }

    /// Stops the load. Returns the tickets answered 201.
    pub(crate) async fn end(mut self) -> HashSet<Uuid> {
        self.going.store(false, Ordering::Relaxed);
        while self.people.join_next().await.is_some() {}
        std::mem::take(&mut self.created.lock().unwrap())
    }
}
