//! The README's commands work as they stand there, in the order in which they stand, and show what it says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod document;

#[tokio::test]
async fn the_commands_of_the_readme_work_as_they_stand() {
    let commands = document::follow("README.md").await;
    assert!(commands >= 8, "it has {commands} commands");
}
