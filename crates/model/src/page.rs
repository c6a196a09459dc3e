//! A page of events. A relay takes a page of the log, publishes it, checks what the stream holds,
//! and moves the cursor in one transaction. Each function is one step; anything may happen between
//! two.

use std::fmt;

use crate::{
    bounds::{Bounds, Mistake},
    ledger::{Ledger, Range},
    log::{self, Event, Span, Transaction},
    relay::Relay,
    stream::{Ack, Message, MessageId, Sequence, Stream},
};

/// A page of events that is being published.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Page {
    /// The range that is being republished. `None`: the events are new.
    again: Option<u8>,
    events: Vec<Event>,
    span: Span,
    full: bool,
    /// The creation time as verified before the publish.
    created: u8,
    /// The relay's session.
    by: u8,
    /// Whether the events are published one by one.
    single: bool,
    acks: Vec<Ack>,
}

/// The result of the acks and of a check of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Findings {
    first: Sequence,
    last: Sequence,
    last_message: Message,
    /// Some event is not where it was stored.
    incomplete: bool,
    /// The stream has lost its end.
    truncated: bool,
    /// The ranges that are missing.
    lost: Vec<u8>,
}

/// The source of a page.
#[derive(Debug)]
pub struct Source<'a> {
    /// The bounds of the model.
    pub bounds: &'a Bounds,
    /// The log's transactions.
    pub transactions: &'a [Transaction],
    /// The creation time that the relay verified.
    pub created: u8,
    /// The relay's session.
    pub by: u8,
}

impl Source<'_> {
    /// Takes the next page of new events. At the end of a snapshot there is none, and the cursor
    /// simply advances.
    pub fn take_new(&self, ledger: &mut Ledger) -> Option<Page> {
        let cursor = &mut ledger.cursor;
        let now = log::snapshot(self.transactions);
        let span = Span {
            done: cursor.done,
            target: cursor.target.unwrap_or(now),
            from: cursor.at,
            to: Event::MAX,
        };
        let page = self.page(None, span);
        if page.is_none()
            && let Some(target) = cursor.target.take()
        {
            (cursor.done, cursor.at) = (target, 0);
        }
        page
    }

    /// Takes a page of the oldest lost range.
    pub fn take_lost(&self, ledger: &mut Ledger) -> Option<Page> {
        let lost = ledger.ranges.iter().filter(|range| range.lost).min_by_key(|r| r.number)?;
        let (number, span) = (lost.number, lost.span);
        let page = self.page(Some(number), span);
        if page.is_none() {
            ledger.ranges.retain(|range| range.number != number);
        }
        page
    }

    fn page(&self, again: Option<u8>, span: Span) -> Option<Page> {
        let (events, full) = log::page(self.bounds, self.transactions, span);
        let (created, by) = (self.created, self.by);
        (!events.is_empty()).then(|| Page {
            again,
            events,
            span,
            full,
            created,
            by,
            single: false,
            acks: Vec::new(),
        })
    }
}

impl Page {
    fn id(&self, bounds: &Bounds, event: Event) -> Option<MessageId> {
        match self.again {
            None => Some((event, 0)),
            Some(_) if bounds.has(Mistake::RefillsUnderTheSameId) => Some((event, 0)),
            Some(range) if bounds.has(Mistake::RefillsUnderAnIdOfTheRange) => {
                Some((event, range + 1))
            }
            Some(_) => None,
        }
    }

    /// Returns whether the next step is an atomic batch. A batch with a remembered id is rejected.
    fn is_batch(&self, bounds: &Bounds, stream: &Stream) -> bool {
        let remembered =
            |event: &Event| self.id(bounds, *event).is_some_and(|id| stream.remembers(id));
        !self.single && self.events.len() > 1 && !self.events.iter().any(remembered)
    }

    fn store(&self, bounds: &Bounds, stream: &mut Stream, events: &[Event]) -> Vec<Ack> {
        let message = |event: &Event| Message { event: Some(*event), by: self.by };
        events.iter().map(|event| stream.publish(message(event), self.id(bounds, *event))).collect()
    }

    /// Publishes all events as a batch, or the next one. Returns `true` when all are acknowledged.
    pub fn publish(&mut self, bounds: &Bounds, stream: &mut Stream) -> bool {
        let next = if self.is_batch(bounds, stream) {
            0..self.events.len()
        } else {
            self.single = true;
            self.acks.len()..self.acks.len() + 1
        };
        let acks = self.store(bounds, stream, &self.events[next]);
        self.acks.extend(acks);
        self.acks.len() == self.events.len()
    }

    /// Publishes a batch whose outcome is unknown. The events are published again, one by one.
    /// Returns `false` if it is not a batch.
    pub fn publish_unknown(&mut self, bounds: &Bounds, stream: &mut Stream, stored: bool) -> bool {
        if !self.is_batch(bounds, stream) {
            return false;
        }
        if stored {
            self.store(bounds, stream, &self.events);
        }
        self.single = true;
        true
    }

    /// After the acks, before the commit: is each event where it was stored, and is the last
    /// confirmed message where it was? A later loss of the stream includes this page, and the next
    /// check finds it.
    pub fn look(&self, bounds: &Bounds, ledger: &Ledger, stream: &Stream) -> Findings {
        let same_incarnation = ledger.cursor.created == Some(self.created);
        let one_by_one = self.single && self.events.len() > 1;
        let (mut incomplete, mut truncated, mut stored) = (false, false, Vec::new());
        for (event, ack) in self.events.iter().zip(&self.acks) {
            let mut message = Message { event: Some(*event), by: self.by };
            let there = stream.at(ack.sequence).filter(|there| there.event == message.event);
            if ack.duplicate {
                incomplete |= there.is_none() && !bounds.has(Mistake::BelievesDuplicates);
                message = there.unwrap_or(message);
            } else {
                truncated |= same_incarnation && ack.sequence <= ledger.cursor.last;
                // Between two single messages, the stream may lose the first. It has all of a
                // batch.
                incomplete |= one_by_one
                    && there != Some(message)
                    && !bounds.has(Mistake::BelievesSingleAcks);
            }
            stored.push((ack.sequence, message));
        }
        if !bounds.has(Mistake::ComparesNowAndThen) {
            truncated |= same_incarnation && !ledger.holds_last(bounds, stream);
        }
        stored.sort_by_key(|(sequence, _)| *sequence);
        let (first, (last, last_message)) = (stored[0].0, stored[stored.len() - 1]);
        let lost = if !truncated {
            Vec::new()
        } else if bounds.has(Mistake::MarksByNumbers) {
            let above = |range: &&Range| range.created == self.created && range.last >= first;
            ledger.ranges.iter().filter(above).map(|range| range.number).collect()
        } else {
            ledger.missing(bounds, stream, self.created, stream.last())
        };
        Findings { first, last, last_message, incomplete, truncated, lost }
    }

    /// The single transaction after the acks: moves the cursor, records the range, and marks what
    /// the stream has lost. Returns what the relay does next.
    pub fn commit(
        self,
        bounds: &Bounds,
        ledger: &mut Ledger,
        found: Findings,
        created_now: u8,
    ) -> Relay {
        let verified = self.created;
        let created =
            if bounds.has(Mistake::RecordsALaterIncarnation) { created_now } else { verified };
        let end = self.events.last().map_or(self.span.from, |event| event + 1);
        let to = if self.full { end } else { self.span.to };
        let range = Range {
            number: ledger.next_number(),
            created,
            first: found.first,
            last: found.last,
            last_message: found.last_message,
            span: Span { to, ..self.span },
            lost: found.incomplete,
        };
        self.move_on(bounds, ledger, end);
        ledger.ranges.push(range);
        let cursor = &mut ledger.cursor;
        cursor.created = Some(created);
        // The sequences of this page were empty when it was published.
        if !bounds.has(Mistake::KeepsTheAcknowledged) {
            cursor.acknowledged = cursor.acknowledged.min(found.first - 1);
        }
        if !bounds.has(Mistake::KeepsWhatWasRemoved) {
            cursor.first = cursor.first.min(found.first);
            cursor.holes = cursor.holes.filter(|_| !found.truncated);
        }
        let later = Relay::WritesLater { created: verified, lost: found.lost.clone() };
        if bounds.has(Mistake::MarksTheLossLater) {
            if found.truncated || found.last > cursor.last {
                (cursor.last, cursor.last_message) = (found.last, Some(found.last_message));
            }
            return later;
        }
        ledger.mark(&found.lost);
        if bounds.has(Mistake::MovesTheRefillInTwo) && self.again.is_some() {
            return later;
        }
        ledger.set_last();
        Relay::Ready { created: verified }
    }

    /// Moves the cursor past a new page, or the lost range past a republished one.
    fn move_on(&self, bounds: &Bounds, ledger: &mut Ledger, end: Event) {
        let cursor = &mut ledger.cursor;
        match self.again {
            Some(number) if self.full => {
                let lost = ledger.ranges.iter_mut().filter(|range| range.number == number);
                lost.for_each(|range| range.span.from = end);
            }
            Some(number) => ledger.ranges.retain(|range| range.number != number),
            None if bounds.has(Mistake::CursorByPlace) => cursor.at = end,
            None if self.full => (cursor.target, cursor.at) = (Some(self.span.target), end),
            None => (cursor.done, cursor.target, cursor.at) = (self.span.target, None, 0),
        }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = if self.again.is_some() { "again " } else { "" };
        write!(f, "{again}events {:?}", self.events)?;
        let sequences: Vec<Sequence> = self.acks.iter().map(|ack| ack.sequence).collect();
        if sequences.is_empty() { Ok(()) } else { write!(f, " at {sequences:?}") }
    }
}
