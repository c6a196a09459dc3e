//! The console. See the library.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    ticketing_console::main().await
}
