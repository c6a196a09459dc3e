//! The README's commands work as they stand there, in the order in which they stand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::ExitStatus, time::Duration};

use embedded::process::{Child, Command, Signal};
use tokio::time::timeout;

/// The first `cargo run` may have to build.
const PATIENCE: Duration = Duration::from_secs(900);
/// Marks a command in the README that runs until Ctrl-C.
const STAYS: &str = "# runs until Ctrl-C";

/// The blocks that begin with exactly "```sh". One block is what a reader pastes at once.
fn commands(readme: &str) -> Vec<String> {
    let blocks = readme.split("```sh\n").skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().trim_end().to_owned()).collect()
}

/// Runs a block in the repository's root as a reader's terminal does: variables set by one block
/// are there in the next. The differences are a data folder of the test's own and, if another
/// process has a usual port, the port that the system took instead.
fn shell(block: &str, data: &Path) -> Child {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let block = block.replace(".ticketing", &data.to_string_lossy());
    // What stays takes the shell's place, so that it dies with this test.
    let run =
        if block.contains(STAYS) { "exec " } else { "trap 'export -p > \"$VARIABLES\"' EXIT\n" };
    let load = "set -a; if [ -f \"$VARIABLES\" ]; then . \"$VARIABLES\"; fi\n";
    let script = format!("{load}{run}{}", with_ports(&block, data));
    Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(root)
        .env("TICKETING_DATA", data)
        .env("VARIABLES", data.join("variables"))
        .piped()
        .spawn()
        .unwrap()
}

fn with_ports(block: &str, data: &Path) -> String {
    let Ok(stack) = fs::read(data.join("stack.json")) else { return block.to_owned() };
    let stack: serde_json::Value = serde_json::from_slice(&stack).unwrap();
    let usual = [("tickets-1", 3000), ("orders-1", 3001)];
    usual.iter().fold(block.to_owned(), |block, (service, port)| {
        let address = stack["services"][service].as_str().unwrap();
        let taken = address.rsplit(':').next().unwrap();
        block.replace(&format!("localhost:{port}"), &format!("localhost:{taken}"))
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
    for block in &commands {
        if block.contains(STAYS) {
            let mut child = shell(block, data.path());
            let ready = if staying.is_empty() { "Everything is up" } else { "Listening to" };
            until_said(&mut child, ready).await;
            staying.push(child);
            continue;
        }
        let (status, said) = end(shell(block, data.path())).await;
        assert!(status.success(), "{block}\n{said}");
        let expected = [
            ("curl -i ", "HTTP/1.1 201 Created"),
            ("/api/tickets/$TICKET", "Opera"),
            ("/payment", "\"completed\""),
            (" status", "queue group orders-service"),
        ];
        for (command, answer) in expected.iter().filter(|(command, _)| block.contains(command)) {
            assert!(said.contains(answer), "{command}: {answer:?} is missing\n{block}\n{said}");
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
