//! Streams in the NATS account of another service, and how this process reaches them.

use async_nats::jetstream;

use crate::connection::{Bus, REQUEST_TIMEOUT};

impl Bus {
    /// Whether a stream is in the NATS account of another service. This process uses it and its queue
    /// groups through `JS.<stream>.API` instead of `$JS.API`, and creates neither.
    #[must_use]
    pub fn imports(&self, stream: &str) -> bool {
        self.options.imported.iter().any(|imported| imported == stream)
    }

    /// The prefix of JetStream's API for a stream: `$JS.API`, or `JS.<stream>.API` if the stream is
    /// imported. The importing account's configuration maps the latter to the former.
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
