//! Group commit: new tickets that arrive while a transaction is in progress share the next one. A
//! commit costs the database the same for one ticket as for fifty, and under load it is most of the
//! cost of a POST. An idle service commits each ticket at once.
//!
//! Each ticket is answered after its commit, as if it had been alone. A failure fails every ticket
//! of the transaction. As each ticket was validated before, only the database can cause one.

use std::sync::Arc;

use common::{
    bus::{
        BusError, Pool, Shutdown, Wake,
        outbox::{self, OutboxEvent},
    },
    events::ticket::{Ticket, TicketCreated},
    pod::problem::Problem,
};
use tokio::sync::{Mutex, mpsc, oneshot};
use uuid::Uuid;

use crate::store;

/// The most tickets in one transaction: well above what arrives during one commit, and few enough
/// that the transaction takes milliseconds.
const BATCH: usize = 256;
/// How many tickets may wait. The HTTP middleware's limit on concurrent requests is usually lower.
const WAITING: usize = 1_024;
/// How many transactions may be in progress: one collects rows while another waits for the disk.
const COMMITTERS: usize = 2;

/// The queue for new tickets. Clones share the queue.
#[derive(Debug, Clone)]
pub struct GroupCommit {
    waiting: mpsc::Sender<Waiting>,
    pool: Pool,
}

/// A ticket, its event, and the channel that reports their commit.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    event: OutboxEvent,
    answer: oneshot::Sender<Result<(), Arc<anyhow::Error>>>,
}

impl GroupCommit {
    /// Starts the tasks that commit. They end after the last handle is dropped, so that every
    /// request in progress during a shutdown is answered.
    #[must_use]
    pub fn start(pool: &Pool, wake: &Wake, shutdown: &Shutdown) -> Self {
        let (waiting, receiver) = mpsc::channel(WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..COMMITTERS {
            let committer = run(receiver.clone(), pool.clone(), wake.clone());
            shutdown.spawn("group commit", committer);
        }
        Self { waiting, pool: pool.clone() }
    }

    /// Stores a ticket and its event. Returns the event's id after the commit.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn create(&self, ticket: Ticket) -> Result<Uuid, Problem> {
        let (answer, committed) = oneshot::channel();
        let created = TicketCreated(ticket);
        // Prepared here, where the request's trace is current.
        let event = outbox::prepare(&created)?;
        let id = event.id;
        let waiting = Waiting { ticket: created.0, event, answer };
        let _span = self.pool.transaction_span();
        self.waiting.send(waiting).await.map_err(|_| lost())?;
        // Converted here, so that a failure is logged in the request's trace.
        committed.await.map_err(|_| lost())?.map_err(|error| Problem::internal(&error))?;
        Ok(id)
    }
}

async fn run(
    receiver: Arc<Mutex<mpsc::Receiver<Waiting>>>,
    pool: Pool,
    wake: Wake,
) -> anyhow::Result<()> {
    loop {
        let mut batch = Vec::new();
        if receiver.lock().await.recv_many(&mut batch, BATCH).await == 0 {
            return Ok(());
        }
        // The pool bounds this, so that a dead connection does not block the batches that follow.
        let committed = commit(&pool, &batch).await.map_err(|error| Arc::new(error.into()));
        wake.wake();
        for waiting in batch {
            // If the client has gone, its ticket stays.
            let _ = waiting.answer.send(committed.clone());
        }
    }
}

/// Stores all tickets and their events, or none.
async fn commit(pool: &Pool, batch: &[Waiting]) -> Result<(), BusError> {
    pool.transaction(async |tx| {
        store::insert(tx, batch.iter().map(|waiting| &waiting.ticket)).await?;
        outbox::put_prepared(tx, batch.iter().map(|waiting| &waiting.event)).await?;
        Ok(())
    })
    .await
}

fn lost() -> Problem {
    Problem::internal(&anyhow::anyhow!("the task that commits tickets has ended"))
}
