//! A ticket's states during an order, in both services: reserved and locked, then free again or sold.

use reqwest::{Method, StatusCode};
use serde_json::json;
use testkit::FaultProxy;
use uuid::Uuid;

use crate::harness::{Service, System, until};

async fn start(reservation: &str) -> (System, Service, Service) {
    let mut system = System::start().await;
    system.settings.push(("RESERVATION_TIME", reservation.to_owned()));
    let tickets = system.tickets().await;
    let orders = system.orders("orders-1").await;
    (system, tickets, orders)
}

fn path(order: &serde_json::Value) -> String {
    format!("/api/orders/{}", order["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_reserved_ticket_cannot_be_changed_until_its_order_is_cancelled() {
    let (system, tickets, orders) = start("15m").await;
    let ticket = system.post(&tickets, "Concert").await;
    let order = system.reserve(&orders, ticket).await;
    system.until_held(ticket, Some("reserved")).await;

    let (status, problem) = system.put(&tickets, ticket).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("reserved"), "{problem}");
    let (_, locked) =
        system.ask(&tickets, Method::GET, &format!("/api/tickets/{ticket}"), None).await;
    assert_eq!(locked["hold"], json!({ "orderId": order["id"], "status": "reserved" }));
    assert_eq!(locked["version"], 2);

    let (status, cancelled) = system.ask(&orders, Method::DELETE, &path(&order), None).await;
    assert_eq!((status, &cancelled["status"]), (StatusCode::OK, &json!("cancelled")));
    system.until_held(ticket, None).await;
    assert_eq!(system.put(&tickets, ticket).await.0, StatusCode::OK);

    // Created, reserved, free, changed: four versions, and orders has received each.
    let held = system.both_agree().await;
    assert_eq!(held[&ticket], (4, None));
    // The next buyer pays the current price.
    let next = system.reserve(&orders, ticket).await;
    assert_eq!(next["price"].to_string(), "30.0");
}

#[tokio::test]
async fn a_paid_ticket_stays_sold() {
    let (system, tickets, orders) = start("15m").await;
    let ticket = system.post(&tickets, "Concert").await;
    let order = system.reserve(&orders, ticket).await;
    let pay = json!({ "token": "tok_visa" });
    let (status, paid) =
        system.ask(&orders, Method::POST, &format!("{}/payment", path(&order)), Some(pay)).await;
    assert_eq!((status, &paid["status"]), (StatusCode::OK, &json!("completed")));
    system.until_held(ticket, Some("sold")).await;
    let (status, problem) = system.put(&tickets, ticket).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(problem["detail"].as_str().unwrap().contains("sold"), "{problem}");
    until("the payment is captured", || async {
        let captures: i64 = sqlx::query_scalar("select count(*) from captures")
            .fetch_one(&system.orders_db)
            .await
            .unwrap();
        captures == 0
    })
    .await;
    let id = order["id"].as_str().unwrap().parse::<Uuid>().unwrap();
    assert_eq!(system.both_agree().await[&ticket].1, Some((id, "sold".to_owned())));
}

#[tokio::test]
async fn orders_are_accepted_while_nats_is_down_and_their_tickets_locked_once_it_is_back() {
    let (mut system, tickets, orders) = start("15m").await;
    let ticket = system.post(&tickets, "Concert").await;
    system.reserve(&orders, ticket).await;
    let second = system.post(&tickets, "Opera").await;
    system.everything_is_quiet().await;
    system.nats.kill().await;

    system.reserve(&orders, second).await;
    for service in [&tickets, &orders] {
        until("the services have noticed", || async {
            system.metric(service, "bus_connected").await == 0.0
        })
        .await;
        let ready = system.http.get(format!("{}/readyz", service.url)).send().await.unwrap();
        assert_eq!(ready.status(), StatusCode::OK);
    }
    system.nats.restart().await.unwrap();
    system.until_held(second, Some("reserved")).await;
    system.both_agree().await;
}

#[tokio::test]
async fn an_unpaid_order_expires_within_a_second_of_its_deadline_and_frees_its_ticket() {
    let (system, tickets, orders) = start("1s").await;
    let ticket = system.post(&tickets, "Concert").await;
    for _ in 0..3 {
        let order = system.reserve(&orders, ticket).await;
        until("the order has expired", || async {
            system.ask(&orders, Method::GET, &path(&order), None).await.1["status"] == "expired"
        })
        .await;
        let (status, problem) = system.ask(&orders, Method::DELETE, &path(&order), None).await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert!(problem["detail"].as_str().unwrap().contains("expired"), "{problem}");
    }
    let late: f64 = sqlx::query_scalar(
        "select max(extract(epoch from updated_at - expires_at))::float8 from orders",
    )
    .fetch_one(&system.orders_db)
    .await
    .unwrap();
    assert!((0.0..1.0).contains(&late), "an order expired {late} s late");
    assert_eq!(system.both_agree().await[&ticket].1, None);
}

#[tokio::test]
async fn orders_that_came_due_while_no_replica_ran_expire_once_when_one_starts() {
    let (system, tickets, mut orders) = start("2s").await;
    let ticket = system.post(&tickets, "Concert").await;
    let order = system.reserve(&orders, ticket).await;
    orders.child.kill().await;
    until("the order is due", || async {
        let due: i64 = sqlx::query_scalar(
            "select count(*) from orders where status = 'reserved' and expires_at < now()",
        )
        .fetch_one(&system.orders_db)
        .await
        .unwrap();
        due == 1
    })
    .await;
    let replicas = [system.orders("orders-2").await, system.orders("orders-3").await];
    until("the order has expired", || async {
        system.ask(&replicas[0], Method::GET, &path(&order), None).await.1["status"] == "expired"
    })
    .await;
    assert_eq!(expiries_of_each(&system).await, [1]);
    assert_eq!(system.both_agree().await[&ticket].1, None);
}

#[tokio::test]
async fn a_database_that_vanished_silently_delays_no_expiry_once_it_is_back() {
    let mut system = System::start().await;
    let database = FaultProxy::to(system.postgres.port()).await.unwrap();
    let tickets = system.tickets().await;
    let through = system
        .postgres
        .url("orders")
        .replace(&format!(":{}/", system.postgres.port()), &format!(":{}/", database.port()));
    system.settings = vec![("DATABASE_URL", through), ("RESERVATION_TIME", "2s".to_owned())];
    let orders = system.orders("orders-1").await;
    let ticket = system.post(&tickets, "Concert").await;
    system.reserve(&orders, ticket).await;
    system.until_held(ticket, Some("reserved")).await;
    // Nothing will ever answer on the service's existing connections.
    database.vanish().await;
    system.until_held(ticket, None).await;
    assert_eq!(expiries_of_each(&system).await, [1]);
}

/// The number of expiry events of each expired order.
async fn expiries_of_each(system: &System) -> Vec<i64> {
    sqlx::query_scalar(
        "select count(*) from bus.log where subject = 'order:expired'
         group by envelope::jsonb->>'subject'",
    )
    .fetch_all(&system.orders_db)
    .await
    .unwrap()
}

#[tokio::test]
async fn three_replicas_expire_ten_thousand_due_orders_once_each() {
    const DUE: usize = 10_000;
    let (system, _tickets, mut first) = start("15m").await;
    first.child.kill().await;
    // Reserved some time ago in both services.
    let rows = "create function id(kind int, n int) returns uuid return
                    format('00000000-0000-7000-800%s-%s', kind, lpad(to_hex(n), 12, '0'))::uuid";
    let in_tickets = "
        insert into tickets (id, title, price, version, created_at, updated_at, hold_order_id, hold_status)
            select id(0, n), 'Concert', 20, 2, now(), now(), id(1, n), 'reserved'
            from generate_series(1, 10000) as n;
        insert into orders select id(1, n), id(0, n), 'reserved', 1 from generate_series(1, 10000) as n";
    let in_orders = "
        insert into tickets (id, title, price, version, created_at, updated_at, event_id, processed_by)
            select id(0, n), 'Concert', 20, 2, now(), now(), id(2, n), 'nobody'
            from generate_series(1, 10000) as n;
        insert into orders (id, ticket_id, buyer, price, status, version, expires_at, created_at, updated_at)
            select id(1, n), id(0, n), 'ada', 20, 'reserved', 1, now(), now(), now()
            from generate_series(1, 10000) as n";
    for (database, statements) in [(&system.tickets_db, in_tickets), (&system.orders_db, in_orders)]
    {
        sqlx::raw_sql(rows).execute(database).await.unwrap();
        sqlx::raw_sql(statements).execute(database).await.unwrap();
    }
    let _replicas = tokio::join!(
        system.orders("orders-1"),
        system.orders("orders-2"),
        system.orders("orders-3"),
    );
    until("all have expired", || async {
        let left: i64 = sqlx::query_scalar("select count(*) from orders where status = 'reserved'")
            .fetch_one(&system.orders_db)
            .await
            .unwrap();
        left == 0
    })
    .await;
    assert_eq!(expiries_of_each(&system).await, vec![1; DUE]);
    let held = system.both_agree().await;
    assert_eq!(held.len(), DUE);
    for (ticket, held) in held {
        assert_eq!(held, (3, None), "{ticket} is free, by one change");
    }
}
