//! The service `orders`. See the library of the same name.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    orders::main(std::env::args_os()).await
}
