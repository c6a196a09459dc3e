//! A stream in one NATS account and a group's members in another, which imports what they need. The
//! members get every event, and a provisioner does for the group what they have no rights to do.

use common::bus::{Bus, Credentials, Readiness, Shutdown, User};
use embedded::{NatsServer, nats};
use sqlx::PgPool;

use crate::member::{World, connect_as, join_on, until};

/// The user of the account that holds the stream. Its password equals its name.
pub(crate) const HOLDER: &str = "holder";
/// The user of the members' account.
const READER: &str = "reader";

/// A server with the two accounts. The exports equal those of the manifests
/// (infra/k8s/base/nats/users.conf).
pub(crate) fn server() -> nats::Builder {
    let (mut exports, mut imports) = (String::new(), String::new());
    for group in ["first-service", "second-service"] {
        for (verb, kind) in [("MSG.NEXT", "stream"), ("INFO", "singleton")] {
            let subject = format!("CONSUMER.{verb}.TICKETS.{group}");
            exports += &format!(
                "{{ service: \"$JS.API.{subject}\", response_type: {kind}, accounts: [READER] }}\n"
            );
            imports += &format!(
                "{{ service: {{ account: HOLDER, subject: \"$JS.API.{subject}\" }}
                    to: \"JS.TICKETS.API.{subject}\" }}\n"
            );
        }
        let acks = format!("$JS.ACK.TICKETS.{group}.>");
        exports += &format!("{{ service: \"{acks}\", accounts: [READER] }}\n");
        imports += &format!("{{ service: {{ account: HOLDER, subject: \"{acks}\" }} }}\n");
    }
    NatsServer::builder().settings(format!(
        "accounts {{
           HOLDER {{ jetstream: enabled, users: [ {{ user: {HOLDER}, password: {HOLDER} }} ]
                     exports: [ {exports} ] }}
           READER {{ jetstream: enabled, users: [ {{ user: {READER}, password: {READER} }} ]
                     imports: [ {imports} ] }}
         }}"
    ))
}

/// Connects to the account that holds the stream, or to that of the members.
pub(crate) async fn connect(nats_url: &str, client_id: &str, holder: bool) -> (Bus, Shutdown) {
    let (name, imported) =
        if holder { (HOLDER, Vec::new()) } else { (READER, vec!["TICKETS".to_owned()]) };
    let user = User { name: name.to_owned(), credentials: Credentials::Password(name.to_owned()) };
    connect_as(nats_url, client_id, Some(user), imported).await
}

/// Joins a group whose stream is imported, and handles events until the process ends.
pub(crate) async fn join<const GROUP: usize>(nats_url: &str, pool: PgPool, client_id: &str) {
    join_on::<GROUP>(connect(nats_url, client_id, false).await, pool).await;
}

#[tokio::test]
async fn members_in_another_account_get_each_event_once_and_acknowledge_it() {
    let world = World::start_in_two_accounts().await;
    world.publish_first().await;
    world.member::<0>().await;
    join::<0>(&world.nats.url(), world.pool.clone(), "another").await;
    for number in 0..1_000 {
        world.publish(&format!("number {number:03}")).await;
    }
    until("all take effect", || async { world.effects(0).await.len() == 1_001 }).await;
    until("all are acknowledged", || async {
        let group = world.group(0).await.unwrap();
        group.num_ack_pending == 0 && group.num_pending == 0
    })
    .await;
    assert_eq!(world.deliveries(0).await, 1_001, "none was delivered twice");
}

#[tokio::test]
async fn failures_in_another_account_are_redelivered_or_become_dead_letters() {
    let world = World::start_in_two_accounts().await;
    world.publish_first().await;
    world.member::<0>().await;
    world.publish("retry").await;
    world.publish("reject").await;
    world.publish_bytes(b"no event").await;
    world.publish("good").await;
    until("the good ones take effect", || async { world.effects(0).await == ["first", "good"] })
        .await;
    until("the event is retried", || async { world.deliveries(0).await >= 6 }).await;
    world.mend("retry").await;
    until("the retry succeeds", || async { world.effects(0).await == ["first", "good", "retry"] })
        .await;
    until("the others are dead letters", || async { world.dead_letters().await.len() == 2 }).await;
    until("nothing is left", || async { world.group(0).await.unwrap().num_ack_pending == 0 }).await;
}

#[tokio::test]
async fn a_member_reports_that_it_waits_for_its_provisioner_and_joins_once_that_has_run() {
    let world = World::start_in_two_accounts().await;
    let waits_for = async |why: &str, joined: &mut tokio::sync::watch::Receiver<Readiness>| {
        let says =
            |ready: &Readiness| matches!(ready, Readiness::Waiting(said) if said.contains(why));
        let said = tokio::time::timeout(testkit::PATIENCE, joined.wait_for(says)).await;
        said.unwrap_or_else(|_| panic!("the member does not report {why:?}")).unwrap();
    };
    let connection = connect(&world.nats.url(), "member-0", false).await;
    let mut joined = join_on::<0>(connection, world.pool.clone()).await;
    waits_for("its provisioner has to create it", &mut joined).await;
    world.publish_first().await;
    world.provisioner::<0>().await;
    joined.wait_for(|ready| *ready == Readiness::Ready).await.unwrap();
    until("the first takes effect", || async { world.effects(0).await == ["first"] }).await;

    // A member reports a group that was not exported to its account.
    let user =
        User { name: READER.to_owned(), credentials: Credentials::Password(READER.to_owned()) };
    let imported = vec!["TICKETS".to_owned()];
    let lonely = NatsServer::builder()
        .settings(format!("authorization {{ user: {READER}, password: {READER} }}"))
        .start()
        .await
        .unwrap();
    let connection = connect_as(&lonely.url(), "member-2", Some(user), imported).await;
    let mut joined = join_on::<0>(connection, world.pool.clone()).await;
    waits_for("is it exported to this account?", &mut joined).await;
}

#[tokio::test]
async fn a_server_that_comes_back_empty_gets_the_group_again() {
    let mut world = World::start_in_two_accounts().await;
    world.publish_first().await;
    world.member::<0>().await;
    until("the first takes effect", || async { world.effects(0).await == ["first"] }).await;
    world.nats.wipe_and_restart().await.unwrap();
    until("the stream can be made", || async {
        let stream = async_nats::jetstream::stream::Config {
            name: "TICKETS".to_owned(),
            subjects: vec!["ticket:created".to_owned(), "ticket:updated".to_owned()],
            ..Default::default()
        };
        world.jetstream.create_stream(stream).await.is_ok()
    })
    .await;
    world.publish("anew").await;
    until("it takes effect", || async { world.effects(0).await == ["anew", "first"] }).await;
}
