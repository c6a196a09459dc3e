//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): links the work to its request, from the
//! HTTP header through the outbox and the event to the listener's log lines.

use std::{fmt, future::Future, str::FromStr, sync::OnceLock};

use tracing::Span;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// The target of spans that exist for traces alone. Log lines do not show their fields. While no tracer records
/// spans, nobody listens to this target, so `info_span!(target: SPANS, ..)` is a check of a flag: it makes no span
/// and does not evaluate the fields.
pub const SPANS: &str = "spans";

/// Returns the context that a tracer gave to a span, as a child of this parent. `None` if the tracer does not
/// know the span.
pub type Tracer = fn(&Span, Option<TraceContext>) -> Option<TraceContext>;

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// Uses a tracer's ids for spans. Only the first call has an effect.
pub fn use_tracer(tracer: Tracer) {
    let _ = TRACER.set(tracer);
}

/// Whether a tracer records spans.
#[must_use]
pub fn is_traced() -> bool {
    TRACER.get().is_some()
}

/// A `traceparent` of version 00. Each hop keeps the trace id and gets a span id of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    remote: bool,
}

impl TraceContext {
    /// The context of a span of this process, from its parts.
    #[must_use]
    pub fn new(trace_id: u128, span_id: u64, flags: u8) -> Self {
        Self { trace_id, span_id, flags, remote: false }
    }

    /// The context of the work in this span, as a child of its parent if that is known.
    #[must_use]
    pub fn of_span(span: &Span, parent: Option<Self>) -> Self {
        let known = TRACER.get().and_then(|tracer| tracer(span, parent));
        known.unwrap_or_else(|| parent.map_or_else(Self::new_root, Self::child))
    }

    /// Makes a span a child of this parent.
    pub(crate) fn place(span: &Span, parent: Self) {
        let _ = Self::of_span(span, Some(parent));
    }

    /// The trace's id.
    #[must_use]
    pub fn trace(self) -> u128 {
        self.trace_id
    }

    /// The span's id.
    #[must_use]
    pub fn span(self) -> u64 {
        self.span_id
    }

    /// The flags: 1 if the trace is recorded.
    #[must_use]
    pub fn flags(self) -> u8 {
        self.flags
    }

    /// Whether it was parsed from a request or an event, and so usually comes from another process.
    #[must_use]
    pub fn is_remote(self) -> bool {
        self.remote
    }

    /// A new trace, not sampled yet.
    #[must_use]
    pub fn new_root() -> Self {
        Self::new(rand::random::<u128>().max(1), random_span(), 0)
    }

    /// The next hop of the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span_id: random_span(), remote: false, ..self }
    }

    /// The context of the current task, if any.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|context| *context).ok()
    }

    /// Runs `work` as part of this trace.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Runs `work` as part of this trace.
    pub fn sync_scope<T>(self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, work)
    }

    /// The trace id in hexadecimal, for log lines.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

fn random_span() -> u64 {
    rand::random::<u64>().max(1)
}

/// The text is not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct TraceContextError;

impl FromStr for TraceContext {
    type Err = TraceContextError;

    fn from_str(text: &str) -> Result<Self, TraceContextError> {
        fn hex(text: &str, length: usize) -> Result<u128, TraceContextError> {
            let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if text.len() != length || !lower {
                return Err(TraceContextError);
            }
            u128::from_str_radix(text, 16).map_err(|_| TraceContextError)
        }
        let mut parts = text.split('-');
        let mut next = |length| hex(parts.next().unwrap_or_default(), length);
        let (version, trace_id, span_id, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        // A later version may append fields; version 00 has exactly these four.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return Err(TraceContextError);
        }
        match (trace_id, u64::try_from(span_id), u8::try_from(flags)) {
            (1.., Ok(span_id @ 1..), Ok(flags)) => {
                Ok(Self { trace_id, span_id, flags, remote: true })
            }
            _ => Err(TraceContextError),
        }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_keeps_its_trace_through_a_hop_and_nonsense_is_refused() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context: TraceContext = text.parse().unwrap();
        assert_eq!(context.to_string(), text);
        let child = context.child().to_string();
        assert_eq!(child[..36], text[..36]);
        assert_ne!(child, text);
        for not in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert!(not.parse::<TraceContext>().is_err(), "{not}");
        }
    }
}
