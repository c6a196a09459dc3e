//! A payment is authorized, then decided, then captured. A buyer who gets no ticket pays nothing.

use std::time::Duration;

use axum::http::StatusCode;
use reqwest::{Method, header};
use serde_json::json;

use crate::{
    provider::Call,
    service::{Answer, Service},
};

const NONE_TO_CAPTURE: &str = "select count(*) = 0 from captures";

#[tokio::test]
async fn paying_the_price_completes_the_order_and_is_captured_after_the_commit() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let order = anna.reserve(orders.ticket("20.5").await).await;
    let id = order.id();
    let paid = anna.pay(&id, "tok_visa").await;

    assert_eq!(paid.status, StatusCode::OK, "{}", paid.body);
    orders.is_now(&anna, &id, "completed", 2).await;
    assert_eq!(orders.events(&id).await[1]["data"], paid.json());
    let [reference] = &orders.provider.authorized()[..] else { panic!("not one payment") };
    let payment = format!(r#""payment":{{"amount":20.50,"reference":"{reference}"}}}}"#);
    assert!(paid.body.ends_with(&payment), "{}", paid.body);
    let amount = "20.50".parse().unwrap();
    let authorized =
        Call::Authorized { order: id.parse().unwrap(), amount, reference: reference.clone() };
    assert_eq!(orders.provider.calls(), std::slice::from_ref(&authorized));

    // The provider checks that the order was committed before the capture.
    orders.captures_until(NONE_TO_CAPTURE).await;
    assert_eq!(orders.provider.calls(), [authorized, Call::Captured(reference.clone())]);
}

#[tokio::test]
async fn a_paid_order_is_not_charged_again_with_the_same_or_another_token() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let id = anna.order().await;
    let paid = anna.pay(&id, "tok_visa").await;
    for token in ["tok_visa", "tok_other", "tok_declined"] {
        let again = anna.pay(&id, token).await;
        assert_eq!((again.status, &again.body), (StatusCode::OK, &paid.body));
    }
    orders.captures_until(NONE_TO_CAPTURE).await;
    assert_eq!(orders.provider.captured(), orders.provider.authorized());
    assert_eq!((orders.provider.captured().len(), orders.provider.voided().len()), (1, 0));
}

#[tokio::test]
async fn of_two_concurrent_payments_one_is_captured_and_the_other_voided() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let id = anna.order().await;
    let held = orders.provider.hold().await;
    let (first, second, ()) =
        tokio::join!(anna.pay(&id, "tok_visa"), anna.pay(&id, "tok_other"), async {
            orders.authorizes(2).await;
            drop(held);
        });
    assert_eq!([first.status, second.status], [StatusCode::OK; 2]);
    assert_eq!(first.body, second.body);
    orders.captures_until(NONE_TO_CAPTURE).await;
    let provider = &orders.provider;
    assert_eq!(provider.captured(), [first.json()["payment"]["reference"].as_str().unwrap()]);
    let both = [provider.captured(), provider.voided()].concat();
    let mut authorized = provider.authorized();
    if authorized != both {
        authorized.reverse();
    }
    assert_eq!(both, authorized);
    orders.is_now(&anna, &id, "completed", 2).await;
}

#[tokio::test]
async fn the_same_payment_sent_twice_concurrently_counts_once() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let id = anna.order().await;
    let held = orders.provider.hold().await;
    let (first, second, ()) =
        tokio::join!(anna.pay(&id, "tok_visa"), anna.pay(&id, "tok_visa"), async {
            orders.authorizes(2).await;
            drop(held);
        });
    assert_eq!([first.status, second.status], [StatusCode::OK; 2]);
    orders.captures_until(NONE_TO_CAPTURE).await;
    assert_eq!(orders.provider.captured(), orders.provider.authorized()[1..]);
    assert!(orders.provider.voided().is_empty());
}

#[tokio::test]
async fn a_payment_after_a_cancellation_is_voided() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let id = anna.order().await;
    let held = orders.provider.hold().await;
    let (paid, ()) = tokio::join!(anna.pay(&id, "tok_visa"), async {
        orders.authorizes(1).await;
        assert_eq!(anna.cancel(&id).await.status, StatusCode::OK);
        drop(held);
    });
    paid.is_problem(StatusCode::CONFLICT);
    assert_eq!(paid.detail(), "The order was cancelled. Nothing is charged.");
    was_voided(&orders).await;
    orders.is_now(&anna, &id, "cancelled", 2).await;
}

#[tokio::test]
async fn a_payment_after_the_orders_time_is_voided_even_before_it_is_marked_as_expired() {
    for noticed in [false, true] {
        let orders = Service::start().await;
        let anna = orders.buyer("anna");
        let id = anna.order().await;
        let held = orders.provider.hold().await;
        let (paid, ()) = tokio::join!(anna.pay(&id, "tok_visa"), async {
            orders.authorizes(1).await;
            orders.time_passes(&id).await;
            if noticed {
                orders.expires_until("select status = 'expired' from orders").await;
            }
            drop(held);
        });
        paid.is_problem(StatusCode::CONFLICT);
        let detail = "The order has expired: it was not paid in time. Nothing is charged.";
        assert_eq!(paid.detail(), detail);
        was_voided(&orders).await;
        let (status, version) = if noticed { ("expired", 2) } else { ("reserved", 1) };
        orders.is_now(&anna, &id, status, version).await;
    }
}

/// Checks that the only payment was voided and that none is left to capture.
async fn was_voided(orders: &Service) {
    assert_eq!(orders.provider.voided(), orders.provider.authorized());
    assert_eq!(orders.provider.voided().len(), 1);
    assert_eq!(orders.one::<i64>("select count(*) from captures").await, 0);
}

#[tokio::test]
async fn after_a_declined_payment_the_order_can_be_paid_with_another_token() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let id = anna.order().await;
    let declined = anna.pay(&id, "tok_declined").await;
    declined.is_problem(StatusCode::PAYMENT_REQUIRED);
    let detail = "The payment was declined: insufficient funds. The ticket stays reserved.";
    assert_eq!(declined.detail(), detail);
    orders.is_now(&anna, &id, "reserved", 1).await;
    assert_eq!(anna.pay(&id, "tok_visa").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_unreachable_provider_gives_503_with_retry_after() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let id = anna.order().await;
    let unreachable = anna.pay(&id, "tok_unreachable").await;
    unreachable.is_problem(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(unreachable.header("retry-after"), "1");
    let detail = "The payment provider cannot be reached. Nothing is charged: pay again with the same token.";
    assert_eq!(unreachable.detail(), detail);
    orders.is_now(&anna, &id, "reserved", 1).await;
    assert_eq!(anna.pay(&id, "tok_visa").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_silent_provider_times_out_and_the_payment_can_be_retried() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let id = anna.order().await;
    let held = orders.provider.hold().await;
    let given_up = anna.pay(&id, "tok_visa").await;
    given_up.is_problem(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(given_up.header("retry-after"), "1");
    orders.is_now(&anna, &id, "reserved", 1).await;
    drop(held);
    assert_eq!(anna.pay(&id, "tok_visa").await.status, StatusCode::OK);
    orders.captures_until(NONE_TO_CAPTURE).await;
    assert_eq!(orders.provider.captured(), orders.provider.authorized()[1..]);
}

#[tokio::test]
async fn a_failed_capture_is_retried_later() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let id = anna.order().await;
    orders.provider.fail_captures(1);
    anna.pay(&id, "tok_visa").await;
    let put_off = "select due_at > clock_timestamp() + interval '20 s' from captures";
    orders.captures_until(put_off).await;
    let reference = orders.provider.authorized().remove(0);
    assert_eq!(orders.provider.calls()[1..], [Call::NotCaptured(reference.clone())]);
    orders.is_now(&anna, &id, "completed", 2).await;

    orders.execute("update captures set due_at = clock_timestamp()").await;
    orders.captures_until(NONE_TO_CAPTURE).await;
    let tries = [Call::NotCaptured(reference.clone()), Call::Captured(reference)];
    assert_eq!(orders.provider.calls()[1..], tries);
}

#[tokio::test]
async fn a_failed_capture_does_not_delay_others() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    for _ in 0..3 {
        anna.pay(&anna.order().await, "tok_visa").await;
    }
    orders.provider.fail_captures(1);
    orders.captures_until("select count(*) = 1 from captures").await;
    assert_eq!(orders.provider.captured().len(), 2);
}

#[tokio::test]
async fn two_replicas_capture_each_payment_once() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    // More than one batch.
    for _ in 0..45 {
        anna.pay(&anna.order().await, "tok_visa").await;
    }
    tokio::join!(orders.captures_until(NONE_TO_CAPTURE), orders.captures_until(NONE_TO_CAPTURE));
    let (mut captured, mut authorized) = (orders.provider.captured(), orders.provider.authorized());
    captured.sort();
    authorized.sort();
    assert_eq!(captured, authorized);
}

#[tokio::test]
async fn an_invalid_payment_is_refused_and_each_invalid_field_named() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    let id = anna.order().await;
    let visible = "must have 1-200 visible ASCII characters";
    let long = json!({ "token": "t".repeat(201) }).to_string();
    let unprocessable: [(&str, &[(&str, &str)]); 8] = [
        ("{}", &[("token", "is required")]),
        (r#"{"token":7}"#, &[("token", "invalid type: integer `7`, expected a string")]),
        (r#"{"token":null}"#, &[("token", "invalid type: null, expected a string")]),
        (r#"{"token":""}"#, &[("token", visible)]),
        (r#"{"token":"tok visa"}"#, &[("token", visible)]),
        (r#"{"token":"tok_é"}"#, &[("token", visible)]),
        (&long, &[("token", visible)]),
        // The amount is the order's price; a request cannot set it.
        (r#"{"token":"tok_visa","amount":0.01}"#, &[("amount", "is not a field of this request")]),
    ];
    for (body, errors) in unprocessable {
        anna.pay_with(&id, body).await.refuses(StatusCode::UNPROCESSABLE_ENTITY, errors);
    }
    for body in ["", "[]", "{\"token\":"] {
        anna.pay_with(&id, body).await.is_problem(StatusCode::BAD_REQUEST);
    }
    anna.pay_with(&id, &" ".repeat(16 * 1024 + 1)).await.is_problem(StatusCode::PAYLOAD_TOO_LARGE);
    let request = anna.request(Method::POST, &format!("/api/orders/{id}/payment"));
    let request = request.header(header::CONTENT_TYPE, "text/plain").body("tok_visa");
    Answer::of(request).await.is_problem(StatusCode::UNSUPPORTED_MEDIA_TYPE);

    assert_eq!(orders.provider.calls(), []);
    orders.is_now(&anna, &id, "reserved", 1).await;
    assert_eq!(anna.pay(&id, &"~".repeat(200)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_free_order_is_paid_like_any_other() {
    let orders = Service::with_reservation(Duration::from_mins(1)).await;
    let anna = orders.buyer("anna");
    let id = anna.reserve(orders.ticket("0").await).await.id();
    let paid = anna.pay(&id, "tok_visa").await;
    assert!(paid.body.contains(r#""payment":{"amount":0.00,"#), "{}", paid.body);
    orders.captures_until(NONE_TO_CAPTURE).await;
    assert_eq!(orders.provider.captured().len(), 1);
}
