//! `/streaming/channelsz`: the names of the channels; `?channel=` one of them, `?subs=1` each with what it
//! holds and who is subscribed.

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::pod::problem::Problem;
use futures::{StreamExt, TryStreamExt, stream::iter};
use serde::{Deserialize, Serialize};

use super::{
    Failed, Part, Server, Window, is_set,
    subscription::{self, Subscription},
};
use crate::{
    Console,
    sources::nats::{NatsReport, StreamReport},
};

/// How many channels are asked for at once.
const AT_ONCE: usize = 8;

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    channel: Option<String>,
    subs: Option<String>,
    offset: Option<usize>,
    limit: Option<usize>,
}

/// STAN's `Channelsz`.
#[derive(Debug, Serialize)]
struct Channelsz {
    #[serde(flatten)]
    server: Server,
    #[serde(flatten)]
    part: Part,
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<Vec<Channel>>,
}

/// STAN's `Channelz`.
#[derive(Debug, Serialize)]
struct Channel {
    name: String,
    /// The stream that stores it.
    stream: String,
    msgs: u64,
    /// Left out where other channels share the stream: JetStream counts the bytes of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    first_seq: u64,
    last_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions: Option<Vec<Subscription>>,
}

async fn channel(
    console: &Console,
    report: &NatsReport,
    stream: &StreamReport,
    subject: &str,
    subs: bool,
) -> anyhow::Result<Channel> {
    let config = &stream.info.config;
    let held = console.nats.subject(&config.name, subject).await?;
    Ok(Channel {
        name: subject.to_owned(),
        stream: config.name.clone(),
        msgs: held.messages,
        bytes: (config.subjects.len() == 1).then_some(stream.info.state.bytes),
        first_seq: held.first_sequence,
        last_seq: held.last_sequence,
        subscriptions: subs.then(|| subscription::of_channel(report, stream, subject)),
    })
}

pub(super) async fn channelsz(
    State(console): State<Console>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failed> {
    let report = console.nats.report().await?;
    let subs = is_set(wanted.subs.as_deref());
    let mut all: Vec<(&StreamReport, &String)> = report
        .streams
        .iter()
        .flat_map(|stream| stream.info.config.subjects.iter().map(move |subject| (stream, subject)))
        .collect();
    all.sort_by_key(|(_, subject)| *subject);
    if let Some(name) = wanted.channel {
        let Some((stream, subject)) = all.into_iter().find(|(_, subject)| **subject == name) else {
            return Ok(Problem::new(StatusCode::NOT_FOUND, "No stream stores this channel.")
                .into_response());
        };
        let found = channel(&console, &report, stream, subject, subs).await?;
        return Ok(Json(found).into_response());
    }
    let (part, kept) = Window { offset: wanted.offset, limit: wanted.limit }.cut(all);
    let (names, channels) = if subs {
        let asked: Vec<_> = kept
            .into_iter()
            .map(|(stream, subject)| channel(&console, &report, stream, subject, true))
            .collect();
        (None, Some(iter(asked).buffered(AT_ONCE).try_collect().await?))
    } else {
        (Some(kept.into_iter().map(|(_, subject)| subject.clone()).collect()), None)
    };
    let varz = console.monitor.varz().await?;
    let server = Server::new(&varz.unwrap_or_default(), report.at);
    Ok(Json(Channelsz { server, part, names, channels }).into_response())
}
