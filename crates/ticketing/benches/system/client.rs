//! An HTTP client that costs little compared with what it measures: one request at a time on
//! each of many connections.

use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet, time::Instant};

pub(crate) const BODY: &str = r#"{"title":"Concert","price":20.50}"#;

pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).unwrap();
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(Self { sender, host: address.to_owned() })
    }

    /// Sends a request. Returns the status and the body.
    pub(crate) async fn send(&mut self, method: Method, path: &str, body: &str) -> (u16, Bytes) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("content-type", "application/json")
            .body(Full::from(Bytes::copy_from_slice(body.as_bytes())))
            .unwrap();
        self.sender.ready().await.unwrap();
        let answer = self.sender.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    }
}

pub(crate) async fn get(address: &str, path: &str) -> Option<u16> {
    let mut connection = Connection::open(address).await?;
    Some(connection.send(Method::GET, path, "").await.0)
}

/// The result of a load.
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    /// Microseconds.
    pub(crate) latency: Histogram<u64>,
}

/// POSTs to a path, each with its own body, on this many connections for this long, after a warm-up.
/// Each must be answered 201.
pub(crate) async fn post_all(
    address: &str,
    path: &'static str,
    body: impl Fn() -> String + Clone + Send + 'static,
    connections: usize,
    time: Duration,
) -> Measured {
    let begun = Instant::now();
    let (from, to) = (begun + time / 4, begun + time / 4 + time);
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let mut connection = Connection::open(address).await.unwrap();
        let body = body.clone();
        clients.spawn(async move {
            let mut latency = histogram();
            loop {
                let sent = Instant::now();
                let (status, _) = connection.send(Method::POST, path, &body()).await;
                assert_eq!(status, 201);
                let answered = Instant::now();
                if answered > to {
                    return latency;
                }
                if sent >= from {
                    latency.record(micros(answered - sent)).unwrap();
                }
            }
        });
    }
    let mut latency = histogram();
    while let Some(one) = clients.join_next().await {
        latency.add(one.unwrap()).unwrap();
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let per_second = latency.len() as f64 / time.as_secs_f64();
    Measured { per_second, latency }
}

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new(3).unwrap()
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}

/// A quantile of a histogram of microseconds, in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "a time")]
pub(crate) fn millis(latency: &Histogram<u64>, quantile: f64) -> f64 {
    latency.value_at_quantile(quantile) as f64 / 1000.0
}
