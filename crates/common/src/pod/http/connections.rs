//! The connections of a server: how many there are, what each waits for and until when, and which one
//! goes when there is no room for another.
//!
//! A connection is either *at work* (its request has come whole, and a handler has it), which is bounded
//! by the middleware and never cut short; or it *waits for its client*: for a request, the rest of one, or for
//! the answer to be taken. Whoever makes a server wait may be told to go. Those who never got on with it
//! go first, the oldest of them; connections that were kept alive between requests go last. So a client
//! that gets on with its request is served, however many others do not.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metrics::{counter, gauge};
use tokio::{sync::oneshot, time::Instant};

use super::phase::{Class, Deadlines, End, Phase};

/// The time that a client has before its connection may go to make room for another: it may have sent its
/// request already, and this process may be too busy to have seen it.
const FAIR: Duration = Duration::from_millis(250);
/// How many bytes of answers may wait for clients to take them, beyond what the kernel holds. About
/// seventy of the largest pages of tickets, or a thousand of the usual ones.
const MAX_UNSENT: usize = 8 * 1024 * 1024;

/// All connections of one server.
#[derive(Debug)]
pub(super) struct Connections {
    table: Mutex<Table>,
    max: usize,
    deadlines: Deadlines,
    closing: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<u64, Entry>,
    /// Those that wait for their clients: by class, and by when they began to.
    waiting: BTreeMap<(Class, u64), u64>,
    unsent: usize,
    last: u64,
}

#[derive(Debug)]
struct Entry {
    phase: Phase,
    /// Its place among those that began to wait.
    turn: u64,
    since: Instant,
    /// Bytes came while the request before was at work: the next one has begun already.
    early: bool,
    end: oneshot::Sender<End>,
}

impl Connections {
    pub(super) fn new(max: usize, deadlines: Deadlines) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), max, deadlines, closing: AtomicBool::new(false) })
    }

    /// Whether there is room for one more, if need be because another is ended for it. There will be in a
    /// moment otherwise.
    pub(super) fn has_room(&self) -> bool {
        let mut table = self.table();
        table.entries.len() < self.max || table.make_room(Instant::now())
    }

    /// Takes one more. Returns its place and what tells of its end.
    pub(super) fn admit(self: &Arc<Self>) -> (Place, oneshot::Receiver<End>) {
        let mut table = self.table();
        let (end, ended) = oneshot::channel();
        table.last += 1;
        let id = table.last;
        let since = Instant::now();
        let entry = Entry { phase: Phase::Fresh, turn: id, since, early: false, end };
        table.waiting.insert((Class::Unfinished, id), id);
        table.entries.insert(id, entry);
        gauge!("http_connections").set(count(table.entries.len()));
        let place = Place { id, answered: AtomicBool::new(false), connections: self.clone() };
        (place, ended)
    }

    /// Ends the one that can best be spared, because the process has no room for another.
    pub(super) fn make_room(&self) {
        self.table().make_room(Instant::now());
    }

    /// Ends those whose clients have let a deadline pass.
    pub(super) fn end_late(&self, now: Instant) {
        let deadlines = self.deadlines;
        self.table().end_where(
            |phase, since| {
                phase.limit(&deadlines).is_some_and(|limit| now.duration_since(since) >= limit)
            },
            |phase| End::Late { half_head: phase == Phase::Head },
        );
    }

    /// From now on every answer says that its connection is to be closed.
    pub(super) fn close_after_answers(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn close_after_answer(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Ends those on which nothing has come for this long, and nothing is under way.
    pub(super) fn end_idle(&self, quiet: Duration) {
        let now = Instant::now();
        self.table().end_where(
            |phase, since| {
                matches!(phase, Phase::Fresh | Phase::Idle) && now.duration_since(since) >= quiet
            },
            |_| End::Stop,
        );
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Ends the oldest of those whose clients are in the midst of something, or else of those that
    /// idle. `false` when there is none that had its time.
    fn make_room(&mut self, now: Instant) -> bool {
        let oldest = |class| {
            self.waiting
                .range((class, 0)..=(class, u64::MAX))
                .next()
                .map(|(&(_, turn), &id)| (turn, id))
        };
        let midst = [oldest(Class::Unfinished), oldest(Class::Unread)].into_iter().flatten().min();
        let idle = oldest(Class::Idle);
        let had_its_time = |&(_, id): &(u64, u64)| {
            self.entries.get(&id).is_some_and(|entry| now.duration_since(entry.since) >= FAIR)
        };
        // A flood of new ones soon has had its time. Nobody's kept connection should pay for that.
        let flooded = midst.is_some() && self.waiting.len() > 2 * self.idle();
        let spared = midst.filter(had_its_time);
        let spared = if flooded { spared } else { spared.or(idle.filter(had_its_time)) };
        let Some((_, id)) = spared else { return false };
        self.end(id, |phase| End::Room {
            half_request: matches!(phase, Phase::Head | Phase::Body),
        });
        true
    }

    /// How many idle, up to half of those that wait.
    fn idle(&self) -> usize {
        self.waiting.range((Class::Idle, 0)..).take(self.waiting.len() / 2 + 1).count()
    }

    fn end_where(&mut self, is_due: impl Fn(Phase, Instant) -> bool, why: impl Fn(Phase) -> End) {
        let due = self.entries.iter().filter(|(_, entry)| is_due(entry.phase, entry.since));
        let due: Vec<u64> = due.map(|(&id, _)| id).collect();
        for id in due {
            self.end(id, &why);
        }
    }

    fn end(&mut self, id: u64, why: impl Fn(Phase) -> End) {
        let Some(entry) = self.remove(id) else { return };
        let why = why(entry.phase);
        let reason = match why {
            End::Late { .. } if entry.phase == Phase::Closing => None,
            End::Late { .. } => Some("late"),
            End::Room { .. } => Some("room"),
            End::Stop => None,
        };
        if let Some(reason) = reason {
            counter!("http_connections_ended_total", "reason" => reason).increment(1);
        }
        // Nobody there: it ended by itself.
        let _ = entry.end.send(why);
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        if let Some(class) = entry.phase.class() {
            self.waiting.remove(&(class, entry.turn));
        }
        self.unsent -= entry.phase.unsent();
        gauge!("http_connections").set(count(self.entries.len()));
        Some(entry)
    }

    /// Moves a connection on. One that was ended has no place any more.
    fn enter(&mut self, id: u64, to: impl FnOnce(&mut Entry) -> Option<Phase>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let from = entry.phase;
        let Some(to) = to(entry) else { return };
        self.last += 1;
        let before = entry.turn;
        (entry.phase, entry.turn, entry.since) = (to, self.last, Instant::now());
        if let Some(class) = from.class() {
            self.waiting.remove(&(class, before));
        }
        if let Some(class) = to.class() {
            self.waiting.insert((class, self.last), id);
        }
        self.unsent = self.unsent + to.unsent() - from.unsent();
        while self.unsent > MAX_UNSENT {
            let unread = (Class::Unread, 0)..=(Class::Unread, u64::MAX);
            let Some((_, &oldest)) = self.waiting.range(unread).next() else { return };
            self.end(oldest, |_| End::Room { half_request: false });
        }
    }
}

/// One connection's place among all. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    /// The whole answer was handed over to be written.
    answered: AtomicBool,
    connections: Arc<Connections>,
}

impl Place {
    /// Bytes have come.
    pub(super) fn received(&self) {
        self.enter(|entry| match entry.phase {
            Phase::Fresh | Phase::Idle => Some(Phase::Head),
            Phase::AtWork | Phase::Answer(_) => {
                entry.early = true;
                None
            }
            Phase::Head | Phase::Body | Phase::Closing => None,
        });
    }

    /// A request's head has come.
    pub(super) fn begun(&self, has_body: bool) {
        self.answered.store(false, Ordering::Relaxed);
        self.enter(|entry| {
            entry.early = false;
            Some(if has_body { Phase::Body } else { Phase::AtWork })
        });
    }

    /// Its body has come, or nobody wants the rest.
    pub(super) fn complete(&self) {
        self.enter(|entry| (entry.phase == Phase::Body).then_some(Phase::AtWork));
    }

    /// There is an answer of so many bytes.
    pub(super) fn answering(&self, size: usize) {
        self.enter(|_| Some(Phase::Answer(size)));
    }

    /// All of the answer was handed over.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// What was handed over is written.
    pub(super) fn flushed(&self) {
        if self.answered.swap(false, Ordering::Relaxed) {
            self.enter(|entry| {
                let next = if entry.early { Phase::Head } else { Phase::Idle };
                matches!(entry.phase, Phase::Answer(_)).then_some(next)
            });
        }
    }

    /// This side is closed.
    pub(super) fn closing(&self) {
        self.enter(|entry| (entry.phase != Phase::Closing).then_some(Phase::Closing));
    }

    pub(super) fn close_after_answer(&self) -> bool {
        self.connections.close_after_answer()
    }

    fn enter(&self, to: impl FnOnce(&mut Entry) -> Option<Phase>) {
        self.connections.table().enter(self.id, to);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.table().remove(self.id);
    }
}

#[expect(clippy::cast_precision_loss, reason = "there are not that many connections")]
fn count(connections: usize) -> f64 {
    connections as f64
}
