//! Runs schemathesis, which generates valid and invalid requests from an API's description and
//! checks every answer against it.

use std::{path::Path, time::Duration};

use embedded::{process::Command, python, silent};
use tokio::time::timeout;

const NAME: &str = "schemathesis-4.32.5";
/// How many requests to generate for each phase of an operation.
const EXAMPLES: &str = "60";
/// A run takes about ten seconds.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Checks that schemathesis tests all operations of the API at this address and finds no fault.
///
/// # Panics
/// If it finds a fault, cannot be installed, or does not end in time.
pub async fn finds_no_fault(base: &str, operations: usize, arguments: &[&str]) {
    let tools = python::installed(NAME, include_str!("requirements.txt"), &silent()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut schemathesis = Command::new("python3")
        .args([tools.join("bin/schemathesis").as_path(), Path::new("run")])
        .args([&format!("{base}/openapi.json")])
        .args(["--checks", "all", "--max-examples", EXAMPLES, "--seed", "1", "--no-color"])
        .args(arguments)
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
    let status = timeout(TIMEOUT, run).await.expect("schemathesis did not end");
    assert!(status.success(), "{}", said.join("\n"));
    let tested = said.iter().any(|line| line.contains(&format!("Tested: {operations}")));
    assert!(tested, "not all {operations} operations were tested:\n{}", said.join("\n"));
}
