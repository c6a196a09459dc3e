//! The API matches its OpenAPI description, as checked by schemathesis.

use common::events::order::Order;
use orders::{order, store};
use testkit::{
    schemathesis,
    tokens::{claims, hs256},
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::service::{RESERVATION, Service};

/// The ticket and the order of the description's examples.
const TICKET: Uuid = Uuid::from_u128(0x01936b2e_7c00_7000_8000_000000000001);
const ORDER: Uuid = Uuid::from_u128(0x01936b2e_7c00_7000_8000_000000000002);

#[tokio::test]
async fn every_answer_is_described_and_none_is_a_server_error() {
    let orders = Service::start().await;
    orders.known_ticket(TICKET, "20.50").await;
    // For another ticket, so that the example's ticket stays available.
    let (other, price) = (orders.ticket("20.50").await, "20.50".parse().unwrap());
    let (now, time) = (OffsetDateTime::now_utc(), RESERVATION);
    let order = Order { id: ORDER, ..order::reserve(other, "anna", price, now, time) };
    let mut connection = orders.pool.acquire().await.unwrap();
    let inserted = store::reservations::insert(&mut connection, &[&order], None).await.unwrap();
    assert_eq!(inserted, [order.id]);
    drop(connection);

    let bearer = format!("Authorization: Bearer {}", hs256(&claims("anna")));
    // A schema cannot say which tickets exist and are available, so a request that it allows may
    // still be refused.
    let arguments = ["--exclude-checks", "positive_data_acceptance", "-H", &bearer];
    schemathesis::finds_no_fault(&orders.base, 7, &arguments).await;
    let changed = "select version = 2 and (select count(*) > 1 from orders)
                   from orders where buyer = 'anna' and id = '01936b2e-7c00-7000-8000-000000000002'";
    assert!(orders.one::<bool>(changed).await, "no order was created, or none was changed");
}
