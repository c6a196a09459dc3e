//! The state of each process, as the panel shows it. An outage is reported once when it begins and once when
//! it ends.

use std::{collections::BTreeMap, time::Duration};

use console::{Color, Style, measure_text_width};
use ticketing_console::sources::replicas::State;
use tokio::time::Instant;

use super::names::SERVERS;
use crate::status::name_of;

/// How long a process must not answer before a line reports it; its row shows it at once. On a busy machine
/// an answer may be a second or two late, which is not an outage.
const REPORT_SILENCE_AFTER: Duration = Duration::from_secs(3);
/// How long a process must not be ready, although the servers are, before a line reports it. Also how long after
/// an outage of a server the complaints of processes are still attributed to it.
const REPORT_NOT_READY_AFTER: Duration = Duration::from_secs(4);
const COLORS: [Color; 6] =
    [Color::Cyan, Color::Magenta, Color::Yellow, Color::Blue, Color::Green, Color::Red];

/// A process's row in the panel.
#[derive(Debug)]
pub(super) struct Row {
    style: Style,
    life: Life,
    seen: Option<Seen>,
    pub(super) events: u64,
}

/// What the supervisor knows about the process.
#[derive(Debug)]
enum Life {
    /// Not up yet, or down, for this reason.
    Not(String),
    /// Running: its address and process id.
    Runs(String),
}

/// The last observation of a running process.
#[derive(Debug)]
struct Seen {
    state: State,
    why: String,
    detail: String,
    /// When it became ready, or not ready.
    since: Instant,
    /// Whether its outage has been reported.
    reported: bool,
}

/// One observation of a process.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) name: String,
    pub(super) state: State,
    pub(super) why: String,
    /// Additional information.
    pub(super) detail: String,
}

/// All rows, by name.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: BTreeMap<String, Row>,
    /// When a server was last seen not ready.
    server_out: Option<Instant>,
    /// Processes' reports of an outage, held until it is known whether a server's outage explains them.
    held: Vec<(Instant, String, String)>,
}

impl Rows {
    /// The row with this name, created if necessary.
    pub(super) fn row(&mut self, name: &str) -> &mut Row {
        let color = COLORS[self.rows.len() % COLORS.len()];
        self.rows.entry(name.to_owned()).or_insert_with(|| Row {
            style: Style::new().fg(color),
            life: Life::Not(String::new()),
            seen: None,
            events: 0,
        })
    }

    /// A process is not up, for this reason.
    pub(super) fn is_not(&mut self, name: &str, why: String) {
        let row = self.row(name);
        (row.life, row.seen) = (Life::Not(why), None);
    }

    /// A process is running at this address.
    pub(super) fn runs(&mut self, name: &str, place: String) {
        self.row(name).life = Life::Runs(place);
    }

    /// A process reported an outage of a server.
    pub(super) fn hold(&mut self, now: Instant, name: &str, text: &str) {
        self.held.push((now, name.to_owned(), text.to_owned()));
    }

    /// Records observations. Returns the lines to print: about which process, and the text.
    pub(super) fn look(&mut self, now: Instant, looks: Vec<Look>) -> Vec<(String, String)> {
        let mut said = Vec::new();
        for look in looks {
            let Some(row) = self.rows.get_mut(&look.name) else { continue };
            // The supervisor reports on a process that is not running.
            if matches!(row.life, Life::Not(_)) {
                continue;
            }
            if let Some(text) = row.note(now, look, self.server_out) {
                said.push(text);
            }
        }
        let out = |name: &&str| self.rows.get(*name).is_some_and(Row::is_out);
        if SERVERS.iter().any(out) {
            self.server_out = Some(now);
        }
        let explained = self.server_out.is_some_and(|at| now - at < REPORT_NOT_READY_AFTER);
        let held = std::mem::take(&mut self.held).into_iter().filter(|_| !explained);
        let (due, early): (Vec<_>, _) =
            held.partition(|(at, ..)| now - *at >= REPORT_NOT_READY_AFTER);
        self.held = early;
        said.extend(due.into_iter().map(|(_, name, text)| (name, text)));
        said
    }

    /// The panel's lines, each with its name in the process's color.
    pub(super) fn lines(&self, now: Instant) -> impl Iterator<Item = String> {
        self.rows.iter().map(move |(name, row)| row.line(name, now))
    }
}

impl Row {
    fn note(
        &mut self,
        now: Instant,
        look: Look,
        server_out: Option<Instant>,
    ) -> Option<(String, String)> {
        let Look { name, state, why, detail } = look;
        let is_ready = state == State::Ready;
        let known = self.seen.take();
        let changed = known.as_ref().is_none_or(|seen| (seen.state == State::Ready) != is_ready);
        let mut seen = Seen {
            since: known.as_ref().filter(|_| !changed).map_or(now, |seen| seen.since),
            reported: known.as_ref().is_some_and(|seen| seen.reported),
            state,
            why,
            detail,
        };
        let mut said = None;
        if is_ready && seen.reported {
            let began = known.map_or(now, |known| known.since);
            said = Some(format!("ready again, after {} s", (now - began).as_secs()));
            seen.reported = false;
        } else if !is_ready && !seen.reported && seen.is_worth_reporting(now, server_out) {
            said = Some(format!("{}: {}", name_of(state), seen.why));
            seen.reported = true;
        }
        self.seen = Some(seen);
        said.map(|said| (name, said))
    }

    /// Whether the process is known not to be ready.
    fn is_out(&self) -> bool {
        match (&self.life, &self.seen) {
            (Life::Not(_), _) => true,
            (Life::Runs(_), Some(seen)) => seen.state != State::Ready,
            (Life::Runs(_), None) => false,
        }
    }

    fn line(&self, name: &str, now: Instant) -> String {
        let name = self.style.apply_to(padded(name));
        let (state, text) = match (&self.life, &self.seen) {
            (Life::Not(why), _) => return format!("{name} {why}"),
            (Life::Runs(place), None) => (None, place.clone()),
            (Life::Runs(place), Some(seen)) if seen.state == State::Ready => {
                (Some(seen.state), format!("{place}{}", seen.detail))
            }
            (Life::Runs(place), Some(seen)) => {
                let since = (now - seen.since).as_secs();
                (Some(seen.state), format!("for {since} s: {}  {place}", seen.why))
            }
        };
        let color = match state {
            None => Style::new(),
            Some(State::Ready) => Style::new().fg(Color::Green),
            Some(State::NotReady) => Style::new().fg(Color::Yellow),
            Some(State::Down | State::Frozen) => Style::new().fg(Color::Red),
        };
        let state = color.apply_to(format!("{:<9}", state.map_or("running", name_of)));
        let events =
            if self.events == 0 { String::new() } else { format!("  {} events", self.events) };
        format!("{name} {state} {text}{events}")
    }

    /// The name in the row's color.
    pub(super) fn colored(&self, name: &str) -> String {
        self.style.apply_to(padded(name)).to_string()
    }
}

impl Seen {
    /// Whether the outage has lasted long enough and no server's outage explains it.
    fn is_worth_reporting(&self, now: Instant, server_out: Option<Instant>) -> bool {
        match self.state {
            State::Ready => false,
            State::Down | State::Frozen => now - self.since >= REPORT_SILENCE_AFTER,
            State::NotReady => {
                let since = server_out.map_or(self.since, |out| out.max(self.since));
                now - since >= REPORT_NOT_READY_AFTER
            }
        }
    }
}

/// Pads a name to the width of the usual names.
pub(super) fn padded(name: &str) -> String {
    format!("{name}{}", " ".repeat(10_usize.saturating_sub(measure_text_width(name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(name: &str, state: State) -> Look {
        let (why, detail) = ("it does not answer".to_owned(), String::new());
        Look { name: name.to_owned(), state, why, detail }
    }

    /// Observes twice a second for this many seconds, and returns the printed lines.
    fn said(
        rows: &mut Rows,
        now: &mut Instant,
        seconds: u64,
        looks: &[(&str, State)],
    ) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..2 * seconds {
            *now += Duration::from_millis(500);
            let looks = looks.iter().map(|(name, state)| look(name, *state)).collect();
            let lines = rows.look(*now, looks).into_iter();
            said.extend(lines.map(|(name, text)| format!("{name} {text}")));
        }
        said
    }

    #[test]
    fn an_outage_is_reported_once_when_it_begins_and_once_when_it_ends() {
        let (mut rows, mut now) = (Rows::default(), Instant::now());
        rows.runs("orders-1", "here".to_owned());
        rows.runs("nats", "there".to_owned());
        let ready = [("nats", State::Ready), ("orders-1", State::Ready)];
        assert!(said(&mut rows, &mut now, 3, &ready).is_empty());
        let frozen = [("nats", State::Ready), ("orders-1", State::Frozen)];
        let told = said(&mut rows, &mut now, 30, &frozen);
        assert_eq!(told, ["orders-1 frozen: it does not answer"]);
        assert_eq!(said(&mut rows, &mut now, 3, &ready), ["orders-1 ready again, after 30 s"]);
    }

    #[test]
    fn a_servers_outage_is_not_also_reported_for_each_process() {
        let (mut rows, mut now) = (Rows::default(), Instant::now());
        for name in ["orders-1", "postgres"] {
            rows.runs(name, "here".to_owned());
        }
        let ready = [("postgres", State::Ready), ("orders-1", State::Ready)];
        said(&mut rows, &mut now, 3, &ready);
        let out = [("orders-1", State::NotReady), ("postgres", State::Frozen)];
        rows.hold(now, "orders-1", "WARN the database does not answer");
        let told = said(&mut rows, &mut now, 30, &out);
        assert_eq!(told, ["postgres frozen: it does not answer"]);
        assert_eq!(said(&mut rows, &mut now, 9, &ready), ["postgres ready again, after 30 s"]);
        rows.hold(now, "orders-1", "WARN disconnected from NATS");
        let told = said(&mut rows, &mut now, 9, &ready);
        assert_eq!(told, ["orders-1 WARN disconnected from NATS"], "no server explains it");
    }

    #[test]
    fn a_process_that_is_being_restarted_is_not_reported_as_an_outage() {
        let (mut rows, mut now) = (Rows::default(), Instant::now());
        rows.runs("orders-1", "here".to_owned());
        said(&mut rows, &mut now, 3, &[("orders-1", State::Ready)]);
        rows.is_not("orders-1", "down".to_owned());
        assert!(said(&mut rows, &mut now, 30, &[("orders-1", State::Down)]).is_empty());
        rows.runs("orders-1", "here".to_owned());
        // One late answer.
        assert!(said(&mut rows, &mut now, 1, &[("orders-1", State::Frozen)]).is_empty());
        assert!(said(&mut rows, &mut now, 3, &[("orders-1", State::Ready)]).is_empty());
    }
}
