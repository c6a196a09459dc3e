//! Streams that are in the NATS account of another service, and how this process reaches them.

use async_nats::jetstream;

use crate::connection::{Bus, REQUEST_TIMEOUT};

impl Bus {
    /// Whether a stream is in the account of another service. This process uses it and its queue groups,
    /// under `JS.<stream>.API` in place of `$JS.API`, and makes neither.
    #[must_use]
    pub fn imports(&self, stream: &str) -> bool {
        self.imported.iter().any(|imported| imported == stream)
    }

    /// JetStream's API as it is reached for a stream: under `$JS.API`, or, where the stream is
    /// imported, under `JS.<stream>.API`. The importing account's configuration maps the latter onto
    /// the former.
    pub(crate) fn api_of(&self, stream: &str) -> String {
        if self.imports(stream) { format!("JS.{stream}.API") } else { "$JS.API".to_owned() }
    }

    /// JetStream for a stream, wherever it is.
    pub(crate) fn jetstream_of(&self, stream: &str) -> jetstream::Context {
        if !self.imports(stream) {
            return self.jetstream.clone();
        }
        jetstream::context::ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .ack_timeout(REQUEST_TIMEOUT)
            .api_prefix(self.api_of(stream))
            .build(self.client.clone())
    }
}
