//! TLS to Postgres with `PGSSLMODE=verify-full`: the variables of the component postgres-tls.

use std::path::Path;

use embedded::{Postgres, ports, process::Command};
use rcgen::{CertifiedKey, KeyPair};
use tempfile::TempDir;

use crate::{command::Running, harness::System};

/// A system whose Postgres has a certificate for these names, and a folder with its authority.
async fn system(names: &[&str]) -> (System, TempDir) {
    let CertifiedKey { cert, signing_key } = certificate(names);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.crt"), cert.pem()).unwrap();
    let postgres = Postgres::builder().certificate(cert.pem(), signing_key.serialize_pem());
    (System::start_with_postgres(postgres).await, folder)
}

fn certificate(names: &[&str]) -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed(
        names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(),
    )
    .unwrap()
}

/// Makes this service accept only TLS, with a certificate signed by this authority.
fn verify(system: &mut System, service: &str, authority: &Path) {
    system.settings = vec![
        ("DATABASE_URL", system.postgres.url(service)),
        ("PGSSLMODE", "verify-full".to_owned()),
        ("PGSSLROOTCERT", authority.display().to_string()),
    ];
}

#[tokio::test]
async fn with_verify_full_every_connection_to_postgres_uses_tls() {
    let (mut system, folder) = system(&["127.0.0.1"]).await;
    let authority = folder.path().join("ca.crt");
    verify(&mut system, "tickets", &authority);
    let tickets = system.tickets().await;
    verify(&mut system, "orders", &authority);
    let _orders = system.orders("orders-1").await;
    let ticket = system.post(&tickets, "in secret").await;
    system.reached_once(&[ticket].into()).await;

    let (all, plain): (i64, i64) = sqlx::query_as(
        "select count(*), count(*) filter (where not ssl) from pg_stat_ssl
         join pg_stat_activity using (pid) where application_name in ('tickets-1', 'orders-1')",
    )
    .fetch_one(&system.tickets_db)
    .await
    .unwrap();
    assert!(all >= 2, "{all} connections");
    assert_eq!(plain, 0, "connections without TLS, of {all}");
}

#[tokio::test]
async fn a_postgres_that_cannot_prove_its_identity_gets_no_password_and_no_data() {
    let (mut of_another_name, folder) = system(&["db.example.com"]).await;
    verify(&mut of_another_name, "tickets", &folder.path().join("ca.crt"));
    is_refused(&of_another_name, "not valid for name").await;

    let stranger = folder.path().join("stranger.crt");
    std::fs::write(&stranger, certificate(&["127.0.0.1"]).cert.pem()).unwrap();
    let (mut of_another_authority, _folder) = system(&["127.0.0.1"]).await;
    verify(&mut of_another_authority, "tickets", &stranger);
    is_refused(&of_another_authority, "invalid peer certificate").await;

    let mut without = System::start().await;
    verify(&mut without, "tickets", &stranger);
    is_refused(&without, "does not support TLS").await;
}

/// Checks that the service reports why it does not use this database, is not ready, and has not logged in.
async fn is_refused(system: &System, reason: &str) {
    let port = ports::free().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ticketing"))
        .args(["tickets"])
        .env("AUTH", "off")
        .env("POD_NAME", "refused")
        .env("HTTP_ADDRESS", format!("127.0.0.1:{port}"))
        .env("NATS_URL", system.nats.url())
        .piped();
    for (name, value) in &system.settings {
        command = command.env(name, value);
    }
    let mut service = Running { child: command.spawn().unwrap(), read: Vec::new() };
    service.line_with(reason).await;
    let answer = system.http.get(format!("http://127.0.0.1:{port}/readyz")).send().await;
    assert!(answer.is_err(), "it serves without its database");
    let logged_in: i64 = sqlx::query_scalar(
        "select count(*) from pg_stat_activity where application_name = 'refused'",
    )
    .fetch_one(&system.tickets_db)
    .await
    .unwrap();
    assert_eq!(logged_in, 0);
}
