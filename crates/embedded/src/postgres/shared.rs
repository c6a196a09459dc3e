//! One server shared by all tests of a process, because a start takes longer than most of them.

use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use super::Postgres;

impl Postgres {
    /// Returns the server that this process shares. Create your own database on it. The first
    /// caller starts it, and it ends when the last one drops it. Its data does not outlive it, so
    /// commits do not wait for the disk.
    ///
    /// # Errors
    /// If it does not start.
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
