//! Traces for OpenTelemetry, sent by OTLP (HTTP, protobuf) to the collector that
//! `OTEL_EXPORTER_OTLP_ENDPOINT` names. Without it, nothing here runs.
//!
//! The SDK reads the rest of its environment by itself: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
//! `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).

use std::time::Duration;

use anyhow::Context as _;
use bus::trace::{self, TraceContext};
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceContextExt, TraceState, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::registry::LookupSpan;

/// How long the collector may take to accept a batch of spans. One that it does not accept is dropped.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last spans may take when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What sends this process's spans. At most 2,048 wait to be sent; above that, new ones are dropped.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Begins to send spans to this collector, such as `http://localhost:4318`, as this instance.
    ///
    /// # Errors
    /// When the endpoint is no URL that spans can be sent to.
    pub fn to(endpoint: &str, instance: &str) -> anyhow::Result<Self> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .with_context(|| format!("OTEL_EXPORTER_OTLP_ENDPOINT is {endpoint:?}"))?;
        let instance = KeyValue::new("service.instance.id", instance.to_owned());
        let provider = SdkTracerProvider::builder()
            .with_resource(Resource::builder().with_attribute(instance).build())
            .with_batch_exporter(exporter)
            .build();
        trace::use_tracer(context_of);
        Ok(Self { provider })
    }

    /// The layer that makes spans of OpenTelemetry from those of `tracing`.
    pub(super) fn layer<S>(&self) -> OpenTelemetryLayer<S, SdkTracer>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let tracer = self.provider.tracer("ticketing");
        // Log lines stay in the log: they hold what a trace is not for.
        tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false)
    }

    /// Sends what waits to be sent. Waits 2 s at most.
    pub async fn end(self) {
        let flush = move || self.provider.shutdown_with_timeout(FLUSH_TIMEOUT);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(flush).await {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// A span's place in its trace, once it has this parent from another process.
fn context_of(span: &Span, parent: Option<TraceContext>) -> Option<TraceContext> {
    if let Some(parent) = parent {
        let parent = SpanContext::new(
            TraceId::from(parent.trace()),
            SpanId::from(parent.span()),
            TraceFlags::new(parent.flags()),
            true,
            TraceState::default(),
        );
        // Fails when the span is filtered out: then it has no place either.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
    let context = span.context();
    let own = context.span().span_context().clone();
    own.is_valid().then(|| {
        TraceContext::new(
            u128::from_be_bytes(own.trace_id().to_bytes()),
            u64::from_be_bytes(own.span_id().to_bytes()),
            own.trace_flags().to_u8(),
        )
    })
}
