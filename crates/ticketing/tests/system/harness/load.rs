//! People who post tickets, one after another or without a pause.

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

/// `None` when there was no answer, `Some(None)` when it was not 201.
pub(super) async fn post(http: &reqwest::Client, url: &str, title: &str) -> Option<Option<Uuid>> {
    let body = json!({ "title": title, "price": 20 });
    let answer = http.post(format!("{url}/api/tickets")).json(&body).send().await.ok()?;
    if answer.status() != reqwest::StatusCode::CREATED {
        return Some(None);
    }
    let ticket: Value = answer.json().await.ok()?;
    Some(Some(ticket["id"].as_str().unwrap().parse().unwrap()))
}

/// People who post tickets without a pause, whatever they are answered.
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
                        // Refused, or nobody there: the next try should not be a busy loop.
                        _ => sleep(POLL_INTERVAL).await,
                    }
                }
            });
        }
        load
    }

    /// How many were answered 201 so far.
    pub(crate) fn created(&self) -> usize {
        self.created.lock().unwrap().len()
    }

    /// Waits until so many more were answered 201.
    pub(crate) async fn more(&self, tickets: usize) {
        let wanted = self.created() + tickets;
        until("more tickets were created", || async { self.created() >= wanted }).await;
    }

    /// Ends the load. Returns what was answered 201.
    pub(crate) async fn end(mut self) -> HashSet<Uuid> {
        self.going.store(false, Ordering::Relaxed);
        while self.people.join_next().await.is_some() {}
        std::mem::take(&mut self.created.lock().unwrap())
    }
}
