//! What nats-server reports on its monitoring port: `/varz`.

use anyhow::{Context, ensure};
use reqwest::{Client, Response, Url, redirect};
use serde::Deserialize;

use std::time::Duration;

use super::ANSWER_TIMEOUT;

/// The largest answer that is read, in bytes. `/varz` has about five thousand.
const LARGEST: usize = 1024 * 1024;

/// The monitoring port of a nats-server, if it is known.
#[derive(Debug, Clone)]
pub struct Monitor {
    client: Client,
    varz: Option<Url>,
}

/// The part of `/varz` that the console shows. A field that another release leaves out is 0 or empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Varz {
    /// The server's public key.
    pub server_id: String,
    /// Its name.
    pub server_name: String,
    /// The version of nats-server.
    pub version: String,
    /// The version of Go that it was built with.
    pub go: String,
    /// When it started, RFC 3339.
    pub start: String,
    /// How long ago that is, such as `1h2m3s`.
    pub uptime: String,
    /// Open connections of clients.
    pub connections: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Messages that it received since it started.
    pub in_msgs: i64,
    /// Their bytes.
    pub in_bytes: i64,
    /// Messages that it sent since it started.
    pub out_msgs: i64,
    /// Their bytes.
    pub out_bytes: i64,
    /// Its cluster.
    pub cluster: Cluster,
}

/// The cluster that a nats-server is part of.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// Its name; empty for a single server.
    pub name: String,
}

/// An HTTP client that follows no redirect, uses no proxy, and waits this long for an answer.
///
/// # Errors
/// TLS cannot be set up.
pub fn http_client(timeout: Duration) -> anyhow::Result<Client> {
    // Fails if another part of the process has installed one already, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .timeout(timeout)
        .build()
        .context("cannot make an HTTP client")
}

/// The body of the successful answer to a GET.
///
/// # Errors
/// When there is no such answer in time, or it is larger than `largest` bytes.
pub async fn get(client: &Client, url: Url, largest: usize) -> anyhow::Result<Vec<u8>> {
    let answer = client.get(url).send().await.map_err(reqwest::Error::without_url)?;
    ensure!(answer.status().is_success(), "it answers {}", answer.status());
    body(answer, largest).await
}

/// The body of an answer.
///
/// # Errors
/// When it does not arrive in time, or is larger than `largest` bytes.
pub async fn body(mut answer: Response, largest: usize) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        ensure!(body.len() + chunk.len() <= largest, "it answers more than {largest} bytes");
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

impl Monitor {
    /// The monitoring port at this URL. Sends no request yet.
    ///
    /// # Errors
    /// When the URL cannot have a path, or no HTTP client can be made.
    pub fn new(url: Option<&Url>) -> anyhow::Result<Self> {
        let varz = url.map(|url| url.join("varz")).transpose().context("NATS_MONITOR_URL")?;
        Ok(Self { client: http_client(ANSWER_TIMEOUT)?, varz })
    }

    /// The server's `/varz`. `None` when its monitoring port is not known.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn varz(&self) -> anyhow::Result<Option<Varz>> {
        let Some(url) = self.varz.clone() else { return Ok(None) };
        let body = get(&self.client, url, LARGEST).await.context("the monitoring of NATS")?;
        Ok(Some(serde_json::from_slice(&body).context("the monitoring of NATS")?))
    }
}
