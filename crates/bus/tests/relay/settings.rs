//! Every setting of a stream that an operator may edit is corrected, left alone, or refused.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::stream::{
    Compression, Config, ConsumerLimits, DiscardPolicy, Republish, RetentionPolicy, Source,
    StorageType, SubjectTransform,
};
use async_nats::jetstream::{self, Context};
use bus::{
    Bus, Options, Shutdown,
    topology::{self, TopologyError},
};
use embedded::NatsServer;

use crate::world::PARCELS;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A setting's name, and the edit.
type Case = (&'static str, fn(&mut Config));

/// Settings that lose, refuse, rename or add events.
const SET_RIGHT: &[Case] = &[
    ("subjects", |config| config.subjects = vec!["parcel:other".to_owned()]),
    ("max_msgs", |config| config.max_messages = 10),
    ("max_bytes", |config| config.max_bytes = 1_000_000),
    ("max_msgs_per_subject", |config| config.max_messages_per_subject = 10),
    ("max_msg_size", |config| config.max_message_size = 1_000),
    ("discard", |config| config.discard = DiscardPolicy::Old),
    ("discard_new_per_subject", |config| {
        (config.discard_new_per_subject, config.max_messages_per_subject) = (true, 10);
    }),
    ("retention", |config| config.retention = RetentionPolicy::Interest),
    ("max_age", |config| config.max_age = DAY),
    ("duplicate_window", |config| config.duplicate_window = Duration::from_secs(1)),
    ("no_ack", |config| {
        // The server accepts no atomic batches without acks.
        (config.no_ack, config.allow_atomic_publish) = (true, false);
    }),
    ("allow_rollup", |config| config.allow_rollup = true),
    ("allow_direct", |config| config.allow_direct = false),
    ("allow_atomic", |config| config.allow_atomic_publish = false),
    ("subject_transform", |config| {
        config.subject_transform =
            Some(SubjectTransform { source: "parcel:sent".into(), destination: "renamed".into() });
    }),
    ("sources", |config| {
        config.sources = Some(vec![Source { name: "OTHER".to_owned(), ..Source::default() }]);
    }),
    ("republish", |config| {
        config.republish = Some(Republish {
            source: "parcel:sent".to_owned(),
            destination: "again".to_owned(),
            headers_only: false,
        });
    }),
    ("subject_delete_marker_ttl", |config| {
        config.allow_message_ttl = true;
        config.allow_rollup = true;
        config.subject_delete_marker_ttl = Some(Duration::from_secs(60));
    }),
    ("consumer_limits", |config| {
        config.consumer_limits = Some(ConsumerLimits {
            inactive_threshold: Duration::from_secs(60),
            max_ack_pending: 10,
        });
    }),
];

/// Settings that are the operator's choice.
const LEFT_ALONE: &[Case] = &[
    ("more subjects", |config| config.subjects.push("parcel:other".to_owned())),
    ("a longer max_age", |config| config.max_age = 30 * DAY),
    ("no max_age", |config| config.max_age = Duration::ZERO),
    ("a longer duplicate_window", |config| config.duplicate_window = Duration::from_secs(600)),
    ("storage", |config| config.storage = StorageType::Memory),
    ("compression", |config| config.compression = Some(Compression::S2)),
    ("description", |config| config.description = Some("of an operator".to_owned())),
    ("metadata", |config| {
        config.metadata.insert("team".to_owned(), "parcels".to_owned());
    }),
    ("deny_delete", |config| config.deny_delete = true),
    ("deny_purge", |config| config.deny_purge = true),
    ("max_consumers", |config| config.max_consumers = 10),
    ("first_seq", |config| config.first_sequence = Some(1_000)),
    ("message TTLs", |config| config.allow_message_ttl = true),
];

/// Settings that the server cannot change.
const REFUSED: &[Case] = &[
    ("retention", |config| config.retention = RetentionPolicy::WorkQueue),
    ("mirror", |config| {
        (config.subjects, config.allow_atomic_publish) = (Vec::new(), false);
        config.duplicate_window = Duration::ZERO;
        config.mirror = Some(Source { name: "OTHER".to_owned(), ..Source::default() });
    }),
    ("allow_msg_counter", |config| {
        (config.allow_message_counter, config.discard) = (true, DiscardPolicy::Old);
    }),
];

struct Server {
    _nats: NatsServer,
    bus: Bus,
    jetstream: Context,
    /// The stream as the bus creates it.
    right: Config,
}

impl Server {
    async fn start() -> Self {
        let nats = NatsServer::builder().start().await.unwrap();
        let options = Options { servers: nats.url(), ..Options::new("settings".parse().unwrap()) };
        let (shutdown, reason) = Shutdown::new();
        std::mem::forget(reason);
        let bus = Bus::connect(&options, &shutdown).await.unwrap();
        bus.connected().await;
        topology::stream(&bus, &PARCELS).await.unwrap();
        let jetstream = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
        let other = Config { name: "OTHER".to_owned(), ..Config::default() };
        jetstream.create_stream(other).await.unwrap();
        let mut server = Self { _nats: nats, bus, jetstream, right: Config::default() };
        server.right = server.found().await;
        server
    }

    async fn found(&self) -> Config {
        let stream = self.jetstream.get_stream(PARCELS.name).await.unwrap();
        let mut config = stream.cached_info().config.clone();
        // Without the server's own metadata.
        config.metadata = without_the_servers(config.metadata);
        config
    }

    /// Creates the stream with an edit, and lets the bus check it.
    async fn look_at(&self, (name, edit): Case) -> (Config, Result<(), TopologyError>) {
        self.jetstream.delete_stream(PARCELS.name).await.unwrap();
        let mut config = self.right.clone();
        edit(&mut config);
        let made = self.jetstream.create_stream(config).await;
        assert!(made.is_ok(), "{name}: {made:?}");
        let edited = self.found().await;
        (edited, topology::stream(&self.bus, &PARCELS).await.map(drop))
    }
}

fn without_the_servers(metadata: HashMap<String, String>) -> HashMap<String, String> {
    metadata.into_iter().filter(|(name, _)| !name.starts_with("_nats.")).collect()
}

#[tokio::test]
async fn each_setting_that_loses_or_changes_events_is_corrected() {
    let server = Server::start().await;
    for case in SET_RIGHT {
        let (edited, looked) = server.look_at(*case).await;
        assert_ne!(edited, server.right, "{}: the edit does nothing", case.0);
        looked.unwrap_or_else(|error| panic!("{}: {error}", case.0));
        let mut found = server.found().await;
        // An operator's choice that was part of the edit.
        found.allow_message_ttl = server.right.allow_message_ttl;
        found.subjects.retain(|subject| PARCELS.subjects.contains(&subject.as_str()));
        assert_eq!(found, server.right, "{}", case.0);
    }
}

#[tokio::test]
async fn each_setting_that_is_the_operators_choice_is_left_alone() {
    let server = Server::start().await;
    for case in LEFT_ALONE {
        let (edited, looked) = server.look_at(*case).await;
        assert_ne!(edited, server.right, "{}: the edit does nothing", case.0);
        looked.unwrap_or_else(|error| panic!("{}: {error}", case.0));
        assert_eq!(server.found().await, edited, "{}", case.0);
    }
}

#[tokio::test]
async fn each_setting_that_the_server_cannot_change_is_refused_with_the_reason() {
    let server = Server::start().await;
    for case in REFUSED {
        let (edited, looked) = server.look_at(*case).await;
        let refused = matches!(looked, Err(TopologyError::Drift { .. }));
        assert!(refused, "{}: {looked:?}", case.0);
        assert_eq!(server.found().await, edited, "{}", case.0);
    }
}
