//! What all handlers share.

use std::sync::Arc;

use axum::{extract::FromRef, http::StatusCode};
use common::{
    bus::{Pool, Shutdown, Wake},
    pod::{auth::Auth, group_commit::GroupCommit, problem::Problem},
};

use crate::{payment::Provider, reservations::Reservations};

/// The state that all handlers share.
#[derive(Clone)]
pub struct Api {
    /// The service's database.
    pub pool: Pool,
    /// Wakes the relay after a commit.
    pub wake: Wake,
    /// Determines the buyer of a request.
    pub auth: Auth,
    /// The payment provider.
    pub provider: Arc<dyn Provider>,
    /// How tickets are reserved.
    pub reservations: Reservations,
    /// Reserves tickets for requests that arrive together.
    pub group_commit: GroupCommit<Reservations>,
}

impl Api {
    /// Starts what the handlers need.
    #[must_use]
    pub fn start(
        pool: Pool,
        wake: Wake,
        auth: Auth,
        provider: Arc<dyn Provider>,
        reservations: Reservations,
        shutdown: &Shutdown,
    ) -> Self {
        let group_commit = GroupCommit::start(reservations, &pool, &wake, shutdown);
        Self { pool, wake, auth, provider, reservations, group_commit }
    }
}

impl FromRef<Api> for Auth {
    fn from_ref(api: &Api) -> Self {
        api.auth.clone()
    }
}

/// 404, also for another buyer's order.
pub(super) fn no_order() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "You have no order with this id.")
}
