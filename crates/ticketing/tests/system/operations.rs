//! The operations APIs of the services, and what the console makes of them.

#[tokio::test]
async fn settings_of_the_operations_api_that_do_not_fit_end_with_status_64_and_their_name() {
    for (settings, name) in [
        (vec![("OPERATIONS_API", "on")], "OPERATIONS_ADDRESS"),
        (vec![("OPERATIONS_TOKEN", "tooshort")], "operations-token"),
        (vec![("OPERATIONS_TOKEN", "tooshort but with blanks")], "operations-token"),
        (vec![("OPERATIONS_API", "maybe")], "operations-api"),
    ] {
        let mut command = embedded::process::Command::new(env!("CARGO_BIN_EXE_ticketing"))
            .args(["tickets"])
            .env("AUTH", "off")
            .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing");
        for (name, value) in &settings {
            command = command.env(*name, *value);
        }
        let mut process = command.piped().spawn().unwrap();
        let mut said = String::new();
        while let Some(line) = process.line().await {
            said += &line;
        }
        assert_eq!(process.wait().await.code(), Some(64), "{settings:?}: {said}");
        assert!(said.contains(name), "{settings:?}: {said}");
        assert!(!said.contains("tooshort"), "{said}");
    }
}
