//! What the page shows at one moment: sent whole, as JSON, twice a second.

use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    act::{Experiment, Sums, rights::Access},
    sources::replicas::State,
};

/// The whole system at one moment.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// When it was taken.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Who may act.
    pub rights: Access,
    /// Whether the system runs on this machine, so that it can be broken.
    pub breakable: bool,
    /// Whether the links of its services can be cut.
    pub cuttable: bool,
    /// The counts of the tickets that loads posted.
    pub sums: Sums,
    /// The experiments and their outcomes; the newest first.
    pub experiments: Vec<Experiment>,
    /// NATS and every replica.
    pub parts: Vec<Part>,
    /// The path of events through each stream.
    pub flows: Vec<Flow>,
}

/// A server or a process.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Its client id, `nats`, or for example `database of orders`, which is a part only while it cannot be reached.
    pub name: String,
    /// The service it belongs to.
    pub service: String,
    /// Its state.
    pub state: State,
    /// When it entered this state, as far as the console has seen.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Why it is not ready.
    pub why: String,
    /// Whether it reports that it is connected to NATS; `None` if it does not report it.
    pub connected: Option<bool>,
}

/// A stream, with what comes before it and after it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// The stream's name.
    pub stream: String,
    /// Its subjects.
    pub subjects: Vec<String>,
    /// The service that publishes to it; `None` when no replica of it is known.
    pub publisher: Option<Publisher>,
    /// How many messages it holds.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The sequence of the newest one.
    pub last_sequence: u64,
    /// New messages per second.
    pub rate: f64,
    /// Whether these numbers are current: NATS answers.
    pub current: bool,
    /// The queue groups.
    pub groups: Vec<Group>,
}

/// The service that publishes to a stream.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Publisher {
    /// The service's name.
    pub service: String,
    /// Requests answered 201 per second, by all replicas.
    pub rate: f64,
    /// Events in the outbox that wait to be published; `None` while unknown.
    pub waiting: Option<f64>,
    /// How long the oldest of them has waited, in seconds.
    pub oldest_seconds: Option<f64>,
    /// When the wait began, if any wait.
    #[serde(with = "time::serde::rfc3339::option")]
    pub waiting_since: Option<OffsetDateTime>,
}

/// A queue group.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Events not yet sent to any member.
    pub waiting: u64,
    /// When the wait began, if any wait.
    #[serde(with = "time::serde::rfc3339::option")]
    pub waiting_since: Option<OffsetDateTime>,
    /// Events sent to a member and not yet acknowledged.
    pub in_hand: usize,
    /// When the oldest of them began to wait, if there are any, as far as the console has seen.
    #[serde(with = "time::serde::rfc3339::option")]
    pub in_hand_since: Option<OffsetDateTime>,
    /// Those of them that were sent more than once.
    pub redelivered: usize,
    /// The last sequence that was sent.
    pub last_sent: u64,
    /// Everything up to this sequence is acknowledged.
    pub acknowledged: u64,
    /// Events acknowledged per second.
    pub rate: f64,
    /// How long a member may keep an event before another gets it, in seconds.
    pub ack_wait_seconds: f64,
    /// The most events in hand, of all members together; 0 is no limit.
    pub max_in_hand: i64,
    /// `max_in_hand` is reached.
    pub stalled: bool,
    /// It is paused.
    pub paused: bool,
    /// Dead letters; `None` while unknown.
    pub dead_letters: Option<f64>,
    /// Its members, by client id.
    pub members: Vec<Member>,
}

/// A member of a queue group. Numbers count since its process started; `None` where it reports none.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its client id.
    pub client_id: String,
    /// The node that it runs on; empty when unknown.
    pub node: String,
    /// When it took its client id; `None` if it no longer holds it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
    /// Its state.
    pub state: State,
    /// When it entered this state, as far as the console has seen.
    #[serde(with = "time::serde::rfc3339")]
    pub state_since: OffsetDateTime,
    /// The last sequence sent to it.
    pub last_sent: Option<f64>,
    /// Events that it received and has not answered yet.
    pub in_hand: Option<f64>,
    /// Events that it has acknowledged.
    pub acknowledged: Option<f64>,
    /// Events received that had been delivered before.
    pub redelivered: Option<f64>,
    /// Events whose effect it committed.
    pub applied: Option<f64>,
    /// Events acknowledged per second.
    pub rate: Option<f64>,
}
