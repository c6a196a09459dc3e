//! Asks a replica of a service through its operations API.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context;
use axum::http::StatusCode;
use common::pod::secret::Secret;
use reqwest::{Client, RequestBuilder, Url};
use serde_json::Value;
use tokio::sync::watch;

use crate::sources::{
    monitor::{body, http_client},
    replicas::{Replicas, State},
};

/// How long a service may take: below the console's own limit on a request.
const TIMEOUT: Duration = Duration::from_secs(9);
/// The largest answer that is read, in bytes. A dead letter of a megabyte, in Base64, fits.
const LARGEST: usize = 4 * 1024 * 1024;

/// The operations APIs of all services.
#[derive(Debug, Clone)]
pub struct Operations {
    replicas: watch::Receiver<Replicas>,
    client: Client,
    token: Option<Secret>,
}

impl Operations {
    /// Uses these replicas, and the token that their APIs require for acting.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(replicas: watch::Receiver<Replicas>, token: Option<Secret>) -> anyhow::Result<Self> {
        Ok(Self { replicas, client: http_client(TIMEOUT)?, token })
    }

    /// Every service that has a known replica.
    pub(super) fn services(&self) -> BTreeSet<String> {
        self.replicas.borrow().values().map(|replica| replica.service.clone()).collect()
    }

    /// The URL of a replica that answers, a ready one if there is one.
    fn replica(&self, service: &str) -> anyhow::Result<Url> {
        let known = self.replicas.borrow();
        let answering = |wanted: State| {
            known.iter().find(|(_, replica)| replica.service == service && replica.state == wanted)
        };
        let found = answering(State::Ready).or_else(|| answering(State::NotReady));
        let (url, _) = found.with_context(|| format!("no replica of {service} answers"))?;
        Ok(url.parse()?)
    }

    /// Sends a GET to a replica.
    ///
    /// # Errors
    /// When none answers in time.
    pub(super) async fn get(
        &self,
        service: &str,
        path: &str,
        query: Option<&str>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut url = self.replica(service)?;
        url.set_path(path);
        url.set_query(query);
        answer(self.client.get(url)).await
    }

    /// Sends a query that is too long for a GET to a replica. It needs no token.
    ///
    /// # Errors
    /// When none answers in time.
    pub(super) async fn ask(
        &self,
        service: &str,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut url = self.replica(service)?;
        url.set_path(path);
        answer(self.client.post(url).json(body)).await
    }

    /// Sends a POST that acts to a replica, with the services' token.
    ///
    /// # Errors
    /// When none answers in time: it may or may not have acted.
    pub(super) async fn post(
        &self,
        service: &str,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut url = self.replica(service)?;
        url.set_path(path);
        let request = self.client.post(url).json(body);
        answer(match &self.token {
            Some(token) => request.bearer_auth(&**token),
            None => request,
        })
        .await
    }
}

async fn answer(request: RequestBuilder) -> anyhow::Result<(StatusCode, Value)> {
    let answer = request.send().await.map_err(reqwest::Error::without_url)?;
    let status = answer.status();
    let body = body(answer, LARGEST).await?;
    // A 404 from an API that is off has no body.
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok((status, body))
}
