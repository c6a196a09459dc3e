//! The service `tickets`. See the library of the same name.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    tickets::main(std::env::args_os()).await
}
