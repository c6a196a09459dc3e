//! The API does what its description says, as schemathesis finds out.

use common::events::order::Order;
use orders::{order, store};
use testkit::{
    schemathesis,
    tokens::{claims, hs256},
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::service::{RESERVATION, Service};

/// The ticket and the order that the description's examples are about.
const TICKET: Uuid = Uuid::from_u128(0x01936b2e_7c00_7000_8000_000000000001);
const ORDER: Uuid = Uuid::from_u128(0x01936b2e_7c00_7000_8000_000000000002);

#[tokio::test]
async fn no_answer_is_a_failure_of_the_server_or_missing_in_the_description() {
    let orders = Service::start().await;
    orders.known_ticket(TICKET, "20.50").await;
    // Of another ticket, so that the example's can be ordered.
    let (other, price) = (orders.ticket("20.50").await, "20.50".parse().unwrap());
    let (now, time) = (OffsetDateTime::now_utc(), RESERVATION);
    let order = Order { id: ORDER, ..order::reserve(other, "anna", price, now, time) };
    let mut connection = orders.pool.acquire().await.unwrap();
    assert!(store::reservations::insert(&mut connection, &order, None).await.unwrap());
    drop(connection);

    let bearer = format!("Authorization: Bearer {}", hs256(&claims("anna")));
    // A schema cannot say which tickets there are, and that nobody has them: what it allows may still
    // be refused.
    let arguments = ["--exclude-checks", "positive_data_acceptance", "-H", &bearer];
    schemathesis::finds_no_fault(&orders.base, 7, &arguments).await;
    let changed = "select version = 2 and (select count(*) > 1 from orders)
                   from orders where buyer = 'anna' and id = '01936b2e-7c00-7000-8000-000000000002'";
    assert!(
        orders.one::<bool>(changed).await,
        "nothing was ordered, or nothing became of an order"
    );
}
