//! Warns about options that have no effect on an existing queue group.

use async_nats::jetstream::consumer::Info;

use super::Options;

impl Options {
    /// Prints a warning for each option that the existing group ignores.
    pub(super) fn warn_of_ignored(&self, group: &str, info: &Info) {
        if !self.from.is_empty() {
            eprintln!(
                "warning: --from is ignored: the queue group {group} exists and continues after #{}",
                info.delivered.stream_sequence
            );
        }
        if self.ack_wait.is_some_and(|wanted| wanted != info.config.ack_wait) {
            eprintln!(
                "warning: --ack-wait is ignored: the queue group {group} exists with {:?}",
                info.config.ack_wait
            );
        }
        let wanted = self.source.filter();
        if !wanted.is_empty()
            && wanted != info.config.filter_subjects
            && wanted != [&*info.config.filter_subject]
        {
            eprintln!("warning: --subject is ignored: the queue group {group} exists");
        }
    }
}
