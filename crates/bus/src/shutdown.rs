//! How a process ends. Every task is spawned, stopped and awaited here.
//!
//! There are three ways to end. *Soft*: take nothing new, finish what was started. *Hard*: the grace
//! period is over or a second signal arrived; drop everything, which the bus makes safe. *Failure*: a
//! task that returns an error or panics ends the process, because a process that silently lost a part is
//! worse than one that restarts.

use std::{future::Future, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::error::{BoxError, chain};

/// Spawns the tasks of a process and stops them. Clones are the same handle.
#[derive(Debug, Clone)]
pub struct Shutdown {
    soft: CancellationToken,
    tasks: TaskTracker,
    failures: mpsc::UnboundedSender<TaskFailure>,
}

/// A task failed, so the process has to stop.
#[derive(Debug, thiserror::Error)]
#[error("task {task:?} failed")]
pub struct TaskFailure {
    /// The task, by the name it was spawned under.
    pub task: &'static str,
    /// The error that it returned, or its panic.
    #[source]
    pub error: BoxError,
}

/// The outcome of a task: nothing, or an error that ends the process.
pub trait TaskOutcome: Send + 'static {
    /// The outcome as a result.
    ///
    /// # Errors
    /// The task's own error.
    fn into_result(self) -> Result<(), BoxError>;
}

impl TaskOutcome for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError> + Send + 'static> TaskOutcome for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// Waits for the reason to stop. `main` holds it.
#[derive(Debug)]
pub struct StopReason {
    failures: mpsc::UnboundedReceiver<TaskFailure>,
}

impl Shutdown {
    /// A new handle, and what waits for the reason to stop.
    #[must_use]
    pub fn new() -> (Self, StopReason) {
        // At most one message per task, so the number of tasks bounds the queue.
        let (failures, receiver) = mpsc::unbounded_channel();
        let shutdown = Self { soft: CancellationToken::new(), tasks: TaskTracker::new(), failures };
        (shutdown, StopReason { failures: receiver })
    }

    /// A handle for tasks that stop after those of this one. A failure of one ends the process as well.
    #[must_use]
    pub fn next_stage(&self) -> Self {
        let failures = self.failures.clone();
        Self { soft: CancellationToken::new(), tasks: TaskTracker::new(), failures }
    }

    /// Runs a task until it returns. It must return soon after [`Self::begun`] is ready. If it returns
    /// an error or panics, the process ends.
    pub fn spawn<F>(&self, task: &'static str, future: F)
    where
        F: Future<Output: TaskOutcome> + Send + 'static,
    {
        let failures = self.failures.clone();
        let handle = tokio::spawn(future);
        self.tasks.spawn(async move {
            let outcome = match handle.await {
                Ok(outcome) => outcome.into_result(),
                Err(panic) => Err(panic.into()),
            };
            if let Err(error) = outcome {
                // Nobody listens once the process is shutting down.
                let _ = failures.send(TaskFailure { task, error });
            }
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

    /// Asks every task to stop.
    pub fn begin(&self) {
        self.soft.cancel();
    }

    /// Waits for every task, until `grace` has passed or a second signal arrives. Returns `false` if
    /// unfinished work was dropped.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.tasks.close();
        tokio::select! {
            ended = timeout(grace, self.tasks.wait()) => {
                if ended.is_err() {
                    warn!(grace.seconds = grace.as_secs(), "the grace period is over, dropping unfinished work");
                }
                ended.is_ok()
            }
            name = next_signal() => {
                warn!(signal = name, "second signal, dropping unfinished work");
                false
            }
        }
    }
}

impl StopReason {
    /// Waits for SIGINT or SIGTERM (`Ok`), or for the first task to fail (`Err`).
    ///
    /// # Errors
    /// The task that failed, with its error.
    pub async fn wait(&mut self) -> Result<(), TaskFailure> {
        tokio::select! {
            name = next_signal() => {
                info!(notice = "routine", signal = name, "stopping");
                Ok(())
            }
            Some(failure) = self.failures.recv() => {
                error!(task = failure.task, error = chain(&*failure.error), "a task failed, stopping");
                Err(failure)
            }
        }
    }
}

/// Returns the name of the next SIGINT or SIGTERM.
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
