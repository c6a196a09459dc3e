//! A terminal: what runs in it, and its output.

use std::time::Duration;

use embedded::process::{Child, Signal};
use rustix::process::{Pid, kill_process_group};
use tokio::time::timeout;

use super::sample::Known;

/// The first `cargo run` may have to build, and any may wait for another cargo.
const PATIENCE: Duration = Duration::from_secs(900);
/// What a command that keeps running prints once it works.
const READY: [(&str, &str); 3] =
    [(" listen", "Listening to"), (" publish", "Done."), ("cargo run", "Everything is up")];
/// Read-only commands.
const LOOKS: [&str; 5] = [
    "cargo run -q -- status",
    "cargo run -q -- dead-letters list",
    "curl -s localhost:",
    "curl -s 'localhost:",
    "grep ",
];

/// One of the reader's terminals.
#[derive(Debug, Default)]
pub(super) struct Terminal {
    pub(super) running: Option<Child>,
    /// What ran last.
    pub(super) block: String,
    /// A read-only command failed, and no sample has appeared since.
    pub(super) premature: bool,
    /// The output, and how much of it samples have matched.
    pub(super) said: Vec<String>,
    pub(super) seen: usize,
}

impl Terminal {
    /// Waits until the program exits. Returns whether it succeeded.
    pub(super) async fn end(&mut self) -> bool {
        let Some(mut child) = self.running.take() else { return true };
        let said = &mut self.said;
        let run = async {
            while let Some(line) = child.line().await {
                said.push(line);
            }
            child.wait().await
        };
        let status = timeout(PATIENCE, run).await;
        status.unwrap_or_else(|_| panic!("it did not end: {self:#?}")).success()
    }

    /// Whether the last command is read-only, so that it may be repeated.
    pub(super) fn only_looks(&self) -> bool {
        let looks = LOOKS.iter().any(|command| self.block.starts_with(command));
        looks && !self.block.contains(" -d ") && self.running.is_none()
    }

    pub(super) async fn until_ready(&mut self) {
        let ready = READY.iter().find(|(command, _)| self.block.contains(command)).unwrap().1;
        let child = self.running.as_mut().unwrap();
        loop {
            let line = timeout(PATIENCE, child.line()).await.ok().flatten();
            let line = line.unwrap_or_else(|| panic!("{ready:?} is missing: {:#?}", self.said));
            self.said.push(line);
            if self.said.last().unwrap().contains(ready) {
                return;
            }
        }
    }

    /// The first line of a sample that has not appeared; `None` if all have.
    pub(super) fn missing<'a>(
        &mut self,
        lines: &'a [String],
        known: &mut Known,
    ) -> Option<&'a str> {
        let (mut at, mut found) = (self.seen, known.clone());
        for sample in lines {
            let rest = &self.said[at..];
            let Some(next) = rest.iter().position(|line| found.matches(sample, line)) else {
                return Some(sample);
            };
            at += next + 1;
        }
        (self.seen, *known, self.premature) = (at, found, false);
        None
    }

    /// Signals everything in the terminal's foreground: cargo and what it runs.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(child) = &self.running
            && child.exited().is_none()
        {
            let group = Pid::from_raw(child.pid().try_into().unwrap()).unwrap();
            kill_process_group(group, signal).unwrap();
        }
    }
}
