//! A client id is held by one process at a time: the lease that turns a duplicate away.
//!
//! The lease is a key in a bucket that forgets it unless it is renewed. A process that finds its
//! id taken asks the holder whether it is alive. NATS knows at once when a killed process's
//! connection is gone, so a dead holder is replaced at once; one that lives is named, and the
//! duplicate ends.
//!
//! Nothing that must not break rests on it: two processes with one id would confuse a person, not
//! the inbox.

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use async_nats::{
    client::RequestErrorKind,
    jetstream::kv::{CreateErrorKind, Store, UpdateErrorKind},
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::{
    client_id::ClientId,
    connection::Bus,
    shutdown::Shutdown,
    topology::{self, TopologyError},
};

/// The bucket of leases.
const BUCKET: &str = "client-leases";
/// How long a lease lasts without renewal: what a frozen holder's twin has to wait.
const MAX_AGE: Duration = Duration::from_secs(10);
/// How often it is renewed. Two renewals may go missing.
const RENEW: Duration = Duration::from_secs(3);
/// How long a holder may take to say that it is alive.
const ALIVE_TIMEOUT: Duration = Duration::from_millis(1000);
/// How long a starting process waits for the first answer before it goes on without NATS.
const FIRST_TRY: Duration = Duration::from_secs(3);

/// Who holds a client id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The id.
    pub client_id: ClientId,
    /// The service it is of.
    pub service: String,
    /// The queue groups that it is a member of.
    pub queue_groups: Vec<String>,
    /// The node that it runs on; empty when unknown.
    pub node: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// This one process, however it is called.
    process: Uuid,
}

impl Holder {
    /// The subject on which exactly this process says that it is alive.
    fn alive_subject(&self) -> String {
        format!("_CLIENT.{}.{}", self.client_id, self.process.simple())
    }
}

/// The id is another process's.
#[derive(Debug, thiserror::Error)]
#[error(
    "clientID already registered: {} is held by pod {} on node {} since {}{}",
    holder.client_id, holder.client_id,
    if holder.node.is_empty() { "(unknown)" } else { &holder.node },
    holder.since,
    if *silent { "; it does not answer, and its lease ends within 10 s" } else { "" }
)]
pub struct Registered {
    /// Who holds it.
    pub holder: Holder,
    /// It holds the lease but does not answer: frozen, or cut off.
    silent: bool,
}

/// A process's hold on its client id.
#[derive(Debug, Clone)]
pub struct Lease {
    bus: Bus,
    me: Holder,
    /// The revision of the lease as this process last wrote it; 0 before that.
    revision: watch::Sender<u64>,
}

impl Lease {
    /// Takes the lease, keeps it until the process stops, and ends the process if another has it.
    /// While NATS is away it goes on trying, and the process goes on without.
    ///
    /// # Errors
    /// [`Registered`] when another process lives under this id.
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
        let lease = Self { bus: bus.clone(), me, revision: watch::Sender::new(0) };
        lease.answer_for_life(shutdown).await?;
        let first = async {
            bus.connected().await;
            lease.renew().await
        };
        match timeout(FIRST_TRY, first).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is::<Registered>() => return Err(error),
            Ok(Err(error)) => warn!(error = format!("{error:#}"), "no lease on the client id yet"),
            Err(_) => warn!("NATS is away: no lease on the client id yet"),
        }
        let keeping = lease.clone();
        let stopping = shutdown.clone();
        shutdown.spawn("lease", async move {
            let mut tick = interval(RENEW);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut link = keeping.bus.link();
            loop {
                tokio::select! {
                    () = stopping.begun() => return Ok(()),
                    _ = tick.tick() => {}
                    Ok(()) = link.changed() => {}
                }
                if !link.borrow_and_update().up {
                    continue;
                }
                match keeping.renew().await {
                    Ok(()) => {}
                    Err(error) if error.is::<Registered>() => return Err(error),
                    Err(error) => debug!(error = format!("{error:#}"), "could not renew the lease"),
                }
            }
        });
        Ok(lease)
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

    /// Writes the lease: anew, or on. What is true is decided by compare-and-set alone; what was
    /// read in between may be stale.
    async fn renew(&self) -> anyhow::Result<()> {
        let bucket = self.bucket().await?;
        let (key, value) = (self.me.client_id.as_str(), serde_json::to_vec(&self.me)?);
        let mut revision = *self.revision.borrow();
        // Each round ends, or has learnt a newer revision; only another process's writes could
        // make it go round again.
        for _ in 0..4 {
            let written = if revision == 0 {
                match bucket.create(key, value.clone().into()).await {
                    Ok(revision) => Some(revision),
                    Err(error) if error.kind() == CreateErrorKind::AlreadyExists => None,
                    Err(error) => return Err(error.into()),
                }
            } else {
                match bucket.update(key, value.clone().into(), revision).await {
                    Ok(revision) => Some(revision),
                    Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => None,
                    Err(error) => return Err(error.into()),
                }
            };
            if let Some(written) = written {
                if self.revision.send_replace(written) == 0 {
                    info!(client.id = key, "holding the client id");
                }
                return Ok(());
            }
            revision = match bucket.entry(key).await? {
                // Expired or released, or the bucket was made anew.
                None => 0,
                Some(entry) if entry.value.is_empty() => 0,
                Some(entry) => {
                    let holder: Holder = serde_json::from_slice(&entry.value)?;
                    if holder.process != self.me.process {
                        self.is_dead(holder).await?;
                    }
                    entry.revision
                }
            };
        }
        bail!("the lease changes faster than it can be taken")
    }

    /// # Errors
    /// [`Registered`] unless the holder is known to be gone.
    async fn is_dead(&self, holder: Holder) -> anyhow::Result<()> {
        let request = async_nats::Request::new().timeout(Some(ALIVE_TIMEOUT));
        let answer = self.bus.client.send_request(holder.alive_subject(), request).await;
        match answer {
            Ok(_) => Err(Registered { holder, silent: false }.into()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                info!(client.id = %holder.client_id, since = %holder.since, "the holder of the client id is dead, replacing it");
                Ok(())
            }
            Err(error) if error.kind() == RequestErrorKind::TimedOut => {
                Err(Registered { holder, silent: true }.into())
            }
            Err(error) => Err(error.into()),
        }
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

/// Every process that holds a lease now, by its client id.
///
/// # Errors
/// When NATS does not answer.
pub async fn holders(bus: &Bus) -> anyhow::Result<BTreeMap<ClientId, Holder>> {
    let bucket = topology::bucket(&bus.jetstream, BUCKET, MAX_AGE, bus.replicas).await?;
    let mut keys = bucket.keys().await?;
    let mut holders = BTreeMap::new();
    while let Some(key) = keys.next().await {
        let Some(value) = bucket.get(key?).await? else { continue };
        let holder: Holder = serde_json::from_slice(&value)?;
        holders.insert(holder.client_id.clone(), holder);
    }
    Ok(holders)
}
