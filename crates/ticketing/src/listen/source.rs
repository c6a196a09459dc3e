//! What to listen to: a stream, and which of its subjects.

use anyhow::{Context, bail};
use async_nats::jetstream::stream::Stream;
use clap::{Args, ValueEnum};
use common::{
    bus::{Bus, topology},
    events::{self, order::ORDERS, ticket::TICKETS},
};
use futures::TryStreamExt;

/// The most streams that an error lists.
const NAMED: usize = 20;

/// A stream and a selection of its subjects.
#[derive(Debug, Clone, Args)]
pub(super) struct Source {
    /// What to listen to. Default: tickets.
    #[arg(value_enum, value_name = "EVENTS")]
    events: Option<Events>,

    /// Listens to another stream, by name.
    #[arg(long, value_name = "NAME", conflicts_with = "events")]
    stream: Option<String>,

    /// Listens to this subject only, such as ticket:created; may be repeated. Without a stream, finds
    /// the one that has the subject.
    #[arg(long = "subject", value_name = "SUBJECT")]
    subjects: Vec<String>,
}

/// The events of one stream.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Events {
    /// `ticket:created` and `ticket:updated`.
    Tickets,
    /// `order:created` and every later change of an order.
    Orders,
}

impl Events {
    fn stream(self) -> &'static events::Stream {
        match self {
            Self::Tickets => &TICKETS,
            Self::Orders => &ORDERS,
        }
    }
}

impl Source {
    /// The subjects to listen to. Empty means all of the stream.
    pub(super) fn filter(&self) -> Vec<String> {
        match (&self.subjects[..], &self.stream) {
            ([], None) => self.family().subjects.iter().map(ToString::to_string).collect(),
            (subjects, _) => subjects.to_vec(),
        }
    }

    /// The stream. A stream of this system is created if it does not exist; any other must exist.
    pub(super) async fn stream(&self, bus: &Bus) -> anyhow::Result<Stream> {
        let name = match (&self.stream, &self.subjects[..], self.events) {
            (Some(name), ..) => name.clone(),
            (None, [first, ..], None) if !self.is_ours(first) => {
                let found = bus.jetstream.stream_by_subject(first).await;
                found.with_context(|| format!("no stream holds the subject {first:?}"))?
            }
            (None, subjects, _) => {
                let family = self.family();
                if let Some(foreign) = subjects.iter().find(|at| !family.subjects.contains(&&***at))
                {
                    bail!(
                        "stream {} has no subject {foreign:?}; it has: {}",
                        family.name,
                        family.subjects.join(", ")
                    );
                }
                topology::stream(bus, family).await?;
                family.name.to_owned()
            }
        };
        match bus.jetstream.get_stream(&name).await {
            Ok(stream) => Ok(stream),
            Err(error) => {
                let others: Vec<String> =
                    bus.jetstream.stream_names().try_collect().await.unwrap_or_default();
                let others = others[..others.len().min(NAMED)].join(", ");
                Err(error).with_context(|| format!("no stream {name:?}; there are: {others}"))
            }
        }
    }

    /// The stream of this system to listen to.
    fn family(&self) -> &'static events::Stream {
        let of_subject = || {
            let first = self.subjects.first()?;
            [&TICKETS, &ORDERS].into_iter().find(|family| family.subjects.contains(&&**first))
        };
        self.events.map(Events::stream).or_else(of_subject).unwrap_or(&TICKETS)
    }

    fn is_ours(&self, subject: &str) -> bool {
        [&TICKETS, &ORDERS].into_iter().any(|family| family.subjects.contains(&subject))
    }
}
