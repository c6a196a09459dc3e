//! A listener to play with: prints events, and acknowledges them by itself, by hand, or not at
//! all. It writes to no database, so it is never part of a service's queue group.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use async_nats::jetstream::{
    self, AckKind,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
};
use clap::{Args, ValueEnum};
use common::{
    bus::{connection::Bus, envelope::Envelope, shown, topology},
    events::{Stream, order::ORDERS, ticket::TICKETS},
    pod::config,
};
use futures::StreamExt;
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::{client, out::say};

mod start_at;

use start_at::StartAt;

/// What marks the consumers that are made here, and so are nobody else's.
const MADE_HERE: (&str, &str) = ("made-by", "ticketing listen");
/// How long a consumer without a group is kept while nobody listens.
const ALONE: Duration = Duration::from_secs(30);
/// How long a group of listeners is kept while nobody listens.
const GROUP: Duration = Duration::from_secs(24 * 3600);
/// How long one request for an event waits.
const ASK: Duration = Duration::from_secs(2);
/// The pause after a failure of the server.
const PAUSE: Duration = Duration::from_millis(500);

/// How to listen.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Things to try, each in two terminals at once, with `ticketing publish` in a third:
  ticketing listen                                      both get each event
  ticketing listen --queue-group mine                   only one of the two gets it
  ticketing listen --queue-group mine --no-ack          what one does not acknowledge, the other
                                                        gets after the ack wait
  ticketing listen --client-id mine                     the second is turned away"
)]
pub(crate) struct Options {
    /// What to listen to.
    #[arg(value_enum, value_name = "EVENTS", default_value = "tickets")]
    events: Events,

    /// Takes part in a queue group: each event goes to one of its members.
    #[arg(long, value_name = "NAME")]
    queue_group: Option<String>,

    /// Acknowledges each event after it was handled. Without, before.
    #[arg(long, conflicts_with = "no_ack")]
    manual_ack: bool,

    /// Never acknowledges anything.
    #[arg(long)]
    no_ack: bool,

    /// How long to handle each event, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    slow: u64,

    /// Where to begin: all, new, last, seq N, or time T (2026-01-31T12:00:00Z, or 5m ago as `5m`).
    /// A group that exists goes on where it was.
    #[arg(long, num_args = 1..=2, value_names = ["WHERE", "N|T"], default_value = "new")]
    from: Vec<String>,

    /// How long the server waits for an ack before it delivers an event again, such as 8s. A group
    /// that exists keeps its own.
    #[arg(long, value_name = "DURATION", default_value = "8s", value_parser = config::duration)]
    ack_wait: Duration,

    #[command(flatten)]
    client: client::Options,
}

/// A family of events.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Events {
    /// `ticket:created` and `ticket:updated`.
    Tickets,
    /// `order:created`, and what becomes of an order.
    Orders,
}

impl Events {
    fn stream(self) -> &'static Stream {
        match self {
            Self::Tickets => &TICKETS,
            Self::Orders => &ORDERS,
        }
    }
}

/// Listens until a signal, anew after each `rs`.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let from = StartAt::parse(&options.from).unwrap_or_else(|why| {
        eprintln!("error: --from: {why}");
        std::process::exit(config::EX_USAGE)
    });
    let options = Arc::new(options);
    let group = options.queue_group.clone();
    client::run(&options.client, "listener", group.as_deref(), false, |bus| {
        Listening { bus, options: options.clone(), from, last: AtomicU64::new(0) }.run()
    })
    .await
}

struct Listening {
    bus: Bus,
    options: Arc<Options>,
    from: StartAt,
    /// The newest event that was seen, to go on after should the consumer be lost.
    last: AtomicU64,
}

impl Listening {
    async fn run(self) -> anyhow::Result<()> {
        let wanted = self.options.events.stream();
        topology::stream(&self.bus, wanted).await?;
        let mut consumer = self.consumer().await?;
        say!(
            "Listening to {} of stream {}{}",
            wanted.subjects.join(", "),
            wanted.name,
            self.options
                .queue_group
                .as_ref()
                .map_or_else(String::new, |group| format!(" in the queue group {group}"))
        );
        loop {
            let Err(error) = self.listen(&consumer).await;
            eprintln!("NATS is away ({error:#}), going on when it is back");
            consumer = loop {
                sleep(PAUSE).await;
                self.bus.connected().await;
                let again = async {
                    topology::stream(&self.bus, wanted).await?;
                    self.consumer().await
                };
                if let Ok(consumer) = again.await {
                    break consumer;
                }
            };
            eprintln!("NATS is back");
        }
    }

    /// Prints events for as long as the consumer holds.
    async fn listen(&self, consumer: &PullConsumer) -> anyhow::Result<std::convert::Infallible> {
        loop {
            // One at a time: while this listener is slow, the others may have the rest.
            let mut one = consumer.fetch().max_messages(1).expires(ASK).messages().await?;
            while let Some(message) = one.next().await {
                self.handle(&message.map_err(|error| anyhow::anyhow!(error))?).await?;
            }
            // An empty answer is also what comes of a consumer that is gone.
            if !self.bus.link().borrow().up {
                bail!("disconnected");
            }
        }
    }

    async fn handle(&self, message: &jetstream::Message) -> anyhow::Result<()> {
        let info = message.info().map_err(|error| anyhow::anyhow!(error))?;
        let sequence = info.stream_sequence;
        let age = OffsetDateTime::now_utc() - info.published;
        self.last.fetch_max(sequence, Ordering::Relaxed);
        say!(
            "Received {} #{sequence} (delivery {}, {:.3} s old): {}",
            shown(&message.subject),
            info.delivered,
            age.as_seconds_f64().max(0.0),
            shown(&data(&message.payload)),
        );
        let options = &self.options;
        if !options.manual_ack && !options.no_ack {
            self.acknowledge(message, sequence).await;
        }
        sleep(Duration::from_millis(options.slow)).await;
        if options.manual_ack && self.acknowledge(message, sequence).await {
            say!("Acknowledged #{sequence}");
        }
        Ok(())
    }

    /// Acknowledges and waits for the server's word.
    async fn acknowledge(&self, message: &jetstream::Message, sequence: u64) -> bool {
        let Some(reply) = message.reply.clone() else { return false };
        // A request, and not the library's double ack: that takes "no responders" for a yes.
        let confirmed = self.bus.client.request(reply, AckKind::Ack.into()).await;
        if let Err(error) = &confirmed {
            eprintln!("The ack of #{sequence} was not confirmed ({error}): it will come again");
        }
        confirmed.is_ok()
    }

    /// Its own consumer, or the one that the group shares.
    async fn consumer(&self) -> anyhow::Result<PullConsumer> {
        let config = self.config();
        let stream = self.bus.jetstream.get_stream(self.options.events.stream().name).await?;
        let Some(group) = &self.options.queue_group else {
            return stream.create_consumer(config).await.context("cannot listen");
        };
        if let Ok(found) = stream.get_consumer::<pull::Config>(group).await {
            let metadata = &found.cached_info().config.metadata;
            if metadata.get(MADE_HERE.0).map(String::as_str) != Some(MADE_HERE.1) {
                bail!(
                    "the queue group {group} is a service's: what were taken from it here would be \
                     lost to that service. Choose another name"
                );
            }
            return Ok(found);
        }
        stream.create_consumer(config).await.with_context(|| {
            format!("cannot join the queue group {group:?} (a name has no dots, spaces or stars)")
        })
    }

    fn config(&self) -> pull::Config {
        let last = self.last.load(Ordering::Relaxed);
        let deliver_policy = match last {
            0 => self.from.into(),
            // The consumer was lost with the server: on with what comes after.
            last => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
        };
        pull::Config {
            durable_name: self.options.queue_group.clone(),
            inactive_threshold: if self.options.queue_group.is_some() { GROUP } else { ALONE },
            deliver_policy,
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.options.ack_wait,
            metadata: [(MADE_HERE.0.to_owned(), MADE_HERE.1.to_owned())].into(),
            ..pull::Config::default()
        }
    }
}

/// What an event says, or, if it is none, its text.
fn data(payload: &[u8]) -> String {
    match Envelope::parse(payload) {
        Ok(envelope) => envelope.data.get().to_owned(),
        Err(_) => String::from_utf8_lossy(payload).into_owned(),
    }
}
