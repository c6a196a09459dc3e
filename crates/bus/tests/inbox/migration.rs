//! Migration of the previous release's inbox while its replicas still run.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bus::{
    ClientId,
    inbox::{self, Standing},
};
use embedded::Postgres;
use rand::seq::SliceRandom;
use sqlx::{PgConnection, PgPool, postgres::PgConnectOptions, postgres::PgPoolOptions};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::world::{GROUP, claims, until};

/// The previous release's statements, verbatim.
const CLAIM: &str = "insert into bus.inbox (queue_group, event_id, client_id)
         select $1, event_id, $2 from unnest($3::uuid[]) as claimed (event_id) order by event_id
         on conflict do nothing
         returning event_id";
const SEEN: &str = "update bus.inbox set seen_at = clock_timestamp()
         where queue_group = $1 and event_id = any($2)
         returning event_id";
const PRUNE: &str = "delete from bus.inbox where (queue_group, event_id) in (
             select queue_group, event_id from bus.inbox
             where seen_at < clock_timestamp() - $1 order by seen_at limit $2
             for update skip locked)";

/// Creates the previous release's schema.
async fn migrate_before(pool: &PgPool) {
    let mut migrator = sqlx::migrate!();
    let before = migrator.migrations.iter().filter(|migration| migration.version < 4).cloned();
    migrator.migrations = Cow::Owned(before.collect());
    migrator.create_schema("bus");
    migrator.dangerous_set_table_name("bus.migrations");
    migrator.run(pool).await.unwrap();
    sqlx::raw_sql("create table effects (event_id uuid not null, by text not null)")
        .execute(pool)
        .await
        .unwrap();
}

#[derive(Clone, Copy, PartialEq)]
enum Release {
    Before,
    New,
}

/// Runs one transaction of a member: claim, effect, commit.
async fn take_effect(pool: &PgPool, release: Release, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    let client: ClientId = "a".parse().unwrap();
    let mut tx = pool.begin().await?;
    let new: Vec<Uuid> = match release {
        Release::New => {
            let standings = inbox::claim(&mut tx, GROUP, &client, &claims(ids)).await?;
            let new = ids.iter().zip(standings).filter(|(_, found)| *found == Standing::New);
            new.map(|(id, _)| *id).collect()
        }
        Release::Before => {
            let claim = sqlx::query_scalar(CLAIM).bind(GROUP).bind("a").bind(ids);
            claim.fetch_all(&mut *tx).await?
        }
    };
    let by = if release == Release::New { "new" } else { "before" };
    sqlx::query("insert into effects select id, $2 from unnest($1::uuid[]) as new (id)")
        .bind(&new)
        .bind(by)
        .execute(&mut *tx)
        .await?;
    if release == Release::Before && new.len() < ids.len() {
        seen(&mut tx, ids).await?;
    }
    tx.commit().await
}

async fn seen(connection: &mut PgConnection, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query(SEEN).bind(GROUP).bind(ids).execute(connection).await.map(drop)
}

/// Handles all events again and again, in a different order each time. Returns the duration of the
/// longest transaction.
async fn member(
    pool: PgPool,
    release: Release,
    mut events: Vec<Uuid>,
    stop: Arc<AtomicBool>,
) -> Duration {
    let mut longest = Duration::ZERO;
    let mut last_round = false;
    while !last_round {
        // One more round after the stop signal.
        last_round = stop.load(Ordering::SeqCst);
        events.shuffle(&mut rand::rng());
        for batch in events.chunks(100) {
            let begun = Instant::now();
            while let Err(error) = take_effect(&pool, release, batch).await {
                // The previous release's updates ignored the order of ids, so they can deadlock.
                let code = error.as_database_error().and_then(|error| error.code());
                assert_eq!(code.as_deref(), Some("40P01"), "{error}");
            }
            longest = longest.max(begun.elapsed());
        }
        if release == Release::Before {
            let prune = sqlx::query(PRUNE).bind(inbox::RETENTION).bind(10_000_i64);
            prune.execute(&pool).await.unwrap();
        }
    }
    longest
}

fn pool(url: &str) -> PgPool {
    let options: PgConnectOptions = url.parse().unwrap();
    // Like a service's pool: no statement may take longer, including waits for locks.
    let options = options.options([("statement_timeout", "5s")]);
    PgPoolOptions::new().max_connections(8).connect_lazy_with(options)
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_both_releases_share_one_inbox_and_no_event_takes_effect_twice() {
    let postgres = Postgres::builder().start().await.unwrap();
    let url = postgres.create_database("parcels").await.unwrap();
    let pool = pool(&url);
    let migrating = PgPool::connect(&url).await.unwrap();
    migrate_before(&migrating).await;
    let ids = |n: usize| (0..n).map(|n| if n % 2 == 0 { Uuid::now_v7() } else { Uuid::new_v4() });
    let old: Vec<Uuid> = ids(3_000).collect();
    for batch in old.chunks(500) {
        take_effect(&pool, Release::Before, batch).await.unwrap();
    }

    let events: Vec<Uuid> = old.iter().copied().chain(ids(3_000)).collect();
    let (stop, mut members) = (Arc::new(AtomicBool::new(false)), Vec::new());
    for _ in 0..2 {
        let before = member(pool.clone(), Release::Before, events.clone(), stop.clone());
        members.push(tokio::spawn(before));
    }
    // A session reads the table for longer than a migration may wait for it.
    let mut reader = migrating.begin().await.unwrap();
    sqlx::raw_sql("select count(*) from bus.inbox").execute(&mut *reader).await.unwrap();
    let migration = tokio::spawn({
        let pool = migrating.clone();
        async move { bus::migrate(&pool).await.unwrap() }
    });
    sleep(Duration::from_secs(2)).await;
    assert!(!migration.is_finished(), "the migration did not wait for the reader");
    reader.rollback().await.unwrap();
    migration.await.unwrap();
    for _ in 0..2 {
        let new = member(pool.clone(), Release::New, events.clone(), stop.clone());
        members.push(tokio::spawn(new));
    }
    until("all took effect", || async {
        let all = "select count(distinct event_id) = 6000 from effects";
        sqlx::query_scalar(all).fetch_one(&pool).await.unwrap()
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    for member in members {
        let longest = member.await.unwrap();
        println!("the longest transaction took {longest:?}");
        assert!(longest < Duration::from_secs(5));
    }
    let effects: i64 =
        sqlx::query_scalar("select count(*) from effects").fetch_one(&pool).await.unwrap();
    assert_eq!(effects, 6_000, "events were lost or took effect twice");
}

#[tokio::test]
async fn the_previous_table_is_dropped_once_all_of_it_has_expired() {
    let postgres = Postgres::builder().start().await.unwrap();
    let url = postgres.create_database("parcels").await.unwrap();
    let pool = pool(&url);
    migrate_before(&pool).await;
    let events: Vec<Uuid> = (0..100).map(|_| Uuid::now_v7()).collect();
    take_effect(&pool, Release::Before, &events).await.unwrap();
    bus::migrate(&pool).await.unwrap();
    let there = || async {
        let there = "select to_regclass('bus.inbox_before') is not null";
        sqlx::query_scalar::<_, bool>(there).fetch_one(&pool).await.unwrap()
    };
    let mut connection = pool.acquire().await.unwrap();
    inbox::drop_previous_table(&mut connection).await.unwrap();
    assert!(there().await, "its ids may still arrive");
    sqlx::raw_sql("update bus.inbox_before set seen_at = now() - interval '31 days'")
        .execute(&pool)
        .await
        .unwrap();
    // A busy session is not waited for.
    let mut busy = pool.begin().await.unwrap();
    sqlx::query(CLAIM).bind(GROUP).bind("a").bind(&events).execute(&mut *busy).await.unwrap();
    inbox::drop_previous_table(&mut connection).await.unwrap();
    assert!(there().await);
    busy.rollback().await.unwrap();
    inbox::drop_previous_table(&mut connection).await.unwrap();
    assert!(!there().await);
    take_effect(&pool, Release::New, &[Uuid::now_v7()]).await.unwrap();

    // A new database never has this table.
    let fresh = self::pool(&postgres.create_database("fresh").await.unwrap());
    bus::migrate(&fresh).await.unwrap();
    let left: i64 = sqlx::query_scalar(
        "select count(*) from pg_class where relname = 'inbox_before'
         union all select count(*) from pg_trigger where tgname = 'inbox_is_new' order by 1 desc limit 1",
    )
    .fetch_one(&fresh)
    .await
    .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn an_id_known_only_to_the_previous_table_cannot_be_claimed() {
    let postgres = Postgres::builder().fsync(false).start().await.unwrap();
    let pool = PgPool::connect(&postgres.create_database("inbox").await.unwrap()).await.unwrap();
    migrate_before(&pool).await;
    let ids: Vec<Uuid> = (0..10).map(|_| Uuid::now_v7()).collect();
    take_effect(&pool, Release::Before, &ids).await.unwrap();
    bus::migrate(&pool).await.unwrap();
    take_effect(&pool, Release::New, &ids).await.unwrap();
    let effects: i64 =
        sqlx::query_scalar("select count(*) from effects").fetch_one(&pool).await.unwrap();
    assert_eq!(effects, 10);
}
