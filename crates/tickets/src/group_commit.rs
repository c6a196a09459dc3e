//! New tickets that arrive while a transaction is under way share the next one: a commit costs the
//! database the same for one ticket as for fifty, and under load it is most of what a POST costs.
//! Nobody waits for company: an idle service commits each ticket at once.
//!
//! A ticket is answered after the commit that holds it, as if it had been alone. What fails, fails
//! for all tickets of the transaction; as each was valid, that is the database and none of them.

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

/// The most tickets of one transaction: well above what arrives during one commit, and few enough
/// that it stays a matter of milliseconds.
const BATCH: usize = 256;
/// How many tickets may wait. The HTTP middleware's bound on requests is usually below.
const WAITING: usize = 1_024;
/// How many transactions may be under way: one collects rows while another waits for the disk.
const COMMITTERS: usize = 2;

/// Where new tickets are handed in. Clones are the same place.
#[derive(Debug, Clone)]
pub struct GroupCommit {
    waiting: mpsc::Sender<Waiting>,
}

/// A ticket, its event, and who waits for the commit of both.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    event: OutboxEvent,
    answer: oneshot::Sender<Result<(), Arc<anyhow::Error>>>,
}

impl GroupCommit {
    /// Starts the tasks that commit. They end after the last handle is dropped, so that every
    /// request under way at a stop is answered.
    #[must_use]
    pub fn start(pool: &Pool, wake: &Wake, shutdown: &Shutdown) -> Self {
        let (waiting, receiver) = mpsc::channel(WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..COMMITTERS {
            let committer = run(receiver.clone(), pool.clone(), wake.clone());
            shutdown.spawn("group commit", committer);
        }
        Self { waiting }
    }

    /// Stores a ticket and its event. Returns the event's id after the commit.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn create(&self, ticket: Ticket) -> Result<Uuid, Problem> {
        let (answer, committed) = oneshot::channel();
        let created = TicketCreated(ticket);
        // Here, where the request's trace is the current one.
        let event = outbox::prepare(&created)?;
        let id = event.id;
        let waiting = Waiting { ticket: created.0, event, answer };
        self.waiting.send(waiting).await.map_err(|_| lost())?;
        // Also here: the log line about a failure is the request's.
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
        // In time: the pool sees to that, so that a connection whose peer has vanished does not hold
        // up those that follow.
        let committed = commit(&pool, &batch).await.map_err(|error| Arc::new(error.into()));
        wake.wake();
        for waiting in batch {
            // Nobody there: the client has gone, its ticket stays.
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
