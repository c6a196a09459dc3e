//! `NATS_URL` with several servers: any live one is used.

use embedded::{NatsServer, ports};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    command::{service_with, ticketing},
    harness::System,
};

/// The URLs, separated by commas.
fn list(ports: impl IntoIterator<Item = u16>) -> String {
    let urls: Vec<_> = ports.into_iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    urls.join(",")
}

/// Three servers of one cluster. None advertises the others, so clients know only the servers in their
/// own list.
async fn cluster() -> Vec<NatsServer> {
    let routes = ports::consecutive(3).unwrap();
    let server = |number: u16| {
        NatsServer::builder()
            .settings(format!(
                r#"server_name: "server-{number}"
                cluster {{
                  name: "three", no_advertise: true, listen: "127.0.0.1:{}"
                  routes: ["nats://127.0.0.1:{}", "nats://127.0.0.1:{}", "nats://127.0.0.1:{}"]
                }}"#,
                routes + number,
                routes,
                routes + 1,
                routes + 2
            ))
            .start()
    };
    let (a, b, c) = tokio::join!(server(0), server(1), server(2));
    vec![a.unwrap(), b.unwrap(), c.unwrap()]
}

/// Which server a process is connected to, by its client id.
async fn in_use(system: &System, servers: &[NatsServer], client_id: &str) -> Option<usize> {
    for (number, server) in servers.iter().enumerate() {
        let connections = system.http.get(format!("{}/connz", server.monitor_url())).send().await;
        let Ok(connections) = connections else { continue };
        let connections: Value = connections.json().await.unwrap();
        let mut connections = connections["connections"].as_array().unwrap().iter();
        if connections.any(|connection| connection["name"] == client_id) {
            return Some(number);
        }
    }
    None
}

#[tokio::test]
async fn services_fail_over_to_another_server_in_their_list_when_theirs_is_killed() {
    let mut system = System::start().await;
    let mut servers = cluster().await;
    // The first server is dead from the start.
    let dead = ports::free().unwrap();
    let ports = [dead].into_iter().chain(servers.iter().map(NatsServer::client_port));
    system.settings.push(("NATS_URL", list(ports)));
    system.settings.push(("NATS_REPLICAS", "3".to_owned()));
    let tickets = system.tickets().await;
    let _orders = system.orders("orders-1").await;
    let before = system.post(&tickets, "before").await;
    system.reached_once(&[before].into()).await;

    for client_id in ["orders-1", "tickets-1"] {
        let killed = in_use(&system, &servers, client_id).await.unwrap();
        servers[killed].kill().await;
        let ticket = system.post(&tickets, "while one is down").await;
        system.reached_once(&[ticket].into()).await;
        servers[killed].restart().await.unwrap();
    }
}

/// A self-signed certificate for 127.0.0.1.
fn certificate() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.path().join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    let settings = format!(
        r#"tls {{ cert_file: "{0}/tls.crt", key_file: "{0}/tls.key" }}
        authorization {{ user: services, password: secret }}"#,
        folder.path().display()
    );
    (folder, settings)
}

#[tokio::test]
async fn a_dead_server_in_the_list_is_skipped_with_tls_and_a_password_too() {
    let (folder, settings) = certificate();
    let mut system = System::start_on(NatsServer::builder().settings(settings)).await;
    system.settings.push(("NATS_USER", "services".to_owned()));
    system.settings.push(("NATS_PASSWORD", "secret".to_owned()));
    let dead = ports::free().unwrap();
    let authority = folder.path().join("tls.crt").display().to_string();
    system.settings.push(("NATS_URL", list([dead, system.nats.client_port()])));
    system.settings.push(("NATS_CA", authority));
    let tickets = system.tickets().await;
    let _orders = system.orders("orders-1").await;
    let ticket = system.post(&tickets, "in secret").await;
    system.reached_once(&[ticket].into()).await;
}

#[tokio::test]
async fn the_tools_accept_a_list_of_servers() {
    let nats = NatsServer::builder().start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let servers = list([ports::free().unwrap(), nats.client_port()]);
    let mut listener = ticketing(folder.path(), &["listen", "--nats-url", &servers]);
    listener.line_with("Listening to").await;
    let (status, said) = ticketing(folder.path(), &["publish", "--nats-url", &servers]).end().await;
    assert!(status.success(), "{said}");
    listener.line_with("Received").await;
    let (status, said) = ticketing(folder.path(), &["status", "--nats-url", &servers]).end().await;
    assert!(status.success(), "{said}");
}

#[tokio::test]
async fn an_invalid_url_in_the_list_exits_64_and_the_setting_is_named() {
    for bad in ["nats://127.0.0.1:4222,http://127.0.0.1:1", "nats://,nats://127.0.0.1", ",", ""] {
        for service in ["tickets", "orders"] {
            let settings = [("NATS_URL", bad), ("AUTH", "off")];
            let (code, said) = service_with(service, &settings).await;
            assert_eq!(code, Some(64), "{bad:?}: {said}");
            assert!(said.contains("NATS_URL"), "{bad:?}: {said}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    for tool in ["publish", "listen", "status", "up"] {
        let arguments = [tool, "--nats-url", "nats://127.0.0.1:4222,http://127.0.0.1:1"];
        let (status, said) = ticketing(folder.path(), &arguments).end().await;
        assert_eq!(status.code(), Some(64), "{tool}: {said}");
        assert!(said.contains("--nats-url"), "{tool}: {said}");
    }
}
