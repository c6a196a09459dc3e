//! The servers and services under measurement, and the resources that they used.

use std::{fs, time::Duration};

use embedded::{
    NatsServer, Postgres, ports,
    process::{Child, Command},
};
use sqlx::PgPool;
use tokio::time::{Instant, sleep};

/// The timeout of every wait: nothing should take this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct System {
    pub(crate) nats: NatsServer,
    pub(crate) postgres: Postgres,
    pub(crate) tickets_db: PgPool,
    pub(crate) orders_db: PgPool,
}

pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl System {
    pub(crate) async fn start() -> Self {
        let (nats, postgres) =
            tokio::join!(NatsServer::builder().start(), Postgres::builder().start());
        Self::of(nats.unwrap(), postgres.unwrap()).await
    }

    /// Uses running servers.
    pub(crate) async fn of(nats: NatsServer, postgres: Postgres) -> Self {
        let tickets_db = postgres.create_database("tickets").await.unwrap();
        let tickets_db = PgPool::connect_lazy(&tickets_db).unwrap();
        let orders_db = postgres.create_database("orders").await.unwrap();
        let orders_db = PgPool::connect_lazy(&orders_db).unwrap();
        Self { nats, postgres, tickets_db, orders_db }
    }

    /// Starts a service and waits until it is ready.
    pub(crate) async fn service(&self, kind: &str, name: &str) -> Service {
        let address = format!("127.0.0.1:{}", ports::free().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_ticketing"))
            .args([kind])
            .env("POD_NAME", name)
            .env("HTTP_ADDRESS", &address)
            .env("NATS_URL", self.nats.url())
            .env("DATABASE_URL", self.postgres.url(kind))
            .env("AUTH", "off")
            .env("LOG", "warn")
            .env("LOG_FORMAT", "json")
            .spawn()
            .unwrap();
        let service = Service { name: name.to_owned(), child, address };
        until(async || crate::client::get(&service.address, "/readyz").await == Some(200)).await;
        service
    }
}

impl Service {
    /// The peak memory of the process, in MB (10⁶ bytes), from `VmHWM`.
    pub(crate) fn peak_memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
    }
}

pub(crate) fn show_memory(services: &[&Service]) {
    for service in services {
        println!("  memory  {:<10} {:>5.1} MB at most", service.name, service.peak_memory());
    }
}

/// Processor time by process, between two points in time.
pub(crate) struct Processors {
    watched: Vec<(String, u32, f64)>,
    machine: f64,
    begun: Instant,
}

impl Processors {
    pub(crate) fn watch(system: &System, services: &[&Service]) -> Self {
        let mut watched = vec![
            ("nats-server".to_owned(), system.nats.process().unwrap().pid(), 0.0),
            ("postgres".to_owned(), system.postgres.process().unwrap().pid(), 0.0),
            ("this client".to_owned(), std::process::id(), 0.0),
        ];
        watched.extend(services.iter().map(|s| (s.name.clone(), s.child.pid(), 0.0)));
        for (name, pid, before) in &mut watched {
            *before = cpu_seconds(name, *pid);
        }
        Self { watched, machine: busy(), begun: Instant::now() }
    }

    /// Prints the processor time by process.
    pub(crate) fn show(self) {
        let elapsed = self.begun.elapsed().as_secs_f64();
        let used = self.watched.iter().map(|(name, pid, before)| {
            let processors = (cpu_seconds(name, *pid) - before) / elapsed;
            format!("{name} {processors:.2}")
        });
        println!(
            "  processors in use: {}; the whole machine {:.2}",
            used.collect::<Vec<_>>().join(", "),
            (busy() - self.machine) / elapsed
        );
    }
}

/// Seconds of processor time of a process; for Postgres, including its backends.
pub(crate) fn cpu_seconds(name: &str, pid: u32) -> f64 {
    let own = ticks(pid).unwrap_or_default();
    let backends: f64 = if name == "postgres" {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|child| parent(*child) == Some(pid)).filter_map(ticks).sum()
    } else {
        0.0
    };
    // The unit in /proc/…/stat is a hundredth of a second on every current Linux.
    (own + backends) / 100.0
}

/// Seconds of processor time that the machine has spent, including the kernel's work for disk and
/// network.
fn busy() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let all = stat.lines().next().unwrap().split_whitespace().skip(1);
    let ticks: Vec<f64> = all.map(|ticks| ticks.parse().unwrap()).collect();
    // Skips the fourth and fifth fields: idle, and waiting for the disk.
    (ticks.iter().sum::<f64>() - ticks[3] - ticks[4]) / 100.0
}

/// The fields of `/proc/<pid>/stat` after the name, from `state` on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

fn ticks(pid: u32) -> Option<f64> {
    let stat = stat(pid)?;
    Some(stat.get(11)?.parse::<f64>().ok()? + stat.get(12)?.parse::<f64>().ok()?)
}

/// Waits until a condition holds.
pub(crate) async fn until(holds: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, holds).await;
}

/// Waits until a condition holds, with a timeout.
pub(crate) async fn until_within(patience: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds().await {
        assert!(Instant::now() < deadline, "timed out after {patience:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{processors} processors, shared by everything that is measured and by the client")
}
