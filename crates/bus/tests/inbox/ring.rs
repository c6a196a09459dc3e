//! How long the inbox remembers ids.

use bus::{
    ClientId, dead_letters,
    inbox::{self, Standing},
};
use uuid::Uuid;

use crate::world::{GROUP, World, claims, until};

#[tokio::test]
async fn an_event_too_old_to_be_checked_is_a_dead_letter_until_an_operator_decides() {
    let world = World::start().await;
    let id = |shift: &'static str| {
        sqlx::query_scalar::<_, Uuid>("select uuidv7($1::text::interval)").bind(shift)
    };
    let (old, future) = (id("-40 days"), id("3 days"));
    let (old, future): (Uuid, Uuid) =
        (old.fetch_one(&world.pool).await.unwrap(), future.fetch_one(&world.pool).await.unwrap());
    let checkable = id("-28 days").fetch_one(&world.pool).await.unwrap();
    let timeless = Uuid::new_v4();
    world.member("member").await;
    let events =
        [(old, "old"), (future, "future"), (checkable, "checkable"), (timeless, "timeless")];
    for _ in 0..3 {
        world.publish(&events).await;
    }
    until("two took effect", || async { world.effects().await.0 == 2 }).await;
    until("two are dead letters", || async {
        world.number("select count(*) from bus.dead_letters").await == 2
    })
    .await;
    let reason = |id: Uuid| {
        sqlx::query_scalar::<_, String>("select reason from bus.dead_letters where event_id = $1")
            .bind(id)
            .fetch_one(&world.pool)
    };
    assert!(reason(old).await.unwrap().contains("40 days old"));
    assert!(reason(future).await.unwrap().contains("hours from now"));

    let mut connection = world.pool.acquire().await.unwrap();
    dead_letters::redrive(&mut connection, dead_letters::Which::All).await.unwrap();
    until("all took effect", || async { world.effects().await.0 == 4 }).await;
    // Published again, they are known, and become no new dead letters.
    world.publish(&events).await;
    world.publish(&[(Uuid::now_v7(), "last")]).await;
    until("the last one took effect", || async { world.effects().await.0 == 5 }).await;
    assert_eq!(world.effects().await, (5, 5));
    assert_eq!(world.number("select count(*) from bus.dead_letters").await, 0);
}

#[tokio::test]
async fn expired_ids_are_pruned_and_no_others() {
    let world = World::start().await;
    let mut connection = world.pool.acquire().await.unwrap();
    // One id per hour, from before the retention to the latest allowed time in the future.
    let hours = "insert into bus.inbox (queue_group, event_id, client_id)
                 select 'parcel-service', uuidv7(make_interval(hours => hour)), 'a'
                 from generate_series(-34 * 24, 23) as hour";
    sqlx::raw_sql(hours).execute(&mut *connection).await.unwrap();
    let timeless = "insert into bus.inbox (queue_group, event_id, client_id, processed_at)
                    select 'parcel-service', gen_random_uuid(), 'a', now() - make_interval(days => day)
                    from generate_series(1, 100) as day";
    sqlx::raw_sql(timeless).execute(&mut *connection).await.unwrap();
    let young = "select count(*) from bus.inbox
                 where bus.inbox_slot(event_id) >= 0
                   and uuid_extract_timestamp(event_id) > now() - interval '29 days'";
    let kept = world.number(young).await;

    // Emptying does not wait for sessions that read the partitions.
    let mut reader = world.pool.begin().await.unwrap();
    sqlx::raw_sql("select count(*) from bus.inbox").execute(&mut *reader).await.unwrap();
    let all = world.number("select count(*) from bus.inbox").await;
    inbox::empty_expired(&mut connection).await.unwrap();
    assert_eq!(world.number("select count(*) from bus.inbox").await, all);
    reader.rollback().await.unwrap();

    inbox::empty_expired(&mut connection).await.unwrap();
    assert_eq!(world.number(young).await, kept);
    let ended = "select count(*) from bus.inbox where bus.inbox_slot(event_id) =
                     (extract(epoch from now())::bigint / 172800 + 2) % 18";
    assert_eq!(world.number(ended).await, 0, "the window that ended thirty days ago is empty");
    assert_eq!(inbox::prune(&mut connection, 30).await.unwrap(), 30);
    while inbox::prune(&mut connection, 30).await.unwrap() > 0 {}
    assert_eq!(world.number("select count(*) from bus.inbox_other").await, 29);
}

#[tokio::test]
async fn an_event_is_new_exactly_once_whatever_its_id() {
    let world = World::start().await;
    let client: ClientId = "a".parse().unwrap();
    let mut connection = world.pool.acquire().await.unwrap();
    let others = [Uuid::nil(), Uuid::max(), Uuid::from_u128(7 << 76), Uuid::new_v4()];
    let ids: Vec<Uuid> = (0..100).map(|_| Uuid::now_v7()).chain(others).collect();
    let once = claims(&ids);
    let twice = [once.clone(), once.clone()].concat();
    let claimed = inbox::claim(&mut connection, GROUP, &client, &twice).await.unwrap();
    for (at, standing) in claimed.into_iter().enumerate() {
        let second = at.checked_sub(ids.len()).map(Standing::Twin);
        assert_eq!(standing, second.unwrap_or(Standing::New));
    }
    let again = inbox::claim(&mut connection, GROUP, &client, &twice).await.unwrap();
    assert_eq!(again, vec![Standing::Known; 208]);
    let known = inbox::known(&mut connection, GROUP, &once).await.unwrap();
    assert_eq!(known, vec![Standing::Known; 104]);
    let known = inbox::known(&mut connection, "another", &once).await.unwrap();
    assert_eq!(known, vec![Standing::New; 104]);
    let claimed = inbox::claim(&mut connection, "another", &client, &once).await.unwrap();
    assert_eq!(claimed, vec![Standing::New; 104]);
}

#[tokio::test]
async fn events_claimed_as_new_are_all_new_or_none_is_claimed() {
    let world = World::start().await;
    let client: ClientId = "a".parse().unwrap();
    let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).chain([Uuid::new_v4()]).collect();
    let claim = async |ids: &[Uuid]| {
        let mut tx = world.pool.begin().await.unwrap();
        let all = inbox::claim_all_new(&mut tx, GROUP, &client, &claims(ids)).await.unwrap();
        if all {
            tx.commit().await.unwrap();
        }
        all
    };
    assert!(claim(&ids[..2]).await);
    assert!(!claim(&ids[1..]).await, "one is known");
    assert!(!claim(&[ids[2], ids[3], ids[2]]).await, "one is there twice");
    assert!(claim(&ids[2..]).await, "the attempts before claimed none of these");
}
