//! One process of a service, started again whenever it ends.

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
    log::{self, Said},
    servers::wanted_or_other,
    view::View,
};

/// How long a process may take to stop: its own grace time and a little.
const GRACE: Duration = Duration::from_secs(25);
/// The pauses before a process that ended is started again.
const RESTART: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
/// How long a process must have lived for the pauses to begin anew.
const A_WHILE: Duration = Duration::from_secs(10);
/// How large a log file grows before it is begun anew, in bytes. The one before is kept.
const LOG_LIMIT: usize = 32 << 20;

/// What to run.
#[derive(Debug, Clone)]
pub(super) struct Service {
    /// The hidden subcommand.
    pub(super) kind: &'static str,
    /// Its client id.
    pub(super) name: String,
    /// Whether it joins a queue group, and is of use once it has.
    pub(super) joins: bool,
    pub(super) port: u16,
    /// Where its probes, metrics and operations API are; `None` for together with its API.
    pub(super) operations_port: Option<u16>,
    pub(super) nats_url: String,
    /// What it is told besides, as variables of its environment.
    pub(super) settings: Vec<(&'static str, String)>,
}

/// A service that is of use, at this port.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) operations_port: Option<u16>,
}

/// Runs the process until `stop`, then stops it in good order. Says each time that it is up.
pub(super) async fn supervise(
    mut service: Service,
    folder: Arc<Folder>,
    view: Arc<View>,
    up: mpsc::Sender<Up>,
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
                    up: &up,
                    told: AtomicBool::new(false),
                };
                let stopped = watched.until_it_ends(&mut child, &mut log, &stop).await;
                folder.remove_pid(&name);
                if stopped {
                    return;
                }
                service.leave_a_taken_port(&view);
            }
            Err(error) => view.say(&name, &format!("cannot start it: {error:#}")),
        }
        if begun.elapsed() > A_WHILE {
            restart.reset();
        }
        let pause = restart.pause();
        view.is_not(&name, format!("away      starting again in {:.1} s", pause.as_secs_f32()));
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

impl Service {
    /// Moves to another port if a program has this one that reserves none.
    fn leave_a_taken_port(&mut self, view: &View) {
        for port in [Some(&mut self.port), self.operations_port.as_mut()].into_iter().flatten() {
            if let Ok(free) = wanted_or_other(view, &self.name, *port) {
                *port = free;
            }
        }
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        // By its path: a program that was built anew meanwhile is what runs next.
        let program = std::env::current_exe().context("cannot tell which program this is")?;
        let mut command = Command::new(program);
        if std::env::var_os("AUTH").is_none() {
            // On one's own machine nobody has a token; who wants to try one sets AUTH.
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
            // What the view is made of.
            .env("LOG", "info")
            .env("LOG_FORMAT", "json")
            .piped()
            .spawn()
    }
}

struct Watched<'a> {
    service: &'a Service,
    view: &'a View,
    up: &'a mpsc::Sender<Up>,
    /// It has been told that the process is of use.
    told: AtomicBool,
}

impl Watched<'_> {
    /// Shows what the process says until it ends. Returns whether that was wanted.
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
        // What it said last explains its end. Its pipes are closed, so this ends too.
        while let Some(line) = lines.recv().await {
            self.show(&line, pid, log);
        }
        if stopping {
            self.view.say(name, "stopped");
            self.view.is_not(name, "stopped");
        } else {
            self.view.say(name, &format!("ended ({status}), starting it again"));
        }
        stopping
    }

    fn show(&self, line: &str, pid: u32, log: &mut LogFile) {
        let name = &self.service.name;
        log.write(line);
        match log::read(line) {
            Said::Event(text) => self.view.event(name, &text),
            Said::Joined(group) => self.is_up(pid, &format!("in the queue group {group}")),
            Said::Listening(address) if !self.service.joins => {
                self.is_up(pid, &format!("listening on {address}"));
            }
            Said::Line(text) => self.view.say(name, &text),
            Said::Outage(text) => self.view.outage(name, &text),
            Said::Listening(_) | Said::Nothing => {}
        }
    }

    fn is_up(&self, pid: u32, how: &str) {
        // It joins its group again after each outage of NATS, which is told as such.
        if self.told.swap(true, Ordering::Relaxed) {
            return;
        }
        let Service { name, port, operations_port, .. } = self.service;
        self.view.say(name, how);
        self.view.runs(name, format!("http://127.0.0.1:{port}  process {pid}"));
        // Nobody listens any more while everything stops.
        let _ = self.up.try_send(Up {
            name: name.clone(),
            port: *port,
            operations_port: *operations_port,
        });
    }
}

/// Everything that a process has said in this run.
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

    /// A full disk must not stop the system, so a line that cannot be written is passed over.
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
