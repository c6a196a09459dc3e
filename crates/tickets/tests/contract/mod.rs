//! The API does what its description says, as schemathesis finds out: it makes requests from the
//! description, right ones and wrong ones, and checks every answer against it.

use std::{path::Path, time::Duration};

use embedded::{process::Command, python, silent};
use tokio::time::timeout;

use crate::service::Service;

const NAME: &str = "schemathesis-4.32.5";
/// Requests made up for each phase of an operation.
const EXAMPLES: &str = "60";
/// It takes about ten seconds.
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test]
async fn no_answer_is_a_failure_of_the_server_or_missing_in_the_description() {
    let tools = python::installed(NAME, include_str!("requirements.txt"), &silent()).await.unwrap();
    let tickets = Service::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut schemathesis = Command::new("python3")
        .args([tools.join("bin/schemathesis").as_path(), Path::new("run")])
        .args([&format!("{}/openapi.json", tickets.base)])
        .args(["--checks", "all", "--max-examples", EXAMPLES, "--seed", "1", "--no-color"])
        // A schema cannot say that a version must be the newest one, or that a title is more than
        // blanks: what it allows may still be refused.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .env("PYTHONPATH", &tools)
        .current_dir(folder.path())
        .piped()
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let run = async {
        while let Some(line) = schemathesis.line().await {
            said.push(line);
        }
        schemathesis.wait().await
    };
    let status = timeout(PATIENCE, run).await.expect("schemathesis did not end");
    assert!(status.success(), "{}", said.join("\n"));
    let tested = said.iter().any(|line| line.contains("Tested: 4"));
    assert!(tested, "not all four operations were tested:\n{}", said.join("\n"));
}
