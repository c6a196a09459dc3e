//! The command that a person runs; the library says what it does.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    ticketing::main().await
}
