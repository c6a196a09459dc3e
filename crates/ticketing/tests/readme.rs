//! Runs the commands of the README as written, in order, and compares their output with the README.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod document;

#[tokio::test]
async fn the_commands_in_the_readme_work_as_written() {
    let commands = document::follow("README.md").await;
    assert!(commands >= 8, "it has {commands} commands");
}
