//! How a process ends: every task is spawned here, is told to stop here, and is waited for here.
//!
//! Stopping has three depths. *Soft*: take nothing new, finish what was begun. *Hard*: the grace
//! time has passed or a second signal came; drop everything (the bus makes that safe). And
//! *failure*: a task that ends with an error or a panic takes the process with it, because a
//! process that has lost a part without noticing is worse than one that restarts.

use std::{future::Future, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

/// A handle on the process's end. Clones are the same handle.
#[derive(Debug, Clone)]
pub struct Shutdown {
    soft: CancellationToken,
    tasks: TaskTracker,
    failures: mpsc::UnboundedSender<Failure>,
}

/// A task that ended in an error, and which.
#[derive(Debug)]
struct Failure {
    task: &'static str,
    error: anyhow::Error,
}

/// The other end of [`Shutdown`], held by the process's frame: waits for the reason to stop.
#[derive(Debug)]
pub struct Reason {
    failures: mpsc::UnboundedReceiver<Failure>,
}

impl Shutdown {
    /// A new handle and the end that waits for the reason to stop.
    #[must_use]
    pub fn new() -> (Self, Reason) {
        // One message a task at most, so the queue is bounded by the number of tasks.
        let (failures, receiver) = mpsc::unbounded_channel();
        let shutdown = Self { soft: CancellationToken::new(), tasks: TaskTracker::new(), failures };
        (shutdown, Reason { failures: receiver })
    }

    /// Runs a task until it ends by itself. It must end soon after [`Self::begun`] is ready.
    pub fn spawn<F>(&self, task: &'static str, future: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let failures = self.failures.clone();
        let handle = tokio::spawn(future);
        self.tasks.spawn(async move {
            let error = match handle.await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(panic) => anyhow::anyhow!(panic),
            };
            // Nobody listens any more once the process is on its way out.
            let _ = failures.send(Failure { task, error });
        });
    }

    /// Ready when the process has been asked to stop.
    pub async fn begun(&self) {
        self.soft.cancelled().await;
    }

    /// Whether the process has been asked to stop.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// The token behind [`Self::begun`], for what takes one.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Asks every task to stop.
    pub fn begin(&self) {
        self.soft.cancel();
    }

    /// Waits for every task, but no longer than `grace`, and no longer than a second signal takes
    /// to come. `false` when something had to be dropped.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.tasks.close();
        tokio::select! {
            ended = timeout(grace, self.tasks.wait()) => {
                if ended.is_err() {
                    warn!(grace.seconds = grace.as_secs(), "the grace time has passed, dropping what is unfinished");
                }
                ended.is_ok()
            }
            name = next_signal() => {
                warn!(signal = name, "second signal, dropping what is unfinished");
                false
            }
        }
    }
}

impl Reason {
    /// Waits for a signal (`Ok`) or the first task to fail (`Err`).
    ///
    /// # Errors
    /// The error that the task ended with.
    pub async fn wait(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            name = next_signal() => {
                info!(signal = name, "stopping");
                Ok(())
            }
            Some(failure) = self.failures.recv() => {
                error!(task = failure.task, error = format!("{:#}", failure.error), "a task failed, stopping");
                Err(failure.error)
            }
        }
    }
}

/// The name of the next SIGINT or SIGTERM.
async fn next_signal() -> &'static str {
    let (Ok(mut int), Ok(mut term)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without signal handlers the default action ends the process, which is safe as well.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => "SIGINT",
        _ = term.recv() => "SIGTERM",
    }
}
