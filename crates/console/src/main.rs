//! The console as a program; the library says what it does.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    ticketing_console::main().await
}
