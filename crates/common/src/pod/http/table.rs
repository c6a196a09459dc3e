//! The phase of every connection of a server, and the memory that each holds.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use metrics::{counter, gauge};
use tokio::{sync::oneshot, time::Instant};

use super::phase::{Class, End, Phase};

/// How long a client has before its connection may be closed to make room: its request may have
/// arrived already while this process was too busy to read it.
const MIN_TIME: Duration = Duration::from_millis(250);
/// How many bytes of incomplete requests and unread answers all clients together may keep in
/// memory. Enough for about a hundred and thirty connections in the middle of a small request or
/// answer.
const MAX_HELD: usize = 8 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<u64, Entry>,
    /// Connections that wait for their clients, by class and by when the wait began.
    waiting: BTreeMap<(Class, u64), u64>,
    /// How many bytes the waiting connections hold.
    held: usize,
    last: u64,
}

#[derive(Debug)]
struct Entry {
    phase: Phase,
    /// Its position in the order in which waits began.
    turn: u64,
    since: Instant,
    held: usize,
    end: oneshot::Sender<End>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a connection. Returns its id and the channel that reports its end.
    pub(super) fn admit(&mut self) -> (u64, oneshot::Receiver<End>) {
        let (end, ended) = oneshot::channel();
        self.last += 1;
        let id = self.last;
        let entry = Entry { phase: Phase::Fresh, turn: id, since: Instant::now(), held: 0, end };
        self.waiting.insert((Class::Silent, id), id);
        self.entries.insert(id, entry);
        gauge!("http_connections").set(count(self.entries.len()));
        (id, ended)
    }

    /// Ends the oldest connection in the middle of an exchange, or else the oldest idle one.
    /// Returns `false` if none has had its minimum time yet.
    pub(super) fn make_room(&mut self, now: Instant) -> bool {
        let midst = self.oldest(&[Class::Silent, Class::Unfinished, Class::Unread]);
        let idle = self.oldest(&[Class::Idle]);
        let had_its_time = |id: &u64| {
            self.entries.get(id).is_some_and(|entry| now.duration_since(entry.since) >= MIN_TIME)
        };
        // During a flood, new connections soon have had their minimum time. Kept-alive connections
        // should not pay for that.
        let flooded = midst.is_some() && self.waiting.len() > 2 * self.idle();
        let spared = midst.filter(had_its_time);
        let spared = if flooded { spared } else { spared.or(idle.filter(had_its_time)) };
        let Some(id) = spared else { return false };
        self.end(id, room);
        true
    }

    fn oldest(&self, of: &[Class]) -> Option<u64> {
        let first = |&class| self.waiting.range((class, 0)..=(class, u64::MAX)).next();
        let oldest = of.iter().filter_map(first).min_by_key(|((_, turn), _)| *turn);
        oldest.map(|(_, &id)| id)
    }

    /// Counts idle connections, up to half of the waiting ones.
    fn idle(&self) -> usize {
        self.waiting.range((Class::Idle, 0)..).take(self.waiting.len() / 2 + 1).count()
    }

    pub(super) fn end_where(
        &mut self,
        is_due: impl Fn(Phase, Instant) -> bool,
        why: impl Fn(Phase) -> End,
    ) {
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
        // Nobody receives it if the connection has ended on its own.
        let _ = entry.end.send(why);
    }

    /// Removes a connection that has ended on its own.
    pub(super) fn leave(&mut self, id: u64) {
        self.remove(id);
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        if let Some(class) = entry.phase.class() {
            self.waiting.remove(&(class, entry.turn));
        }
        self.held -= entry.held;
        gauge!("http_connections").set(count(self.entries.len()));
        Some(entry)
    }

    /// Moves a connection to a phase in which it holds this many bytes. Does nothing if the
    /// connection was ended.
    pub(super) fn enter(&mut self, id: u64, to: impl FnOnce(Phase) -> Option<(Phase, usize)>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let from = entry.phase;
        let Some((to, held)) = to(from) else { return };
        self.last += 1;
        let before = entry.turn;
        (entry.phase, entry.turn, entry.since) = (to, self.last, Instant::now());
        if let Some(class) = from.class() {
            self.waiting.remove(&(class, before));
        }
        if let Some(class) = to.class() {
            self.waiting.insert((class, self.last), id);
        }
        self.hold(id, held);
    }

    /// Records how many bytes a waiting connection holds. If all of them hold too much, ends the
    /// oldest ones.
    pub(super) fn hold(&mut self, id: u64, bytes: usize) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        self.held = self.held - entry.held + bytes;
        entry.held = bytes;
        while self.held > MAX_HELD {
            let Some(oldest) = self.oldest(&[Class::Unfinished, Class::Unread]) else { return };
            self.end(oldest, room);
        }
    }
}

fn room(phase: Phase) -> End {
    End::Room { half_request: matches!(phase, Phase::Head | Phase::Body) }
}

#[expect(clippy::cast_precision_loss, reason = "there are not that many connections")]
fn count(connections: usize) -> f64 {
    connections as f64
}
