//! Runs the command as a person does: with arguments, typed lines, and output to read.

use std::{path::Path, process::ExitStatus};

use embedded::process::{Child, Command, Signal};
use tokio::time::timeout;

use crate::harness::PATIENCE;

/// A running command.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// Its output so far, shown if a test fails.
    pub(crate) read: Vec<String>,
}

/// Runs `ticketing` in a folder.
pub(crate) fn ticketing(folder: &Path, arguments: &[&str]) -> Running {
    let child = Command::new(env!("CARGO_BIN_EXE_ticketing"))
        .args(arguments)
        .current_dir(folder)
        .with_input()
        .piped()
        .spawn()
        .unwrap();
    Running { child, read: Vec::new() }
}

/// Runs a service with settings that it must reject, or with `--help`, to its end. The words are its subcommand and
/// arguments. Returns its exit code and all output.
pub(crate) async fn service_with(words: &str, settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ticketing"))
        .args(words.split(' '))
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing");
    for (name, value) in settings {
        command = command.env(*name, *value);
    }
    let running = Running { child: command.piped().spawn().unwrap(), read: Vec::new() };
    let (status, said) = running.end().await;
    (status.code(), said)
}

impl Running {
    /// Reads until a line contains this text, and returns that line.
    pub(crate) async fn line_with(&mut self, text: &str) -> String {
        loop {
            match timeout(PATIENCE, self.child.line()).await {
                Ok(Some(line)) => {
                    self.read.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Ok(None) => panic!("it ended and never said {text:?}: {:#?}", self.read),
                Err(_) => panic!("it did not say {text:?} in time: {:#?}", self.read),
            }
        }
    }

    /// Types a line.
    pub(crate) fn type_line(&mut self, line: &str) {
        self.child.write_line(line).unwrap();
    }

    /// Reads to the end. Returns the exit status and all output.
    pub(crate) async fn end(mut self) -> (ExitStatus, String) {
        let rest = async {
            while let Some(line) = self.child.line().await {
                self.read.push(line);
            }
            self.child.wait().await
        };
        let status = timeout(PATIENCE, rest).await;
        (status.unwrap_or_else(|_| panic!("it did not end")), self.read.join("\n"))
    }

    /// Stops it with Ctrl-C.
    pub(crate) async fn interrupt(self) -> (ExitStatus, String) {
        self.child.signal(Signal::INT);
        self.end().await
    }
}
