//! The settings of a queue group's consumer, and how a found one differs.
//!
//! | Setting | What a member does about an edit |
//! |---|---|
//! | filter lacks a subject, deliver policy, ack policy, max_deliver, headers_only | recreates the consumer: it may have skipped events |
//! | deliver_subject, replay policy, max_waiting too small | recreates the consumer: the server does not let them be changed |
//! | filter has more subjects, ack_wait, max_ack_pending, backoff, inactive_threshold, rate limit, priority groups, limits of one request | corrects it |
//! | paused | resumes it |
//! | description, metadata, replicas, memory storage, sampling | nothing: the operator's choice |

use std::time::Duration;

use async_nats::jetstream::consumer::{
    AckPolicy, Config, DeliverPolicy, PriorityPolicy, ReplayPolicy,
};

use crate::options::Options;

/// How many open requests a consumer must accept: one per member. It is the server's default.
const MIN_WAITING: i64 = 512;
/// In the consumer's metadata: every subject that some release wants, separated by spaces.
const SUBJECTS: &str = "bus.subjects";
/// In the consumer's metadata: the sequence at which the bus made it start.
pub(super) const FROM: &str = "bus.from";

/// How a consumer differs from the settings that it must have.
#[derive(Debug, Default)]
pub(super) struct Drift {
    /// The differences, for the log.
    pub(super) changes: Vec<String>,
    /// It may have skipped events.
    pub(super) passed_over: bool,
    /// The server does not let the setting be changed.
    pub(super) fixed: bool,
}

/// A setting: its name, whether it differs, and its value.
type Setting = (&'static str, bool, String);

impl Drift {
    /// How a consumer differs, for a release that takes these subjects.
    pub(super) fn of(found: &Config, own: &[&str], options: &Options) -> Self {
        let (passed_over, fixed) = (may_have_passed_over(found, own), fixed(found));
        let differs = |settings: &[Setting]| settings.iter().any(|(_, differs, _)| *differs);
        Self {
            passed_over: differs(&passed_over),
            fixed: differs(&fixed),
            changes: passed_over
                .into_iter()
                .chain(fixed)
                .chain(correctable(found, own, options))
                .filter(|(_, differs, _)| *differs)
                .map(|(name, _, was)| format!("{name}: was {was}"))
                .collect(),
        }
    }
}

fn lacks(filter: &[String], own: &[&str]) -> bool {
    // A consumer without a filter takes everything.
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

fn correctable(found: &Config, own: &[&str], options: &Options) -> Vec<Setting> {
    let (filter, right) = (filter(found), corrected(found, own, options));
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

/// The corrected settings. Those that are the operator's choice stay.
pub(super) fn corrected(found: &Config, own: &[&str], options: &Options) -> Config {
    let mut config = found.clone();
    let wanted = found.metadata.get(SUBJECTS).map(String::as_str).unwrap_or_default();
    let wanted = wanted.split_whitespace().chain(own.iter().copied());
    let mut subjects: Vec<String> = wanted.map(ToOwned::to_owned).collect();
    subjects.sort();
    subjects.dedup();
    config.metadata.insert(SUBJECTS.to_owned(), subjects.join(" "));
    (config.filter_subject, config.filter_subjects) = (String::new(), subjects);
    (config.ack_policy, config.ack_wait) = (AckPolicy::Explicit, options.ack_wait);
    // The bus counts attempts per event. A limit here would silently drop events from the group after a
    // long outage.
    (config.max_deliver, config.backoff) = (-1, Vec::new());
    (config.max_ack_pending, config.rate_limit) = (options.max_ack_pending, 0);
    (config.headers_only, config.inactive_threshold) = (false, Duration::ZERO);
    (config.max_batch, config.max_bytes, config.max_expires) = (0, 0, Duration::ZERO);
    (config.priority_policy, config.priority_groups) = (PriorityPolicy::None, Vec::new());
    config.priority_timeout = Duration::ZERO;
    config
}

/// The subjects that a consumer takes, sorted. None means all.
fn filter(found: &Config) -> Vec<String> {
    let mut subjects = found.filter_subjects.clone();
    if !found.filter_subject.is_empty() {
        subjects.push(found.filter_subject.clone());
    }
    subjects.sort();
    subjects
}
