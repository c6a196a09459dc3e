//! The output of `up`: a scrolling line for each thing that happens and, on a terminal, a live panel below with
//! a row for each process and stream.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use console::{Term, truncate_str};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use time::{OffsetDateTime, format_description::FormatItem, macros::format_description};
use tokio::time::Instant;

use super::rows::{Look, Rows, padded};

/// The most lines about single events per second; the rest are only counted.
const EVENTS_A_SECOND: usize = 20;
/// How often the panel is redrawn, per second.
const DRAWS: u8 = 10;
const SECOND: Duration = Duration::from_secs(1);
const CLOCK: &[FormatItem<'static>] = format_description!("[hour]:[minute]:[second]");

/// The view, shared by the watchers of all processes.
#[derive(Debug)]
pub(super) struct View {
    /// The panel; `None` if the output is not a terminal.
    panel: Option<ProgressBar>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rows: Rows,
    /// Each stream, and the state of its events.
    streams: Vec<(String, String)>,
    /// When the current second of events began.
    second: Option<Instant>,
    shown: usize,
    /// Events of this second that were only counted, by process.
    counted: BTreeMap<String, usize>,
    /// When the panel was last redrawn.
    drawn: Option<Instant>,
}

impl View {
    pub(super) fn new() -> Self {
        let panel = io::stdout().is_terminal().then(|| {
            let target = ProgressDrawTarget::stdout_with_hz(DRAWS);
            let panel = ProgressBar::with_draw_target(None, target).with_style(style("{msg}"));
            // Redraws for changes that came too soon after the last draw.
            panel.enable_steady_tick(SECOND / 2);
            panel
        });
        Self { panel, state: Mutex::default() }
    }

    /// Shows that a slow step has begun.
    pub(super) fn progress(&self, what: &str) {
        match &self.panel {
            Some(panel) => {
                panel.set_style(style("{spinner} {msg}"));
                panel.set_message(what.to_owned());
            }
            None => self.print(&format!("{what} …")),
        }
    }

    /// Shows that all slow steps are over.
    pub(super) fn progress_done(&self) {
        if let Some(panel) = &self.panel {
            panel.set_style(style("{msg}"));
            self.draw(&self.state());
        }
    }

    /// Prints a line without a time or a process.
    pub(super) fn print(&self, text: &str) {
        match &self.panel {
            Some(panel) => panel.println(text),
            None => {
                let mut out = io::stdout().lock();
                // If nobody reads the output, the system must still go on.
                let _ = writeln!(out, "{text}").and_then(|()| out.flush());
            }
        }
    }

    /// Reports something that happened in a process.
    pub(super) fn say(&self, name: &str, text: &str) {
        let line = self.state().line(name, text);
        self.print(&line);
    }

    /// Reports what a process did with one event. May be called thousands of times a second.
    pub(super) fn event(&self, name: &str, text: &str) {
        let mut state = self.state();
        let summary = state.next_second(Instant::now());
        state.rows.row(name).events += 1;
        let line = if state.shown < EVENTS_A_SECOND {
            state.shown += 1;
            Some(state.line(name, text))
        } else {
            *state.counted.entry(name.to_owned()).or_default() += 1;
            None
        };
        self.draw_now_and_then(&mut state);
        drop(state);
        [summary, line].into_iter().flatten().for_each(|line| self.print(&line));
    }

    /// Prints how many events were only counted, once their second is over. Call it about once a second.
    pub(super) fn tick(&self) {
        let mut state = self.state();
        self.draw(&state);
        let summary = state.next_second(Instant::now());
        drop(state);
        if let Some(summary) = summary {
            self.print(&summary);
        }
    }

    /// A process is not up: it is starting, or down.
    pub(super) fn is_not(&self, name: &str, why: impl Into<String>) {
        let mut state = self.state();
        state.rows.is_not(name, why.into());
        self.draw(&state);
    }

    /// A process is running at this address.
    pub(super) fn runs(&self, name: &str, place: impl Into<String>) {
        let mut state = self.state();
        state.rows.runs(name, place.into());
        self.draw(&state);
    }

    /// A process reported an outage of NATS or Postgres. Shown only if the view does not report that server's
    /// outage itself.
    pub(super) fn outage(&self, name: &str, text: &str) {
        self.state().rows.hold(Instant::now(), name, text);
    }

    /// Records the observed state of processes and streams.
    pub(super) fn look(&self, looks: Vec<Look>, streams: Vec<(String, String)>) {
        let mut state = self.state();
        let said = state.rows.look(Instant::now(), looks);
        state.streams = streams;
        self.draw(&state);
        drop(state);
        said.into_iter().for_each(|(name, text)| self.say(&name, &text));
    }

    /// Removes the panel; later lines are plain.
    pub(super) fn close(&self) {
        self.tick();
        if let Some(panel) = &self.panel {
            panel.finish_and_clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Redraws at most `DRAWS` times a second.
    fn draw_now_and_then(&self, state: &mut State) {
        let now = Instant::now();
        if state.drawn.is_none_or(|drawn| now - drawn > SECOND / u32::from(DRAWS)) {
            state.drawn = Some(now);
            self.draw(state);
        }
    }

    fn draw(&self, state: &State) {
        let Some(panel) = &self.panel else { return };
        let width = usize::from(Term::stdout().size().1);
        let streams = state.streams.iter();
        let streams = streams.map(|(name, way)| format!("{} {way}", padded(name)));
        let lines = state.rows.lines(Instant::now()).chain(streams);
        let lines = lines.map(|line| truncate_str(&line, width, "…").into_owned());
        panel.set_message(lines.collect::<Vec<_>>().join("\n"));
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl State {
    fn line(&mut self, name: &str, text: &str) -> String {
        let clock = OffsetDateTime::now_utc().format(CLOCK).unwrap_or_default();
        format!("{clock} {} {text}", self.rows.row(name).colored(name))
    }

    /// Begins a new second if the last one is over. Returns a summary of the events that were only counted.
    fn next_second(&mut self, now: Instant) -> Option<String> {
        if self.second.is_some_and(|begun| now - begun < SECOND) {
            return None;
        }
        self.second = Some(now);
        self.shown = 0;
        let counted = std::mem::take(&mut self.counted);
        let total: usize = counted.values().sum();
        let each: Vec<_> = counted.iter().map(|(name, n)| format!("{name} {n}")).collect();
        (total > 0).then(|| format!("         … and {total} more: {}", each.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_flood_of_events_the_first_are_shown_and_the_rest_are_counted() {
        let view = View { panel: None, state: Mutex::default() };
        for _ in 0..EVENTS_A_SECOND + 7 {
            view.event("orders-1", "processed one");
        }
        let mut state = view.state();
        assert_eq!((state.shown, state.counted["orders-1"]), (EVENTS_A_SECOND, 7));
        let summary = state.next_second(Instant::now() + SECOND).unwrap();
        assert!(summary.contains("7 more: orders-1 7"), "{summary}");
        assert_eq!(state.shown, 0);
    }
}
