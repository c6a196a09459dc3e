//! Everything that builds and deploys services covers exactly those in the table.

use std::{collections::BTreeSet, fs, path::Path};

use common::events::asyncapi;
use serde_json::Value;
use ticketing::services::SERVICES;

fn text(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file)).unwrap()
}

fn yaml(file: &str) -> Value {
    serde_saphyr::from_str(&text(file)).unwrap()
}

fn names() -> BTreeSet<String> {
    SERVICES.iter().map(|service| service.name.to_owned()).collect()
}

/// The rest of each line that begins with `begin`.
fn after(file: &str, begin: &str) -> BTreeSet<String> {
    text(file).lines().filter_map(|line| line.strip_prefix(begin)).map(str::to_owned).collect()
}

/// A field of each item of a list.
fn fields(list: &Value, field: &str) -> Vec<String> {
    let items = list.as_array().unwrap().iter();
    items.map(|item| item[field].as_str().unwrap_or_default().to_owned()).collect()
}

/// The services and the console, which has an image but is not a service: it owns no events and no database.
fn images_wanted() -> BTreeSet<String> {
    names().into_iter().chain(["console".to_owned()]).collect()
}

/// Every list item of this name in the patches of skaffold's profiles.
fn in_profiles(skaffold: &Value, path: &str) -> Vec<Value> {
    let profiles = skaffold["profiles"].as_array().unwrap().iter();
    let patches = profiles.flat_map(|profile| profile["patches"].as_array().into_iter().flatten());
    let added = patches.filter(|patch| patch["path"] == format!("/{path}/-"));
    added.map(|patch| patch["value"].clone()).collect()
}

/// The template, which is deployed with its component alone.
const TEMPLATE: &str = "notifications";

#[test]
fn exactly_the_services_in_the_table_have_an_image() {
    let wanted: BTreeSet<_> = images_wanted().into_iter().chain([TEMPLATE.to_owned()]).collect();
    assert_eq!(after("Dockerfile", "FROM service AS "), wanted);
    let skaffold = yaml("skaffold.yaml");
    let images = skaffold["build"]["artifacts"].as_array().unwrap().iter().cloned();
    let images = images.chain(in_profiles(&skaffold, "build/artifacts"));
    let images = images.filter(|image| image["docker"].is_object()).inspect(|image| {
        assert_eq!(image["docker"]["target"], image["image"]);
    });
    let images: BTreeSet<_> =
        images.map(|image| image["image"].as_str().unwrap().to_owned()).collect();
    assert_eq!(images, wanted);
    let tested = skaffold["test"].as_array().unwrap().iter().cloned();
    let tested = tested.chain(in_profiles(&skaffold, "test"));
    let tested: BTreeSet<_> = fields(&tested.collect(), "image").into_iter().collect();
    assert_eq!(tested, names().into_iter().chain([TEMPLATE.to_owned()]).collect());
}

#[test]
fn every_service_in_the_table_is_deployed_and_forwarded_to_its_local_port() {
    let resources = yaml("infra/k8s/base/kustomization.yaml")["resources"].clone();
    let provisioners = yaml("infra/k8s/base/provisioners/kustomization.yaml")["resources"].clone();
    let skaffold = yaml("skaffold.yaml");
    let mut forwarded = skaffold["portForward"].as_array().unwrap().clone();
    forwarded.extend(in_profiles(&skaffold, "portForward"));
    let names = SERVICES.iter().map(|service| service.name);
    let template = (!names.clone().any(|name| name == TEMPLATE)).then_some(TEMPLATE);
    for (at, name) in names.chain(template).enumerate() {
        // In the base, or in a component of its own.
        let (service, provisioner, postgres) = if resources
            .as_array()
            .unwrap()
            .contains(&name.into())
        {
            let provisioner = format!("{name}.yaml");
            assert!(
                provisioners.as_array().unwrap().contains(&provisioner.clone().into()),
                "{name}"
            );
            let provisioner = format!("base/provisioners/{provisioner}");
            (format!("base/{name}"), provisioner, "base/postgres/statefulset.yaml".to_owned())
        } else {
            let component = format!("components/{name}");
            let overlay = text("infra/k8s/overlays/production/kustomization.yaml");
            assert!(overlay.contains(&format!("- ../../{component}\n")), "production lacks {name}");
            let postgres = format!("{component}/kustomization.yaml");
            (
                format!("{component}/service"),
                format!("{component}/provisioner/deployment.yaml"),
                postgres,
            )
        };
        let deployment = yaml(&format!("infra/k8s/{service}/deployment.yaml"));
        assert_eq!(deployment["metadata"]["name"], name);
        assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], name);
        let provisioner = yaml(&format!("infra/k8s/{provisioner}"));
        assert_eq!(provisioner["spec"]["template"]["spec"]["containers"][0]["image"], name);
        // Policies and components know it by this.
        let labels = text(&format!("infra/k8s/{service}/kustomization.yaml"));
        assert!(labels.contains("app.kubernetes.io/component: service"), "{name} lacks its label");
        let password = format!("- name: {}_PASSWORD\n", name.to_uppercase());
        assert!(
            text(&format!("infra/k8s/{postgres}")).contains(&password),
            "{name} has no database"
        );
        let port = forwarded.iter().find(|port| port["resourceName"] == name);
        let port = &port.unwrap()["localPort"];
        assert!(Some(name) == template || *port == 3000 + at, "{name} is forwarded to {port}");
    }
    let alerts = text("infra/k8s/components/prometheus/rules.yaml");
    for service in SERVICES {
        let group = service.events.queue_group;
        let absent = format!("absent(bus_group_members{{group=\"{group}\"}})");
        assert!(alerts.contains(&absent), "no alert fires when {group} is empty");
    }
    let all: Vec<_> = SERVICES.iter().map(|service| service.name).collect();
    let each = format!("for service in {}; do", all.join(" "));
    for file in ["infra/release", ".ci/sbom"] {
        assert!(text(file).contains(&each), "{file} does not have {each:?}");
    }
    for policy in ["nats", "postgres", "services"] {
        let policy = text(&format!("infra/k8s/components/network-policies/{policy}.yaml"));
        assert!(
            policy.contains("app.kubernetes.io/component"),
            "services are found by their label"
        );
        assert!(all.iter().all(|name| !policy.contains(&format!("\"{name}\""))), "{policy}");
    }
}

#[test]
fn every_event_that_a_service_publishes_is_in_the_asyncapi_document() {
    let services: Vec<_> = SERVICES.iter().map(|service| service.events).collect();
    let document = asyncapi::document(&services);
    let channels = document["channels"].as_object().unwrap().values();
    let documented: BTreeSet<_> =
        channels.map(|channel| channel["address"].as_str().unwrap()).collect();
    let streams = services.iter().flat_map(|events| events.streams());
    let subjects: BTreeSet<_> = streams.flat_map(|stream| stream.subjects).copied().collect();
    assert_eq!(documented, subjects);
    for service in SERVICES {
        assert_eq!(asyncapi::faults(service.events.published), [""; 0], "{}", service.name);
        for subject in service.events.received {
            let receives =
                format!("{}-receives-{}", service.events.queue_group, subject.replace(':', "-"));
            assert_eq!(document["operations"][&receives]["action"], "receive", "{receives}");
        }
    }
}
