//! `listen`: prints events, and acks them before handling them, after, or never. It writes to no
//! database, so it must not join a service's queue group.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use async_nats::jetstream::{
    self, AckKind,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    stream::Stream,
};
use clap::Args;
use common::{bus::Bus, pod::config};
use futures::{FutureExt, StreamExt};
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{client, out::say};

mod ignored;
mod marks;
mod shown;
mod source;
mod start_at;

pub(crate) use marks::on_its_own;
use shown::Format;
use source::Source;
use start_at::StartAt;

/// How long the server keeps the consumer of a killed listener that was in no group.
const LISTENER_INACTIVE: Duration = Duration::from_secs(30);
/// How long the server keeps a queue group without members.
const GROUP_INACTIVE: Duration = Duration::from_secs(24 * 3600);
/// The default ack wait of a new consumer.
const ACK_WAIT: Duration = Duration::from_secs(8);
/// How long one pull request waits for an event.
const PULL_EXPIRES: Duration = Duration::from_secs(2);
/// The pause before a retry while NATS is unavailable.
const PAUSE: Duration = Duration::from_millis(500);
/// How long deleting the consumer at the end may take.
const DELETION: Duration = Duration::from_secs(2);

/// How to listen.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Things to try, each in two terminals at once, with `ticketing publish` in a third:
  ticketing listen                                      both get every event
  ticketing listen --queue-group mine                   only one of the two gets it
  ticketing listen --queue-group mine --no-ack          an event that one does not ack is redelivered
                                                        to the other after the ack wait
  ticketing listen --client-id mine                     the second is rejected
  ticketing listen --subject ticket:created --json      one event type, one JSON object per line"
)]
pub(crate) struct Options {
    #[command(flatten)]
    source: Source,

    #[command(flatten)]
    format: Format,

    #[arg(long, value_name = "NAME", help = format!(
    "Joins a queue group: each event goes to one of its members. The server keeps a group for {} hours after its \
    last member leaves; a member that joins by then continues where it stopped",
    GROUP_INACTIVE.as_secs() / 3600
    ))]
    queue_group: Option<String>,

    /// Acks each event after handling it, instead of before.
    #[arg(long, conflicts_with = "no_ack")]
    manual_ack: bool,

    /// Never acks an event.
    #[arg(long)]
    no_ack: bool,

    /// How long handling an event takes, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    slow: u64,

    /// Where to start: all, new, last, seq N, or time T (such as 2026-01-31T12:00:00Z, or `5m` for 5 minutes
    /// ago). Default: new. Ignored if the group exists: it continues where it stopped.
    #[arg(long, num_args = 1..=2, value_names = ["WHERE", "N|T"])]
    from: Vec<String>,

    #[arg(long, value_name = "DURATION", value_parser = config::duration, help = format!(
    "How long the server waits for an ack before it redelivers an event, such as {}s, the default. Ignored if \
    the group exists",
    ACK_WAIT.as_secs()
    ))]
    ack_wait: Option<Duration>,

    #[command(flatten)]
    client: client::Options,
}

/// Listens until a signal; starts over after each `rs`.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let from = match &options.from[..] {
        [] => StartAt::New,
        words => StartAt::parse(words).unwrap_or_else(|why| {
            eprintln!("error: --from: {why}");
            std::process::exit(config::EX_USAGE)
        }),
    };
    let options = Arc::new(options);
    let group = options.queue_group.clone();
    client::run(&options.client, "listener", group.as_deref(), false, |bus| {
        let listening = Listening {
            bus,
            options: options.clone(),
            from,
            name: format!("listen-{}", Uuid::now_v7().simple()),
            last: AtomicU64::new(0),
            made: Mutex::new(None),
        };
        let listening = Arc::new(listening);
        (listening.clone().run().boxed(), listening.leave().boxed())
    })
    .await
}

struct Listening {
    bus: Bus,
    options: Arc<Options>,
    from: StartAt,
    /// The name of its own consumer, unless it joins a group.
    name: String,
    /// The newest sequence seen, to continue after it if the consumer is lost.
    last: AtomicU64,
    /// When the stream of that sequence was created.
    made: Mutex<Option<OffsetDateTime>>,
}

impl Listening {
    async fn run(self: Arc<Self>) -> anyhow::Result<()> {
        let mut consumer = self.consumer().await?;
        let info = consumer.cached_info();
        let subjects = match &info.config.filter_subjects[..] {
            [] if info.config.filter_subject.is_empty() => "everything".to_owned(),
            [] => info.config.filter_subject.clone(),
            several => several.join(", "),
        };
        let group = self.options.queue_group.as_ref();
        let group = group.map_or_else(String::new, |group| format!(" in the queue group {group}"));
        // With --json, a program reads standard output: only events go there.
        let line = format!("Listening to {subjects} of stream {}{group}", info.stream_name);
        if self.options.format.is_json() {
            eprintln!("{line}")
        } else {
            say!("{line}")
        }
        loop {
            let Err(error) = self.listen(&consumer).await;
            eprintln!("NATS is unavailable ({error:#}), retrying");
            consumer = loop {
                sleep(PAUSE).await;
                self.bus.connected().await;
                if let Ok(consumer) = self.consumer().await {
                    break consumer;
                }
            };
            eprintln!("NATS is back");
        }
    }

    /// Deletes the listener's own consumer. A group's consumer stays, for its other members and for later.
    async fn leave(self: Arc<Self>) {
        if self.options.queue_group.is_some() {
            return;
        }
        let deletion = async {
            let stream = self.options.source.stream(&self.bus).await?;
            stream.delete_consumer(&self.name).await.map_err(anyhow::Error::from)
        };
        // If this fails, the server deletes the consumer after `LISTENER_INACTIVE`.
        let _ = timeout(DELETION, deletion).await;
    }

    /// Prints events until the consumer or the connection fails.
    async fn listen(&self, consumer: &PullConsumer) -> anyhow::Result<std::convert::Infallible> {
        loop {
            // One at a time: while this listener is slow, others get the rest.
            let mut one = consumer.fetch().max_messages(1).expires(PULL_EXPIRES).messages().await?;
            while let Some(message) = one.next().await {
                self.handle(&message.map_err(|error| anyhow::anyhow!(error))?).await?;
            }
            // A deleted consumer and a lost connection look like an empty answer.
            if !self.bus.connection_state().borrow().up {
                bail!("disconnected");
            }
        }
    }

    async fn handle(&self, message: &jetstream::Message) -> anyhow::Result<()> {
        let options = &self.options;
        let info = message.info().map_err(|error| anyhow::anyhow!(error))?;
        let sequence = info.stream_sequence;
        self.last.fetch_max(sequence, Ordering::Relaxed);
        say!("{}", options.format.line(message, &info));
        if !options.manual_ack && !options.no_ack {
            self.acknowledge(message, sequence).await;
        }
        sleep(Duration::from_millis(options.slow)).await;
        if options.manual_ack
            && self.acknowledge(message, sequence).await
            && !options.format.is_json()
        {
            say!("Acknowledged #{sequence}");
        }
        Ok(())
    }

    /// Acks, and waits for the server's confirmation. Returns whether it was confirmed.
    async fn acknowledge(&self, message: &jetstream::Message, sequence: u64) -> bool {
        let Some(reply) = message.reply.clone() else { return false };
        // A request rather than the library's double ack, which takes "no responders" for success.
        let confirmed = self.bus.client.request(reply, AckKind::Ack.into()).await;
        if let Err(error) = &confirmed {
            eprintln!("The ack of #{sequence} was not confirmed ({error}): it will be redelivered");
        }
        confirmed.is_ok()
    }

    /// The listener's own consumer, or the group's.
    async fn consumer(&self) -> anyhow::Result<PullConsumer> {
        let stream = self.options.source.stream(&self.bus).await?;
        let consumer = self.consumer_of(&stream).await?;
        *self.made() = Some(stream.cached_info().created);
        Ok(consumer)
    }

    async fn consumer_of(&self, stream: &Stream) -> anyhow::Result<PullConsumer> {
        let Some(group) = &self.options.queue_group else {
            // It still exists if only the connection was lost.
            if let Ok(found) = stream.get_consumer::<pull::Config>(&self.name).await {
                return Ok(found);
            }
            return stream.create_consumer(self.config(stream)).await.context("cannot listen");
        };
        if let Ok(found) = stream.get_consumer::<pull::Config>(group).await {
            if !marks::made_here(&found.cached_info().config) {
                bail!(
                    "{group} is a service's queue group: events that you take from it never reach \
                     that service. Choose another name"
                );
            }
            if self.made().is_none() {
                self.options.warn_of_ignored(group, found.cached_info());
            }
            return Ok(found);
        }
        stream.create_consumer(self.config(stream)).await.with_context(|| {
            format!("cannot join the queue group {group:?} (a name has no dots, spaces or stars)")
        })
    }

    fn made(&self) -> MutexGuard<'_, Option<OffsetDateTime>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a new consumer starts.
    fn start(&self, stream: &Stream) -> DeliverPolicy {
        let made = *self.made();
        if made.is_some_and(|made| made != stream.cached_info().created) {
            // The stream was recreated: nothing in it has been seen.
            self.last.store(0, Ordering::Relaxed);
            return DeliverPolicy::All;
        }
        match self.last.load(Ordering::Relaxed) {
            0 => self.from.into(),
            // The consumer was lost with the server: continue after the last event.
            last => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
        }
    }

    fn config(&self, stream: &Stream) -> pull::Config {
        let options = &self.options;
        let in_group = options.queue_group.is_some();
        pull::Config {
            durable_name: options.queue_group.clone(),
            name: Some(options.queue_group.as_ref().unwrap_or(&self.name).clone()),
            inactive_threshold: if in_group { GROUP_INACTIVE } else { LISTENER_INACTIVE },
            deliver_policy: self.start(stream),
            ack_policy: AckPolicy::Explicit,
            ack_wait: options.ack_wait.unwrap_or(ACK_WAIT),
            filter_subjects: options.source.filter(),
            metadata: marks::of((!in_group).then_some(&self.bus.client_id)),
            ..pull::Config::default()
        }
    }
}
