//! A client id is held by one process at a time: the lease that turns a duplicate away.
//!
//! The lease is a key in a bucket that forgets it unless it is renewed. A process that finds its
//! id taken asks the holder whether it is alive:
//!
//! - It answers: it is named, and the duplicate ends.
//! - Nobody is there: NATS knows at once when a killed process's connection is gone, so a dead
//!   holder is replaced at once.
//! - Silence: it is frozen or cut off, or its machine has vanished and NATS has not noticed. It is
//!   waited for until its lease has ended, and replaced. A holder that thaws finds its lease taken
//!   by a process that answers, and ends.
//!
//! Nothing that must not break rests on it: two processes with one id would confuse a person, not
//! the inbox. So a process that waits does everything but join its queue group.

mod holder;

use std::time::Duration;

use anyhow::bail;
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

pub use holder::{Holder, holders};

/// The bucket of leases.
const BUCKET: &str = "client-leases";
/// How long a lease lasts without renewal: what the twin of a silent holder has to wait.
const MAX_AGE: Duration = Duration::from_secs(10);
/// How often it is renewed. Two renewals may go missing.
const RENEW: Duration = Duration::from_secs(3);
/// How often a process that waits for a silent holder looks again: a tenth of what it may wait.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a holder may take to say that it is alive.
const ALIVE_TIMEOUT: Duration = Duration::from_millis(1000);
/// How long a starting process waits for the first answer before it goes on without NATS.
const FIRST_TRY: Duration = Duration::from_secs(3);

/// The id is another process's, which is alive.
#[derive(Debug, thiserror::Error)]
#[error(
    "clientID already registered: {} is held by pod {} on node {} since {}",
    holder.client_id, holder.client_id,
    if holder.node.is_empty() { "(unknown)" } else { &holder.node },
    holder.since
)]
pub struct ClientIdInUse {
    /// Who holds it.
    pub holder: Holder,
}

/// A process's hold on its client id.
#[derive(Debug, Clone)]
pub struct Lease {
    bus: Bus,
    me: Holder,
    /// The revision of the lease as this process last wrote it; 0 before that.
    revision: watch::Sender<u64>,
    /// The silent holder that this process waits for.
    waits_for: watch::Sender<Option<Silence>>,
}

/// A holder that does not answer, as it was first found.
#[derive(Debug, Clone)]
struct Silence {
    holder: Holder,
    revision: u64,
    found: Instant,
}

impl Lease {
    /// Takes the lease, keeps it until the process stops, and ends the process if another has it.
    /// While NATS is away, or a holder does not answer, it goes on trying, and the process goes on
    /// without.
    ///
    /// # Errors
    /// [`ClientIdInUse`] when another process lives under this id.
    pub async fn take(
        bus: &Bus,
        shutdown: &Shutdown,
        service: &str,
        queue_groups: &[&str],
    ) -> anyhow::Result<Self> {
        let me = Holder {
            client_id: bus.client_id.clone(),
            service: service.to_owned(),
            queue_groups: queue_groups.iter().map(ToString::to_string).collect(),
            node: bus.node.clone(),
            since: OffsetDateTime::now_utc().replace_nanosecond(0)?,
            process: Uuid::new_v4(),
        };
        let (revision, waits_for) = (watch::Sender::new(0), watch::Sender::new(None));
        let lease = Self { bus: bus.clone(), me, revision, waits_for };
        lease.answer_for_life(shutdown).await?;
        let first = async {
            bus.connected().await;
            lease.renew().await
        };
        match timeout(FIRST_TRY, first).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is::<ClientIdInUse>() => return Err(error),
            Ok(Err(error)) => warn!(error = format!("{error:#}"), "no lease on the client id yet"),
            Err(_) => warn!("NATS is away: no lease on the client id yet"),
        }
        shutdown.spawn("lease", lease.clone().keep(shutdown.clone()));
        Ok(lease)
    }

    /// Renews the lease until the process stops.
    async fn keep(self, stopping: Shutdown) -> anyhow::Result<()> {
        let mut link = self.bus.link();
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
                Err(error) if error.is::<ClientIdInUse>() => return Err(error),
                Err(error) => debug!(error = format!("{error:#}"), "could not renew the lease"),
            }
        }
    }

    /// Waits until this process has to wait for a holder that does not answer. Returns who that is.
    pub async fn waiting(&self) -> Holder {
        let mut waits_for = self.waits_for.subscribe();
        let silence = waits_for.wait_for(Option::is_some).await.ok();
        match silence.and_then(|silence| silence.clone()) {
            Some(silence) => silence.holder,
            // The sender lives as long as this.
            None => std::future::pending().await,
        }
    }

    /// Waits until the lease is held.
    pub async fn held(&self) {
        let _ = self.revision.subscribe().wait_for(|revision| *revision > 0).await;
    }

    /// Lets go of the id, for the next process to take at once.
    pub async fn release(&self) {
        let revision = *self.revision.borrow();
        if revision == 0 || !self.bus.link().borrow().up {
            return;
        }
        let release = async {
            let bucket = self.bucket().await?;
            bucket.delete_expect_revision(self.me.client_id.as_str(), Some(revision)).await?;
            anyhow::Ok(())
        };
        match timeout(Duration::from_secs(1), release).await {
            Ok(Ok(())) => debug!("released the lease"),
            Ok(Err(error)) => debug!(error = format!("{error:#}"), "could not release the lease"),
            Err(_) => debug!("could not release the lease in time"),
        }
    }

    async fn bucket(&self) -> Result<Store, TopologyError> {
        topology::bucket(&self.bus.jetstream, BUCKET, MAX_AGE, self.bus.replicas).await
    }

    /// Writes the lease: anew, or on; or notes that its holder has to be waited for. What is true is
    /// decided by compare-and-set alone; what was read in between may be stale.
    async fn renew(&self) -> anyhow::Result<()> {
        let bucket = self.bucket().await?;
        let (id, value) = (&self.me.client_id, serde_json::to_vec(&self.me)?);
        let mut revision = *self.revision.borrow();
        // Each round ends, or has learnt a newer revision; only another process's writes could
        // make it go round again.
        for _ in 0..4 {
            let written = if revision == 0 {
                match bucket.create(id.as_str(), value.clone().into()).await {
                    Ok(revision) => Some(revision),
                    Err(error) if error.kind() == CreateErrorKind::AlreadyExists => None,
                    Err(error) => return Err(error.into()),
                }
            } else {
                match bucket.update(id.as_str(), value.clone().into(), revision).await {
                    Ok(revision) => Some(revision),
                    Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => None,
                    Err(error) => return Err(error.into()),
                }
            };
            if let Some(written) = written {
                self.waits_for.send_replace(None);
                if self.revision.send_replace(written) == 0 {
                    info!(client.id = %id, "holding the client id");
                }
                return Ok(());
            }
            revision = match bucket.entry(id.as_str()).await? {
                // Expired, or the bucket was made anew.
                None => 0,
                Some(entry) => {
                    // Released leases and what is no lease are nobody's, and are written over.
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
        bail!("the lease changes faster than it can be taken")
    }

    /// Whether the holder is gone, or its lease has ended.
    ///
    /// # Errors
    /// [`ClientIdInUse`] when it lives.
    async fn may_replace(&self, holder: Holder, revision: u64) -> anyhow::Result<bool> {
        let request = async_nats::Request::new().timeout(Some(ALIVE_TIMEOUT));
        let answer = self.bus.client.send_request(holder.alive_subject(), request).await;
        match answer.map_err(|error| (error.kind(), error)) {
            Ok(_) => Err(ClientIdInUse { holder }.into()),
            Err((RequestErrorKind::NoResponders, _)) => {
                info!(client.id = %holder.client_id, since = %holder.since, "the holder of the client id is dead, replacing it");
                Ok(true)
            }
            Err((RequestErrorKind::TimedOut, _)) => self.lease_has_ended(holder, revision),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// Whether a holder that does not answer has not renewed its lease for as long as that lasts.
    ///
    /// # Errors
    /// [`ClientIdInUse`] when it has renewed it meanwhile, which the dead do not.
    fn lease_has_ended(&self, holder: Holder, revision: u64) -> anyhow::Result<bool> {
        let waits_for = self.waits_for.borrow().clone();
        let known = waits_for.filter(|known| known.holder.process == holder.process);
        let Some(known) = known else {
            warn!(
                client.id = %holder.client_id, node = holder.node, since = %holder.since,
                "the holder of the client id does not answer; waiting until its lease ends, within 10 s"
            );
            let found = Instant::now();
            self.waits_for.send_replace(Some(Silence { holder, revision, found }));
            return Ok(false);
        };
        if revision > known.revision {
            return Err(ClientIdInUse { holder }.into());
        }
        // The bucket forgets the lease before this, unless it was made with another age.
        Ok(known.found.elapsed() >= MAX_AGE)
    }

    /// Says that this process is alive, to whoever asks for exactly it.
    async fn answer_for_life(&self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let mut questions = self.bus.client.subscribe(self.me.alive_subject()).await?;
        let (client, stopping) = (self.bus.client.clone(), shutdown.clone());
        shutdown.spawn("client id", async move {
            loop {
                tokio::select! {
                    () = stopping.begun() => return Ok(()),
                    question = questions.next() => match question {
                        Some(question) => {
                            let Some(reply) = question.reply else { continue };
                            if client.publish(reply, "alive".into()).await.is_err() {
                                debug!("could not say that this process is alive");
                            }
                        }
                        None => return Ok(()),
                    },
                }
            }
        });
        Ok(())
    }
}
