//! Concurrent payments, cancellations and expiry of the same orders.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use futures::future::join_all;
use serde_json::Value;

use crate::service::{Answer, Buyer, Service};

/// How many orders are contended at once.
const ORDERS: usize = 40;

/// Sends two payments and a cancellation at once. A payment takes more steps than a cancellation,
/// so it gets a head start for every other order: each side wins sometimes.
async fn fought_over(buyer: &Buyer<'_>, nth: usize, id: &str) -> [Answer; 3] {
    let cancel = async {
        for _ in 0..nth % 2 * 3 {
            buyer.read(id).await;
        }
        buyer.cancel(id).await
    };
    tokio::join!(buyer.pay(id, "tok_visa"), cancel, buyer.pay(id, "tok_other")).into()
}

#[tokio::test]
async fn of_payment_cancellation_and_expiry_exactly_one_wins_and_the_payments_add_up() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let mut ids = Vec::new();
    for _ in 0..ORDERS {
        ids.push(anna.order().await);
    }
    // From here on the orders come due one after another, while requests for all of them are in
    // progress.
    orders
        .execute(
            "update orders set expires_at = clock_timestamp() + nth * interval '15 ms'
             from (select id as one, row_number() over (order by id) as nth from orders)
             where id = one",
        )
        .await;
    let undecided_is_none = "select count(*) = 0 from orders where status = 'reserved'";
    let all_is_captured = "select (select count(*) = 0 from captures)
         and (select count(*) = 0 from orders where status = 'reserved')";
    let (fights, (), (), ()) = tokio::join!(
        join_all(ids.iter().enumerate().map(|(nth, id)| fought_over(&anna, nth, id))),
        orders.expires_until(undecided_is_none),
        orders.expires_until(undecided_is_none),
        orders.captures_until(all_is_captured),
    );

    let mut paid = BTreeSet::new();
    for (id, answers) in ids.iter().zip(&fights) {
        let order = anna.read(id).await.json();
        let status = order["status"].as_str().unwrap();
        // This also checks its two events.
        orders.is_now(&anna, id, status, 2).await;
        let [pay, cancel, pay_otherwise] = answers;
        for (answer, winning) in
            [(pay, "completed"), (cancel, "cancelled"), (pay_otherwise, "completed")]
        {
            if status == winning {
                assert_eq!((answer.status, answer.json()), (StatusCode::OK, order.clone()));
            } else {
                answer.is_problem(StatusCode::CONFLICT);
            }
        }
        if let Value::String(reference) = &order["payment"]["reference"] {
            paid.insert(reference.clone());
        }
    }
    orders.holds(i64::try_from(ORDERS).unwrap(), i64::try_from(2 * ORDERS).unwrap()).await;

    let (captured, voided) = (orders.provider.captured(), orders.provider.voided());
    assert_eq!(captured.iter().cloned().collect::<BTreeSet<_>>(), paid);
    // Each authorized payment was either captured or voided, once.
    let mut ended = [captured, voided].concat();
    let mut authorized = orders.provider.authorized();
    ended.sort();
    authorized.sort();
    assert_eq!(ended, authorized);
}

#[tokio::test]
async fn a_contended_ticket_never_has_two_buyers() {
    let orders = Service::start().await;
    let ticket = orders.ticket("20.50").await;
    let buyers: Vec<_> = (0..10).map(|n| orders.buyer(&format!("buyer {n}"))).collect();
    let reserved = join_all(buyers.iter().map(async |buyer| {
        let mut had = 0;
        for _ in 0..10 {
            let order = buyer.reserve(ticket).await;
            if order.status == StatusCode::CREATED {
                had += 1;
                assert_eq!(buyer.cancel(&order.id()).await.status, StatusCode::OK);
            } else {
                order.is_problem(StatusCode::CONFLICT);
            }
        }
        had
    }))
    .await;
    let had: i64 = reserved.iter().sum();
    assert!(had >= 1);
    orders.holds(had, 2 * had).await;
    // According to the events, each reservation begins after the previous one has ended.
    let alternate = "select bool_and((subject = 'order:created') = (place % 2 = 1))
         from (select subject, row_number() over (order by position) as place from bus.log)";
    assert!(orders.one::<bool>(alternate).await);
}
