//! The manifests in infra/k8s and the code agree: the manifests set what the code reads.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use common::pod::config::duration;
use embedded::{
    NatsServer, ports,
    process::{Command, Signal},
};
use serde_json::{Value, json};
use testkit::client;

use crate::{
    harness::{System, until},
    identities::{Identities, k8s},
};

fn base(file: &str) -> PathBuf {
    k8s("base").join(file)
}

fn manifest(file: &str) -> Value {
    serde_saphyr::from_str(&fs::read_to_string(base(file)).unwrap()).unwrap()
}

/// The pod of a Deployment or StatefulSet.
fn pod(manifest: &Value) -> &Value {
    &manifest["spec"]["template"]["spec"]
}

/// A port of the only container, by name.
fn container_port(pod: &Value, name: &str) -> u64 {
    let ports = pod["containers"][0]["ports"].as_array().unwrap();
    let port = ports.iter().find(|port| port["name"] == name);
    port.unwrap_or_else(|| panic!("no port {name}"))["containerPort"].as_u64().unwrap()
}

fn grace(pod: &Value) -> Duration {
    Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap())
}

/// The path of every probe. Checks that each uses the port with this name.
fn probes(pod: &Value, port: &str) -> Vec<String> {
    ["startupProbe", "readinessProbe", "livenessProbe"]
        .map(|probe| {
            let asked = &pod["containers"][0][probe]["httpGet"];
            assert_eq!(asked["port"], port, "{probe}");
            asked["path"].as_str().unwrap().to_owned()
        })
        .into()
}

/// The container's environment in the manifest, with made-up values for those that Kubernetes fills in: the
/// service's name as password, and a token key of the shortest allowed length.
fn environment(name: &str, pod: &Value) -> BTreeMap<String, String> {
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    let value = |variable: &Value| {
        if let Some(value) = variable["value"].as_str() {
            return value.to_owned();
        }
        let from = &variable["valueFrom"];
        let secret = &from["secretKeyRef"];
        if secret["name"] == "tokens" {
            return "k".repeat(32);
        }
        if secret.is_object() {
            assert_eq!(secret["key"], name, "a service has its own password");
            return name.to_owned();
        }
        match from["fieldRef"]["fieldPath"].as_str() {
            Some("metadata.name") => format!("{name}-0"),
            Some("spec.nodeName") => "node-a".to_owned(),
            other => panic!("{name}: {variable} takes {other:?}"),
        }
    };
    let named = |variable: &Value| variable["name"].as_str().unwrap().to_owned();
    variables.iter().map(|variable| (named(variable), value(variable))).collect()
}

/// The pod's NATS user. Checks that its private key is mounted where the environment says.
fn user(environment: &BTreeMap<String, String>, pod: &Value) -> String {
    let user = environment["NATS_USER"].clone();
    let (mount, volume) = (&pod["containers"][0]["volumeMounts"][0], &pod["volumes"][0]);
    assert_eq!(mount["name"], volume["name"]);
    assert_eq!(volume["secret"]["secretName"], format!("nats-seed-{user}"));
    let folder = mount["mountPath"].as_str().unwrap();
    assert_eq!(environment["NATS_SEED_FILE"], format!("{folder}/seed"));
    user
}

/// Runs a process as its manifest says, with this subcommand of `ticketing` instead of its image, in a system
/// whose other processes run.
async fn runs_as_its_manifest_says(name: &str, file: &str, subcommand: &[&str]) {
    let identities = Identities::make();
    let system = System::start_in_accounts(identities.clone()).await;
    let mut others = Vec::new();
    for service in ["tickets", "orders"] {
        let provisioner = format!("{service}-provisioner");
        if name != provisioner {
            others.push(system.provisioner(service).await);
        }
        if name != service {
            others.push(system.spawn(
                service,
                &format!("{service}-other"),
                system.nats.client_port(),
            ));
        }
    }
    let manifest_of_pod = manifest(file);
    let pod = pod(&manifest_of_pod);
    let mut environment = environment(name, pod);
    assert_eq!(user(&environment, pod), name);

    // Every address in it names a Service that exists.
    let nats_service = manifest("nats/service.yaml");
    assert_eq!(environment["NATS_URL"], format!("nats://nats:{}", port(&nats_service, "client")));
    assert_eq!(
        environment["OPERATIONS_ADDRESS"],
        format!("0.0.0.0:{}", container_port(pod, "operations")),
        "it listens where its probes look"
    );
    if let Some(url) = environment.get_mut("DATABASE_URL") {
        let postgres = port(&manifest("postgres/service.yaml"), "postgres");
        assert_eq!(*url, format!("postgres://{name}@postgres:{postgres}/{name}"));
        *url = system.postgres.url(name);
        let listens = format!("0.0.0.0:{}", container_port(pod, "http"));
        assert_eq!(environment["HTTP_ADDRESS"], listens, "it listens where its Service looks");
        assert_eq!(
            manifest(&format!("{name}/service.yaml"))["spec"]["ports"][0]["targetPort"],
            "http"
        );
    }

    // It runs with exactly this environment, except for addresses.
    let address = format!("127.0.0.1:{}", ports::free().unwrap());
    let operations = format!("127.0.0.1:{}", ports::free().unwrap());
    environment.insert("HTTP_ADDRESS".to_owned(), address.clone());
    environment.insert("OPERATIONS_ADDRESS".to_owned(), operations.clone());
    environment.insert("NATS_URL".to_owned(), system.nats.url());
    let seed = identities.seed_file(name).display().to_string();
    environment.insert("NATS_SEED_FILE".to_owned(), seed);
    let mut command =
        Command::new(env!("CARGO_BIN_EXE_ticketing")).args(subcommand).quiet().env_clear();
    for (name, value) in &environment {
        command = command.env(name, value);
    }
    let mut child = command.spawn().unwrap();
    for path in probes(pod, "operations").into_iter().chain(["/metrics".to_owned()]) {
        until(&format!("{name} answers {path}"), || async {
            assert!(child.exited().is_none(), "{name} ended at its start");
            let answer = system.http.get(format!("http://{operations}{path}")).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        // Not on the port for clients.
        let answer = system.http.get(format!("http://{address}{path}")).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }

    // Kubernetes waits longer than the process may take, which is longer than the drain for proxies.
    let shutdown = duration(&environment["SHUTDOWN_GRACE"]).unwrap();
    let drain = environment.get("HTTP_DRAIN").map_or("1s", String::as_str);
    let drain = duration(drain).unwrap();
    assert!(grace(pod) > shutdown, "{:?} is not above {shutdown:?}", grace(pod));
    assert!(shutdown > drain * 2, "{shutdown:?} leaves little after {drain:?}");
    assert!(child.stop(Signal::TERM, shutdown).await.success());
}

fn port(service: &Value, name: &str) -> u64 {
    let ports = service["spec"]["ports"].as_array().unwrap();
    let port = ports.iter().find(|port| port["name"] == name).unwrap();
    assert_eq!(port["targetPort"], name);
    port["port"].as_u64().unwrap()
}

#[tokio::test]
async fn tickets_runs_as_its_manifest_says() {
    runs_as_its_manifest_says("tickets", "tickets/deployment.yaml", &["tickets"]).await;
}

#[tokio::test]
async fn orders_runs_as_its_manifest_says() {
    runs_as_its_manifest_says("orders", "orders/deployment.yaml", &["orders"]).await;
}

#[tokio::test]
async fn the_provisioners_run_as_their_manifests_say() {
    for service in ["tickets", "orders"] {
        let (name, file) =
            (format!("{service}-provisioner"), format!("provisioners/{service}.yaml"));
        assert_eq!(pod(&manifest(&file))["containers"][0]["args"], json!(["provision"]));
        runs_as_its_manifest_says(&name, &file, &[service, "provision"]).await;
    }
}

#[tokio::test]
async fn nats_runs_as_its_manifest_says() {
    let statefulset = manifest("nats/statefulset.yaml");
    let pod = pod(&statefulset);
    let settings = fs::read_to_string(base("nats/nats.conf")).unwrap();
    let setting = |name: &str| {
        let line = settings.lines().find(|line| line.starts_with(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("nats.conf has no {name}")).split_once(": ").unwrap().1
    };
    assert_eq!(setting("port"), container_port(pod, "client").to_string());
    assert_eq!(setting("http_port"), container_port(pod, "monitoring").to_string());
    assert!(grace(pod) > duration(setting("lame_duck_duration")).unwrap());
    let stop = &pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"];
    assert_eq!(stop[2], format!("ldm={}", setting("pid_file")));

    let nats = NatsServer::builder().start().await.unwrap();
    for path in probes(pod, "monitoring") {
        let answer = client().get(format!("{}{path}", nats.monitor_url())).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}");
    }
}
