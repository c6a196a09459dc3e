//! Keeps a queue group's consumer and its stream correct, while a process takes part in the group
//! or provides it.

use std::{convert::Infallible, time::Duration};

use tokio::{sync::watch, time::sleep};
use tracing::debug;

use crate::{
    connection::Bus,
    event::{EventSet, Stream},
    listener::Listener,
    topology::{self, Group, Refusal, StreamState, TopologyError},
};

/// How often a member checks its group's consumer: an edit is found within 10 s.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// Whether a process has joined, or provided, its queue group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet, with what it waits for.
    Waiting(String),
    /// It has, at least once. A later outage of NATS does not change it: the process can still answer
    /// requests.
    Ready,
}

impl Readiness {
    /// Publishes what a process waits for, unless it has been ready or is known to wait for that.
    pub(crate) fn waits_for(sender: &watch::Sender<Self>, what: String) {
        sender.send_if_modified(|now| {
            let what = Self::Waiting(what);
            let news = *now != Self::Ready && *now != what;
            if news {
                *now = what;
            }
            news
        });
    }
}

/// A queue group and its stream, checked again and again.
pub(crate) struct Watch {
    bus: Bus,
    duty: Duty,
    stream: &'static Stream,
    group: Group,
    /// Reports that the stream is unusable. The events that it holds can still be consumed.
    stream_refusal: Refusal,
    /// Reports that the group's consumer is unusable or missing.
    refusal: Refusal,
}

/// The objects that a process creates and corrects.
enum Duty {
    /// The stream and the group: all services share one account.
    Both,
    /// Only the group. The stream belongs to its publisher.
    Group,
    /// Neither: it waits for the group, which is in another account.
    Neither,
}

impl Watch {
    /// The watch of a member.
    pub(crate) fn of_member<L: Listener>(bus: Bus) -> Self {
        let imported = bus.imports(<L::Events as EventSet>::STREAM.name);
        Self::new::<L>(bus, if imported { Duty::Neither } else { Duty::Both })
    }

    /// The watch of a provisioner.
    pub(crate) fn of_provisioner<L: Listener>(bus: Bus) -> Self {
        Self::new::<L>(bus, Duty::Group)
    }

    fn new<L: Listener>(bus: Bus, duty: Duty) -> Self {
        let stream = <L::Events as EventSet>::STREAM;
        let group = Group::new(L::QUEUE_GROUP, stream, <L::Events as EventSet>::SUBJECTS);
        let (stream_refusal, refusal) = (Refusal::of(stream.name), Refusal::of(L::QUEUE_GROUP));
        Self { bus, duty, stream, group, stream_refusal, refusal }
    }

    /// Forgets what belongs to the previous connection.
    pub(crate) fn forget(&mut self) {
        self.group.forget();
    }

    /// Reports a failed check. Returns how soon to check again, if it must not be sooner.
    pub(crate) fn report(&mut self, failure: &TopologyError) -> Option<Duration> {
        self.refusal.report(failure)
    }

    /// Corrects what an operator may have edited. If that is the provisioner's duty, checks that the group
    /// exists.
    pub(crate) async fn check(&mut self) -> Result<(), TopologyError> {
        match self.duty {
            Duty::Neither => self.group.is_provided(&self.bus).await?,
            Duty::Group => {
                let state = topology::look_at(&self.bus, self.stream).await?;
                self.group.ensure(&self.bus, Some(state)).await?;
            }
            Duty::Both => {
                let state = self.stream().await?;
                self.group.ensure(&self.bus, state).await?;
            }
        }
        self.refusal.end();
        Ok(())
    }

    /// `None` if the stream is unusable.
    async fn stream(&mut self) -> Result<Option<StreamState>, TopologyError> {
        match topology::stream(&self.bus, self.stream).await {
            Ok(state) => {
                self.stream_refusal.end();
                Ok(Some(state))
            }
            Err(error @ TopologyError::Drift { .. }) => {
                self.stream_refusal.report(&error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Checks forever. Recreating the consumer also ends the open pull.
    pub(crate) async fn keep_checking(&mut self) -> Infallible {
        loop {
            sleep(CHECK_EVERY).await;
            if let Err(error) = self.check().await {
                debug!(%error, "could not check the queue group");
                self.report(&error);
            }
        }
    }
}
