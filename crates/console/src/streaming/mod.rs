//! `/streaming/serverz`, `storez`, `clientsz` and `channelsz`: the monitoring of NATS Streaming (STAN), in
//! its JSON, computed from JetStream. What has no meaning here is left out:
//!
//! | In STAN | Here |
//! |---|---|
//! | channel | a subject of a stream, by its name; `stream` says which |
//! | client | a process that holds a lease on its client id |
//! | subscription | a client's membership in a queue group, which is durable; `bytes` of a channel are only known when its stream has no other |
//! | `hb_inbox`, `inbox` | left out: NATS itself notices a client that is gone |
//! | `last_sent`, `pending_count`, `is_stalled` | of the queue group: its members share one position |

mod channelsz;
mod clientsz;
mod serverz;
mod storez;
mod subscription;

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use common::{bus::without_passwords, pod::problem::Problem};
use serde::Serialize;
use time::OffsetDateTime;
use tracing::debug;

use crate::{Console, sources::monitor::Varz};

/// The most entries in an answer, unless `limit` is smaller: the same number as in STAN.
const LIMIT: usize = 1024;

/// The routes.
pub(crate) fn routes() -> Router<Console> {
    Router::new()
        .route("/streaming/serverz", get(serverz::serverz))
        .route("/streaming/storez", get(storez::storez))
        .route("/streaming/clientsz", get(clientsz::clientsz))
        .route("/streaming/channelsz", get(channelsz::channelsz))
}

/// The first fields of every answer.
#[derive(Debug, Serialize)]
struct Server {
    cluster_id: String,
    server_id: String,
    #[serde(with = "time::serde::rfc3339")]
    now: OffsetDateTime,
}

impl Server {
    fn new(varz: &Varz, now: OffsetDateTime) -> Self {
        let cluster_id = match varz.cluster.name.as_str() {
            "" => varz.server_name.clone(),
            name => name.to_owned(),
        };
        Self { cluster_id, server_id: varz.server_id.clone(), now }
    }
}

/// The requested part of a list.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    offset: Option<usize>,
    limit: Option<usize>,
}

/// Which part of the list an answer has.
#[derive(Debug, Serialize)]
struct Part {
    offset: usize,
    limit: usize,
    count: usize,
    total: usize,
}

impl Window {
    /// Cuts a list down to the requested part.
    fn cut<T>(self, all: Vec<T>) -> (Part, Vec<T>) {
        let (offset, total) = (self.offset.unwrap_or(0), all.len());
        let limit = self.limit.filter(|limit| *limit > 0).unwrap_or(LIMIT).min(LIMIT);
        let kept: Vec<T> = all.into_iter().skip(offset).take(limit).collect();
        (Part { offset, limit, count: kept.len(), total }, kept)
    }
}

/// STAN's flags are given as `1`.
fn is_set(flag: Option<&str>) -> bool {
    flag == Some("1")
}

/// The response when NATS does not answer.
struct Failed(Response);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        self.0
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        let why = without_passwords(&format!("{error:#}")).into_owned();
        debug!(error = why, "NATS did not answer");
        let detail = format!("NATS cannot be reached: {why}");
        Self(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1).into_response())
    }
}

type Answer<T> = Result<Json<T>, Failed>;
