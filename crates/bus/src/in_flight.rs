//! Messages delivered to this member, and the four answers it can give: ack, nak, term, in progress.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, PublishError, RequestError, Subject, jetstream};
use bytes::Bytes;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};
use tracing::debug;
use uuid::Uuid;

use crate::{connection::REQUEST_TIMEOUT, text::storable};

/// A message that the server delivered to this member and expects an answer to.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) subject: Subject,
    pub(crate) payload: Bytes,
    headers: Option<HeaderMap>,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    /// How often it was delivered, this time included.
    pub(crate) delivery: i64,
    /// How many more events the group had waiting when the server sent it.
    pub(crate) pending: u64,
    /// When it arrived, by this member's clock. See also [`ReplyHandle::since`].
    pub(crate) delivered_at: OffsetDateTime,
    /// What is needed to report progress on it and to answer it.
    pub(crate) in_hand: ReplyHandle,
}

/// The data needed to report progress on a message. It outlives the message's own work.
#[derive(Debug, Clone)]
pub(crate) struct ReplyHandle {
    pub(crate) reply: Subject,
    /// When it arrived.
    pub(crate) since: Instant,
    answered: Arc<AtomicBool>,
}

impl ReplyHandle {
    /// Whether it was answered, or is about to be. After that, progress must not be reported: to the server, a
    /// returned message would be in progress again.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }
}

impl InFlight {
    /// `None` if the message is not from JetStream.
    pub(crate) fn new(message: Message, context: &jetstream::Context) -> Option<Self> {
        let message = jetstream::Message { message, context: context.clone() };
        let info = message.info().ok()?;
        let (sequence, delivery, pending) = (info.stream_sequence, info.delivered, info.pending);
        let stream = info.stream.to_owned();
        let Message { subject, reply, payload, headers, .. } = message.message;
        Some(Self {
            subject,
            in_hand: ReplyHandle { reply: reply?, since: Instant::now(), answered: Arc::default() },
            payload,
            headers,
            stream,
            sequence,
            delivery,
            pending,
            delivered_at: OffsetDateTime::now_utc(),
        })
    }

    /// Notes that it is about to be answered.
    pub(crate) fn answering(&self) {
        self.in_hand.answered.store(true, Ordering::Relaxed);
    }

    /// Each header with its values, as text that Postgres can store.
    pub(crate) fn headers_json(&self) -> serde_json::Value {
        let headers = self.headers.iter().flat_map(HeaderMap::iter).map(|(name, values)| {
            let values = values.iter().map(|value| storable(value.as_str()).into()).collect();
            (storable(name.as_ref()), serde_json::Value::Array(values))
        });
        serde_json::Value::Object(headers.collect())
    }

    /// An id made of the subject and the bytes, for a message without a usable id of its own.
    pub(crate) fn id_of_bytes(&self) -> Uuid {
        let name = [self.subject.as_bytes(), b"\0", &*self.payload].concat();
        Uuid::new_v5(&Uuid::NAMESPACE_OID, &name)
    }
}

/// Whether the server left the payload out, because somebody set the consumer to headers only. A member
/// corrects that within seconds; until then such a message is not an unreadable event.
pub(crate) fn is_bare(message: &Message) -> bool {
    let size = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Size"));
    message.payload.is_empty() && size.is_some_and(|size| size.as_str() != "0")
}

/// Why the server did not confirm an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// The client could not send.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The server did not confirm.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The client's queue was full for too long.
    #[error("the client did not take the answer in time")]
    Stuck,
    /// Acks must not be sent on a later connection.
    #[error("the connection that delivered them is gone")]
    Disconnected,
}

/// Acknowledges messages and waits for the server's confirmation.
///
/// The server reads the acks of one connection in order, so its answer to the last one confirms all of
/// them. If it missed an earlier one, that event is redelivered, and the inbox recognizes it.
pub(crate) async fn acknowledge(client: &Client, replies: &[Subject]) -> Result<(), AnswerError> {
    let Some((last, others)) = replies.split_last() else { return Ok(()) };
    bounded(async {
        for reply in others {
            client.publish(reply.clone(), Bytes::from_static(b"+ACK")).await?;
        }
        // A request, not the library's double ack, which treats "no responders" as success.
        client.request(last.clone(), Bytes::from_static(b"+ACK")).await?;
        Ok(())
    })
    .await
}

/// Tells the server never to redeliver messages, with the reason, and waits as [`acknowledge`] does.
pub(crate) async fn terminate(
    client: &Client,
    messages: &[(Subject, &str)],
) -> Result<(), AnswerError> {
    let Some(((last, why), others)) = messages.split_last() else { return Ok(()) };
    bounded(async {
        for (reply, why) in others {
            client.publish(reply.clone(), termination(why)).await?;
        }
        client.request(last.clone(), termination(why)).await?;
        Ok(())
    })
    .await
}

/// Limits the time to send answers and to have them confirmed. The client's queue may be full: nobody reads it
/// while there is no connection.
async fn bounded(
    answers: impl Future<Output = Result<(), AnswerError>>,
) -> Result<(), AnswerError> {
    timeout(2 * REQUEST_TIMEOUT, answers).await.unwrap_or(Err(AnswerError::Stuck))
}

fn termination(why: &str) -> Bytes {
    // One line: the server reads the rest of the line as the reason.
    let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    format!("+TERM {why}").into()
}

/// Asks the server to redeliver a message after `delay`, to any member.
pub(crate) async fn nak(client: &Client, reply: &Subject, delay: Duration) {
    let nak = if delay.is_zero() {
        Bytes::from_static(b"-NAK")
    } else {
        format!(r#"-NAK {{"delay":{}}}"#, delay.as_nanos()).into()
    };
    // If it is not sent, the event is redelivered after the ack wait.
    match timeout(REQUEST_TIMEOUT, client.publish(reply.clone(), nak)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "could not return an event"),
        Err(_) => debug!("could not return an event in time"),
    }
}

/// Asks the server to redeliver messages at once, to any member.
pub(crate) async fn nak_all(client: &Client, replies: &[Subject]) {
    let all = async {
        for reply in replies {
            nak(client, reply, Duration::ZERO).await;
        }
    };
    // Those not returned in time are redelivered after the ack wait.
    let _ = timeout(2 * REQUEST_TIMEOUT, all).await;
}

/// Tells the server that messages are still being processed. Bounded, so that it never delays the
/// processing itself.
pub(crate) async fn in_progress(client: &Client, replies: impl Iterator<Item = &Subject>) {
    let say = async {
        for reply in replies {
            let _ = client.publish(reply.clone(), Bytes::from_static(b"+WPI")).await;
        }
    };
    let _ = timeout(REQUEST_TIMEOUT, say).await;
}
