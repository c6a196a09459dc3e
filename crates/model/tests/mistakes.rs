//! The explorer finds each mistake put into the model, and prints the steps by which it loses an
//! event or applies one twice (`--nocapture`). Without the mistake, the same bounds show no fault.

use model::{
    bounds::{Bounds, Faults, Mistake},
    explore::{explore, find},
    lease::Lease,
};

const LOST: &str = "when nothing is left to do, every event is applied";
const TWICE: &str = "no event is applied twice";

fn none() -> Faults {
    Faults::default()
}

/// Two events, each in its own transaction and its own page.
fn bounds(mistakes: &'static [Mistake], faults: Faults) -> Bounds {
    Bounds { writes: &[0, 1], written_before: true, page: 1, faults, mistakes }
}

/// Checks that the mistakes break a property.
fn finds(mistakes: &'static [Mistake], property: &str, faults: Faults) {
    finds_in(bounds(mistakes, faults), property);
}

fn finds_in(bounds: Bounds, property: &str) {
    let mistakes = bounds.mistakes;
    let found = find(bounds.clone());
    let story = found.broken.iter().find(|(broken, _)| *broken == property);
    let (_, story) = story.unwrap_or_else(|| panic!("{mistakes:?} is not found: {found:?}"));
    println!("{mistakes:?}, after {} states: violated: {property}:\n{story}", found.states);
    let right = explore(Bounds { mistakes: &[], ..bounds });
    assert!(right.broken.is_empty(), "without {mistakes:?}: {:?}", right.broken);
}

#[test]
fn a_cursor_that_is_a_position_skips_a_late_commit() {
    let bounds = Bounds { written_before: false, ..bounds(&[Mistake::CursorByPlace], none()) };
    finds_in(bounds, LOST);
}

#[test]
fn a_range_recorded_for_the_incarnation_after_the_ack_hides_a_wipe() {
    let faults = Faults { wipe: 1, freeze: 1, ..none() };
    finds(&[Mistake::RecordsALaterIncarnation, Mistake::CommitsWithoutTheLock], LOST, faults);
    let faults = Faults { wipe: 1, others: 1, ..none() };
    finds(&[Mistake::RecordsALaterIncarnation], LOST, faults);
}

#[test]
fn a_frozen_relay_that_may_commit_hides_a_wipe() {
    finds(&[Mistake::CommitsWithoutTheLock], LOST, Faults { wipe: 1, freeze: 1, ..none() });
}

#[test]
fn a_loss_marked_after_the_commit_is_forgotten_after_a_kill() {
    let faults = Faults { lose_tail: 1, kill: 1, ..none() };
    let bounds = Bounds { writes: &[0, 1, 2], ..bounds(&[Mistake::MarksTheLossLater], faults) };
    finds_in(bounds, LOST);
}

#[test]
fn an_event_reported_as_a_duplicate_may_be_gone() {
    let faults = Faults { lose_tail: 1, kill: 1, others: 1, ..none() };
    finds(&[Mistake::BelievesDuplicates], LOST, faults);
    finds(&[Mistake::BelievesDuplicates], LOST, Faults { delete: 1, kill: 1, ..none() });
}

#[test]
fn an_undetected_purge_loses_events() {
    finds(&[Mistake::PassesOverPurges], LOST, Faults { purge: 1, ..none() });
}

#[test]
fn an_undetected_delete_loses_events() {
    finds(&[Mistake::PassesOverHoles], LOST, Faults { delete: 1, ..none() });
}

#[test]
fn sequence_numbers_do_not_reveal_an_overwritten_tail() {
    let faults = Faults { lose_tail: 1, others: 1, ..none() };
    finds(&[Mistake::PassesOverTheIdentity], LOST, faults);
}

#[test]
fn a_refill_under_the_same_id_is_swallowed_by_the_duplicate_window() {
    const SAME: &[Mistake] = &[Mistake::RefillsUnderTheSameId, Mistake::BelievesDuplicates];
    finds(SAME, LOST, Faults { lose_tail: 1, ..none() });
    const OF_RANGE: &[Mistake] =
        &[Mistake::RefillsUnderAnIdOfTheRange, Mistake::BelievesDuplicates];
    finds(OF_RANGE, LOST, Faults { lose_tail: 1, delete: 1, kill: 1, ..none() });
}

#[test]
fn a_refill_in_two_transactions_is_forgotten_after_a_kill() {
    let faults = Faults { lose_tail: 2, kill: 1, ..none() };
    finds(&[Mistake::MovesTheRefillInTwo], LOST, faults);
}

#[test]
fn a_tail_lost_and_overwritten_between_comparisons_must_be_detected_after_each_page() {
    let faults = Faults { lose_tail: 1, others: 1, ..none() };
    finds(&[Mistake::ComparesNowAndThen], LOST, faults);
}

#[test]
fn sequence_numbers_do_not_reveal_an_overwrite_below_the_last_confirmed() {
    let faults = Faults { lose_tail: 1, others: 1, ..none() };
    let bounds = Bounds { writes: &[0, 1, 2], ..bounds(&[Mistake::MarksByNumbers], faults) };
    finds_in(bounds, LOST);
}

#[test]
fn an_acknowledged_sequence_says_nothing_about_a_message_that_reuses_it() {
    let faults = Faults { lose_tail: 1, purge: 1, ..none() };
    finds(&[Mistake::KeepsTheAcknowledged], LOST, faults);
    let faults = Faults { lose_tail: 1, purge: 1, others: 1, ..none() };
    finds(&[Mistake::CreditsAcksUnseen], LOST, faults);
}

#[test]
fn a_removed_sequence_says_nothing_about_a_message_that_reuses_it() {
    let faults = Faults { lose_tail: 1, purge: 1, delete: 1, ..none() };
    finds(&[Mistake::KeepsWhatWasRemoved], LOST, faults);
}

#[test]
fn a_tail_lost_between_two_single_messages_includes_the_first() {
    let faults = Faults { unknown: 1, lose_tail: 1, ..none() };
    let bounds = Bounds { page: 2, ..bounds(&[Mistake::BelievesSingleAcks], faults) };
    finds_in(bounds, LOST);
}

#[test]
fn a_stream_whose_end_is_unknown_after_a_loss_may_lose_it_again() {
    let faults = Faults { lose_tail: 2, others: 1, ..none() };
    finds(&[Mistake::ForgetsTheLastConfirmed], LOST, faults);
}

#[test]
fn a_message_identified_only_by_its_event_may_be_a_frozen_relays() {
    let faults = Faults { lose_tail: 1, others: 1, freeze: 1, forget: 1, ..none() };
    finds(&[Mistake::KnowsMessagesByTheirEvent], LOST, faults);
}

#[test]
fn acks_read_after_the_stream_include_those_of_a_purge() {
    finds(&[Mistake::ReadsTheGroupsLast], LOST, Faults { purge: 1, ..none() });
}

#[test]
fn without_the_inbox_a_redelivery_is_applied_twice() {
    finds(&[Mistake::NoInbox], TWICE, Faults { members_die: 1, ..none() });
    finds(&[Mistake::NoInbox], TWICE, Faults { kill: 1, forget: 1, ..none() });
    let found = find(Lease { inbox: false });
    assert!(found.broken.iter().any(|(broken, _)| *broken == TWICE), "{found:?}");
}

#[test]
fn an_ack_before_the_commit_loses_the_members_events() {
    finds(&[Mistake::AcksFirst], LOST, Faults { members_die: 1, ..none() });
}

#[test]
fn an_ack_from_before_a_restart_acknowledges_another_message() {
    let faults = Faults { members_die: 1, lose_tail: 1, ..none() };
    finds(&[Mistake::AcksAfterARestart], LOST, faults);
    let faults = Faults { members_die: 1, wipe: 1, ..none() };
    finds(&[Mistake::AcksAfterARestart], LOST, faults);
}

#[test]
fn a_consumer_ahead_of_a_shortened_stream_skips_new_events() {
    finds(&[Mistake::ConsumerStaysAhead], LOST, Faults { lose_tail: 1, ..none() });
}
