//! `up`: starts NATS, Postgres, the tickets service and the replicas of the orders service, each as a
//! separate process, and shows what they do until Ctrl-C.

mod folder;
mod link;
mod log;
mod names;
mod options;
mod rows;
mod servers;
mod service;
mod signals;
mod view;
mod watch;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::bus::without_passwords;
use tokio::{sync::mpsc, task::JoinSet, time::interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{
    folder::Folder,
    link::{Cut, Links},
    names::{CONSOLE, NATS, ORDERS, POSTGRES, TICKETS},
    servers::{Servers, wanted_or_other},
    service::{Report, Service, Up},
    signals::Signals,
    view::View,
    watch::Watch,
};
use crate::{running::RunningSystem, services};

pub(crate) use options::Options;

/// The variable that says where a service's database is.
const DATABASE_URL: &str = "DATABASE_URL";

/// Starts everything, and stops it after SIGINT or SIGTERM.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let folder = Arc::new(Folder::open(&options.data.data_dir)?);
    folder.remove_pids();
    if options.fresh {
        folder.clear()?;
    }
    let view = Arc::new(View::new());
    let mut stop_wanted = Signals::new()?;
    let servers = tokio::select! {
        started = Servers::start(&options, &folder, &view) => started,
        // Dropping the handles kills whatever has started. The next run recreates an incomplete data folder.
        () = stop_wanted.next() => return Ok(()),
    };
    let servers = servers.inspect_err(|_| view.close())?;
    // The console acts on dead letters with this token, which is valid for this run only.
    let token = Uuid::new_v4().simple().to_string();
    let mut services = services(&options, &servers, &view, &token)?;
    let links = if options.cuttable { links(&mut services).await? } else { Links::default() };
    services.push(console(&options, &servers, &folder, &view, token)?);
    let database = servers.databases.values().next().cloned().unwrap_or_default();
    let watch = Watch::begin(view.clone(), &servers.nats_url, database, &folder.root).await?;
    if let Some(store) = options.store {
        watch.refuse_other_storage(store).await.inspect_err(|_| view.close())?;
    }
    let system = RunningSystem {
        pid: std::process::id(),
        nats_url: servers.nats_url.clone(),
        monitor_url: servers.monitor_url.clone(),
        databases: servers.databases.clone(),
        console_url: None,
        store: options.store.map(|store| store.to_string()),
        cuttable: options.cuttable,
        // Each is added once it is up.
        services: BTreeMap::new(),
        operations: BTreeMap::new(),
    };
    system.save(&folder.root)?;
    show_addresses(&view, &options, &folder, &system);
    // Servers that run here report themselves.
    let given = [(NATS, options.nats_url.is_some()), (POSTGRES, options.database_url.is_some())];
    for (name, _) in given.iter().filter(|(_, is_given)| *is_given) {
        view.runs(name, "external");
    }
    let running = Run { servers, watch, system, links, folder: folder.clone(), view: view.clone() };
    let ended = running.until_stopped(services, &mut stop_wanted).await;
    RunningSystem::remove(&folder.root);
    folder.remove_pids();
    view.close();
    view.print(&format!("Stopped. The data is kept in {}.", options.data.data_dir.display()));
    ended
}

fn services(
    options: &Options,
    servers: &Servers,
    view: &View,
    token: &str,
) -> anyhow::Result<Vec<Service>> {
    let replicas = services::all().flat_map(|service| {
        let replicas = 1..=service.replicas(options.replicas);
        replicas.map(move |replica| (service, format!("{}-{replica}", service.name)))
    });
    let ports = (options.ports().http..).zip(options.ports().operations..);
    let store = options.store.map(|store| ("NATS_STORE", store.to_string()));
    let services = ports.zip(replicas).map(|((port, operations), (service, name))| {
        let settings = [
            (DATABASE_URL, servers.databases[service.name].clone()),
            ("OPERATIONS_API", "on".to_owned()),
            ("OPERATIONS_TOKEN", token.to_owned()),
        ];
        Ok(Service {
            kind: service.name,
            joins: service.ready_once_joined,
            port: wanted_or_other(view, &name, port)?,
            operations_port: Some(wanted_or_other(view, &name, operations)?),
            name,
            nats_url: servers.nats_url.clone(),
            settings: settings.into_iter().chain(store.clone()).collect(),
        })
    });
    services.collect()
}

/// Puts a link between each service and each server.
async fn links(services: &mut [Service]) -> anyhow::Result<Links> {
    let mut links = Links::default();
    for service in services {
        service.nats_url = links.add(&service.name, NATS, &service.nats_url).await?;
        for (_, url) in service.settings.iter_mut().filter(|(name, _)| *name == DATABASE_URL) {
            *url = links.add(&service.name, POSTGRES, url).await?;
        }
    }
    Ok(links)
}

fn console(
    options: &Options,
    servers: &Servers,
    folder: &Folder,
    view: &View,
    token: String,
) -> anyhow::Result<Service> {
    let data_folder = ("CONSOLE_DATA_FOLDER", folder.root.to_string_lossy().into_owned());
    let monitor = servers.monitor_url.clone().map(|url| ("NATS_MONITOR_URL", url));
    Ok(Service {
        kind: "console",
        joins: false,
        port: wanted_or_other(view, CONSOLE, options.ports().console)?,
        operations_port: None,
        name: CONSOLE.to_owned(),
        nats_url: servers.nats_url.clone(),
        settings: monitor
            .into_iter()
            .chain([data_folder, ("CONSOLE_OPERATIONS_TOKEN", token)])
            .collect(),
    })
}

/// Everything that runs.
struct Run {
    servers: Servers,
    watch: Watch,
    system: RunningSystem,
    links: Links,
    folder: Arc<Folder>,
    view: Arc<View>,
}

impl Run {
    /// Runs the services until a signal, then stops them, and then the servers.
    async fn until_stopped(
        self,
        services: Vec<Service>,
        stop_wanted: &mut Signals,
    ) -> anyhow::Result<()> {
        let Self { servers, watch, mut system, links, folder, view } = self;
        let (stop_services, stop_servers) = (CancellationToken::new(), CancellationToken::new());
        // Nothing depends on the console, so nothing waits for it.
        let expected = services.iter().filter(|service| service.name != CONSOLE).count();
        let (tell, mut reports) = mpsc::channel(services.len() * 2);
        let mut running = JoinSet::new();
        for service in services {
            let (folder, view) = (folder.clone(), view.clone());
            let (tell, stop) = (tell.clone(), stop_services.clone());
            running.spawn(service::supervise(service, folder, view, tell, stop));
        }
        let servers =
            tokio::spawn(servers.supervise(folder.clone(), view.clone(), stop_servers.clone()));
        let mut tick = interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = stop_wanted.next() => break,
                Some(report) = reports.recv() => match report {
                    Report::Up(up) => is_up(up, &mut system, &folder, &view, expected)?,
                    Report::Cut(wanted) => cut(&links, wanted, &view),
                },
                _ = tick.tick() => view.tick(),
            }
        }
        links.mend_all();
        view.print("Stopping. Press Ctrl-C again to kill everything immediately.");
        let in_good_order = async {
            // Closed first, so that the stop is not reported as an outage.
            watch.close().await;
            stop_services.cancel();
            while running.join_next().await.is_some() {}
            stop_servers.cancel();
            let _ = servers.await;
        };
        tokio::select! {
            () = in_good_order => Ok(()),
            () = stop_wanted.next() => anyhow::bail!("killed before everything had stopped; no request answered 201 is lost"),
        }
    }
}

/// Records a process that is up, so that the tools find it. Once all are up, prints what to try.
fn is_up(
    up: Up,
    system: &mut RunningSystem,
    folder: &Folder,
    view: &View,
    expected: usize,
) -> anyhow::Result<()> {
    let Up { name, port, operations_port } = up;
    let url = |port| format!("http://127.0.0.1:{port}");
    if let Some(port) = operations_port {
        system.operations.insert(name.clone(), url(port));
    }
    if name == CONSOLE {
        system.console_url = Some(url(port));
        return system.save(&folder.root);
    }
    let before = system.services.insert(name, url(port));
    system.save(&folder.root)?;
    if before.is_none() && system.services.len() == expected {
        show_what_to_try(view, &system.services[TICKETS], &system.services[ORDERS]);
    }
    Ok(())
}

/// Cuts a link at the console's request, and reports the beginning and the end.
fn cut(links: &Links, wanted: Cut, view: &Arc<View>) {
    let Some(over) = links.cut(&wanted) else { return };
    let Cut { process, server, seconds } = wanted;
    view.say(&process, &format!("cut off from {server} for {seconds} s"));
    let view = view.clone();
    tokio::spawn(async move {
        over.await;
        view.say(&process, &format!("no longer cut off from {server}"));
    });
}

fn show_addresses(view: &View, options: &Options, folder: &Folder, system: &RunningSystem) {
    let monitor = system.monitor_url.as_deref().map(|url| format!(", monitoring {url}"));
    let nats = without_passwords(&system.nats_url);
    view.print(&format!("NATS      {nats}{}", monitor.unwrap_or_default()));
    let postgres = system.databases.iter().map(|(name, url)| (name, without_passwords(url)));
    for (name, url) in postgres {
        view.print(&format!("Postgres  {url}  for {name}"));
    }
    view.print(&format!(
        "Data      {}, logs in {}",
        options.data.data_dir.display(),
        options.data.data_dir.join("logs").display()
    ));
    if options.database_url.is_none() && !folder.postgres.starts_with(&folder.root) {
        view.print(&format!(
            "          Postgres stores its files in {}, because its user cannot enter the data folder",
            folder.postgres.display()
        ));
    }
}

fn show_what_to_try(view: &View, tickets: &str, orders: &str) {
    view.print(&format!(
        "\nEverything is up. From another terminal:\n\n    \
         curl -i {tickets}/api/tickets -H 'content-type: application/json' \\\n        \
         -d '{{\"title\": \"Concert\", \"price\": 20}}'\n\n\
         and, with the id that this returns:\n\n    \
         curl -i {orders}/api/orders -H 'content-type: application/json' \\\n        \
         -d '{{\"ticketId\": \"…\"}}'\n\n\
         API documentation: {tickets}/docs and {orders}/docs. Ctrl-C stops everything.\n"
    ));
}
