//! The lease on a client id, and two processes with that id. The lease tells an operator that a
//! process was started twice. It cannot keep two from running, because a frozen one wakes up
//! as if it still held the key. It need not either, because the inbox keeps an event from being
//! applied twice.

use stateright::{Model, Property};

use crate::explore::Told;

/// How many processes have the one client id.
const PROCESSES: usize = 2;

/// A model of the lease, with or without the inbox.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// Whether a member's transaction claims the event in the inbox.
    pub inbox: bool,
}

/// The state of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Process {
    /// Has not started.
    New,
    /// Holds the lease, or has not noticed losing it, and waits for events.
    Runs,
    /// Has received the event, and is in its transaction.
    Works,
    /// Has committed, and not acknowledged yet.
    Committed,
    /// Was refused, or has noticed that it lost the lease.
    Ended,
}

/// Two processes, the key, and one event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    processes: [Process; PROCESSES],
    frozen: [bool; PROCESSES],
    /// The process that holds the key.
    key: Option<usize>,
    /// The process whose open transaction has claimed the event. The other one waits for it to end.
    claim: Option<usize>,
    in_inbox: bool,
    acknowledged: bool,
    applied: u8,
}

/// A step of a process, or a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It takes the key, possibly from a holder that does not answer, or is refused.
    Start(usize),
    /// It renews the lease, and ends if another process has it.
    Renew(usize),
    /// It receives the event, and claims it.
    Take(usize),
    /// It commits.
    Commit(usize),
    /// Its ack arrives.
    Acknowledge(usize),
    /// It freezes. The database ends a transaction that is idle.
    Freeze(usize),
    /// It continues.
    Wake(usize),
    /// The key was not renewed in time.
    Expire,
}

impl Model for Lease {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            processes: [Process::New; PROCESSES],
            frozen: [false; PROCESSES],
            key: None,
            claim: None,
            in_inbox: false,
            acknowledged: false,
            applied: 0,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for process in 0..PROCESSES {
            if state.frozen[process] {
                steps.push(Step::Wake(process));
                continue;
            }
            match state.processes[process] {
                Process::New => steps.push(Step::Start(process)),
                Process::Runs => {
                    steps.extend([Step::Renew(process), Step::Take(process), Step::Freeze(process)])
                }
                Process::Works => steps.extend([Step::Commit(process), Step::Freeze(process)]),
                Process::Committed => {
                    steps.extend([Step::Acknowledge(process), Step::Freeze(process)]);
                }
                Process::Ended => {}
            }
        }
        if state.key.is_some_and(|holder| state.frozen[holder]) {
            steps.push(Step::Expire);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Start(process) => {
                let answers = |holder: usize| {
                    !state.frozen[holder] && state.processes[holder] != Process::Ended
                };
                if state.key.is_some_and(answers) {
                    state.processes[process] = Process::Ended;
                } else {
                    (state.key, state.processes[process]) = (Some(process), Process::Runs);
                }
            }
            Step::Renew(process) => match state.key {
                Some(holder) if holder != process => state.processes[process] = Process::Ended,
                _ => state.key = Some(process),
            },
            Step::Take(process) if !state.acknowledged && state.claim.is_none() => {
                state.processes[process] = Process::Works;
                state.claim = self.inbox.then_some(process);
            }
            Step::Commit(process) => {
                if !(self.inbox && state.in_inbox) {
                    state.applied += 1;
                }
                (state.in_inbox, state.claim) = (true, None);
                state.processes[process] = Process::Committed;
            }
            Step::Acknowledge(process) => {
                (state.acknowledged, state.processes[process]) = (true, Process::Runs);
            }
            Step::Freeze(process) => {
                state.frozen[process] = true;
                if state.processes[process] == Process::Works {
                    state.processes[process] = Process::Runs;
                    state.claim = state.claim.filter(|claimer| *claimer != process);
                }
            }
            Step::Wake(process) => state.frozen[process] = false,
            Step::Expire => state.key = None,
            Step::Take(_) => return None,
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no event is applied twice", |_, state: &State| state.applied < 2),
            Property::sometimes("two processes run at once under one id", |_, state: &State| {
                (0..PROCESSES).all(|process| state.runs(process))
            }),
            Property::sometimes("both have had the event", |_, state: &State| {
                state.processes == [Process::Committed; PROCESSES]
            }),
        ]
    }
}

impl State {
    fn runs(&self, process: usize) -> bool {
        !self.frozen[process] && !matches!(self.processes[process], Process::New | Process::Ended)
    }
}

impl Told for Lease {
    fn tell(&self, _: &State, step: &Step) -> String {
        format!("{step:?}")
    }
}
