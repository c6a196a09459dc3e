//! The service `notifications`. See the library of the same name.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    notifications::main(std::env::args_os()).await
}
