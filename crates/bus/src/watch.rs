//! What is looked after while a process takes part in a queue group, or provides one: the group's
//! consumer, and the stream behind it.

use std::{convert::Infallible, time::Duration};

use tokio::time::sleep;
use tracing::debug;

use crate::{
    connection::Bus,
    event::{EventSet, Stream},
    listener::Listener,
    topology::{self, Group, Refusal, StreamState, TopologyError},
};

/// How often the group's consumer is looked after: what an operator edits is found within 10 s.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Whether a process has what it needs for its part in a queue group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet, and what it waits for.
    Waiting(String),
    /// It has had it once. That NATS is away later does not change what the process can answer.
    Ready,
}

/// A stream and a queue group, looked after.
pub(crate) struct Watch {
    bus: Bus,
    does: Does,
    stream: &'static Stream,
    group: Group,
    /// The stream is refused. What it holds can be taken all the same.
    stream_refused: Refusal,
    /// The group's consumer is refused, or missing.
    refused: Refusal,
}

/// What a process does about them.
enum Does {
    /// Makes both and sets both right: all services share one account.
    Both,
    /// Makes the group and sets it right. The stream is the publisher's.
    Group,
    /// Waits for the group, which is in another's account.
    Neither,
}

impl Watch {
    /// What a member looks after.
    pub(crate) fn of_member<L: Listener>(bus: Bus) -> Self {
        let imported = bus.imports(<L::Events as EventSet>::STREAM.name);
        Self::new::<L>(bus, if imported { Does::Neither } else { Does::Both })
    }

    /// What a provisioner looks after.
    pub(crate) fn of_provisioner<L: Listener>(bus: Bus) -> Self {
        Self::new::<L>(bus, Does::Group)
    }

    fn new<L: Listener>(bus: Bus, does: Does) -> Self {
        let stream = <L::Events as EventSet>::STREAM;
        let group = Group::new(L::QUEUE_GROUP, stream, <L::Events as EventSet>::SUBJECTS);
        let (stream_refused, refused) = (Refusal::of(stream.name), Refusal::of(L::QUEUE_GROUP));
        Self { bus, does, stream, group, stream_refused, refused }
    }

    /// Forgets what belongs to the connection before.
    pub(crate) fn forget(&mut self) {
        self.group.forget();
    }

    /// Takes note of a failure to look. Returns how soon to look again, if that is known.
    pub(crate) fn note(&mut self, failure: &anyhow::Error) -> Option<Duration> {
        self.refused.note(failure)
    }

    /// Sets right what an operator may have edited; or, where that is the provisioner's, sees whether it
    /// is there.
    pub(crate) async fn look(&mut self) -> anyhow::Result<()> {
        match self.does {
            Does::Neither => self.group.is_provided(&self.bus).await?,
            Does::Group => {
                let state = topology::look_at(&self.bus, self.stream).await?;
                self.group.make_sure(&self.bus, Some(state)).await?;
            }
            Does::Both => {
                let state = self.stream().await?;
                self.group.make_sure(&self.bus, state).await?;
            }
        }
        self.refused.end();
        Ok(())
    }

    /// `None` when the stream is refused.
    async fn stream(&mut self) -> anyhow::Result<Option<StreamState>> {
        match topology::stream(&self.bus, self.stream).await {
            Ok(state) => {
                self.stream_refused.end();
                Ok(Some(state))
            }
            Err(error @ TopologyError::Drift { .. }) => {
                self.stream_refused.note(&error.into());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Looks again and again. What is made anew ends the open pull by itself.
    pub(crate) async fn go_on(&mut self) -> Infallible {
        loop {
            sleep(LOOK_EVERY).await;
            if let Err(error) = self.look().await {
                debug!(error = format!("{error:#}"), "could not look after the queue group");
                self.note(&error);
            }
        }
    }
}
