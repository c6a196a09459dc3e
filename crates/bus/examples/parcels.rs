//! A minimal program: publishes a parcel, and a member of a queue group stores its arrival. It runs until Ctrl-C.
//!
//! `DATABASE_URL=postgres://… NATS_URL=nats://… cargo run -p bus --example parcels`

use std::{env, error::Error, time::Duration};

use bus::{
    Bus, ClientId, Delivery, Event, Failure, Lease, Listener, Options, Pool, Received, Relay,
    Shutdown, Stream, outbox,
};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};

const PARCELS: Stream =
    Stream { name: "PARCELS", subjects: &["parcel:sent"], schema_prefix: "urn:example:event:" };

#[derive(Debug, Serialize, Deserialize)]
struct ParcelSent {
    number: i64,
}

impl Event for ParcelSent {
    const SUBJECT: &'static str = "parcel:sent";
    const STREAM: &'static Stream = &PARCELS;
    const SCHEMA_VERSION: u32 = 1;
    const SOURCE: &'static str = "/parcels";

    fn entity_id(&self) -> String {
        self.number.to_string()
    }
}

struct Arrivals;

impl Listener for Arrivals {
    type Events = ParcelSent;
    const QUEUE_GROUP: &'static str = "arrivals";

    async fn handle(
        &self,
        tx: &mut PgConnection,
        batch: &[&Received<ParcelSent>],
    ) -> Result<(), Failure> {
        let numbers: Vec<i64> = batch.iter().map(|received| received.event.number).collect();
        sqlx::query("insert into arrivals select * from unnest($1::bigint[])")
            .bind(numbers)
            .execute(tx)
            .await?;
        Ok(())
    }
}

// `pub(crate)` because a test of this crate runs it too.
#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let database = PgPool::connect(&env::var("DATABASE_URL")?).await?;
    bus::migrate(&database).await?;
    sqlx::raw_sql("create table if not exists arrivals (number bigint)").execute(&database).await?;
    let pool = Pool::from(database);
    let options =
        Options { servers: env::var("NATS_URL")?, ..Options::new(ClientId::of_this_process()) };
    let (shutdown, mut reason) = Shutdown::new();
    let bus = Bus::connect(&options, &shutdown).await?;
    let lease = Lease::take(&bus, &shutdown, "parcels", &[Arrivals::QUEUE_GROUP]).await?;

    let (relay, wake) = Relay::new(bus.clone(), pool.clone(), &[&PARCELS]);
    relay.spawn(&shutdown);
    Delivery::new(Arrivals, bus.clone(), pool.clone(), shutdown.clone()).spawn(lease.clone());

    // In the transaction that writes the rows of its cause. If that fails, there is no event.
    pool.transaction(async |tx| outbox::put(tx, &ParcelSent { number: 7 }).await).await?;
    wake.wake();

    let stopped = reason.wait().await; // SIGINT, SIGTERM, or a failed task
    shutdown.begin();
    shutdown.finish(Duration::from_secs(20)).await;
    lease.release().await;
    bus.close().await;
    Ok(stopped?)
}
