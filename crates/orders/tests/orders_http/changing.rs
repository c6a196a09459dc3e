//! Every state of an order against every request that changes it.

use axum::http::StatusCode;

use crate::service::{Answer, Buyer, Service};

const PAID: &str = "The order is completed: it was paid.";
const CANCELLED: &str = "The order was cancelled.";
const TOO_LATE: &str = "The order has expired: it was not paid in time.";
/// The states of an order. An overdue one has passed its time but is not marked as expired yet.
const STATES: [&str; 5] = ["reserved", "overdue", "completed", "cancelled", "expired"];

/// Creates an order in a state. Those in a final state are overdue as well.
async fn order_that_is(orders: &Service, anna: &Buyer<'_>, state: &str) -> String {
    let id = anna.order().await;
    match state {
        "completed" => assert_eq!(anna.pay(&id, "tok_first").await.status, StatusCode::OK),
        "cancelled" => assert_eq!(anna.cancel(&id).await.status, StatusCode::OK),
        _ => {}
    }
    if state != "reserved" {
        orders.time_passes(&id).await;
    }
    if state == "expired" {
        all_expire(orders).await;
    }
    id
}

/// Waits until every overdue order has expired.
async fn all_expire(orders: &Service) {
    let marker = orders.buyer("marker").order().await;
    orders.time_passes(&marker).await;
    let expired =
        format!("select count(*) = 1 from orders where id = '{marker}' and status = 'expired'");
    orders.expires_until(&expired).await;
}

/// Checks which state an order in each state reaches, and how the request is answered.
async fn becomes(
    command: impl AsyncFn(&Buyer<'_>, &str) -> Option<Answer>,
    cells: [(&str, Result<(), &str>, &str, usize); 5],
) {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    assert_eq!(cells.map(|(state, ..)| state), STATES);
    for (state, answered, becomes, version) in cells {
        let id = order_that_is(&orders, &anna, state).await;
        let before = anna.read(&id).await;
        let authorized = orders.provider.authorized().len();
        let answer = command(&anna, &id).await;
        let after = anna.read(&id).await;
        match answered {
            Err(detail) => {
                let refused = answer.unwrap();
                refused.is_problem(StatusCode::CONFLICT);
                assert_eq!(refused.detail(), detail, "{state}");
                assert_eq!(after.body, before.body, "{state}");
                // The provider is not called if the order cannot be paid.
                assert_eq!(orders.provider.authorized().len(), authorized, "{state}");
            }
            Ok(()) => {
                if let Some(answer) = answer {
                    assert_eq!((answer.status, &answer.body), (StatusCode::OK, &after.body));
                    assert_eq!(answer.header("content-type"), "application/json");
                }
                if state == becomes {
                    assert_eq!(after.body, before.body, "{state}");
                }
            }
        }
        orders.is_now(&anna, &id, becomes, version).await;
    }
}

#[tokio::test]
async fn an_order_can_be_paid_only_before_it_expires() {
    let pay = async |anna: &Buyer<'_>, id: &str| Some(anna.pay(id, "tok_second").await);
    let cells = [
        ("reserved", Ok(()), "completed", 2),
        ("overdue", Err(TOO_LATE), "reserved", 1),
        ("completed", Ok(()), "completed", 2),
        ("cancelled", Err(CANCELLED), "cancelled", 2),
        ("expired", Err(TOO_LATE), "expired", 2),
    ];
    becomes(pay, cells).await;
}

#[tokio::test]
async fn an_order_can_be_cancelled_only_before_it_expires() {
    let cancel = async |anna: &Buyer<'_>, id: &str| Some(anna.cancel(id).await);
    let cells = [
        ("reserved", Ok(()), "cancelled", 2),
        ("overdue", Err(TOO_LATE), "reserved", 1),
        ("completed", Err(PAID), "completed", 2),
        ("cancelled", Ok(()), "cancelled", 2),
        ("expired", Err(TOO_LATE), "expired", 2),
    ];
    becomes(cancel, cells).await;
}

#[tokio::test]
async fn only_a_reserved_order_whose_time_has_passed_expires() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let cells = [
        ("reserved", "reserved", 1),
        ("overdue", "expired", 2),
        ("completed", "completed", 2),
        ("cancelled", "cancelled", 2),
        ("expired", "expired", 2),
    ];
    assert_eq!(cells.map(|(state, ..)| state), STATES);
    for (state, becomes, version) in cells {
        let id = order_that_is(&orders, &anna, state).await;
        let before = anna.read(&id).await;
        all_expire(&orders).await;
        orders.is_now(&anna, &id, becomes, version).await;
        if state == becomes {
            assert_eq!(anna.read(&id).await.body, before.body);
        }
    }
}

#[tokio::test]
async fn a_change_whose_event_cannot_be_stored_is_not_made() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let (paid, cancelled, overdue) = (anna.order().await, anna.order().await, anna.order().await);
    orders.execute("alter table bus.log rename to away").await;
    for answer in [anna.pay(&paid, "tok_visa").await, anna.cancel(&cancelled).await] {
        answer.is_problem(StatusCode::INTERNAL_SERVER_ERROR);
    }
    orders.execute("alter table bus.away rename to log").await;
    for id in [&paid, &cancelled, &overdue] {
        orders.is_now(&anna, id, "reserved", 1).await;
    }
    // The commit may have succeeded as far as the handler can tell, so the payment stands and is
    // not voided.
    assert_eq!((orders.provider.voided().len(), orders.provider.authorized().len()), (0, 1));
    assert_eq!(anna.pay(&paid, "tok_visa").await.status, StatusCode::OK);
    orders.captures_until("select count(*) = 0 from captures").await;
    assert_eq!(orders.provider.captured(), orders.provider.authorized()[1..]);
    assert_eq!(orders.provider.captured(), orders.provider.authorized()[..1]);
}

#[tokio::test]
async fn a_change_that_is_not_committed_has_no_event() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let (paid, cancelled) = (anna.order().await, anna.order().await);
    orders.commits_of_orders_fail().await;
    for answer in [anna.pay(&paid, "tok_visa").await, anna.cancel(&cancelled).await] {
        answer.is_problem(StatusCode::INTERNAL_SERVER_ERROR);
    }
    orders.holds(2, 2).await;
    assert_eq!(orders.one::<i64>("select count(*) from captures").await, 0);
}

#[tokio::test]
async fn an_unknown_order_is_answered_404_and_a_malformed_id_400() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let id = "01936b2e-7c00-7000-8000-000000000001";
    for answer in [anna.read(id).await, anna.cancel(id).await, anna.pay(id, "tok_visa").await] {
        answer.is_problem(StatusCode::NOT_FOUND);
    }
    for id in ["7", "01936b2e7c0070008000000000000001", "%00", "%ff", "a%2Fb"] {
        for answer in [anna.read(id).await, anna.cancel(id).await, anna.pay(id, "tok_visa").await] {
            answer.is_problem(StatusCode::BAD_REQUEST);
            assert_eq!(answer.errors()[0].0, "id", "{id}");
        }
    }
    assert_eq!(orders.provider.calls(), []);
}
