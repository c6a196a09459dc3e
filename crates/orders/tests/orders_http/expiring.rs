//! Reservations that are not paid in time expire on their own, once each.

use std::time::Duration;

use axum::http::StatusCode;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::service::Service;

#[tokio::test]
async fn an_unpaid_order_expires_on_its_own_and_not_early() {
    let orders = Service::with_reservation(Duration::from_millis(400)).await;
    let (anna, bob) = (orders.buyer("anna"), orders.buyer("bob"));
    let ticket = orders.ticket("20.50").await;
    let id = anna.reserve(ticket).await.id();
    orders.expires_until("select status = 'expired' from orders").await;
    orders.is_now(&anna, &id, "expired", 2).await;
    let order = anna.read(&id).await.json();
    let [expires, expired] = ["expiresAt", "updatedAt"]
        .map(|field| OffsetDateTime::parse(order[field].as_str().unwrap(), &Rfc3339).unwrap());
    assert!(expired >= expires, "{order}");
    assert_eq!(bob.reserve(ticket).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn orders_that_came_due_during_downtime_expire_once_each_on_two_replicas() {
    let orders = Service::start().await;
    // More than two batches.
    let made = "with made as (
             insert into tickets (id, title, price, version, created_at, updated_at, event_id,
                                  processed_by)
             select gen_random_uuid(), 'Concert', 20.50, 1, now(), now(), gen_random_uuid(), 'orders-0'
             from generate_series(1, 1200)
             returning id)
         insert into orders (id, ticket_id, buyer, price, status, version, expires_at, created_at,
                             updated_at)
         select gen_random_uuid(), id, 'anna', 20.50, 'reserved', 1, now() - interval '1 h',
                now() - interval '2 h', now() - interval '2 h'
         from made";
    orders.execute(made).await;
    let done = "select count(*) = 1200 from orders where status = 'expired'";
    tokio::join!(orders.expires_until(done), orders.expires_until(done));
    let once = "select count(*) = 1200 and count(distinct envelope::jsonb ->> 'subject') = 1200
                from bus.log where subject = 'order:expired'";
    assert!(orders.one::<bool>(once).await);
    let all = "select bool_and(version = 2 and updated_at > expires_at) from orders";
    assert!(orders.one::<bool>(all).await);
}

#[tokio::test]
async fn a_locked_order_does_not_keep_others_from_expiring() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let (held, other) = (anna.order().await, anna.order().await);
    for id in [&held, &other] {
        orders.time_passes(id).await;
    }
    let mut holder = orders.pool.begin().await.unwrap();
    sqlx::query("select from orders where id = $1::uuid for update")
        .bind(&held)
        .execute(&mut *holder)
        .await
        .unwrap();
    let other_expired = format!("select status = 'expired' from orders where id = '{other}'");
    orders.expires_until(&other_expired).await;
    orders.is_now(&anna, &held, "reserved", 1).await;
    holder.rollback().await.unwrap();
    orders.expires_until("select bool_and(status = 'expired') from orders").await;
}

#[tokio::test]
async fn a_change_that_gets_the_lock_after_the_orders_time_is_too_late() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let id = anna.order().await;
    let mut holder = orders.pool.begin().await.unwrap();
    let lock = "select from orders where id = $1::uuid for update";
    sqlx::query(lock).bind(&id).execute(&mut *holder).await.unwrap();
    let (cancelled, ()) = tokio::join!(anna.cancel(&id), async {
        let waits = "select count(*) = 1 from pg_stat_activity
                     where datname = current_database() and wait_event_type = 'Lock'";
        orders.until(waits).await;
        let passes = "update orders set expires_at = clock_timestamp() where id = $1::uuid";
        sqlx::query(passes).bind(&id).execute(&mut *holder).await.unwrap();
        holder.commit().await.unwrap();
    });
    cancelled.is_problem(StatusCode::CONFLICT);
    assert_eq!(cancelled.detail(), "The order has expired: it was not paid in time.");
    orders.is_now(&anna, &id, "reserved", 1).await;
}
