//! Runs the commands of each lesson as written, in order, and compares their output with the lesson.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod document;

use std::{collections::BTreeSet, fs, path::Path};

/// Needs a cluster, so it is not run here.
const ON_KUBERNETES: &str = "11-on-kubernetes.md";

macro_rules! lessons {
    ($($name:ident: $file:literal),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let commands = document::follow(concat!("docs/lessons/", $file)).await;
                assert!(commands >= 4, "it has {commands} commands");
            }
        )+

        /// The lessons that are run here.
        const LESSONS: &[&str] = &[$($file),+];
    };
}

lessons! {
    lesson_01_publisher_and_listener: "01-publisher-and-listener.md",
    lesson_02_json_and_the_envelope: "02-json-and-the-envelope.md",
    lesson_03_two_listeners: "03-two-listeners.md",
    lesson_04_client_ids_and_the_duplicate: "04-client-ids-and-the-duplicate.md",
    lesson_05_queue_groups: "05-queue-groups.md",
    lesson_06_manual_ack_and_redelivery: "06-manual-ack-and-redelivery.md",
    lesson_07_monitoring: "07-monitoring.md",
    lesson_08_a_client_that_vanished: "08-heartbeats-and-a-client-that-vanished.md",
    lesson_09_closing_in_order: "09-closing-in-order.md",
    lesson_10_stores: "10-stores.md",
}

#[test]
fn every_lesson_is_tested_and_listed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lessons");
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let there: BTreeSet<_> = names.map(|name| name.into_string().unwrap()).collect();
    let run = LESSONS.iter().chain(&[ON_KUBERNETES, "README.md"]);
    let run = run.map(ToString::to_string);
    assert_eq!(there, run.collect());
    let index = fs::read_to_string(folder.join("README.md")).unwrap();
    for lesson in there.iter().filter(|lesson| *lesson != "README.md") {
        assert!(index.contains(&format!("({lesson})")), "the index has no {lesson}");
    }
}
