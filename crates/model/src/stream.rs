//! The stream: it appends, remembers ids for a while, and may lose messages.

use std::collections::BTreeMap;

use crate::log::Event;

/// A sequence of the stream, from 1.
pub type Sequence = u8;

/// A stored message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Message {
    /// The event that it carries. `None`: another client's message.
    pub event: Option<Event>,
    /// Its publisher: the number of a relay's session.
    pub by: u8,
}

/// A `Nats-Msg-Id`: an event, and the number of its publication.
pub type MessageId = (Event, u8);

/// A publish ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ack {
    /// The message's sequence, or the sequence it had when its id was remembered.
    pub sequence: Sequence,
    /// Whether the stream remembered the id and stored nothing.
    pub duplicate: bool,
}

/// A JetStream stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stream {
    /// Its creation time.
    pub created: u8,
    /// Its messages, from sequence 1 on. `None`: removed.
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

    /// Returns the last assigned sequence.
    #[must_use]
    pub fn last(&self) -> Sequence {
        u8::try_from(self.messages.len()).unwrap_or(Sequence::MAX)
    }

    /// Returns the first sequence that holds a message, or the next one to be assigned.
    #[must_use]
    pub fn first(&self) -> Sequence {
        let removed = self.messages.iter().take_while(|message| message.is_none()).count();
        u8::try_from(removed + 1).unwrap_or(Sequence::MAX)
    }

    /// Returns the sequences above the first that hold nothing.
    #[must_use]
    pub fn holes(&self) -> Vec<Sequence> {
        (self.first()..=self.last()).filter(|sequence| self.at(*sequence).is_none()).collect()
    }

    /// Returns the message at a sequence.
    #[must_use]
    pub fn at(&self, sequence: Sequence) -> Option<Message> {
        let index = usize::from(sequence).checked_sub(1)?;
        self.messages.get(index).copied().flatten()
    }

    /// Returns all messages, with their sequences.
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

    /// Returns whether an id is remembered.
    #[must_use]
    pub fn remembers(&self, id: MessageId) -> bool {
        self.window.contains_key(&id)
    }

    /// Returns the remembered ids.
    pub fn window(&self) -> impl Iterator<Item = MessageId> {
        self.window.keys().copied()
    }

    /// Makes the window forget an id.
    pub fn forget(&mut self, id: MessageId) {
        self.window.remove(&id);
    }

    /// Loses everything above a sequence. The window may still remember it.
    pub fn lose_tail(&mut self, above: Sequence) {
        self.messages.truncate(usize::from(above));
    }

    /// Removes the message at a sequence. The sequence is not assigned again.
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
