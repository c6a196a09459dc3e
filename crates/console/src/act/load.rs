//! Posts tickets at a given rate, and looks in orders for each accepted one until it is there.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{bus::Shutdown, pod::problem::Problem};
use futures::{StreamExt, stream::iter};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::info;

use super::{Ledger, Services};
use crate::{Console, sources::ANSWER_TIMEOUT};

/// The fastest and the longest load.
pub(crate) const MAX_RATE: u32 = 200;
pub(crate) const MAX_SECONDS: u32 = 300;
/// How many POSTs may be in flight at once. When they are, the load is slower than requested.
const UNDER_WAY: usize = 64;
/// How many tickets are looked for at once, and how many per round.
const LOOKS: usize = 16;
const CHECKED_AT_ONCE: usize = 256;
/// How often waiting tickets are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The load to generate.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// Tickets per second.
    rate: u32,
    seconds: u32,
}

pub(super) async fn load(State(console): State<Console>, Json(wanted): Json<Wanted>) -> Response {
    let Wanted { rate, seconds } = wanted;
    if !(1..=MAX_RATE).contains(&rate) || !(1..=MAX_SECONDS).contains(&seconds) {
        let detail = format!(
            "The rate must be 1 to {MAX_RATE} per second, the duration 1 to {MAX_SECONDS} s."
        );
        return Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).into_response();
    }
    let (ledger, services) = (console.ledger, console.services);
    if ledger.room() < (rate * seconds) as usize {
        let detail = "Too many tickets of earlier loads have not reached orders yet.";
        return Problem::new(StatusCode::CONFLICT, detail).into_response();
    }
    if !ledger.begin() {
        return Problem::new(StatusCode::CONFLICT, "A load is already running.").into_response();
    }
    info!(rate, seconds, "posting tickets");
    let stopping = console.shutdown.clone();
    console.shutdown.spawn("load", async move {
        tokio::select! {
            () = stopping.begun() => {}
            () = post_all(&services, &ledger, rate, seconds) => {}
        }
        ledger.end();
    });
    Json(json!({ "status": 202, "body": { "rate": rate, "seconds": seconds } })).into_response()
}

async fn post_all(services: &Services, ledger: &Ledger, rate: u32, seconds: u32) {
    let mut tick = interval(Duration::from_secs(1) / rate);
    // Makes up for late ticks, so that the requested number is posted.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let under_way = std::sync::Arc::new(Semaphore::new(UNDER_WAY));
    let mut posts = JoinSet::new();
    let end = Instant::now() + Duration::from_secs(u64::from(seconds));
    for number in 1..=rate * seconds {
        tick.tick().await;
        let Ok(permit) = under_way.clone().acquire_owned().await else { break };
        if Instant::now() > end {
            break;
        }
        let (services, ledger) = (services.clone(), ledger.clone());
        posts.spawn(async move {
            post(&services, &ledger, number).await;
            drop(permit);
        });
        while posts.try_join_next().is_some() {}
    }
    while posts.join_next().await.is_some() {}
}

async fn post(services: &Services, ledger: &Ledger, number: u32) {
    let body = json!({ "title": format!("Load {number}"), "price": 20 });
    ledger.sent();
    match services.post("tickets", "/api/tickets", &body).await {
        Ok(answered) if answered.status == StatusCode::CREATED => {
            match answered.body["id"].as_str() {
                Some(id) => ledger.accepted(id.to_owned()),
                None => ledger.unanswered(),
            }
        }
        Ok(_) => ledger.refused(),
        // The connection was refused, or it ended without an answer.
        Err(_) => ledger.unanswered(),
    }
}

/// Looks in orders for accepted tickets until the process stops.
pub(crate) async fn look(
    services: Services,
    ledger: Ledger,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            _ = tick.tick() => {}
        }
        let (client, ledger) = (&services.client, &ledger);
        let waiting = ledger.waiting(CHECKED_AT_ONCE);
        if waiting.is_empty() {
            continue;
        }
        let Ok(orders) = services.api("orders").await else { continue };
        let orders = &orders;
        let looks = iter(waiting).map(|id| async move {
            let Ok(url) = orders.join(&format!("/api/tickets/{id}")) else { return };
            let answer = client.get(url).timeout(ANSWER_TIMEOUT).send().await;
            if answer.is_ok_and(|answer| answer.status() == StatusCode::OK) {
                ledger.applied(&id);
            }
        });
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = looks.buffer_unordered(LOOKS).for_each(|()| async {}) => {}
        }
    }
}
