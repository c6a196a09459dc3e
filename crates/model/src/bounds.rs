//! How far a model is explored, and which mistake is put into it.

/// A system to explore: what is written, and how many faults of each kind may befall it.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// For each event, in the log's order, the transaction that writes it. Never falls.
    pub writes: &'static [u8],
    /// Whether the transactions have committed when the exploration begins. Otherwise they begin in
    /// order, and commit or abort in any.
    pub written_before: bool,
    /// How many events a page holds.
    pub page: usize,
    /// How often each fault may happen.
    pub faults: Faults,
    /// What is done wrong. Nothing, in the protocol as it is.
    pub mistakes: &'static [Mistake],
}

impl Bounds {
    /// Whether this mistake is in the model.
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
    /// Nobody knows what came of an atomic batch: stored or not, its answer is lost.
    pub unknown: u8,
    /// The duplicate window forgets an id.
    pub forget: u8,
    /// The stream loses its end.
    pub lose_tail: u8,
    /// The stream is lost and made anew.
    pub wipe: u8,
    /// All of the stream's messages are purged.
    pub purge: u8,
    /// One message is deleted.
    pub delete: u8,
    /// Somebody else publishes to the stream.
    pub others: u8,
    /// The members of the group die between their commits and their acks.
    pub members_die: u8,
}

/// A way to do it wrong. Each loses an event or applies one twice, which the explorer must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// The cursor is a place in the log, not a snapshot.
    CursorByPlace,
    /// A range is recorded for the incarnation that the stream has after the ack, not for the one that
    /// was verified before the publish.
    RecordsALaterIncarnation,
    /// A relay whose session was ended commits all the same.
    CommitsWithoutTheLock,
    /// What was lost is marked in a transaction after the one that moves the cursor.
    MarksTheLossLater,
    /// An ack that calls an event a duplicate is believed.
    BelievesDuplicates,
    /// The acks of events that went out one by one are believed.
    BelievesSingleAcks,
    /// The first sequence is not compared.
    PassesOverPurges,
    /// The number of holes is not compared.
    PassesOverHoles,
    /// Only numbers are compared, not which message is at the last confirmed sequence.
    PassesOverTheIdentity,
    /// What was lost goes out with the `Nats-Msg-Id` that it had.
    RefillsUnderTheSameId,
    /// What was lost goes out with a `Nats-Msg-Id` of the event and its range.
    RefillsUnderAnIdOfTheRange,
    /// A refill records the new range, and its end as the last confirmed, in two transactions.
    MovesTheRefillInTwo,
    /// The message at the last confirmed sequence is looked at by the periodic comparison alone, not
    /// after each page.
    ComparesNowAndThen,
    /// What is marked is what lies above the stream's end or the ack, not what is found missing.
    MarksByNumbers,
    /// The sequence that the groups have acknowledged outlives the messages that it spoke of.
    KeepsTheAcknowledged,
    /// The first sequence and the holes that were seen outlive the messages that they spoke of.
    KeepsWhatWasRemoved,
    /// What the group has acknowledged counts although the last confirmed message was not seen.
    CreditsAcksUnseen,
    /// After a loss, the stream's end counts as the last confirmed, whichever message is there.
    ForgetsTheLastConfirmed,
    /// A message is known by its event, not by who published it.
    KnowsMessagesByTheirEvent,
    /// What the groups have acknowledged is read after the stream's state.
    ReadsTheGroupsLast,
    /// The listener's transaction claims nothing in the inbox.
    NoInbox,
    /// A member acknowledges before its commit.
    AcksFirst,
    /// A member acknowledges, after the stream has restarted, what it was given before.
    AcksAfterARestart,
    /// A consumer stays where it was when the stream loses its end (nats-server before 2.14).
    ConsumerStaysAhead,
}
