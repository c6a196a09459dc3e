//! A trace collector: receives spans by OTLP over HTTP, keeps them, and formats a trace as a tree.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::span::SpanKind,
};
use prost::Message;
use tokio::{net::TcpListener, sync::watch};

/// A span as received.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty for the root.
    pub(crate) parent: String,
    /// The service that created it, such as `tickets`.
    pub(crate) service: String,
    pub(crate) name: String,
    kind: SpanKind,
    pub(crate) attributes: BTreeMap<String, String>,
}

/// The collector. It dies with the test.
pub(crate) struct Collector {
    pub(crate) url: String,
    shared: Shared,
}

#[derive(Clone)]
struct Shared {
    spans: Arc<Mutex<Vec<Span>>>,
    frozen: watch::Sender<bool>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Shared { spans: Arc::default(), frozen: watch::Sender::new(false) };
        let app = Router::new().route("/v1/traces", post(take)).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, shared }
    }

    /// Stops answering, or answers again.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.shared.frozen.send_replace(frozen);
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.shared.spans.lock().unwrap().clone()
    }

    /// The spans of a trace, each below its parent, siblings sorted by name. Equal spans appear once, because a
    /// redelivery repeats them.
    pub(crate) fn tree(&self, trace: &str) -> String {
        let spans: Vec<_> = self.spans().into_iter().filter(|span| span.trace == trace).collect();
        let ids: BTreeSet<_> = spans.iter().map(|span| span.id.clone()).collect();
        let roots = spans.iter().filter(|span| !ids.contains(&span.parent));
        let trees: BTreeSet<_> = roots.map(|root| subtree(&spans, root, 0)).collect();
        trees.into_iter().collect()
    }
}

fn subtree(spans: &[Span], span: &Span, depth: usize) -> String {
    let kind = format!("{:?}", span.kind).to_lowercase();
    let line = format!("{}{}: {} ({kind})\n", "  ".repeat(depth), span.service, span.name);
    let children = spans.iter().filter(|child| child.parent == span.id);
    let children: BTreeSet<_> = children.map(|child| subtree(spans, child, depth + 1)).collect();
    children.into_iter().fold(line, |tree, child| tree + child.as_str())
}

async fn take(State(shared): State<Shared>, body: Bytes) -> [(&'static str, &'static str); 0] {
    let mut frozen = shared.frozen.subscribe();
    frozen.wait_for(|frozen| !frozen).await.unwrap();
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut spans = shared.spans.lock().unwrap();
    for resource in request.resource_spans {
        let attributes = attributes(resource.resource.unwrap().attributes);
        let service = &attributes["service.name"];
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                service: service.clone(),
                kind: span.kind(),
                name: span.name,
                attributes: self::attributes(span.attributes),
            });
        }
    }
    []
}

fn attributes(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<Value>| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = attributes.into_iter();
    pairs.map(|pair| (pair.key, text(pair.value.and_then(|value| value.value)))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
