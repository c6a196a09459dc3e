//! A lease on the client id: one process at a time holds an id, and a duplicate exits.
//!
//! The lease is a key in a bucket that expires unless it is renewed. A process that finds its id taken asks the
//! holder whether it is alive:
//!
//! - It answers: the duplicate exits, and its error names the holder.
//! - No responders: NATS knows at once when the connection of a killed process is gone, so a dead holder is
//!   replaced at once.
//! - No answer: it is frozen or cut off, or its machine has vanished and NATS has not noticed. The process waits
//!   until the lease expires, and replaces it. A holder that thaws finds that a live process has its lease, and
//!   exits.
//!
//! Exactly-once effects do not depend on it: two processes with one id would confuse operators, not the inbox. So
//! a process that waits does everything except join its queue group.

mod error;
mod holder;
mod list;

use std::time::Duration;

use async_nats::{
    client::RequestErrorKind,
    jetstream::kv::{CreateErrorKind, Store, UpdateErrorKind},
};
use futures::StreamExt;
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::{
    connection::Bus,
    shutdown::Shutdown,
    topology::{self, TopologyError},
};

use error::unavailable;
pub use error::{ClientIdInUse, LeaseError};
pub use holder::Holder;
pub use list::holders;

/// The bucket of leases.
const BUCKET: &str = "client-leases";
/// How long a lease lasts without renewal: how long a process waits for a holder that does not answer.
pub const MAX_AGE: Duration = Duration::from_secs(10);
/// How often it is renewed. Two renewals may fail.
const RENEW: Duration = Duration::from_secs(3);
/// How often a waiting process checks again: a tenth of [`MAX_AGE`].
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a holder may take to answer.
const ALIVE_TIMEOUT: Duration = Duration::from_millis(1000);
/// How long a starting process waits for the lease before it continues without.
const FIRST_TRY: Duration = Duration::from_secs(3);
/// How long releasing the lease may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often one renewal retries after another process has written first.
const WRITES: usize = 4;

/// A process's lease on its client id.
#[derive(Debug, Clone)]
pub struct Lease {
    bus: Bus,
    me: Holder,
    /// The revision of the lease as this process last wrote it; 0 before that.
    revision: watch::Sender<u64>,
    /// The holder that does not answer and that this process waits for.
    waits_for: watch::Sender<Option<Silence>>,
}

/// A holder that does not answer, as first found.
#[derive(Debug, Clone)]
struct Silence {
    holder: Holder,
    revision: u64,
    found: Instant,
}

impl Lease {
    /// Takes the lease and renews it until the process stops. If another process turns out to have it, this
    /// process ends. While NATS is unavailable or a holder does not answer, it keeps trying in the background,
    /// and the process continues without.
    ///
    /// # Errors
    /// [`LeaseError::InUse`] if a live process has this id.
    pub async fn take(
        bus: &Bus,
        shutdown: &Shutdown,
        service: &str,
        queue_groups: &[&str],
    ) -> Result<Self, LeaseError> {
        let me = Holder {
            client_id: bus.client_id.clone(),
            service: service.to_owned(),
            queue_groups: queue_groups.iter().map(ToString::to_string).collect(),
            node: bus.options.node.clone(),
            since: OffsetDateTime::now_utc().truncate_to_second(),
            process: Uuid::new_v4(),
        };
        let (revision, waits_for) = (watch::Sender::new(0), watch::Sender::new(None));
        let lease = Self { bus: bus.clone(), me, revision, waits_for };
        lease.answer_liveness_checks(shutdown).await?;
        let first = async {
            bus.connected().await;
            lease.renew().await
        };
        match timeout(FIRST_TRY, first).await {
            Ok(Ok(())) => {}
            Ok(Err(error @ LeaseError::InUse(_))) => return Err(error),
            Ok(Err(error)) => warn!(%error, "no lease on the client id yet, retrying"),
            Err(_) => warn!("NATS is unavailable: no lease on the client id yet, retrying"),
        }
        shutdown.spawn("lease", lease.clone().keep_renewing(shutdown.clone()));
        Ok(lease)
    }

    /// Renews the lease until the process stops.
    async fn keep_renewing(self, stopping: Shutdown) -> Result<(), ClientIdInUse> {
        let mut link = self.bus.connection_state();
        loop {
            let waits = self.waits_for.borrow().is_some();
            tokio::select! {
                () = stopping.begun() => return Ok(()),
                () = sleep(if waits { LOOK_AGAIN } else { RENEW }) => {}
                Ok(()) = link.changed() => {}
            }
            if !link.borrow_and_update().up {
                continue;
            }
            match self.renew().await {
                Ok(()) => {}
                Err(LeaseError::InUse(error)) => return Err(error),
                Err(error) => debug!(%error, "could not renew the lease, retrying"),
            }
        }
    }

    /// Waits until this process finds a holder that does not answer, and returns it.
    pub async fn waiting(&self) -> Holder {
        let mut waits_for = self.waits_for.subscribe();
        let silence = waits_for.wait_for(Option::is_some).await.ok();
        match silence.and_then(|silence| silence.clone()) {
            Some(silence) => silence.holder,
            // Unreachable: `self` owns the sender.
            None => std::future::pending().await,
        }
    }

    /// Waits until the lease is held.
    pub async fn held(&self) {
        let _ = self.revision.subscribe().wait_for(|revision| *revision > 0).await;
    }

    /// Releases the id, so that the next process gets it at once.
    pub async fn release(&self) {
        let revision = *self.revision.borrow();
        if revision == 0 || !self.bus.connection_state().borrow().up {
            return;
        }
        let release = async {
            let (bucket, id) = (self.bucket().await?, self.me.client_id.as_str());
            bucket.delete_expect_revision(id, Some(revision)).await.map_err(unavailable)
        };
        match timeout(RELEASE_TIMEOUT, release).await {
            Ok(Ok(())) => debug!("released the lease"),
            Ok(Err(error)) => debug!(%error, "could not release the lease"),
            Err(_) => debug!("could not release the lease in time"),
        }
    }

    async fn bucket(&self) -> Result<Store, TopologyError> {
        let replicas = self.bus.options.stream_replicas;
        topology::bucket(&self.bus.jetstream, BUCKET, MAX_AGE, replicas).await
    }

    /// Takes or renews the lease, or finds that its holder has to be waited for. Only compare-and-set writes
    /// decide; reads in between may be stale.
    async fn renew(&self) -> Result<(), LeaseError> {
        let bucket = self.bucket().await?;
        let value = serde_json::to_vec(&self.me).map_err(unavailable)?;
        let id = &self.me.client_id;
        let mut revision = *self.revision.borrow();
        // Each iteration returns or learns a newer revision. Only another process's write repeats it.
        for _ in 0..WRITES {
            let written = if revision == 0 {
                match bucket.create(id.as_str(), value.clone().into()).await {
                    Ok(revision) => Some(revision),
                    Err(error) if error.kind() == CreateErrorKind::AlreadyExists => None,
                    Err(error) => return Err(unavailable(error)),
                }
            } else {
                match bucket.update(id.as_str(), value.clone().into(), revision).await {
                    Ok(revision) => Some(revision),
                    Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => None,
                    Err(error) => return Err(unavailable(error)),
                }
            };
            if let Some(written) = written {
                self.waits_for.send_replace(None);
                if self.revision.send_replace(written) == 0 {
                    info!(notice = "routine", client.id = %id, "holding the client id");
                }
                return Ok(());
            }
            revision = match bucket.entry(id.as_str()).await.map_err(unavailable)? {
                // Expired, or the bucket was recreated.
                None => 0,
                Some(entry) => {
                    // Released leases and values that are no lease are overwritten.
                    let holder = Holder::read(id, &entry.value);
                    let other = holder.filter(|holder| holder.process != self.me.process);
                    if let Some(holder) = other
                        && !self.may_replace(holder, entry.revision).await?
                    {
                        self.revision.send_replace(0);
                        return Ok(());
                    }
                    entry.revision
                }
            };
        }
        Err(unavailable("it changes faster than it can be taken"))
    }

    /// Whether the holder is dead or its lease has expired.
    ///
    /// # Errors
    /// [`LeaseError::InUse`] if it is alive.
    async fn may_replace(&self, holder: Holder, revision: u64) -> Result<bool, LeaseError> {
        let request = async_nats::Request::new().timeout(Some(ALIVE_TIMEOUT));
        let answer = self.bus.client.send_request(holder.alive_subject(), request).await;
        match answer.map_err(|error| (error.kind(), error)) {
            Ok(_) => Err(ClientIdInUse { holder: Box::new(holder) }.into()),
            Err((RequestErrorKind::NoResponders, _)) => {
                info!(client.id = %holder.client_id, since = %holder.since, "the holder of the client id is dead, replacing it");
                Ok(true)
            }
            Err((RequestErrorKind::TimedOut, _)) => self.has_expired(holder, revision),
            Err((_, error)) => Err(unavailable(error)),
        }
    }

    /// Whether a holder that does not answer has let its lease expire.
    ///
    /// # Errors
    /// [`LeaseError::InUse`] if it has renewed the lease meanwhile, so it is alive.
    fn has_expired(&self, holder: Holder, revision: u64) -> Result<bool, LeaseError> {
        let waits_for = self.waits_for.borrow().clone();
        let known = waits_for.filter(|known| known.holder.process == holder.process);
        let Some(known) = known else {
            warn!(
                client.id = %holder.client_id, node = holder.node, since = %holder.since,
                wait.seconds = MAX_AGE.as_secs(),
                "the holder of the client id does not answer, waiting until its lease expires"
            );
            let found = Instant::now();
            self.waits_for.send_replace(Some(Silence { holder, revision, found }));
            return Ok(false);
        };
        if revision > known.revision {
            return Err(ClientIdInUse { holder: Box::new(holder) }.into());
        }
        // The bucket expires the key earlier, unless it was created with another maximum age.
        Ok(known.found.elapsed() >= MAX_AGE)
    }

    /// Answers other processes that ask whether exactly this process is alive.
    async fn answer_liveness_checks(&self, shutdown: &Shutdown) -> Result<(), LeaseError> {
        let subject = self.me.alive_subject();
        let mut questions = self.bus.client.subscribe(subject).await.map_err(unavailable)?;
        let (client, stopping) = (self.bus.client.clone(), shutdown.clone());
        shutdown.spawn("client id", async move {
            loop {
                tokio::select! {
                    () = stopping.begun() => return,
                    question = questions.next() => match question {
                        Some(question) => {
                            let Some(reply) = question.reply else { continue };
                            if client.publish(reply, "alive".into()).await.is_err() {
                                debug!("could not answer a liveness check");
                            }
                        }
                        None => return,
                    },
                }
            }
        });
        Ok(())
    }
}
