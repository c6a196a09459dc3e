//! The command `ticketing`; see the library.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    ticketing::main().await
}
