//! Servers survive what tests do to them: kill, freeze and restart.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Stdio,
    time::Duration,
};

use async_nats::jetstream;
use embedded::{
    NatsServer, Postgres, ports,
    process::{Child, Command},
};
use sqlx::{Connection, PgConnection};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// Longer than anything here takes unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

async fn stream_messages(nats: &NatsServer) -> Option<u64> {
    let client = async_nats::connect(nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("TEST").await.ok()?;
    Some(stream.cached_info().state.messages)
}

#[tokio::test]
async fn a_killed_nats_server_comes_back_with_its_messages_and_a_wiped_one_without() {
    let mut nats = NatsServer::builder().start().await.unwrap();
    let context = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let config = jetstream::stream::Config {
        name: "TEST".to_owned(),
        subjects: vec!["test".to_owned()],
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    context.publish("test", "kept".into()).await.unwrap().await.unwrap();

    nats.kill().await;
    assert!(TcpStream::connect(("127.0.0.1", nats.client_port())).await.is_err());
    nats.restart().await.unwrap();
    assert_eq!(stream_messages(&nats).await, Some(1));

    nats.wipe_and_restart().await.unwrap();
    assert_eq!(stream_messages(&nats).await, None);
}

#[tokio::test]
async fn a_killed_postgres_comes_back_with_its_committed_rows() {
    let mut postgres = Postgres::builder().start().await.unwrap();
    let url = postgres.create_database("kept").await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::query("create table t as select 7 as n").execute(&mut connection).await.unwrap();

    postgres.kill().await;
    // The server's processes notice one after another that the first one is gone.
    let ended = async { while sqlx::query("select 1").execute(&mut connection).await.is_ok() {} };
    timeout(Duration::from_secs(20), ended).await.expect("the connection outlived the server");
    postgres.restart().await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let n: i32 = sqlx::query_scalar("select n from t").fetch_one(&mut connection).await.unwrap();
    assert_eq!(n, 7);
    assert_eq!(
        postgres.create_database("kept").await.unwrap(),
        url,
        "creating it again is no error"
    );
}

/// Whether a System V shared memory segment exists.
#[cfg(target_os = "linux")]
fn is_there(segment: &str) -> bool {
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    segments.lines().any(|line| line.split_whitespace().nth(1) == Some(segment))
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_postgres_that_was_dropped_or_killed_leaves_no_shared_memory() {
    let dropped = Postgres::builder().fsync(false).start().await.unwrap();
    let mut killed = Postgres::builder().fsync(false).start().await.unwrap();
    let segments = [&dropped, &killed].map(|server| server.shared_memory().unwrap());
    assert!(segments.iter().all(|segment| is_there(segment)));
    killed.kill().await;
    drop((dropped, killed));
    // The server's processes notice one after another that the first one is gone.
    let removed = async {
        while segments.iter().any(|segment| is_there(segment)) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, removed).await.expect("the shared memory segments are still there");
}

#[tokio::test]
async fn a_frozen_postgres_does_not_answer_until_it_is_resumed() {
    let postgres = Postgres::builder().fsync(false).start().await.unwrap();
    let mut connection = PgConnection::connect(&postgres.url("postgres")).await.unwrap();
    postgres.pause();
    let query = async { sqlx::query("select 1").execute(&mut connection).await };
    tokio::pin!(query);
    assert!(timeout(Duration::from_millis(300), &mut query).await.is_err());
    postgres.resume();
    timeout(PATIENCE, query).await.unwrap().unwrap();
}

/// Not a test: run by the test below as its own process. Starts both servers, and prints their process ids.
#[tokio::test]
async fn child_process_that_starts_servers() {
    if std::env::var_os("SERVERS_TO_BE_ORPHANED").is_none() {
        return;
    }
    let nats = NatsServer::builder().start().await.unwrap();
    let postgres = Postgres::builder().fsync(false).start().await.unwrap();
    println!("PIDS {} {}", nats.process().unwrap().pid(), postgres.process().unwrap().pid());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn servers_die_with_a_process_that_is_killed() {
    // Not with this crate's own process module, which is what is being tested.
    let mut parent = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process_that_starts_servers", "--nocapture"])
        .env("SERVERS_TO_BE_ORPHANED", "1")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let pids: Vec<u32> = timeout(PATIENCE, async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the servers did not start");
            if let Some((_, pids)) = line.split_once("PIDS ") {
                return pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
            }
        }
    })
    .await
    .unwrap();
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    parent.kill().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(Instant::now() < deadline, "a server outlived its parent");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Not a test: run by the test below as its own process. Reserves ports, and prints them.
#[test]
fn child_process_that_asks_for_ports() {
    let Ok(wanted) = std::env::var("PORTS_OF_ANOTHER") else { return };
    let wanted = ports::free_or_other(wanted.parse().unwrap()).unwrap();
    let others = (0..500).map(|_| ports::free().unwrap());
    let given: Vec<_> = [wanted].into_iter().chain(others).map(|port| port.to_string()).collect();
    println!("PORTS {}", given.join(" "));
}

#[tokio::test]
async fn a_reserved_port_goes_to_no_other_process_even_without_a_listener() {
    let first = ports::consecutive(50).unwrap();
    let mine = first..first + 50;
    let claimed = ports::free_or_other(ports::free().unwrap()).unwrap();
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process_that_asks_for_ports", "--nocapture"])
        .env("PORTS_OF_ANOTHER", claimed.to_string())
        .output();
    let output = timeout(PATIENCE, output).await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let given = said.lines().find_map(|line| line.split_once("PORTS ")).unwrap().1;
    let given: Vec<u16> = given.split(' ').map(|port| port.parse().unwrap()).collect();
    assert_eq!(given.len(), 501);
    assert!(!given.iter().any(|port| mine.contains(port) || *port == claimed), "{given:?}");
}

/// Returns whether a process runs; a zombie does not.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

#[tokio::test]
async fn a_childs_lines_and_exit_status_can_be_read() {
    let script = "echo one; echo two >&2; exit 3";
    let mut child: Child = Command::new("sh").args(["-c", script]).piped().spawn().unwrap();
    let mut lines = vec![child.line().await.unwrap(), child.line().await.unwrap()];
    lines.sort();
    assert_eq!(lines, ["one", "two"]);
    assert_eq!(child.line().await, None);
    assert_eq!(child.wait().await.code(), Some(3));
}

#[tokio::test]
async fn clients_without_the_password_are_refused_even_by_databases_of_an_earlier_release() {
    let folder = tempfile::Builder::new().prefix("postgres-").tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let data = folder.path().join("postgres");
    let start = async || Postgres::builder().data_dir(&data).start().await.unwrap();
    let without_password = |server: &Postgres| {
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", server.port());
        async move { PgConnection::connect(&url).await.unwrap_err().to_string() }
    };
    let mut server = start().await;
    assert!(without_password(&server).await.contains("password"));
    sqlx::query("select 1").execute(&mut connect(&server).await).await.unwrap();

    // As an earlier release left it: everyone on this machine is trusted.
    let rules = data.join("data/pg_hba.conf");
    let trusting = std::fs::read_to_string(&rules).unwrap().replace("scram-sha-256", "trust");
    std::fs::write(&rules, trusting).unwrap();
    let mut connection = connect(&server).await;
    sqlx::raw_sql("alter role postgres password null").execute(&mut connection).await.unwrap();
    server.stop().await;
    drop(server);
    std::fs::remove_file(data.join("password")).unwrap();
    let server = start().await;
    assert!(without_password(&server).await.contains("password"));
    sqlx::query("select 1").execute(&mut connect(&server).await).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&data), mode(&data.join("password"))), (0o700, 0o600));
    assert!(
        !format!("{server:?}").contains(&std::fs::read_to_string(data.join("password")).unwrap())
    );

    let nats = NatsServer::builder().with_password().start().await.unwrap();
    let address = format!("nats://127.0.0.1:{}", nats.client_port());
    assert!(async_nats::connect(address).await.is_err());
    let url: async_nats::ServerAddr = nats.url().parse().unwrap();
    let (user, password) = (url.username().unwrap(), url.password().unwrap());
    let options = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into());
    options.connect(&url).await.unwrap();
    assert!(!format!("{nats:?}").contains(password));
}

async fn connect(server: &Postgres) -> PgConnection {
    PgConnection::connect(&server.url("postgres")).await.unwrap()
}
