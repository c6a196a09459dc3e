//! What builds and deploys the services has every one of the table, and no other.

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

/// What follows this on a line, for each line that begins with it.
fn after(file: &str, begin: &str) -> BTreeSet<String> {
    text(file).lines().filter_map(|line| line.strip_prefix(begin)).map(str::to_owned).collect()
}

/// A field of each item of a list.
fn fields(list: &Value, field: &str) -> Vec<String> {
    let items = list.as_array().unwrap().iter();
    items.map(|item| item[field].as_str().unwrap_or_default().to_owned()).collect()
}

/// The services, and the console, which has an image and is no service: it owns no events and no database.
fn images_wanted() -> BTreeSet<String> {
    names().into_iter().chain(["console".to_owned()]).collect()
}

#[test]
fn every_service_of_the_table_has_its_image_and_no_other_has() {
    assert_eq!(after("Dockerfile", "FROM service AS "), images_wanted());
    let skaffold = yaml("skaffold.yaml");
    let images = skaffold["build"]["artifacts"].as_array().unwrap().iter();
    let images = images.filter(|image| image["docker"].is_object()).inspect(|image| {
        assert_eq!(image["docker"]["target"], image["image"]);
    });
    let images: BTreeSet<_> =
        images.map(|image| image["image"].as_str().unwrap().to_owned()).collect();
    assert_eq!(images, images_wanted());
    let tested: BTreeSet<_> = fields(&skaffold["test"], "image").into_iter().collect();
    assert_eq!(tested, names());
}

#[test]
fn every_service_of_the_table_is_deployed_and_forwarded_to_the_port_that_it_has_on_a_laptop() {
    let resources = yaml("infra/k8s/base/kustomization.yaml")["resources"].clone();
    let provisioners = yaml("infra/k8s/base/provisioners/kustomization.yaml")["resources"].clone();
    let forwarded = yaml("skaffold.yaml")["portForward"].clone();
    let alerts = text("infra/k8s/components/prometheus/rules.yaml");
    for (at, service) in SERVICES.iter().enumerate() {
        let name = service.name;
        assert!(resources.as_array().unwrap().contains(&name.into()), "{name}");
        assert!(
            provisioners.as_array().unwrap().contains(&format!("{name}.yaml").into()),
            "{name}"
        );
        let deployment = yaml(&format!("infra/k8s/base/{name}/deployment.yaml"));
        assert_eq!(deployment["metadata"]["name"], name);
        assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], name);
        let port = forwarded.as_array().unwrap().iter().find(|port| port["resourceName"] == name);
        assert_eq!(port.unwrap()["localPort"], 3000 + at, "{name}");
        let group = service.queue_group;
        let absent = format!("absent(bus_group_members{{group=\"{group}\"}})");
        assert!(alerts.contains(&absent), "nobody is woken when {group} is empty");
    }
    let all: Vec<_> = SERVICES.iter().map(|service| service.name).collect();
    let each = format!("for service in {}; do", all.join(" "));
    for file in ["infra/k8s/base/postgres/databases.sh", "infra/release", ".ci/sbom"] {
        assert!(text(file).contains(&each), "{file} does not have {each:?}");
    }
    let pods = all.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    for policy in ["nats", "postgres", "services", "verify"] {
        let policy = format!("infra/k8s/components/network-policies/{policy}.yaml");
        assert!(text(&policy).contains(&format!("values: [{pods}")), "{policy}");
    }
}

#[test]
fn every_event_that_a_service_publishes_is_in_the_asyncapi_document() {
    let document = asyncapi::document();
    let channels = document["channels"].as_object().unwrap().values();
    let documented: BTreeSet<_> =
        channels.map(|channel| channel["address"].as_str().unwrap()).collect();
    let streams = SERVICES.iter().flat_map(|service| service.streams);
    let subjects: BTreeSet<_> = streams.flat_map(|stream| stream.subjects).copied().collect();
    assert_eq!(documented, subjects);
}
