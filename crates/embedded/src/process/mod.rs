//! A child process that never outlives its parent, even if the parent is killed.

mod family;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{ChildStdin, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::Context;
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::unprivileged::User;
pub(crate) use family::signal_children;
use family::{die_with_parent, on_the_immortal_thread};

/// How many lines of a child may wait to be read before the child blocks.
const LINES: usize = 4096;

/// A command to run.
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    death_signal: Signal,
    piped: bool,
}

impl Command {
    /// Runs this program with this process's environment, and without input.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut inner = std::process::Command::new(program);
        // In its own process group: Ctrl-C in a terminal reaches only the parent, which stops its
        // children gracefully.
        inner.stdin(Stdio::null()).process_group(0);
        Self { inner, death_signal: Signal::KILL, piped: false }
    }

    /// Runs this program like [`Self::new`], with each of its syncs to disk slowed down by this
    /// delay. Needs `strace` (5.3 or newer), which runs next to the program and ends with it.
    pub fn with_slow_syncs(program: impl AsRef<OsStr>, delay: Option<Duration>) -> Self {
        let Some(delay) = delay else { return Self::new(program) };
        let inject = format!("inject=fsync,fdatasync:delay_enter={}", delay.as_micros());
        // As a grandchild, so that the program is the child here. Traces only the slowed calls.
        let traced = ["-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"];
        Self::new("strace")
            .args(traced)
            .args(["-e", "trace=fsync,fdatasync", "-e", inject.as_str()])
            .args([program])
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.inner.args(args);
        self
    }

    /// Clears the environment, so that the child has only the variables that are set after this.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.inner.env_clear();
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    /// Runs in this folder.
    #[must_use]
    pub fn current_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.inner.current_dir(folder);
        self
    }

    /// Appends the child's output to a file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn log_to(mut self, path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        self.inner.stdout(file.try_clone()?).stderr(file);
        Ok(self)
    }

    /// Makes the child's output readable by [`Child::line`]. It must be read, or the child blocks.
    #[must_use]
    pub fn piped(mut self) -> Self {
        self.inner.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.piped = true;
        self
    }

    /// Gives the child an input, for [`Child::write_line`].
    #[must_use]
    pub fn with_input(mut self) -> Self {
        self.inner.stdin(Stdio::piped());
        self
    }

    /// Discards the child's output.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.inner.stdout(Stdio::null()).stderr(Stdio::null());
        self
    }

    /// The signal that the child gets when this process ends, however it ends.
    #[must_use]
    pub fn death_signal(mut self, signal: Signal) -> Self {
        self.death_signal = signal;
        self
    }

    /// Runs as another user. This process must be root.
    #[must_use]
    pub(crate) fn user(mut self, user: Option<&User>) -> Self {
        if let Some(user) = user {
            self.inner.uid(user.uid).gid(user.gid);
        }
        self
    }

    /// Starts the child.
    ///
    /// # Errors
    /// If the program cannot be run.
    pub fn spawn(mut self) -> anyhow::Result<Child> {
        die_with_parent(&mut self.inner, self.death_signal);
        let program: OsString = self.inner.get_program().to_owned();
        let mut child = on_the_immortal_thread(move || self.inner.spawn())
            .with_context(|| format!("cannot run {}", program.display()))?;
        let input = child.stdin.take();
        let lines = self.piped.then(|| read_lines(&mut child));
        let (sender, exit) = watch::channel(None);
        let pid = Pid::from_child(&child);
        thread::Builder::new().name("wait for child".to_owned()).spawn(move || {
            let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0xff00));
            sender.send_replace(Some(status));
        })?;
        Ok(Child { pid, exit, lines, input })
    }
}

/// A running child. Killed when dropped.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    exit: watch::Receiver<Option<ExitStatus>>,
    lines: Option<mpsc::Receiver<String>>,
    input: Option<ChildStdin>,
}

impl Child {
    /// Returns the child's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Returns the child's exit status, if it has ended.
    #[must_use]
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Sends a signal, unless the child has ended.
    pub fn signal(&self, signal: Signal) {
        if self.exited().is_none() {
            // It may end at this very moment, which is fine.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Kills the child (SIGKILL) and waits until it has ended.
    pub async fn kill(&mut self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.wait().await
    }

    /// Freezes the child (SIGSTOP).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Resumes the child (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks the child to end with a signal, and kills it after `grace`.
    pub async fn stop(&mut self, signal: Signal, grace: Duration) -> ExitStatus {
        self.signal(signal);
        match timeout(grace, self.wait()).await {
            Ok(status) => status,
            Err(_) => self.kill().await,
        }
    }

    /// Waits until the child has ended.
    pub async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.map(|status| *status);
        match status {
            Ok(Some(status)) => status,
            // Unreachable: the waiting thread always reports an end.
            _ => std::future::pending().await,
        }
    }

    /// Returns the next line that a [piped](Command::piped) child prints; `None` at the end.
    pub async fn line(&mut self) -> Option<String> {
        self.lines.as_mut()?.recv().await
    }

    /// Writes a line to a child that was started [with an input](Command::with_input).
    ///
    /// # Errors
    /// If it has none, or no longer reads it.
    pub fn write_line(&mut self, line: &str) -> io::Result<()> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        writeln!(input, "{line}")
    }

    /// Takes the lines, to read them elsewhere.
    pub fn take_lines(&mut self) -> Option<mpsc::Receiver<String>> {
        self.lines.take()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Reads both outputs of a child, each on its own thread.
fn read_lines(child: &mut std::process::Child) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(LINES);
    let outputs: [Option<Box<dyn io::Read + Send>>; 2] = [
        child.stdout.take().map(|output| Box::new(output) as _),
        child.stderr.take().map(|output| Box::new(output) as _),
    ];
    for output in outputs.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Keeps reading if nobody receives the lines: the child must never write to a closed pipe.
                let _ = sender.blocking_send(line);
            }
        });
    }
    receiver
}
