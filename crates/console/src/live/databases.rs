//! Databases that cannot be reached, as the services' replicas report them.

use std::collections::BTreeMap;

use crate::sources::replicas::Replicas;

/// The databases that no answering replica of their service reaches, each with the reason. A replica that alone does
/// not reach it is cut off, which its own state says.
pub(super) fn unreachable_databases(replicas: &Replicas) -> Vec<(String, String)> {
    let mut reasons: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for replica in replicas.values().filter(|replica| replica.state.answers()) {
        let reason = replica.why.split("; ").find_map(|gate| gate.strip_prefix("database: "));
        let known = reasons.entry(&replica.service).or_insert(reason);
        *known = known.and(reason);
    }
    let unreachable = reasons.into_iter().filter_map(|(service, reason)| Some((service, reason?)));
    unreachable
        .map(|(service, reason)| (format!("database of {service}"), reason.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::{
        replicas::{ReplicaReport, State},
        samples::Samples,
    };

    fn replicas(reports: &[(&str, State, &str)]) -> Replicas {
        let of = |at: usize, (service, state, why): &(&str, State, &str)| ReplicaReport {
            client_id: format!("{service}-{at}"),
            service: (*service).to_owned(),
            state: *state,
            why: (*why).to_owned(),
            samples: Samples::default(),
        };
        reports.iter().enumerate().map(|(at, report)| (at.to_string(), of(at, report))).collect()
    }

    #[test]
    fn a_database_is_unreachable_if_no_answering_replica_reaches_it() {
        let silent = "bus: no stream; database: does not answer";
        let found = unreachable_databases(&replicas(&[
            ("tickets", State::NotReady, "bus: no stream"),
            ("orders", State::NotReady, silent),
            ("orders", State::NotReady, silent),
            ("orders", State::Frozen, "it does not answer"),
            ("console", State::Ready, ""),
        ]));
        assert_eq!(found, [("database of orders".to_owned(), "does not answer".to_owned())]);
        let one_is_cut_off = [("orders", State::NotReady, silent), ("orders", State::Ready, "")];
        assert_eq!(unreachable_databases(&replicas(&one_is_cut_off)), []);
    }
}
