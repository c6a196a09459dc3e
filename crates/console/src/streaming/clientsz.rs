//! `/streaming/clientsz`: who holds a client id; `?client=` one of them, `?subs=1` with their subscriptions.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{bus::Holder, pod::problem::Problem};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    Failed, Part, Server, Window, is_set,
    subscription::{self, Subscription},
};
use crate::{Console, sources::nats::NatsReport};

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    client: Option<String>,
    subs: Option<String>,
    offset: Option<usize>,
    limit: Option<usize>,
}

/// STAN's `Clientsz`.
#[derive(Debug, Serialize)]
struct Clientsz {
    #[serde(flatten)]
    server: Server,
    #[serde(flatten)]
    part: Part,
    clients: Vec<Client>,
}

/// STAN's `Clientz`, plus what the lease records.
#[derive(Debug, Serialize)]
struct Client {
    id: String,
    service: String,
    node: String,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    queue_groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions: Option<BTreeMap<String, Vec<Subscription>>>,
}

impl Client {
    fn new(report: &NatsReport, holder: &Holder, with_subscriptions: bool) -> Self {
        let subscriptions = with_subscriptions.then(|| {
            let mut by_channel: BTreeMap<String, Vec<Subscription>> = BTreeMap::new();
            for (channel, subscription) in subscription::of_client(report, holder) {
                by_channel.entry(channel).or_default().push(subscription);
            }
            by_channel
        });
        Self {
            id: holder.client_id.to_string(),
            service: holder.service.clone(),
            node: holder.node.clone(),
            since: holder.since,
            queue_groups: holder.queue_groups.clone(),
            subscriptions,
        }
    }
}

pub(super) async fn clientsz(
    State(console): State<Console>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failed> {
    let report = console.nats.report().await?;
    let subs = is_set(wanted.subs.as_deref());
    if let Some(id) = wanted.client {
        let found = report.holders.iter().find(|holder| holder.client_id.as_str() == id);
        return Ok(match found {
            Some(holder) => Json(Client::new(&report, holder, subs)).into_response(),
            None => Problem::new(StatusCode::NOT_FOUND, "No process holds this client id.")
                .into_response(),
        });
    }
    let window = Window { offset: wanted.offset, limit: wanted.limit };
    let (part, kept) = window.cut(report.holders.iter().collect());
    let varz = console.monitor.varz().await?;
    Ok(Json(Clientsz {
        server: Server::new(&varz.unwrap_or_default(), report.at),
        part,
        clients: kept.into_iter().map(|holder| Client::new(&report, holder, subs)).collect(),
    })
    .into_response())
}
