//! One server for everybody in a process, as its tests are: a start takes longer than most of them.

use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use super::Postgres;

impl Postgres {
    /// The server that this process shares. Make a database of your own on it. It starts for the first
    /// who asks, and is gone when the last one has dropped it; nothing outlives it, so no commit waits
    /// for the disk.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn shared() -> anyhow::Result<Arc<Self>> {
        static SERVER: Mutex<Weak<Postgres>> = Mutex::const_new(Weak::new());
        let mut shared = SERVER.lock().await;
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(Self::builder().fsync(false).start().await?);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }
}
