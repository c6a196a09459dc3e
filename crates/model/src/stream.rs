//! The stream: it appends, remembers ids for a while, and may lose what it has.

use std::collections::BTreeMap;

use crate::log::Event;

/// A sequence of the stream, from 1.
pub type Sequence = u8;

/// A stored message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Message {
    /// Which event it carries. `None` is somebody else's.
    pub event: Option<Event>,
    /// Who published it: the number of a relay's session.
    pub by: u8,
}

/// A `Nats-Msg-Id`: an event, and for which time it goes out.
pub type MessageId = (Event, u8);

/// A publish ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ack {
    /// Where the message is, or was when its id was remembered.
    pub sequence: Sequence,
    /// Whether the stream remembered the id, and stored nothing.
    pub duplicate: bool,
}

/// A stream of JetStream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stream {
    /// Its creation time.
    pub created: u8,
    /// What it holds, from sequence 1 on. `None` was removed.
    messages: Vec<Option<Message>>,
    /// The duplicate window.
    window: BTreeMap<MessageId, Sequence>,
}

impl Stream {
    /// A new stream.
    #[must_use]
    pub fn new(created: u8) -> Self {
        Self { created, messages: Vec::new(), window: BTreeMap::new() }
    }

    /// The last sequence that was given out.
    #[must_use]
    pub fn last(&self) -> Sequence {
        u8::try_from(self.messages.len()).unwrap_or(Sequence::MAX)
    }

    /// The first sequence that holds a message, or the next one to be given out.
    #[must_use]
    pub fn first(&self) -> Sequence {
        let removed = self.messages.iter().take_while(|message| message.is_none()).count();
        u8::try_from(removed + 1).unwrap_or(Sequence::MAX)
    }

    /// The sequences above the first that hold nothing.
    #[must_use]
    pub fn holes(&self) -> Vec<Sequence> {
        (self.first()..=self.last()).filter(|sequence| self.at(*sequence).is_none()).collect()
    }

    /// The message at a sequence.
    #[must_use]
    pub fn at(&self, sequence: Sequence) -> Option<Message> {
        let index = usize::from(sequence).checked_sub(1)?;
        self.messages.get(index).copied().flatten()
    }

    /// All messages, with their sequences.
    pub fn messages(&self) -> impl Iterator<Item = (Sequence, Message)> {
        (1..).zip(&self.messages).filter_map(|(sequence, message)| Some((sequence, (*message)?)))
    }

    /// Stores a message, unless its id is remembered.
    pub fn publish(&mut self, message: Message, id: Option<MessageId>) -> Ack {
        if let Some(sequence) = id.and_then(|id| self.window.get(&id)) {
            return Ack { sequence: *sequence, duplicate: true };
        }
        self.messages.push(Some(message));
        let sequence = self.last();
        if let Some(id) = id {
            self.window.insert(id, sequence);
        }
        Ack { sequence, duplicate: false }
    }

    /// Whether an id is remembered.
    #[must_use]
    pub fn remembers(&self, id: MessageId) -> bool {
        self.window.contains_key(&id)
    }

    /// The ids that are remembered.
    pub fn window(&self) -> impl Iterator<Item = MessageId> {
        self.window.keys().copied()
    }

    /// The window forgets an id.
    pub fn forget(&mut self, id: MessageId) {
        self.window.remove(&id);
    }

    /// Loses what is above a sequence. The window may remember it all the same.
    pub fn lose_tail(&mut self, above: Sequence) {
        self.messages.truncate(usize::from(above));
    }

    /// Removes the message at a sequence. Its sequence is not given out again.
    pub fn delete(&mut self, sequence: Sequence) {
        if let Some(message) = self.messages.get_mut(usize::from(sequence) - 1) {
            *message = None;
        }
    }

    /// Removes all messages.
    pub fn purge(&mut self) {
        self.messages.fill(None);
    }
}
