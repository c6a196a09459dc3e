//! `publish`: puts events directly into the stream, bypassing the tickets service and its database.
//! Events published this way are in no outbox.

use std::{
    io::IsTerminal,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use async_nats::jetstream::message::PublishMessage;
use clap::{Args, ValueEnum};
use common::{
    bus::{Bus, envelope, topology},
    events::{
        Event,
        ticket::{TICKETS, TicketCreated, TicketUpdated},
    },
};
use futures::{FutureExt, StreamExt, stream};
use ticketing_console::act::ticket_of;
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use crate::{client, out::say};

/// The most events that may await their confirmation at once.
const IN_FLIGHT: usize = 256;
/// The most events reported one by one.
const REPORT_EACH: u64 = 20;

/// What to publish.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  ticketing publish
  ticketing publish '{\"title\": \"Concert\", \"price\": 20}'
  ticketing publish --count 1000 --rate 100
  ticketing publish --raw 'not an event'     becomes a dead letter in every group")]
pub(crate) struct Options {
    /// The ticket as JSON: title and price; also id, version, createdAt, updatedAt and seller, which are
    /// generated if missing.
    #[arg(value_name = "JSON", default_value = r#"{"title": "Concert", "price": 20}"#)]
    payload: String,

    /// How many events to publish, each with its own id.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    count: u64,

    /// Events per second. Default: as fast as the stream confirms them.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,

    /// The event type.
    #[arg(long, value_enum, default_value = "ticket:created")]
    subject: Subject,

    /// Publishes the text byte for byte, even if it is not a valid event.
    #[arg(long)]
    raw: bool,

    /// Keeps running afterwards and waits for `rs`. Default on a terminal.
    #[arg(long, conflicts_with = "once")]
    stay: bool,

    /// Exits afterwards. Default if the input is not a terminal.
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    client: client::Options,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Subject {
    #[value(name = TicketCreated::SUBJECT)]
    Created,
    #[value(name = TicketUpdated::SUBJECT)]
    Updated,
}

/// Publishes; starts over after each `rs`.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let stay = options.stay || (!options.once && std::io::stdin().is_terminal());
    let options = Arc::new(options);
    // Reports an invalid payload before connecting.
    options.message(Uuid::now_v7())?;
    client::run(&options.client, "publisher", None, stay, |bus| {
        (publish(bus, options.clone()).boxed(), std::future::ready(()).boxed())
    })
    .await
}

async fn publish(bus: Bus, options: Arc<Options>) -> anyhow::Result<()> {
    topology::stream(&bus, &TICKETS).await?;
    let begun = Instant::now();
    let mut beat = options.rate.map(|rate| {
        let mut beat = interval(Duration::from_secs(1) / rate);
        beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
        beat
    });
    let messages = stream::unfold((0, beat.take()), |(sent, mut beat)| {
        let options = options.clone();
        async move {
            if sent == options.count {
                return None;
            }
            if let Some(beat) = &mut beat {
                beat.tick().await;
            }
            let id = Uuid::now_v7();
            Some((options.message(id).map(|message| (id, message)), (sent + 1, beat)))
        }
    });
    let confirmed = messages.map(|message| async {
        let (id, message) = message?;
        let sent = bus.jetstream.send_publish(options.subject.name(), message).await?;
        let confirmed = sent.await.context("the stream did not confirm an event")?;
        anyhow::Ok((id, confirmed.sequence))
    });
    let mut confirmed = std::pin::pin!(confirmed.buffered(IN_FLIGHT));
    let mut done = 0;
    while let Some(event) = confirmed.next().await {
        let (id, sequence) = event?;
        done += 1;
        if done <= REPORT_EACH || done == options.count {
            say!("Published {} #{sequence} (event {id})", options.subject.name());
        } else if done == REPORT_EACH + 1 {
            say!("…");
        }
    }
    if options.count > 1 {
        say!("{done} events in {:.1} s", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Created => TicketCreated::SUBJECT,
            Self::Updated => TicketUpdated::SUBJECT,
        }
    }
}

impl Options {
    fn message(&self, id: Uuid) -> anyhow::Result<PublishMessage> {
        if self.raw {
            return Ok(PublishMessage::build().payload(self.payload.clone().into()));
        }
        let ticket = ticket_of(&self.payload)
            .map_err(|error| anyhow!("{error:#}; --raw publishes it as is"))?;
        let now = OffsetDateTime::now_utc();
        let encoded = match self.subject {
            Subject::Created => envelope::encode(id, now, &TicketCreated(ticket))?,
            Subject::Updated => envelope::encode(id, now, &TicketUpdated(ticket))?,
        };
        Ok(PublishMessage::build()
            .header("content-type", envelope::CONTENT_TYPE)
            .message_id(id.to_string())
            .payload(encoded.into()))
    }
}
