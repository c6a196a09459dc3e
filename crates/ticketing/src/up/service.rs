//! One process of a service, restarted whenever it exits.

use std::{
    fs::{self, File},
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use common::bus::{Backoff, shown};
use embedded::process::{Child, Command, Signal};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    folder::Folder,
    link::Cut,
    log::{self, Said},
    names::CONSOLE,
    servers::wanted_or_other,
    view::View,
};

/// How long a process may take to stop: its own grace period and a margin.
const GRACE: Duration = Duration::from_secs(25);
/// The pauses before a process that exited is restarted.
const RESTART: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
/// How long a process must have run for the pauses to start from the shortest again.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// How large a log file may grow before it is rotated, in bytes. One older file is kept.
const LOG_LIMIT: usize = 32 << 20;

/// What to run.
#[derive(Debug, Clone)]
pub(super) struct Service {
    /// The hidden subcommand.
    pub(super) kind: &'static str,
    /// Its client id.
    pub(super) name: String,
    /// Whether it counts as up only once it has joined its queue group.
    pub(super) joins: bool,
    pub(super) port: u16,
    /// The port of its probes, metrics and operations API; `None` if they share the API's port.
    pub(super) operations_port: Option<u16>,
    pub(super) nats_url: String,
    /// Additional environment variables.
    pub(super) settings: Vec<(&'static str, String)>,
}

/// A process that is up, and its ports.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) operations_port: Option<u16>,
}

/// A message from a process's supervisor.
#[derive(Debug)]
pub(super) enum Report {
    /// The process is up.
    Up(Up),
    /// The process is the console, and requests a cut of a link.
    Cut(Cut),
}

/// Runs the process until `stop`, then shuts it down gracefully. Reports each time it comes up.
pub(super) async fn supervise(
    mut service: Service,
    folder: Arc<Folder>,
    view: Arc<View>,
    tell: mpsc::Sender<Report>,
    stop: CancellationToken,
) {
    let name = service.name.clone();
    let mut log = LogFile::new(&folder, &name);
    let mut restart = RESTART;
    loop {
        view.is_not(&name, "starting");
        let begun = Instant::now();
        match service.spawn() {
            Ok(mut child) => {
                folder.write_pid(&name, child.pid());
                let watched = Watched {
                    service: &service,
                    view: &view,
                    tell: &tell,
                    reported: AtomicBool::new(false),
                };
                let stopped = watched.until_it_ends(&mut child, &mut log, &stop).await;
                folder.remove_pid(&name);
                if stopped {
                    return;
                }
                service.leave_a_taken_port(&view);
            }
            Err(error) => view.say(&name, &format!("cannot start: {error:#}")),
        }
        if begun.elapsed() > STABLE_AFTER {
            restart.reset();
        }
        let pause = restart.pause();
        view.is_not(&name, format!("down      restarting in {:.1} s", pause.as_secs_f32()));
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

impl Service {
    /// Moves to another port if a program that does not reserve its ports has taken this one.
    fn leave_a_taken_port(&mut self, view: &View) {
        for port in [Some(&mut self.port), self.operations_port.as_mut()].into_iter().flatten() {
            if let Ok(free) = wanted_or_other(view, &self.name, *port) {
                *port = free;
            }
        }
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        // By path: after a rebuild, the new program is started.
        let program = std::env::current_exe().context("cannot find the path of this program")?;
        let mut command = Command::new(program);
        if std::env::var_os("AUTH").is_none() {
            // Nobody has a token on their own machine. To try tokens, set AUTH.
            command = command.env("AUTH", "off");
        }
        if let Some(port) = self.operations_port {
            command = command.env("OPERATIONS_ADDRESS", format!("127.0.0.1:{port}"));
        }
        for (name, value) in &self.settings {
            command = command.env(name, value);
        }
        command
            .args([self.kind])
            .env("POD_NAME", &self.name)
            .env("NODE_NAME", "localhost")
            .env("HTTP_ADDRESS", format!("127.0.0.1:{}", self.port))
            .env("NATS_URL", &self.nats_url)
            // The view interprets these lines.
            .env("LOG", "info")
            .env("LOG_FORMAT", "json")
            .piped()
            .spawn()
    }
}

struct Watched<'a> {
    service: &'a Service,
    view: &'a View,
    tell: &'a mpsc::Sender<Report>,
    /// Whether this process has been reported as up.
    reported: AtomicBool,
}

impl Watched<'_> {
    /// Shows the process's output until it exits. Returns whether it was told to stop.
    async fn until_it_ends(
        &self,
        child: &mut Child,
        log: &mut LogFile,
        stop: &CancellationToken,
    ) -> bool {
        let name = &self.service.name;
        let pid = child.pid();
        let Some(mut lines) = child.take_lines() else { return true };
        let end = async {
            tokio::select! {
                status = child.wait() => return (status, false),
                () = stop.cancelled() => {}
            }
            (child.stop(Signal::TERM, GRACE).await, true)
        };
        tokio::pin!(end);
        let (status, stopping) = loop {
            tokio::select! {
                ended = &mut end => break ended,
                Some(line) = lines.recv() => self.show(&line, pid, log),
            }
        };
        // Its last lines explain why it exited. Its pipes are closed, so this loop ends.
        while let Some(line) = lines.recv().await {
            self.show(&line, pid, log);
        }
        if stopping {
            self.view.say(name, "stopped");
            self.view.is_not(name, "stopped");
        } else {
            self.view.say(name, &format!("exited ({status}), restarting"));
        }
        stopping
    }

    fn show(&self, line: &str, pid: u32, log: &mut LogFile) {
        let name = &self.service.name;
        log.write(line);
        match log::read(line) {
            Said::Event(text) => self.view.event(name, &text),
            Said::Joined(group) => self.is_up(pid, &format!("joined the queue group {group}")),
            Said::Listening(address) if !self.service.joins => {
                self.is_up(pid, &format!("listening on {address}"));
            }
            Said::Line(text) => self.view.say(name, &text),
            Said::Outage(text) => self.view.outage(name, &text),
            // During shutdown nobody receives this.
            Said::Cut(cut) if *name == CONSOLE => drop(self.tell.try_send(Report::Cut(cut))),
            Said::Cut(_) | Said::Listening(_) | Said::Nothing => {}
        }
    }

    fn is_up(&self, pid: u32, how: &str) {
        // A process rejoins its group after each outage of NATS, which is reported as an outage.
        if self.reported.swap(true, Ordering::Relaxed) {
            return;
        }
        let Service { name, port, operations_port, .. } = self.service;
        self.view.say(name, how);
        self.view.runs(name, format!("http://127.0.0.1:{port}  process {pid}"));
        // During shutdown nobody receives this.
        let up = Up { name: name.clone(), port: *port, operations_port: *operations_port };
        let _ = self.tell.try_send(Report::Up(up));
    }
}

/// The log file of a process.
struct LogFile {
    path: std::path::PathBuf,
    file: Option<File>,
    size: usize,
}

impl LogFile {
    fn new(folder: &Folder, name: &str) -> Self {
        let path = folder.log(name);
        Self { file: File::create(&path).ok(), path, size: 0 }
    }

    /// A full disk must not stop the system, so a line that cannot be written is dropped.
    fn write(&mut self, line: &str) {
        if self.size > LOG_LIMIT {
            let _ = fs::rename(&self.path, self.path.with_extension("log.1"));
            (self.file, self.size) = (File::create(&self.path).ok(), 0);
        }
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{}", shown(line));
            self.size += line.len() + 1;
        }
    }
}
