//! Parents and children as the kernel sees them: which death kills a child, and which children a
//! process has.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    path::Path,
    sync::{Mutex, OnceLock, PoisonError, mpsc as blocking},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

/// Makes the kernel signal the child when its parent dies.
#[cfg(target_os = "linux")]
pub(super) fn die_with_parent(command: &mut std::process::Command, signal: Signal) {
    use rustix::process::{getpid, getppid, set_parent_process_death_signal};
    let parent = getpid();
    let set = move || {
        set_parent_process_death_signal(Some(signal))?;
        // The parent may have died before the line above.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec the closure only makes system calls: it takes no lock and
    // allocates nothing.
    #[expect(unsafe_code, reason = "the only way to run code between fork and exec")]
    unsafe {
        command.pre_exec(set);
    }
}

/// On other systems a child dies when its handle is dropped, but outlives a parent that is killed.
#[cfg(not(target_os = "linux"))]
pub(super) fn die_with_parent(_: &mut std::process::Command, _: Signal) {}

/// Runs `spawn` on a thread that never ends: for the kernel a child's parent is the thread that
/// forked it, and a runtime's threads come and go.
pub(super) fn on_the_immortal_thread<T: Send + 'static>(
    spawn: impl FnOnce() -> T + Send + 'static,
) -> T {
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

/// Sends a signal to every child of a process.
pub(crate) fn signal_children(parent: u32, signal: Signal) {
    for pid in children_of(parent) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It may have ended already.
            let _ = kill_process(pid, signal);
        }
    }
}

/// Returns the processes whose parent is `parent`, from `/proc`.
fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
        // `pid (name) state ppid …`, where the name may contain anything.
        stat.is_ok_and(|stat| {
            let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            after_name.split(' ').nth(1).and_then(|ppid| ppid.parse().ok()) == Some(parent)
        })
    })
    .collect()
}
