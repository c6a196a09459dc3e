//! Group commit: requests that arrive while a transaction is in progress share the next one. A commit
//! costs the database the same for one request as for fifty, and under load it is most of the cost of a
//! POST. An idle service commits each request at once.
//!
//! Each request is answered after its commit, as if it had been alone. A request that cannot share a
//! transaction, because it has to wait for something or is refused, gets its own: [`GroupCommit::once`].

use std::{future::Future, sync::Arc};

use bus::{BusError, Pool, Shutdown, Wake, database_is_busy};
use sqlx::PgConnection;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::{
    idempotency::{self, Answer, IdempotentRequest, Outcome},
    problem::Problem,
};

/// How many requests may wait. The HTTP middleware's limit on concurrent requests is usually lower.
const WAITING: usize = 1_024;
/// How many transactions may be in progress: one collects rows while another waits for the disk.
const COMMITTERS: usize = 2;

/// Begins a shared transaction. A wait for a lock would make every request of the batch wait, and a frozen process
/// would keep the locks of all of them. A statement that takes long leaves time for transactions of their own.
const BEGIN: &str = "begin; set local lock_timeout = '250ms'; set local statement_timeout = '2s'; \
                     set local idle_in_transaction_session_timeout = '3s'";

/// The answer to a request, and the other result of its work. `None`: nothing yet.
pub type Done<T> = Option<(Answer, T)>;

/// Work that many requests can do in one transaction.
pub trait SharedWork: Send + Sync + 'static {
    /// The input of a request.
    type Item: Send + Sync + 'static;
    /// The result of its work, apart from its answer.
    type Made: Send + Sync;
    /// The most requests in one transaction: above what arrives during one commit, and few enough that
    /// the transaction takes milliseconds.
    const BATCH: usize;

    /// Does the work of these requests. Returns one result for each, in their order; `None` if nothing
    /// was done for this one, and it needs a transaction of its own. It should wait for no lock, because
    /// every request of the batch would wait with it.
    ///
    /// # Errors
    /// Any error fails every request of the batch, unless the database is only busy, for example with a lock
    /// for 250 ms or a statement for 2 s: then each request gets a transaction of its own.
    fn work(
        &self,
        tx: &mut PgConnection,
        items: &[&Self::Item],
    ) -> impl Future<Output = Result<Vec<Done<Self::Made>>, BusError>> + Send;
}

/// The queue of requests that share transactions. Clones share the queue.
#[derive(Debug)]
pub struct GroupCommit<W: SharedWork> {
    waiting: mpsc::Sender<Waiting<W>>,
    pool: Pool,
    wake: Wake,
}

impl<W: SharedWork> Clone for GroupCommit<W> {
    fn clone(&self) -> Self {
        let Self { waiting, pool, wake } = self;
        Self { waiting: waiting.clone(), pool: pool.clone(), wake: wake.clone() }
    }
}

/// A request, and the channel that reports its commit.
#[derive(Debug)]
struct Waiting<W: SharedWork> {
    request: Option<IdempotentRequest>,
    item: W::Item,
    answer: oneshot::Sender<Result<Done<W::Made>, Arc<anyhow::Error>>>,
}

impl<W: SharedWork> GroupCommit<W> {
    /// Starts the tasks that commit. They end after the last handle is dropped, so that every
    /// request in progress during a shutdown is answered.
    #[must_use]
    pub fn start(work: W, pool: &Pool, wake: &Wake, shutdown: &Shutdown) -> Self {
        let (waiting, receiver) = mpsc::channel(WAITING);
        let (work, receiver) = (Arc::new(work), Arc::new(Mutex::new(receiver)));
        for _ in 0..COMMITTERS {
            let committer = run(work.clone(), receiver.clone(), pool.clone(), wake.clone());
            shutdown.spawn("group commit", committer);
        }
        Self { waiting, pool: pool.clone(), wake: wake.clone() }
    }

    /// Does the work of a request once, as [`idempotency::once`], in a transaction that it may share with
    /// others. `alone` does the same work in a transaction of its own.
    ///
    /// # Errors
    /// As [`idempotency::once`].
    pub async fn once(
        &self,
        request: Option<&IdempotentRequest>,
        item: W::Item,
        alone: impl AsyncFnOnce(&mut PgConnection) -> Result<(Answer, W::Made), Problem>,
    ) -> Result<Outcome<W::Made>, Problem> {
        if let Some((answer, made)) = self.shared(request.cloned(), item).await? {
            return Ok(Outcome::Made(answer, made));
        }
        let outcome = idempotency::once(&self.pool, request, alone).await?;
        if matches!(outcome, Outcome::Made(..)) {
            self.wake.wake();
        }
        Ok(outcome)
    }

    async fn shared(
        &self,
        request: Option<IdempotentRequest>,
        item: W::Item,
    ) -> Result<Done<W::Made>, Problem> {
        let (answer, committed) = oneshot::channel();
        let _span = self.pool.transaction_span();
        let waiting = Waiting { request, item, answer };
        self.waiting.send(waiting).await.map_err(|_| lost())?;
        // Converted here, so that a failure is logged in the request's trace.
        committed.await.map_err(|_| lost())?.map_err(|error| Problem::internal(&error))
    }
}

async fn run<W: SharedWork>(
    work: Arc<W>,
    receiver: Arc<Mutex<mpsc::Receiver<Waiting<W>>>>,
    pool: Pool,
    wake: Wake,
) -> anyhow::Result<()> {
    loop {
        let mut batch = Vec::new();
        if receiver.lock().await.recv_many(&mut batch, W::BATCH).await == 0 {
            return Ok(());
        }
        // Their clients have gone.
        batch.retain(|waiting| !waiting.answer.is_closed());
        if batch.is_empty() {
            continue;
        }
        // The pool bounds this, so that a dead connection does not block the batches that follow.
        let mut made = match commit(&*work, &pool, &batch).await {
            Ok(made) => {
                if made.iter().any(Option::is_some) {
                    wake.wake();
                }
                made.into_iter()
            }
            // Rolled back. Each request gets a transaction of its own.
            Err(BusError::Database(error)) if database_is_busy(&error) => vec![].into_iter(),
            Err(error) => {
                // It may have been committed nevertheless.
                wake.wake();
                let error = Arc::new(anyhow::Error::from(error));
                for waiting in batch {
                    let _ = waiting.answer.send(Err(error.clone()));
                }
                continue;
            }
        };
        for waiting in batch {
            // If the client has gone, its result stays committed.
            let _ = waiting.answer.send(Ok(made.next().flatten()));
        }
    }
}

/// Does the work of every request whose key is free. If it fails, nothing is done.
async fn commit<W: SharedWork>(
    work: &W,
    pool: &Pool,
    batch: &[Waiting<W>],
) -> Result<Vec<Done<W::Made>>, BusError> {
    pool.transaction_within(Pool::WORK_TIMEOUT, BEGIN, async |tx| {
        let requests: Vec<_> = batch.iter().map(|waiting| waiting.request.as_ref()).collect();
        let free = idempotency::claim_free(tx, &requests).await?;
        let items: Vec<_> = free.iter().map(|at| &batch[*at].item).collect();
        let made = work.work(tx, &items).await?;
        let answers = free
            .iter()
            .zip(&made)
            .filter_map(|(at, made)| Some((requests[*at]?, &made.as_ref()?.0)));
        idempotency::store_answers(tx, answers).await?;
        let mut all: Vec<_> = batch.iter().map(|_| None).collect();
        for (at, made) in free.into_iter().zip(made) {
            all[at] = made;
        }
        Ok(all)
    })
    .await
}

fn lost() -> Problem {
    Problem::internal(&anyhow::anyhow!("the task that commits requests has ended"))
}
