//! A member of a queue group in this process, real servers, and helpers to publish and query.

use async_nats::jetstream::{self, consumer::PullConsumer, message::PublishMessage};
use common::{
    bus::{
        self, Bus, Delivery, Failure, Lease, Listener, Options, Readiness, Received, Shutdown,
        User,
        dead_letters::{self, DeadLetter},
        envelope,
    },
    events::ticket::{TICKETS, Ticket, TicketCreated},
};
use embedded::{NatsServer, Postgres, nats};
use sqlx::{PgConnection, PgPool};
use testkit::connection;
pub(crate) use testkit::until;
use time::OffsetDateTime;
use tokio::sync::watch;
use uuid::Uuid;

use crate::accounts;

/// A listener that obeys an event's title: it takes effect, or fails in a particular way. `GROUP`
/// is the number of its group.
pub(crate) struct Obedient<const GROUP: usize>;

const GROUPS: [&str; 2] = ["first-service", "second-service"];

impl<const GROUP: usize> Listener for Obedient<GROUP> {
    type Events = TicketCreated;
    const QUEUE_GROUP: &'static str = GROUPS[GROUP];

    async fn handle(
        &self,
        tx: &mut PgConnection,
        batch: &[&Received<TicketCreated>],
    ) -> Result<(), Failure> {
        for received in batch {
            let title = received.event.0.title.as_str();
            // A sequence is not rolled back, so it counts the attempts.
            sqlx::query("select nextval('tries')").execute(&mut *tx).await?;
            let mended: bool =
                sqlx::query_scalar("select exists (select from mended where title = $1)")
                    .bind(title)
                    .fetch_one(&mut *tx)
                    .await?;
            let connected: bool =
                sqlx::query_scalar("select exists (select from mended where title = 'cut')")
                    .fetch_one(&mut *tx)
                    .await?;
            match title {
                "reject, then cut" if !mended => {
                    return Err(Failure::Reject("it was rejected".to_owned()));
                }
                "cut" | "reject, then cut" if !connected => {
                    // The database ends the connection on which the event is handled.
                    sqlx::query("select pg_terminate_backend(pg_backend_pid())")
                        .execute(&mut *tx)
                        .await?;
                }
                "abort" if !mended => std::process::abort(),
                "panic" if !mended => panic!("as the title says"),
                "reject" if !mended => return Err(Failure::Reject("it was rejected".to_owned())),
                "retry" if !mended => {
                    return Err(Failure::Retry(anyhow::anyhow!("not this time").into()));
                }
                _ => {}
            }
            sqlx::query("insert into effects (queue_group, event_id, title) values ($1, $2, $3)")
                .bind(Self::QUEUE_GROUP)
                .bind(received.id)
                .bind(title)
                .execute(&mut *tx)
                .await?;
        }
        Ok(())
    }
}

/// Two servers, and a database with the tables of the bus and the listener.
pub(crate) struct World {
    pub(crate) nats: NatsServer,
    pub(crate) postgres: Postgres,
    pub(crate) pool: PgPool,
    pub(crate) jetstream: jetstream::Context,
    /// Whether members and stream are in different accounts.
    pub(crate) accounts: bool,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(NatsServer::builder(), None).await
    }

    /// A world whose members are in another account than the stream, and import it.
    pub(crate) async fn start_in_two_accounts() -> Self {
        Self::start_with(accounts::server(), Some(accounts::HOLDER)).await
    }

    async fn start_with(nats: nats::Builder, holder: Option<&str>) -> Self {
        let (nats, postgres) = tokio::join!(nats.start(), Postgres::builder().start());
        let (nats, postgres) = (nats.unwrap(), postgres.unwrap());
        let database = postgres.create_database("listener").await.unwrap();
        let pool = PgPool::connect(&database).await.unwrap();
        bus::migrate(&pool).await.unwrap();
        common::pod::migrate(&pool).await.unwrap();
        sqlx::raw_sql(
            "create table effects (queue_group text, event_id uuid, title text);
             create table mended (title text);
             create sequence tries",
        )
        .execute(&pool)
        .await
        .unwrap();
        let mut connect = async_nats::ConnectOptions::new();
        if let Some(user) = holder {
            connect = connect.user_and_password(user.to_owned(), user.to_owned());
        }
        let client = connect.connect(nats.url()).await.unwrap();
        Self { nats, postgres, pool, jetstream: jetstream::new(client), accounts: holder.is_some() }
    }

    /// Starts a member of the group with this number. Returns once it has joined.
    pub(crate) async fn member<const GROUP: usize>(&self) {
        let id = format!("member-{GROUP}");
        if self.accounts {
            self.provisioner::<GROUP>().await;
            accounts::join::<GROUP>(&self.nats.url(), self.pool.clone(), &id).await;
        } else {
            join::<GROUP>(&self.nats.url(), self.pool.clone(), &id).await;
        }
        until("the group is there", || async {
            self.group(GROUP).await.is_some_and(|group| group.num_waiting > 0)
        })
        .await;
    }

    /// Provisions the group with this number until the process ends.
    pub(crate) async fn provisioner<const GROUP: usize>(&self) {
        let (bus, shutdown) = accounts::connect(&self.nats.url(), "provisioner", true).await;
        bus::provision::spawn::<Obedient<GROUP>>(&bus, &shutdown);
    }

    /// Creates the stream and publishes one event, before any member runs.
    pub(crate) async fn publish_first(&self) {
        let stream = jetstream::stream::Config {
            name: TICKETS.name.to_owned(),
            subjects: TICKETS.subjects.iter().map(ToString::to_string).collect(),
            ..jetstream::stream::Config::default()
        };
        self.jetstream.create_stream(stream).await.unwrap();
        self.publish("first").await;
    }

    /// Waits until no member of the group pulls.
    pub(crate) async fn until_nobody_pulls(&self, group: usize) {
        until("the pull has ended", || async { self.group(group).await.unwrap().num_waiting == 0 })
            .await;
    }

    /// Counts deliveries, including redeliveries.
    pub(crate) async fn deliveries(&self, group: usize) -> u64 {
        self.group(group).await.unwrap().delivered.consumer_sequence
    }

    pub(crate) async fn group(&self, group: usize) -> Option<jetstream::consumer::Info> {
        let group: Result<PullConsumer, _> =
            self.jetstream.get_consumer_from_stream(GROUPS[group], TICKETS.name).await;
        group.ok().map(|group| group.cached_info().clone())
    }

    /// Publishes an event about a ticket with this title. Returns the event's id.
    pub(crate) async fn publish(&self, title: &str) -> Uuid {
        self.publish_copies(1, title).await
    }

    /// Publishes an event several times, like a publisher that never gets the acknowledgement.
    pub(crate) async fn publish_copies(&self, copies: usize, title: &str) -> Uuid {
        let (id, now) = (Uuid::now_v7(), OffsetDateTime::now_utc());
        let price = "1.00".parse().unwrap();
        let ticket = Ticket { title: title.to_owned(), price, ..Ticket::example() };
        let encoded = envelope::encode(id, now, &TicketCreated(ticket)).unwrap();
        for _ in 0..copies {
            self.publish_bytes(encoded.as_bytes()).await;
        }
        id
    }

    /// How often events were tried, in any group.
    pub(crate) async fn tries(&self) -> i64 {
        let tries = sqlx::query_scalar("select last_value from tries");
        tries.fetch_one(&self.pool).await.unwrap()
    }

    /// Publishes arbitrary bytes.
    pub(crate) async fn publish_bytes(&self, bytes: &[u8]) {
        let message =
            PublishMessage::build().header("x-origin", "te\0st").payload(bytes.to_vec().into());
        self.jetstream.send_publish("ticket:created", message).await.unwrap().await.unwrap();
    }

    /// The titles that took effect in a group, in order.
    pub(crate) async fn effects(&self, group: usize) -> Vec<String> {
        sqlx::query_scalar("select title from effects where queue_group = $1 order by title")
            .bind(GROUPS[group])
            .fetch_all(&self.pool)
            .await
            .unwrap_or_default()
    }

    pub(crate) async fn dead_letters(&self) -> Vec<DeadLetter> {
        let Ok(mut connection) = self.pool.acquire().await else { return Vec::new() };
        let mut letters = dead_letters::list(&mut connection, None, 100).await.unwrap_or_default();
        letters.sort_by_key(|letter| letter.stream_sequence);
        letters
    }

    /// From now on this title succeeds.
    pub(crate) async fn mend(&self, title: &str) {
        let mended = sqlx::query("insert into mended values ($1)").bind(title);
        mended.execute(&self.pool).await.unwrap();
    }
}

/// Joins a group, and handles events until the process ends.
pub(crate) async fn join<const GROUP: usize>(nats_url: &str, pool: PgPool, client_id: &str) {
    join_on::<GROUP>(connect(nats_url, client_id).await, pool).await;
}

/// Joins a group on this connection. Returns whether it has.
pub(crate) async fn join_on<const GROUP: usize>(
    (bus, shutdown): (Bus, Shutdown),
    pool: PgPool,
) -> watch::Receiver<Readiness> {
    let group = <Obedient<GROUP> as Listener>::QUEUE_GROUP;
    let lease = Lease::take(&bus, &shutdown, "listener", &[group]).await.unwrap();
    Delivery::new(Obedient::<GROUP>, bus, pool.into(), shutdown).spawn(lease)
}

/// A connection under this client id.
pub(crate) async fn connect(nats_url: &str, client_id: &str) -> (Bus, Shutdown) {
    connect_as(nats_url, client_id, None, Vec::new()).await
}

/// A connection as this user, which imports these streams.
pub(crate) async fn connect_as(
    nats_url: &str,
    client_id: &str,
    user: Option<User>,
    imported: Vec<String>,
) -> (Bus, Shutdown) {
    let options = Options { user, imported, ..connection::options(nats_url, client_id) };
    connection::connect(&options).await
}
