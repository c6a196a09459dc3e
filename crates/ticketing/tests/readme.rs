//! The README's commands work as they stand there, in the order in which they stand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::ExitStatus, time::Duration};

use embedded::process::{Child, Command, Signal};
use tokio::time::timeout;

/// The first `cargo run` may have to build.
const PATIENCE: Duration = Duration::from_secs(900);
/// What the README says after a command that does not end by itself.
const STAYS: &str = "# stays, until Ctrl-C";

/// The commands of the blocks that begin with exactly "```sh".
fn commands(readme: &str) -> Vec<String> {
    let blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

/// Runs a line of shell in the repository's root, with a data folder of the test's own, which is
/// the one difference from a person's shell; and, should other processes have the usual ports, with
/// the ports that the system said it took instead.
fn shell(line: &str, data: &Path) -> Child {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let line = line.replace(".ticketing", &data.to_string_lossy());
    Command::new("bash")
        .args(["-euo", "pipefail", "-c", &with_ports(&line, data)])
        .current_dir(root)
        .env("TICKETING_DATA", data)
        .piped()
        .spawn()
        .unwrap()
}

fn with_ports(line: &str, data: &Path) -> String {
    let Ok(stack) = fs::read(data.join("stack.json")) else { return line.to_owned() };
    let stack: serde_json::Value = serde_json::from_slice(&stack).unwrap();
    let usual = [("tickets-1", 3000), ("orders-1", 3001)];
    usual.iter().fold(line.to_owned(), |line, (service, port)| {
        let address = stack["services"][service].as_str().unwrap();
        let taken = address.rsplit(':').next().unwrap();
        line.replace(&format!("localhost:{port}"), &format!("localhost:{taken}"))
    })
}

async fn end(mut child: Child) -> (ExitStatus, String) {
    let mut said = String::new();
    let run = async {
        while let Some(line) = child.line().await {
            said.push_str(&line);
            said.push('\n');
        }
        child.wait().await
    };
    let status = timeout(PATIENCE, run).await;
    (status.unwrap_or_else(|_| panic!("it did not end: {said}")), said)
}

async fn until_said(child: &mut Child, text: &str) {
    loop {
        let line = timeout(PATIENCE, child.line()).await.unwrap_or_default();
        let line = line.unwrap_or_else(|| panic!("{text:?} was not said"));
        if line.contains(text) {
            return;
        }
    }
}

#[tokio::test]
async fn the_commands_of_the_readme_work_as_they_stand() {
    let commands = commands(include_str!("../../../README.md"));
    assert!(commands.len() >= 8, "{commands:#?}");
    // A folder that Postgres's user can enter as well.
    let open = fs::Permissions::from_mode(0o755);
    let data = tempfile::Builder::new().permissions(open).tempdir().unwrap();
    let mut staying = Vec::new();
    for line in &commands {
        if line.contains(STAYS) {
            let mut child = shell(line, data.path());
            let ready = if staying.is_empty() { "Everything is up" } else { "Listening to" };
            until_said(&mut child, ready).await;
            staying.push(child);
            continue;
        }
        let (status, said) = end(shell(line, data.path())).await;
        assert!(status.success(), "{line}\n{said}");
        if line.contains("-i ") {
            assert!(said.contains("HTTP/1.1 201 Created"), "{line}\n{said}");
        }
        if line.contains("status") {
            assert!(said.contains("queue group orders-service"), "{line}\n{said}");
        }
    }
    // As Ctrl-C does: to everything in the terminal's foreground, cargo and what it runs.
    for child in staying.iter().rev() {
        let group = rustix::process::Pid::from_raw(child.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process_group(group, Signal::INT).unwrap();
    }
    for child in staying {
        let (_, said) = end(child).await;
        assert!(!said.contains("panicked"), "{said}");
    }
    assert!(!data.path().join("stack.json").exists(), "the system has stopped in good order");
}
