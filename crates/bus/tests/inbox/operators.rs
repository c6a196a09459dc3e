//! Searching and handling many dead letters: each query is bounded, each act is recorded.

use std::time::Duration;

use bus::dead_letters::{
    self, Which,
    acts::{self, AT_ONCE, Act, Operator, Selection},
    audit,
    search::{self, Filter, GROUPED, LOOKED_AT},
};
use sqlx::PgConnection;

use crate::world::{World, until};

/// Dead letters of two groups, alternating; every hundredth has a payload of 100 kB.
async fn letters(world: &World, number: i64) -> PgConnection {
    sqlx::query(
        "insert into bus.dead_letters (queue_group, event_id, subject, payload, headers, stream,
                                       stream_sequence, reason, attempts, client_id)
         select case when n % 2 = 0 then 'parcel-service' else 'another' end, gen_random_uuid(), 'parcel:sent',
                case when n % 100 = 0 then convert_to(repeat('x', 100000), 'UTF8') else 'short' end,
                '{}', 'PARCELS', n, 'reason ' || n % 7 || ' of ' || gen_random_uuid(), 5, 'a'
         from generate_series(1, $1) as n",
    )
    .bind(number)
    .execute(&world.pool)
    .await
    .unwrap();
    sqlx::raw_sql("analyze bus.dead_letters").execute(&world.pool).await.unwrap();
    world.pool.acquire().await.unwrap().detach()
}

/// How many rows and index entries of dead letters were read so far.
async fn read(connection: &mut PgConnection) -> i64 {
    sqlx::raw_sql("select pg_stat_force_next_flush()").execute(&mut *connection).await.unwrap();
    sqlx::raw_sql("select 1").execute(&mut *connection).await.unwrap();
    sqlx::query_scalar(
        "select (select sum(seq_tup_read)::bigint from pg_stat_user_tables where relname ~ '^dead_letter')
              + (select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname ~ '^dead_letter')",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

fn of(group: &str) -> Filter {
    Filter { queue_group: Some(group.to_owned()), ..Filter::default() }
}

#[tokio::test]
async fn every_query_of_dead_letters_reads_a_bounded_number_of_rows() {
    let world = World::start().await;
    let mut connection = letters(&world, 50_000).await;
    let text = Filter { text: Some("nothing-like-it".to_owned()), ..Filter::default() };
    for mode in ["force_generic_plan", "force_custom_plan"] {
        let set = sqlx::AssertSqlSafe(format!("set plan_cache_mode = {mode}"));
        sqlx::raw_sql(set).execute(&mut connection).await.unwrap();
        let mut before = read(&mut connection).await;
        let mut cost = async |connection: &mut PgConnection, what: &str, most: i64| {
            let now = read(connection).await;
            let looked_at = now - before;
            before = now;
            println!("{mode}, {what}: {looked_at} rows and index entries");
            assert!(looked_at <= most, "{mode}: {what} read {looked_at} rows and index entries");
        };
        for (filter, before) in [
            (Filter::default(), None),
            (of("nobody"), None),
            (of("nobody"), Some(25_000)),
            (text.clone(), None),
        ] {
            let found = search::search(&mut connection, &filter, before, 100).await.unwrap();
            assert!(found.next.is_some() && found.looked_at <= LOOKED_AT);
            cost(&mut connection, "a search", 3 * LOOKED_AT + 200).await;
        }
        let grouped = search::groups(&mut connection).await.unwrap();
        assert_eq!((grouped.counted, grouped.more, grouped.groups.len()), (GROUPED, true, 2));
        assert_eq!(grouped.groups[0].reason, "reason # of <id>");
        cost(&mut connection, "groups", GROUPED + 200).await;
        for after in [0, 25_000] {
            let selection = Selection::Filter { filter: of("nobody"), after, up_to: i64::MAX };
            let selected = acts::select(&mut connection, Act::Discard, &selection).await.unwrap();
            assert_eq!((selected.ids.len(), selected.next.is_some()), (0, true));
            cost(&mut connection, "a selection", 2 * LOOKED_AT + 200).await;
        }
        audit::on_events(&mut connection, &[uuid::Uuid::now_v7()]).await.unwrap();
        audit::newest(&mut connection, None, 50).await.unwrap();
        audit::prune(&mut connection, 10).await.unwrap();
        cost(&mut connection, "the audit log", 10).await;
    }
    // A search of payloads stops at a number of bytes: 32 MB are 335 of the large ones.
    sqlx::raw_sql("delete from bus.dead_letters where payload = 'short'")
        .execute(&mut connection)
        .await
        .unwrap();
    let found = search::search(&mut connection, &text, None, 100).await.unwrap();
    assert_eq!((found.looked_at, found.next.is_some()), (336, true));
}

#[tokio::test]
async fn a_large_selection_is_processed_in_parts_and_each_letter_is_recorded_once() {
    let world = World::start().await;
    let mut connection = letters(&world, 6_000).await;
    let operator = Operator { name: "Ada".to_owned(), via: "a".to_owned() };
    let up_to = acts::newest(&mut connection).await.unwrap();
    for (act, left) in [(Act::Redrive, 6_000), (Act::Discard, 3_000)] {
        let (mut after, mut parts, mut sum) = (Some(0), 0, 0);
        while let Some(from) = after {
            let selection = Selection::Filter { filter: of("another"), after: from, up_to };
            let selected = acts::select(&mut connection, act, &selection).await.unwrap();
            assert!(selected.ids.len() <= AT_ONCE);
            sum += acts::act(&mut connection, act, &selected.ids, &operator, &selection)
                .await
                .unwrap();
            (after, parts) = (selected.next, parts + 1);
        }
        assert_eq!(sum, 3_000, "{act} in {parts} parts");
        assert!(parts <= 8, "{parts} parts");
        assert_eq!(world.number("select count(*) from bus.dead_letters").await, left);
    }
    let redriven = "select count(*) from bus.dead_letters where redrive_at is not null";
    assert_eq!(world.number(redriven).await, 0, "letters of the other group were redriven");
    let recorded = "select sum(letters)::bigint from bus.operator_acts";
    assert_eq!(world.number(recorded).await, 6_000);
    let events = "select count(distinct event_id) from bus.operator_act_letters";
    assert_eq!(world.number(events).await, 3_000);

    // A redrive by filter skips letters that already await one; a selection by id does not.
    let all = Selection::Filter { filter: Filter::default(), after: 0, up_to: i64::MAX };
    let first = acts::select(&mut connection, Act::Redrive, &all).await.unwrap();
    acts::act(&mut connection, Act::Redrive, &first.ids, &operator, &all).await.unwrap();
    let next = acts::select(&mut connection, Act::Redrive, &all).await.unwrap();
    assert!(next.ids.iter().all(|id| !first.ids.contains(id)));
}

#[tokio::test]
async fn a_failed_act_changes_and_records_nothing_and_old_records_are_pruned() {
    let world = World::start().await;
    let mut connection = letters(&world, 10).await;
    let operator = Operator { name: "Ada".to_owned(), via: "a".to_owned() };
    let all = Selection::Filter { filter: Filter::default(), after: 0, up_to: i64::MAX };
    let ids = acts::select(&mut connection, Act::Discard, &all).await.unwrap().ids;
    let refuse = "alter table bus.operator_act_letters add constraint fault check (subject = '')";
    sqlx::raw_sql(refuse).execute(&mut connection).await.unwrap();
    acts::act(&mut connection, Act::Discard, &ids, &operator, &all).await.unwrap_err();
    assert_eq!(world.number("select count(*) from bus.dead_letters").await, 10);
    assert_eq!(world.number("select count(*) from bus.operator_acts").await, 0);

    let mend = "alter table bus.operator_act_letters drop constraint fault";
    sqlx::raw_sql(mend).execute(&mut connection).await.unwrap();
    acts::act(&mut connection, Act::Discard, &ids[..4], &operator, &all).await.unwrap();
    sqlx::raw_sql("update bus.operator_acts set at = now() - interval '91 days'")
        .execute(&mut connection)
        .await
        .unwrap();
    acts::act(&mut connection, Act::Discard, &ids[4..], &operator, &all).await.unwrap();
    assert_eq!(audit::prune(&mut connection, 10).await.unwrap(), 1);
    assert_eq!(world.number("select count(*) from bus.operator_act_letters").await, 6);
    let records = audit::newest(&mut connection, None, 10).await.unwrap();
    assert_eq!((records.len(), records[0].letters), (1, 6));
}

#[tokio::test]
async fn an_act_on_all_dead_letters_runs_in_bounded_parts() {
    let world = World::start().await;
    let mut connection = letters(&world, 2_500).await;
    let operator = Operator { name: "anna".to_owned(), via: "a test".to_owned() };
    for act in [Act::Redrive, Act::Discard] {
        let done = acts::act_on(&mut connection, act, Which::All, &operator).await.unwrap();
        assert_eq!(done, 2_500);
    }
    let largest = world.number("select max(letters)::bigint from bus.operator_acts").await;
    assert_eq!(largest, i64::try_from(AT_ONCE).unwrap());
    assert_eq!(world.number("select sum(letters)::bigint from bus.operator_acts").await, 5_000);
    assert_eq!(world.number("select count(*) from bus.dead_letters").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_stops_in_the_middle_of_a_mass_redrive_and_leaves_the_rest_redriven() {
    let world = World::start().await;
    let mut connection = letters(&world, 20_000).await;
    dead_letters::redrive(&mut connection, Which::All).await.unwrap();
    let member = world.member("member").await;
    let tried = "select count(*) from bus.dead_letters where redrive_at is null";
    until("some were tried", async || world.number(tried).await > 0).await;
    member.begin();
    assert!(member.finish(Duration::from_secs(10)).await, "every task ended in time");
    let waiting = "select count(*) from bus.dead_letters
                   where queue_group = 'parcel-service' and redrive_at is not null";
    assert!(world.number(waiting).await > 0, "the rest is left to the next process");
}
