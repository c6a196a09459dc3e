//! The service `tickets`; the library says what it does.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    tickets::main(std::env::args_os()).await
}
