//! A child process that never outlives its parent, not even one that is killed.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufRead, BufReader},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Mutex, OnceLock, PoisonError, mpsc as blocking},
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

/// How many of a child's lines may wait to be read before the child is slowed down.
const LINES: usize = 4096;

/// What to run.
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    death_signal: Signal,
    piped: bool,
}

impl Command {
    /// Runs this program, with this process's environment, and no input.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut inner = std::process::Command::new(program);
        // A group of its own: Ctrl-C in a terminal is for the parent, which stops its children in
        // good order.
        inner.stdin(Stdio::null()).process_group(0);
        Self { inner, death_signal: Signal::KILL, piped: false }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.inner.args(args);
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

    /// Appends what the child prints to a file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn log_to(mut self, path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        self.inner.stdout(file.try_clone()?).stderr(file);
        Ok(self)
    }

    /// Makes what the child prints readable by [`Child::line`]. It must be read, or the child
    /// waits.
    #[must_use]
    pub fn piped(mut self) -> Self {
        self.inner.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.piped = true;
        self
    }

    /// Throws away what the child prints.
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

    /// Runs as another user, for which this process must be root.
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
    /// When the program cannot be run.
    pub fn spawn(mut self) -> anyhow::Result<Child> {
        die_with_parent(&mut self.inner, self.death_signal);
        let program: OsString = self.inner.get_program().to_owned();
        let mut child = on_the_immortal_thread(move || self.inner.spawn())
            .with_context(|| format!("cannot run {}", program.display()))?;
        let lines = self.piped.then(|| read_lines(&mut child));
        let (sender, exit) = watch::channel(None);
        let pid = Pid::from_child(&child);
        thread::Builder::new().name("wait for child".to_owned()).spawn(move || {
            let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0xff00));
            sender.send_replace(Some(status));
        })?;
        Ok(Child { pid, exit, lines })
    }
}

/// A running child. Killed when dropped.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    exit: watch::Receiver<Option<ExitStatus>>,
    lines: Option<mpsc::Receiver<String>>,
}

impl Child {
    /// The child's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How the child ended, if it has.
    #[must_use]
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Sends a signal, unless the child has ended.
    pub fn signal(&self, signal: Signal) {
        if self.exited().is_none() {
            // It may end at this very moment, which is as good.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Kills the child (SIGKILL) and waits for its end.
    pub async fn kill(&mut self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.wait().await
    }

    /// Freezes the child (SIGSTOP).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Thaws the child (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks the child to end with a signal, and kills it when it has not after `grace`.
    pub async fn stop(&mut self, signal: Signal, grace: Duration) -> ExitStatus {
        self.signal(signal);
        match timeout(grace, self.wait()).await {
            Ok(status) => status,
            Err(_) => self.kill().await,
        }
    }

    /// Waits for the child's end.
    pub async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.map(|status| *status);
        match status {
            Ok(Some(status)) => status,
            // The waiting thread never ends without a word.
            _ => std::future::pending().await,
        }
    }

    /// The next line that a [piped](Command::piped) child prints; `None` at its end.
    pub async fn line(&mut self) -> Option<String> {
        self.lines.as_mut()?.recv().await
    }

    /// Takes the lines away, to be read elsewhere.
    pub fn take_lines(&mut self) -> Option<mpsc::Receiver<String>> {
        self.lines.take()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Sends a signal to every child of a process.
pub(crate) fn signal_children(parent: u32, signal: Signal) {
    for pid in children_of(parent) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }
}

/// The processes whose parent is `parent`, by `/proc`.
fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
        // `pid (name) state ppid …`, where the name may hold anything.
        stat.is_ok_and(|stat| {
            let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            after_name.split(' ').nth(1).and_then(|ppid| ppid.parse().ok()) == Some(parent)
        })
    })
    .collect()
}

/// Reads both outputs of a child, each on a thread of its own.
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
                // Read on to the end all the same, so that the child never writes into nothing.
                let _ = sender.blocking_send(line);
            }
        });
    }
    receiver
}

/// Has the kernel signal the child when its parent dies.
#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut std::process::Command, signal: Signal) {
    use rustix::process::{getpid, getppid, set_parent_process_death_signal};
    let parent = getpid();
    let set = move || {
        set_parent_process_death_signal(Some(signal))?;
        // It may have died before the line above.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec the closure makes system calls only: it takes no lock and
    // allocates nothing.
    #[expect(unsafe_code, reason = "the only way to run code between fork and exec")]
    unsafe {
        command.pre_exec(set);
    }
}

/// Elsewhere a child dies when its handle is dropped, but outlives a parent that is killed.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut std::process::Command, _: Signal) {}

/// Runs `spawn` on a thread that never ends: to the kernel a child's parent is the thread that
/// forked it, and a runtime's threads come and go.
fn on_the_immortal_thread<T: Send + 'static>(spawn: impl FnOnce() -> T + Send + 'static) -> T {
    type Job = Box<dyn FnOnce() + Send>;
    static JOBS: OnceLock<Mutex<blocking::Sender<Job>>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (sender, receiver) = blocking::channel::<Job>();
        thread::spawn(move || receiver.into_iter().for_each(|job| job()));
        Mutex::new(sender)
    });
    let (sender, receiver) = blocking::channel();
    let job: Job = Box::new(move || {
        let _ = sender.send(spawn());
    });
    let sent = jobs.lock().unwrap_or_else(PoisonError::into_inner).send(job);
    match (sent, receiver.recv()) {
        (Ok(()), Ok(spawned)) => spawned,
        _ => unreachable!("the thread that starts processes never ends"),
    }
}
