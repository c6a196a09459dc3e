//! The correct protocol under each kind of fault: every state is visited. `--nocapture` shows how
//! many. `mistakes.rs` combines more kinds of faults, and each of its tests checks the correct
//! protocol too.

use std::time::Instant;

use model::{
    bounds::{Bounds, Faults},
    explore::explore,
    lease::Lease,
};

const NO_FAULTS: Faults = Faults {
    kill: 0,
    freeze: 0,
    unknown: 0,
    forget: 0,
    lose_tail: 0,
    wipe: 0,
    purge: 0,
    delete: 0,
    others: 0,
    members_die: 0,
};
const TWO_PAGES: Bounds =
    Bounds { writes: &[0, 1], written_before: true, page: 1, faults: NO_FAULTS, mistakes: &[] };

/// Explores a system completely: no event is lost or applied twice, and a run with every fault
/// applies all of them.
fn holds(name: &str, bounds: Bounds) {
    let begun = Instant::now();
    let found = explore(bounds);
    println!("{name}: {} states in {:.1?}", found.states, begun.elapsed());
    if let Some((property, story)) = found.broken.first() {
        panic!("{name}: violated: {property}:\n{story}");
    }
    assert!(found.never.is_empty(), "{name}: never {:?}", found.never);
}

#[test]
fn late_and_aborted_transactions_delay_nothing_and_lose_nothing() {
    let faults = Faults { kill: 1, ..NO_FAULTS };
    let late = Bounds { written_before: false, faults, ..TWO_PAGES };
    holds("late commits, small pages", late.clone());
    // A page that ends within a transaction.
    holds("late commits, two events in one", Bounds { writes: &[0, 0, 1], ..late.clone() });
    holds("late commits, three", Bounds { writes: &[0, 1, 2], page: 2, ..late });
}

#[test]
fn a_frozen_relay_and_a_wiped_stream_lose_nothing() {
    let faults = Faults { freeze: 1, wipe: 1, ..NO_FAULTS };
    holds("wipe, frozen relay", Bounds { faults, ..TWO_PAGES });
    let faults = Faults { kill: 1, wipe: 1, others: 1, ..NO_FAULTS };
    holds("wipe, killed relay, others", Bounds { faults, ..TWO_PAGES });
}

#[test]
fn a_lost_and_overwritten_tail_loses_nothing() {
    let faults = Faults { lose_tail: 1, others: 1, kill: 1, ..NO_FAULTS };
    holds("lost tail, others, killed relay", Bounds { faults, ..TWO_PAGES });
    let faults = Faults { lose_tail: 1, others: 1, ..NO_FAULTS };
    holds("lost tail, others, three", Bounds { writes: &[0, 1, 2], faults, ..TWO_PAGES });
    let faults = Faults { lose_tail: 2, others: 1, ..NO_FAULTS };
    holds("two lost tails, others", Bounds { faults, ..TWO_PAGES });
}

#[test]
fn a_purge_loses_nothing_that_the_group_has_not_had() {
    let faults = Faults { purge: 1, kill: 1, members_die: 1, ..NO_FAULTS };
    holds("purge, kills", Bounds { faults, ..TWO_PAGES });
    let faults = Faults { purge: 1, freeze: 1, ..NO_FAULTS };
    holds("purge, frozen relay", Bounds { faults, ..TWO_PAGES });
}

#[test]
fn a_deleted_message_is_republished() {
    let faults = Faults { delete: 1, kill: 1, unknown: 1, ..NO_FAULTS };
    holds("delete, batches", Bounds { page: 2, faults, ..TWO_PAGES });
    let faults = Faults { delete: 1, lose_tail: 1, ..NO_FAULTS };
    holds("delete, lost tail", Bounds { faults, ..TWO_PAGES });
}

#[test]
fn a_batch_with_an_unknown_outcome_is_republished_and_takes_effect_once() {
    let faults = Faults { unknown: 1, forget: 1, kill: 1, lose_tail: 1, ..NO_FAULTS };
    holds("unknown batch", Bounds { page: 2, faults, ..TWO_PAGES });
}

#[test]
fn a_refill_killed_between_any_two_steps_continues_where_it_was() {
    let faults = Faults { lose_tail: 1, kill: 2, ..NO_FAULTS };
    holds("refill, killed twice", Bounds { faults, ..TWO_PAGES });
    // Two pages of one range: it was published as one, and is republished as one and a half.
    let faults = Faults { lose_tail: 1, kill: 1, ..NO_FAULTS };
    holds("refill in pages", Bounds { writes: &[0, 1, 2], page: 2, faults, ..TWO_PAGES });
    let faults = Faults { wipe: 1, kill: 1, members_die: 1, ..NO_FAULTS };
    holds("refill of a wiped stream", Bounds { page: 2, faults, ..TWO_PAGES });
}

#[test]
fn members_that_die_and_redeliveries_apply_nothing_twice() {
    let faults = Faults { members_die: 2, lose_tail: 1, kill: 1, ..NO_FAULTS };
    holds("dying members", Bounds { faults, ..TWO_PAGES });
}

#[test]
fn two_processes_with_one_client_id_apply_nothing_twice() {
    let found = explore(Lease { inbox: true });
    println!("lease: {} states", found.states);
    assert!(found.broken.is_empty(), "{:?}", found.broken);
    // Both really run at once, and both have had the event.
    assert!(found.never.is_empty(), "never {:?}", found.never);
}
