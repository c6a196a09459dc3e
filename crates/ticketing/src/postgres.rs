//! Checks the state of Postgres with a new connection. Existing connections may keep working while the server
//! accepts no new ones.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use ticketing_console::sources::replicas::State;
use tokio::time::timeout;

/// Why Postgres did not answer.
#[derive(Debug, Clone)]
pub(crate) struct Unanswered {
    pub(crate) state: State,
    pub(crate) why: String,
}

impl Unanswered {
    /// It did not answer in time.
    pub(crate) fn silent() -> Self {
        Self { state: State::Frozen, why: "it does not answer".to_owned() }
    }
}

impl From<sqlx::Error> for Unanswered {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_) => {
                Self { state: State::Down, why: "nothing listens at its address".to_owned() }
            }
            error => Self { state: State::NotReady, why: error.to_string() },
        }
    }
}

/// Pings the server over a new connection.
pub(crate) async fn probe(url: &str, limit: Duration) -> Result<(), Unanswered> {
    let asked = async {
        let mut connection = PgConnection::connect(url).await?;
        connection.ping().await?;
        connection.close().await
    };
    timeout(limit, asked).await.map_err(|_| Unanswered::silent())?.map_err(Into::into)
}
