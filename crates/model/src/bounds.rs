//! The limits of an exploration, and the mistakes put into the model.

/// A system to explore: what is written, and how many faults of each kind may happen.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// For each event, in log order, the transaction that writes it. Never decreases.
    pub writes: &'static [u8],
    /// Whether the transactions have committed when the exploration begins. Otherwise they begin in
    /// order, and commit or abort in any order.
    pub written_before: bool,
    /// How many events a page holds.
    pub page: usize,
    /// How often each fault may happen.
    pub faults: Faults,
    /// The mistakes put into the protocol; empty for the correct one.
    pub mistakes: &'static [Mistake],
}

impl Bounds {
    /// Returns whether the model contains this mistake.
    #[must_use]
    pub fn has(&self, mistake: Mistake) -> bool {
        self.mistakes.contains(&mistake)
    }
}

/// How often each fault may still happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A relay is killed.
    pub kill: u8,
    /// A relay is frozen: the server ends its session, and it wakes up later.
    pub freeze: u8,
    /// The answer to an atomic batch is lost, so nobody knows whether it was stored.
    pub unknown: u8,
    /// The duplicate window forgets an id.
    pub forget: u8,
    /// The stream loses its end.
    pub lose_tail: u8,
    /// The stream is lost and recreated.
    pub wipe: u8,
    /// All of the stream's messages are purged.
    pub purge: u8,
    /// One message is deleted.
    pub delete: u8,
    /// Another client publishes to the stream.
    pub others: u8,
    /// The members of the group die between their commits and their acks.
    pub members_die: u8,
}

/// A protocol mistake. Each loses an event or applies one twice, which the explorer must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// The cursor is a position in the log, not a snapshot.
    CursorByPlace,
    /// A range is recorded for the incarnation that the stream has after the ack, not for the one
    /// verified before the publish.
    RecordsALaterIncarnation,
    /// A relay whose session was ended commits nevertheless.
    CommitsWithoutTheLock,
    /// A loss is marked in a later transaction than the one that moves the cursor.
    MarksTheLossLater,
    /// An ack that reports a duplicate is trusted.
    BelievesDuplicates,
    /// The acks of events published one by one are trusted.
    BelievesSingleAcks,
    /// The first sequence is not compared.
    PassesOverPurges,
    /// The number of holes is not compared.
    PassesOverHoles,
    /// Only numbers are compared, not which message is at the last confirmed sequence.
    PassesOverTheIdentity,
    /// Lost events are republished under their original `Nats-Msg-Id`.
    RefillsUnderTheSameId,
    /// Lost events are republished under a `Nats-Msg-Id` made of the event and its range.
    RefillsUnderAnIdOfTheRange,
    /// A refill records the new range, and its end as the last confirmed, in two transactions.
    MovesTheRefillInTwo,
    /// The message at the last confirmed sequence is checked only by the periodic comparison, not
    /// after each page.
    ComparesNowAndThen,
    /// Everything above the stream's end or the ack is marked, instead of what is found missing.
    MarksByNumbers,
    /// The sequence that the groups have acknowledged is kept although the stream lost those
    /// messages.
    KeepsTheAcknowledged,
    /// The observed first sequence and holes are kept although the stream lost those messages.
    KeepsWhatWasRemoved,
    /// Acknowledgements count although the last confirmed message was not seen.
    CreditsAcksUnseen,
    /// After a loss, the stream's end counts as the last confirmed, whichever message is there.
    ForgetsTheLastConfirmed,
    /// A message is identified by its event, not by its publisher.
    KnowsMessagesByTheirEvent,
    /// What the groups have acknowledged is read after the stream's state.
    ReadsTheGroupsLast,
    /// The listener's transaction does not claim events in the inbox.
    NoInbox,
    /// A member acknowledges before it commits.
    AcksFirst,
    /// After the stream has restarted, a member acknowledges messages delivered before.
    AcksAfterARestart,
    /// A consumer stays where it was when the stream loses its end (nats-server before 2.14).
    ConsumerStaysAhead,
}
