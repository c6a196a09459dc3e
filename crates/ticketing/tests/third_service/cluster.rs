//! The third service as its component runs it in the cluster (infra/k8s/components/notifications): with the
//! environment in its manifests, and its own NATS account.

use std::{collections::BTreeMap, fs};

use async_nats::jetstream;
use embedded::{
    NatsServer, Postgres, ports,
    process::{Child, Signal},
};
use serde_json::{Value, json};
use testkit::{PATIENCE, client, until};
use tokio::time::timeout;

use crate::{
    command,
    identities::{Identities, k8s},
};

const COMPONENT: &str = "components/notifications";

pub(crate) async fn a_third_service_runs_as_its_manifests_say_with_the_rights_of_its_users() {
    let identities = Identities::of("tickets orders notifications");
    let nats = identities.server_with(COMPONENT).start().await.unwrap();
    let postgres = Postgres::shared().await.unwrap();
    let world = World { identities, nats, postgres: &postgres };
    let (tickets, _tickets) = world.spawn("tickets", "base/tickets/deployment.yaml").await;
    let service = format!("{COMPONENT}/service/deployment.yaml");
    let (notifications, process) = world.spawn("notifications", &service).await;
    let provisioner = format!("{COMPONENT}/provisioner/deployment.yaml");
    let (_, provisioner) = world.spawn("notifications-provisioner", &provisioner).await;

    let post = async |title: &str| {
        let ticket = json!({ "title": title, "price": 20 });
        let posted = client().post(format!("{tickets}/api/tickets")).json(&ticket).send().await;
        posted.is_ok_and(|answer| answer.status() == 201)
    };
    let told = async |title: &str| {
        let told = client().get(format!("{notifications}/api/notifications")).send().await;
        let Ok(told) = told else { return false };
        told.text().await.is_ok_and(|told| told.contains(title))
    };
    until("a ticket is posted", async || post("Concert").await).await;
    until("its notification is there", async || told("Concert").await).await;

    // If an operator deletes the group, it is recreated and gets the events.
    let operator = |stream| world.identities.operator(&world.nats, stream);
    let jetstream = jetstream::new(operator("TICKETS").await);
    let stream = jetstream.get_stream("TICKETS").await.unwrap();
    stream.delete_consumer("notifications-service").await.unwrap();
    until("another ticket is posted", async || post("Opera").await).await;
    until("its notification is there, too", async || told("Opera").await).await;
    let own = jetstream::new(operator("NOTIFICATIONS").await);
    until("its own events are published", async || {
        let stream = own.get_stream("NOTIFICATIONS").await;
        stream.is_ok_and(|stream| stream.cached_info().state.messages >= 2)
    })
    .await;

    let log = world.nats.log().unwrap();
    let refused: Vec<_> = log.lines().filter(|line| line.contains("Violation")).collect();
    assert_eq!(refused, [""; 0]);
    for process in [&process, &provisioner] {
        process.signal(Signal::TERM);
        assert!(timeout(PATIENCE, process.wait()).await.unwrap().success());
    }
}

struct World<'a> {
    identities: Identities,
    nats: NatsServer,
    postgres: &'a Postgres,
}

impl World<'_> {
    /// Starts a process with the environment in a manifest, except for addresses. Returns its URL.
    async fn spawn(&self, user: &str, manifest: &str) -> (String, Child) {
        let manifest = fs::read_to_string(k8s(manifest)).unwrap();
        let manifest: Value = serde_saphyr::from_str(&manifest).unwrap();
        let container = &manifest["spec"]["template"]["spec"]["containers"][0];
        let arguments = container["args"].as_array().into_iter().flatten();
        let arguments: Vec<_> = arguments.map(|argument| argument.as_str().unwrap()).collect();
        let mut environment: BTreeMap<&str, String> = BTreeMap::new();
        for variable in container["env"].as_array().unwrap() {
            let value = variable["value"].as_str().unwrap_or(user);
            environment.insert(variable["name"].as_str().unwrap(), value.to_owned());
        }
        assert_eq!(environment["NATS_USER"], user);
        let address = format!("127.0.0.1:{}", ports::free().unwrap());
        let operations = format!("127.0.0.1:{}", ports::free().unwrap());
        if let Some(database) = environment.get("DATABASE_URL") {
            assert_eq!(*database, format!("postgres://{user}@postgres:5432/{user}"));
            let name = format!("{user}_in_the_cluster");
            let database = self.postgres.create_database(&name).await.unwrap();
            environment.insert("DATABASE_URL", database);
        }
        environment.remove("PGPASSWORD");
        for (name, value) in [
            ("HTTP_ADDRESS", address.clone()),
            ("OPERATIONS_ADDRESS", operations),
            ("NATS_URL", self.nats.url()),
            ("NATS_SEED_FILE", self.identities.seed_file(user).display().to_string()),
            ("AUTH", "off".to_owned()),
            ("LOG", "warn".to_owned()),
        ] {
            environment.insert(name, value);
        }
        let image = container["image"].as_str().unwrap();
        let mut command = command(&[&[image], &arguments[..]].concat());
        for (name, value) in environment {
            command = command.env(name, value);
        }
        (format!("http://{address}"), command.spawn().unwrap())
    }
}
