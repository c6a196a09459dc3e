//! What a person can do on the page, and a program through the same paths: post a ticket, order one, publish to a
//! stream, generate load and count what arrives, and, on the local machine, break something and follow the outcome.

mod break_it;
pub(crate) mod cut;
mod done;
mod experiment;
mod experiments;
mod ledger;
pub(crate) mod load;
mod publish;
pub mod rights;

use std::time::Duration;

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::post,
};
use common::{bus::without_passwords, pod::problem::Problem};
use reqwest::Url;
use serde_json::{Value, json};

use crate::{
    Console,
    sources::{
        monitor::{self, http_client},
        replicas::Directory,
    },
};

pub use experiment::{Experiment, Observation};
pub(crate) use experiments::COUNTERS;
pub use experiments::Experiments;
pub use ledger::{Ledger, Sums};
pub(crate) use load::look;
pub use publish::ticket_of;
pub use rights::Rights;

/// How long a service may take to answer: below the console's own limit on a request.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(9);
/// The largest answer read from a service, in bytes.
const LARGEST_ANSWER: usize = 1024 * 1024;

/// The APIs of the services that a person acts through.
#[derive(Debug, Clone)]
pub struct Services {
    directory: Directory,
    tickets: Option<Url>,
    orders: Option<Url>,
    client: reqwest::Client,
}

/// What a service answered.
struct Answered {
    status: StatusCode,
    body: Value,
}

impl Services {
    /// Uses the APIs at these URLs; by default, those that `cargo run` recorded in the data folder.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(
        directory: Directory,
        tickets: Option<Url>,
        orders: Option<Url>,
    ) -> anyhow::Result<Self> {
        Ok(Self { directory, tickets, orders, client: http_client(SERVICE_TIMEOUT)? })
    }

    /// The URL of a service's API.
    async fn api(&self, service: &str) -> anyhow::Result<Url> {
        let given = if service == "tickets" { &self.tickets } else { &self.orders };
        if let Some(url) = given {
            return Ok(url.clone());
        }
        let known = self.directory.on_this_machine().await;
        let mut of_service = known.iter().filter(|(id, _)| id.starts_with(&format!("{service}-")));
        let (_, url) =
            of_service.next().with_context(|| format!("no replica of {service} is known"))?;
        Ok(Url::parse(url)?)
    }

    async fn post(&self, service: &str, path: &str, body: &Value) -> anyhow::Result<Answered> {
        let url = self.api(service).await?.join(path)?;
        let answer = self.client.post(url).json(body).send().await;
        let answer = answer.map_err(reqwest::Error::without_url)?;
        let status = answer.status();
        let body = monitor::body(answer, LARGEST_ANSWER).await.ok();
        let body = body.and_then(|body| serde_json::from_slice(&body).ok());
        Ok(Answered { status, body: body.unwrap_or(Value::Null) })
    }
}

/// The routes. All of them require the right to act.
pub(crate) fn routes(rights: &Rights) -> Router<Console> {
    Router::new()
        .route("/api/act/ticket", post(ticket))
        .route("/api/act/order", post(order))
        .route("/api/act/publish", post(publish::publish))
        .route("/api/act/load", post(load::load))
        .route("/api/act/break", post(break_it::break_it))
        .layer(from_fn_with_state(rights.clone(), rights::may_act))
}

/// What a service answered, for the page: its status and body.
fn answer(answered: anyhow::Result<Answered>) -> Response {
    match answered {
        Ok(Answered { status, body }) => {
            Json(json!({ "status": status.as_u16(), "body": body })).into_response()
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> Response {
    let why = without_passwords(&format!("{error:#}")).into_owned();
    Problem::new(StatusCode::BAD_GATEWAY, why).into_response()
}

async fn ticket(State(console): State<Console>, Json(body): Json<Value>) -> Response {
    answer(console.services.post("tickets", "/api/tickets", &body).await)
}

async fn order(State(console): State<Console>, Json(body): Json<Value>) -> Response {
    answer(console.services.post("orders", "/api/orders", &body).await)
}
