//! What a person sees: what happens as lines that scroll by, and, on a terminal, below them a panel that is
//! kept up to date: a line for each process and for each stream.

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

/// How many lines about single events a second may bring; of the rest only the number is told.
const EVENTS_A_SECOND: usize = 20;
/// How often the terminal is drawn anew, per second.
const DRAWS: u8 = 10;
const SECOND: Duration = Duration::from_secs(1);
const CLOCK: &[FormatItem<'static>] = format_description!("[hour]:[minute]:[second]");

/// The view. All processes' watchers write to the one.
#[derive(Debug)]
pub(super) struct View {
    /// The lines of the processes; `None` when the output is no terminal.
    panel: Option<ProgressBar>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rows: Rows,
    /// Each stream, and where its events are.
    streams: Vec<(String, String)>,
    /// When the current second of events began.
    second: Option<Instant>,
    told: usize,
    /// Events of this second that were not told one by one, by process.
    untold: BTreeMap<String, usize>,
    /// When the processes' lines were last written anew.
    drawn: Option<Instant>,
}

impl View {
    pub(super) fn new() -> Self {
        let panel = io::stdout().is_terminal().then(|| {
            let target = ProgressDrawTarget::stdout_with_hz(DRAWS);
            let panel = ProgressBar::with_draw_target(None, target).with_style(style("{msg}"));
            // Draws as well what came too soon after another draw.
            panel.enable_steady_tick(SECOND / 2);
            panel
        });
        Self { panel, state: Mutex::default() }
    }

    /// Something that takes a while has begun.
    pub(super) fn progress(&self, what: &str) {
        match &self.panel {
            Some(panel) => {
                panel.set_style(style("{spinner} {msg}"));
                panel.set_message(what.to_owned());
            }
            None => self.print(&format!("{what} …")),
        }
    }

    /// Nothing that takes a while is going on any more.
    pub(super) fn progress_done(&self) {
        if let Some(panel) = &self.panel {
            panel.set_style(style("{msg}"));
            self.draw(&self.state());
        }
    }

    /// Lines without a time or a process, such as the headline.
    pub(super) fn print(&self, text: &str) {
        match &self.panel {
            Some(panel) => panel.println(text),
            None => {
                let mut out = io::stdout().lock();
                // Nobody reads any more: no reason to stop the system.
                let _ = writeln!(out, "{text}").and_then(|()| out.flush());
            }
        }
    }

    /// Something happened in a process.
    pub(super) fn say(&self, name: &str, text: &str) {
        let line = self.state().line(name, text);
        self.print(&line);
    }

    /// A process did something with an event, as it does thousands of times.
    pub(super) fn event(&self, name: &str, text: &str) {
        let mut state = self.state();
        let summary = state.next_second(Instant::now());
        state.rows.row(name).events += 1;
        let line = if state.told < EVENTS_A_SECOND {
            state.told += 1;
            Some(state.line(name, text))
        } else {
            *state.untold.entry(name.to_owned()).or_default() += 1;
            None
        };
        self.draw_now_and_then(&mut state);
        drop(state);
        [summary, line].into_iter().flatten().for_each(|line| self.print(&line));
    }

    /// Tells of the events that were not told one by one, once their second is over. To be called
    /// now and then.
    pub(super) fn tick(&self) {
        let mut state = self.state();
        self.draw(&state);
        let summary = state.next_second(Instant::now());
        drop(state);
        if let Some(summary) = summary {
            self.print(&summary);
        }
    }

    /// A process is not of use now: it is starting, or down.
    pub(super) fn is_not(&self, name: &str, why: impl Into<String>) {
        let mut state = self.state();
        state.rows.is_not(name, why.into());
        self.draw(&state);
    }

    /// A process runs at this place.
    pub(super) fn runs(&self, name: &str, place: impl Into<String>) {
        let mut state = self.state();
        state.rows.runs(name, place.into());
        self.draw(&state);
    }

    /// A process said something of an outage of NATS or Postgres. Told only if that is not what the view tells
    /// of the server itself.
    pub(super) fn outage(&self, name: &str, text: &str) {
        self.state().rows.hold(Instant::now(), name, text);
    }

    /// What the processes really do, and where the events of each stream are.
    pub(super) fn look(&self, looks: Vec<Look>, streams: Vec<(String, String)>) {
        let mut state = self.state();
        let said = state.rows.look(Instant::now(), looks);
        state.streams = streams;
        self.draw(&state);
        drop(state);
        said.into_iter().for_each(|(name, text)| self.say(&name, &text));
    }

    /// Takes the lines of the processes away; what comes after is plain.
    pub(super) fn close(&self) {
        self.tick();
        if let Some(panel) = &self.panel {
            panel.finish_and_clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Thousands of events a second need not be drawn one by one.
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

    /// Begins a new second if the last one is over. Returns what is to be said of that.
    fn next_second(&mut self, now: Instant) -> Option<String> {
        if self.second.is_some_and(|begun| now - begun < SECOND) {
            return None;
        }
        self.second = Some(now);
        self.told = 0;
        let untold = std::mem::take(&mut self.untold);
        let total: usize = untold.values().sum();
        let each: Vec<_> = untold.iter().map(|(name, n)| format!("{name} {n}")).collect();
        (total > 0).then(|| format!("         … and {total} more: {}", each.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_of_events_the_first_are_told_and_the_rest_is_counted() {
        let view = View { panel: None, state: Mutex::default() };
        for _ in 0..EVENTS_A_SECOND + 7 {
            view.event("orders-1", "took one");
        }
        let mut state = view.state();
        assert_eq!((state.told, state.untold["orders-1"]), (EVENTS_A_SECOND, 7));
        let summary = state.next_second(Instant::now() + SECOND).unwrap();
        assert!(summary.contains("7 more: orders-1 7"), "{summary}");
        assert_eq!(state.told, 0);
    }
}
