//! Messages in a member's hands, and the four things it can say about them.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Subject, jetstream};
use bytes::Bytes;
use tokio::time::Instant;
use tracing::debug;
use uuid::Uuid;

use crate::{connection::REQUEST_TIMEOUT, storable};

/// A message that the server has given to this member and wants to hear about.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) subject: Subject,
    pub(crate) reply: Subject,
    pub(crate) payload: Bytes,
    headers: Option<HeaderMap>,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    /// 1 the first time.
    pub(crate) delivery: i64,
    /// Since when it is in hand.
    pub(crate) since: Instant,
}

impl InFlight {
    /// `None` for what JetStream did not send.
    pub(crate) fn new(message: Message, context: &jetstream::Context) -> Option<Self> {
        let message = jetstream::Message { message, context: context.clone() };
        let info = message.info().ok()?;
        let (stream, sequence, delivery) =
            (info.stream.to_owned(), info.stream_sequence, info.delivered);
        let Message { subject, reply, payload, headers, .. } = message.message;
        Some(Self {
            subject,
            reply: reply?,
            payload,
            headers,
            stream,
            sequence,
            delivery,
            since: Instant::now(),
        })
    }

    /// Each header with its values, as text that Postgres can hold.
    pub(crate) fn headers_json(&self) -> serde_json::Value {
        let headers = self.headers.iter().flat_map(HeaderMap::iter).map(|(name, values)| {
            let values = values.iter().map(|value| storable(value.as_str()).into()).collect();
            (storable(name.as_ref()), serde_json::Value::Array(values))
        });
        serde_json::Value::Object(headers.collect())
    }

    /// An id for a message that has none of its own: the same for the same bytes by the same subject,
    /// wherever in whatever stream they are.
    pub(crate) fn id_of_bytes(&self) -> Uuid {
        let name = [self.subject.as_bytes(), b"\0", &*self.payload].concat();
        Uuid::new_v5(&Uuid::NAMESPACE_OID, &name)
    }
}

/// Acknowledges messages and waits until the server has confirmed it.
///
/// The server reads one connection's acks in the order in which they were sent, so its answer to
/// the last one speaks for all of them. Had it ever missed an earlier one, that event would come
/// again and find itself in the inbox.
pub(crate) async fn acknowledge(client: &Client, replies: &[Subject]) -> anyhow::Result<()> {
    let Some((last, others)) = replies.split_last() else { return Ok(()) };
    for reply in others {
        client.publish(reply.clone(), Bytes::from_static(b"+ACK")).await?;
    }
    // A request, and not the library's double ack: that takes "no responders" for a yes.
    client.request(last.clone(), Bytes::from_static(b"+ACK")).await?;
    Ok(())
}

/// Tells the server never to deliver messages again, and why, and waits as [`acknowledge`] does.
pub(crate) async fn terminate(client: &Client, messages: &[(Subject, &str)]) -> anyhow::Result<()> {
    let Some(((last, why), others)) = messages.split_last() else { return Ok(()) };
    for (reply, why) in others {
        client.publish(reply.clone(), termination(why)).await?;
    }
    client.request(last.clone(), termination(why)).await?;
    Ok(())
}

fn termination(why: &str) -> Bytes {
    // One line: the server takes the rest of the line as the reason.
    let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    format!("+TERM {why}").into()
}

/// Gives a message back, to be delivered again to whoever asks after `delay`.
pub(crate) async fn give_back(client: &Client, reply: &Subject, delay: Duration) {
    let nak = if delay.is_zero() {
        Bytes::from_static(b"-NAK")
    } else {
        format!(r#"-NAK {{"delay":{}}}"#, delay.as_nanos()).into()
    };
    // Unsent, the ack wait does the same more slowly.
    if let Err(error) = client.publish(reply.clone(), nak).await {
        debug!(%error, "could not give an event back");
    }
}

/// Tells the server that messages are still being worked on. Bounded, because it must never keep
/// the work itself waiting.
pub(crate) async fn still_working(client: &Client, replies: impl Iterator<Item = &Subject>) {
    let say = async {
        for reply in replies {
            let _ = client.publish(reply.clone(), Bytes::from_static(b"+WPI")).await;
        }
    };
    let _ = tokio::time::timeout(REQUEST_TIMEOUT, say).await;
}
