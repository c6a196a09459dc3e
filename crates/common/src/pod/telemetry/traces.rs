//! Traces for OpenTelemetry, sent by OTLP (HTTP, protobuf) to the collector that
//! `OTEL_EXPORTER_OTLP_ENDPOINT` names. Without it, nothing here runs.
//!
//! The SDK reads the rest of its environment itself: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
//! `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`, `OTEL_EXPORTER_OTLP_HEADERS`
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>). By default, every
//! trace that begins here is recorded; for a trace that comes with a request, its `traceparent` decides.
//!
//! A collector that is down or does not answer costs only spans: a separate thread sends them from a
//! bounded queue.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use bus::trace::{self, SPANS, TraceContext};
use opentelemetry::{
    Context, Key, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceContextExt, TraceState, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

const SERVICE_NAME: &str = "service.name";

/// How long the collector may take to accept a batch of spans. A batch that it does not accept is dropped.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last spans may take when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends this process's spans. At most 2,048 (`OTEL_BSP_MAX_QUEUE_SIZE`) wait to be sent; above that, new ones
/// are dropped.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Starts sending spans to this collector, such as `http://localhost:4318`, as this instance of a service.
    ///
    /// # Errors
    /// When spans cannot be sent to the endpoint, such as an invalid URL.
    pub fn to(endpoint: &str, service: &str, instance: &str) -> anyhow::Result<Self> {
        // An error means that another part of the process has installed the same one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .with_context(|| format!("OTEL_EXPORTER_OTLP_ENDPOINT is {endpoint:?}"))?;
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(service, instance))
            .with_batch_exporter(Watched { exporter, failing: AtomicBool::new(false) })
            .build();
        trace::use_tracer(context_of);
        Ok(Self { provider })
    }

    /// The layer that turns spans of `tracing` into OpenTelemetry's.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("ticketing"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            // Only spans for traces: log lines hold data that is not for traces. Independent of the log's level,
            // so that a trace is complete.
            .with_filter(filter_fn(|meta| meta.is_span() && meta.target() == SPANS))
    }

    /// Sends the remaining spans. Waits 2 s at most.
    pub async fn end(self) {
        let flush = move || self.provider.shutdown_with_timeout(FLUSH_TIMEOUT);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(flush).await {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// The attributes that all spans of this process have in common.
fn resource(service: &str, instance: &str) -> Resource {
    let from_environment = Resource::builder().build();
    let named = from_environment
        .get(&Key::from_static_str(SERVICE_NAME))
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder().with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance.to_owned()),
    ]);
    if named { builder } else { builder.with_service_name(service.to_owned()) }.build()
}

/// An exporter that counts spans, and logs once per outage that its collector does not accept them.
#[derive(Debug)]
struct Watched {
    exporter: SpanExporter,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let sent = self.exporter.export(batch).await;
        let outcome = if sent.is_ok() { "sent" } else { "failed" };
        metrics::counter!("otel_spans_total", "outcome" => outcome).increment(spans);
        let failed_before = self.failing.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Err(error) if !failed_before => {
                tracing::warn!(%error, "the trace collector does not accept spans, dropping them until it does");
            }
            Ok(()) if failed_before => tracing::info!("the trace collector accepts spans again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// A span's place in its trace, below this parent.
fn context_of(span: &Span, parent: Option<TraceContext>) -> Option<TraceContext> {
    if let Some(parent) = parent {
        let parent = SpanContext::new(
            TraceId::from(parent.trace()),
            SpanId::from(parent.span()),
            TraceFlags::new(parent.flags()),
            parent.is_remote(),
            TraceState::default(),
        );
        // Fails if the span is filtered out: it then has no place in a trace.
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
