//! A queue group's consumer as it must be, and how one differs from that.
//!
//! | Setting | What a member does about an edit |
//! |---|---|
//! | filter lacks a subject, deliver policy, ack policy, max_deliver, headers_only | made again: it may have passed over events |
//! | deliver_subject, replay policy, max_waiting too small | made again: the server does not let them be changed |
//! | filter has more subjects, ack_wait, max_ack_pending, backoff, inactive_threshold, rate limit, priority groups, limits of one request | set right |
//! | paused | resumed |
//! | description, metadata, replicas, memory storage, sampling | the operator's choice |

use std::time::Duration;

use async_nats::jetstream::consumer::{
    AckPolicy, Config, DeliverPolicy, PriorityPolicy, ReplayPolicy,
};

use super::{ACK_WAIT, MAX_ACK_PENDING};

/// How many open requests of members a consumer must take: one each. It is the server's default.
const MIN_WAITING: i64 = 512;
/// In the consumer's metadata: every subject that a release has wanted, with spaces between.
const SUBJECTS: &str = "bus.subjects";
/// In the consumer's metadata: the sequence at which the bus let it begin.
pub(super) const FROM: &str = "bus.from";

/// How a consumer differs from what it must be.
#[derive(Debug, Default)]
pub(super) struct Drift {
    /// What differs, for the log.
    pub(super) changes: Vec<String>,
    /// It may have passed over events.
    pub(super) passed_over: bool,
    /// The server does not let it be changed.
    pub(super) fixed: bool,
}

/// A setting: its name, whether it differs, and what it was.
type Setting = (&'static str, bool, String);

impl Drift {
    /// How a consumer differs for a release that takes these subjects.
    pub(super) fn of(found: &Config, own: &[&str]) -> Self {
        let (passed_over, fixed) = (may_have_passed_over(found, own), fixed(found));
        let differs = |settings: &[Setting]| settings.iter().any(|(_, differs, _)| *differs);
        Self {
            passed_over: differs(&passed_over),
            fixed: differs(&fixed),
            changes: passed_over
                .into_iter()
                .chain(fixed)
                .chain(mendable(found, own))
                .filter(|(_, differs, _)| *differs)
                .map(|(name, _, was)| format!("{name}: was {was}"))
                .collect(),
        }
    }
}

fn lacks(filter: &[String], own: &[&str]) -> bool {
    // No filter takes everything.
    !filter.is_empty() && own.iter().any(|subject| !filter.iter().any(|found| found == subject))
}

fn may_have_passed_over(found: &Config, own: &[&str]) -> Vec<Setting> {
    let filter = filter(found);
    let from_start = match found.deliver_policy {
        DeliverPolicy::All => true,
        DeliverPolicy::ByStartSequence { start_sequence } => {
            start_sequence <= 1 || found.metadata.get(FROM) == Some(&start_sequence.to_string())
        }
        _ => false,
    };
    let (deliver, ack) = (&found.deliver_policy, found.ack_policy);
    vec![
        ("filter", lacks(&filter, own), format!("{filter:?}")),
        ("deliver_policy", !from_start, format!("{deliver:?}")),
        ("ack_policy", ack != AckPolicy::Explicit, format!("{ack:?}")),
        ("max_deliver", found.max_deliver > 0, found.max_deliver.to_string()),
        ("headers_only", found.headers_only, found.headers_only.to_string()),
    ]
}

fn fixed(found: &Config) -> Vec<Setting> {
    let (subject, replay) = (&found.deliver_subject, found.replay_policy);
    let waiting = found.max_waiting;
    vec![
        ("deliver_subject", subject.is_some(), format!("{subject:?}")),
        ("replay_policy", replay != ReplayPolicy::Instant, format!("{replay:?}")),
        ("max_waiting", waiting > 0 && waiting < MIN_WAITING, waiting.to_string()),
    ]
}

fn mendable(found: &Config, own: &[&str]) -> Vec<Setting> {
    let (filter, right) = (filter(found), right(found, own));
    let other_filter = !lacks(&filter, own) && filter != right.filter_subjects;
    let pending = found.max_ack_pending;
    let (wait, backoff, groups) = (found.ack_wait, &found.backoff, &found.priority_groups);
    let (inactive, expires) = (found.inactive_threshold, found.max_expires);
    vec![
        ("filter", other_filter, format!("{filter:?}")),
        ("ack_wait", wait != right.ack_wait, format!("{wait:?}")),
        ("max_ack_pending", pending != right.max_ack_pending, pending.to_string()),
        ("backoff", !backoff.is_empty(), format!("{backoff:?}")),
        ("inactive_threshold", !inactive.is_zero(), format!("{inactive:?}")),
        ("rate_limit", found.rate_limit != 0, found.rate_limit.to_string()),
        ("max_batch", found.max_batch > 0, found.max_batch.to_string()),
        ("max_bytes", found.max_bytes > 0, found.max_bytes.to_string()),
        ("max_expires", !expires.is_zero(), format!("{expires:?}")),
        ("priority_groups", !groups.is_empty(), format!("{groups:?}")),
    ]
}

/// The configuration as it must be, with what is the operator's choice as it was found.
pub(super) fn right(found: &Config, own: &[&str]) -> Config {
    let mut config = found.clone();
    let wanted = found.metadata.get(SUBJECTS).map(String::as_str).unwrap_or_default();
    let wanted = wanted.split_whitespace().chain(own.iter().copied());
    let mut subjects: Vec<String> = wanted.map(ToOwned::to_owned).collect();
    subjects.sort();
    subjects.dedup();
    config.metadata.insert(SUBJECTS.to_owned(), subjects.join(" "));
    (config.filter_subject, config.filter_subjects) = (String::new(), subjects);
    (config.ack_policy, config.ack_wait) = (AckPolicy::Explicit, ACK_WAIT);
    // The bus counts attempts itself, event by event; a limit here would let events fall silently
    // out of the group after a bad night.
    (config.max_deliver, config.backoff) = (-1, Vec::new());
    (config.max_ack_pending, config.rate_limit) = (MAX_ACK_PENDING, 0);
    (config.headers_only, config.inactive_threshold) = (false, Duration::ZERO);
    (config.max_batch, config.max_bytes, config.max_expires) = (0, 0, Duration::ZERO);
    (config.priority_policy, config.priority_groups) = (PriorityPolicy::None, Vec::new());
    config.priority_timeout = Duration::ZERO;
    config
}

/// The subjects that a consumer takes, sorted. None are all.
fn filter(found: &Config) -> Vec<String> {
    let mut subjects = found.filter_subjects.clone();
    if !found.filter_subject.is_empty() {
        subjects.push(found.filter_subject.clone());
    }
    subjects.sort();
    subjects
}
