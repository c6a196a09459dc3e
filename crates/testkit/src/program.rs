//! What the programs of all services have in common.

use std::process::Command;

/// Checks that a service's program, at this path and with this name, is also its own provisioner:
/// `NAME provision` has its own help, needs no database, and checks its settings like the service.
///
/// # Panics
/// If it is not.
pub fn has_a_provisioner(program: &str, name: &str) {
    let run = |arguments: &[&str]| {
        let ran = Command::new(program).args(arguments).env_clear().output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stdout).unwrap())
    };
    let (status, help) = run(&["provision", "--help"]);
    assert_eq!(status, Some(0));
    assert!(help.contains(&format!("Usage: {name} provision")), "{help}");
    assert!(help.contains("NATS_SEED_FILE") && !help.contains("DATABASE_URL"), "{help}");
    // Its settings are checked like the service's.
    assert_eq!(run(&["provision", "--nats-replicas", "9"]).0, Some(64));
    assert!(run(&["--help"]).1.contains(&format!("{name} provision")));
}
