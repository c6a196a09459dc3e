//! A small API behind the middleware, on the real server, at a free port.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use common::{
    bus::Shutdown,
    pod::{
        body::Fields,
        http::{
            Deadlines, MiddlewareSettings, middleware,
            server::{self, Bounds},
        },
        problem::Problem,
    },
};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::sleep};

use crate::client::Client;

/// The size of one answer of `/large`, in bytes.
const LARGE: usize = 256 * 1024;

/// How long `/moment` takes.
const MOMENT: Duration = Duration::from_millis(3);

pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    shutdown: Shutdown,
    finish: Arc<Notify>,
}

impl Service {
    pub(crate) fn start() -> Self {
        Self::with(&MiddlewareSettings::default(), Bounds::default())
    }

    /// Starts a service with room for this many connections.
    pub(crate) fn with_room(connections: usize) -> Self {
        let bounds = Bounds { connections, ..Bounds::default() };
        Self::with(&MiddlewareSettings::default(), bounds)
    }

    /// Starts a service with short client deadlines.
    pub(crate) fn impatient() -> Self {
        let soon = Duration::from_millis(300);
        let deadlines = Deadlines { head: soon, answer: soon, idle: soon };
        let bounds = Bounds { deadlines, ..Bounds::default() };
        Self::with(&MiddlewareSettings::default(), bounds)
    }

    /// Starts a service that abandons unfinished requests this long after it is asked to stop.
    pub(crate) fn stopping_within(stop_within: Duration) -> Self {
        let bounds = Bounds { stop_within, ..Bounds::default() };
        Self::with(&MiddlewareSettings::default(), bounds)
    }

    pub(crate) fn with(settings: &MiddlewareSettings, bounds: Bounds) -> Self {
        let finish = Arc::new(Notify::new());
        let api = Router::new()
            .route("/things", post(create))
            .route("/things/{id}", get(|| async { Json(json!({ "id": 7 })) }))
            .route("/large", get(|| async { "x".repeat(LARGE) }))
            .route("/moment", get(|| sleep(MOMENT)))
            .route("/slow", get(slow))
            .with_state(finish.clone());
        let (shutdown, _) = Shutdown::new();
        let listener = server::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let serve = server::serve(listener, middleware(api, settings), bounds, shutdown.clone());
        shutdown.spawn("http", serve);
        Self { address, shutdown, finish }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Lets the handler of `/slow` finish.
    pub(crate) fn finish_slow(&self) {
        self.finish.notify_waiters();
    }

    /// Asks it to stop.
    pub(crate) fn begin_stop(&self) {
        self.shutdown.begin();
    }

    /// Asks it to stop, and waits until it has. Returns `false` if something was left.
    pub(crate) async fn stop(&self, grace: Duration) -> bool {
        self.shutdown.begin();
        self.shutdown.finish(grace).await
    }
}

async fn create(fields: Fields) -> Result<Json<Value>, Problem> {
    let mut fields = fields;
    let name = fields.required::<String>("name");
    let name = fields.finish(name)?;
    Ok(Json(json!({ "name": name })))
}

/// Answers once it is told to.
async fn slow(State(finish): State<Arc<Notify>>) -> &'static str {
    finish.notified().await;
    "done"
}
