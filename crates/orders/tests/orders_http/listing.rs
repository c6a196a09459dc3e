//! Lists and their pages, and the API's description.

use axum::http::StatusCode;
use common::pod::page::MAX_LIMIT;
use serde_json::{Value, json};

use crate::service::Service;

#[tokio::test]
async fn pages_show_each_order_once_newest_first_while_new_orders_arrive() {
    let orders = Service::start().await;
    let (anna, bob) = (orders.buyer("anna"), orders.buyer("bob"));
    let mut ids = Vec::new();
    for n in 0..7 {
        let id = anna.order().await;
        bob.order().await;
        // Its state does not matter: it stays in the list.
        match n % 3 {
            0 => drop(anna.pay(&id, "tok_visa").await),
            1 => drop(anna.cancel(&id).await),
            _ => {}
        }
        ids.push(id);
    }
    ids.reverse();
    let (mut seen, mut path) = (Vec::new(), "/api/orders?limit=3".to_owned());
    let mut sizes = Vec::new();
    loop {
        let page = anna.get(&path).await.json();
        let rows = page["orders"].as_array().unwrap();
        sizes.push(rows.len());
        for row in rows {
            let id = row["id"].as_str().unwrap();
            assert_eq!(*row, anna.read(id).await.json());
            seen.push(id.to_owned());
        }
        anna.order().await;
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/orders?limit=3&after={next}");
    }
    assert_eq!((seen, sizes), (ids, vec![3, 3, 1]));
}

#[tokio::test]
async fn a_cursor_into_another_buyers_orders_shows_none_of_them() {
    let orders = Service::start().await;
    let (anna, bob) = (orders.buyer("anna"), orders.buyer("bob"));
    let bobs = [bob.order().await, bob.order().await];
    let mine = anna.order().await;
    let after_all = mine.replace('-', "");
    for cursor in [after_all, bobs[1].replace('-', "")] {
        let page = anna.get(&format!("/api/orders?after={cursor}")).await;
        assert_eq!(page.body, r#"{"orders":[],"next":null}"#);
    }
}

#[tokio::test]
async fn a_full_last_page_has_no_next_and_an_empty_list_is_a_page() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    assert_eq!(anna.get("/api/orders").await.body, r#"{"orders":[],"next":null}"#);
    assert_eq!(orders.get("/api/tickets").await.body, r#"{"tickets":[],"next":null}"#);
    for _ in 0..21 {
        anna.order().await;
    }
    for (path, rows) in [("/api/orders", "orders"), ("/api/tickets", "tickets")] {
        let exactly = anna.get(&format!("{path}?limit=21")).await.json();
        let size = |page: &Value| page[rows].as_array().unwrap().len();
        assert_eq!((size(&exactly), &exactly["next"]), (21, &Value::Null));
        let default = anna.get(path).await.json();
        assert_eq!(size(&default), 20);
        assert!(default["next"].is_string());
    }
}

#[tokio::test]
async fn an_invalid_page_request_is_refused_and_the_parameter_named() {
    let orders = Service::start().await;
    let anna = orders.buyer("anna");
    for path in ["/api/orders", "/api/tickets"] {
        for (query, field, message) in [
            ("limit=0", "limit", "must be a whole number from 1 to 100"),
            ("limit=101", "limit", "must be a whole number from 1 to 100"),
            ("after=7", "after", "must be the next of an earlier page"),
            ("limit=5&limit=5", "limit", "must be given once"),
            // There is no way to list another buyer's orders.
            ("buyer=bob", "buyer", "is not a parameter of this request"),
        ] {
            let answer = anna.get(&format!("{path}?{query}")).await;
            answer.refuses(StatusCode::UNPROCESSABLE_ENTITY, &[(field, message)]);
        }
    }
}

#[tokio::test]
async fn a_ticket_is_shown_in_the_state_of_its_newest_event() {
    let orders = Service::start().await;
    let ticket = orders.ticket("20.5").await;
    let shown = orders.get(&format!("/api/tickets/{ticket}")).await;
    assert_eq!(shown.status, StatusCode::OK);
    assert!(shown.body.contains(r#""title":"Concert","price":20.50,"version":1,"#));
    assert_eq!(orders.get("/api/tickets").await.json()["tickets"], json!([shown.json()]));
    let absent = orders.get("/api/tickets/01936b2e-7c00-7000-8000-000000000001").await;
    absent.is_problem(StatusCode::NOT_FOUND);
    orders.get("/api/tickets/7").await.is_problem(StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_description_lists_every_route_with_its_errors() {
    let orders = Service::without_database().await;
    let description = orders.get("/openapi.json").await.json();
    let statuses = |path: &str, method: &str| {
        let responses = description["paths"][path][method]["responses"].as_object().unwrap();
        responses.keys().map(|status| status.parse().unwrap()).collect::<Vec<u16>>()
    };
    let one = "/api/orders/{id}";
    let pay = "/api/orders/{id}/payment";
    assert_eq!(
        statuses("/api/orders", "post"),
        [201, 400, 401, 404, 408, 409, 413, 414, 415, 422, 431, 500, 503]
    );
    assert_eq!(statuses("/api/orders", "get"), [200, 304, 400, 401, 408, 414, 422, 431, 500, 503]);
    assert_eq!(statuses(one, "get"), [200, 304, 400, 401, 404, 408, 414, 431, 500, 503]);
    assert_eq!(statuses(one, "delete"), [200, 400, 401, 404, 408, 409, 414, 431, 500, 503]);
    assert_eq!(
        statuses(pay, "post"),
        [200, 400, 401, 402, 404, 408, 409, 413, 414, 415, 422, 431, 500, 503]
    );
    assert_eq!(statuses("/api/tickets", "get"), [200, 304, 408, 414, 422, 431, 500, 503]);
    assert_eq!(statuses("/api/tickets/{id}", "get"), [200, 304, 400, 404, 408, 414, 431, 500, 503]);
    let paths = description["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 5);

    let scheme = &description["components"]["securitySchemes"]["buyer"];
    assert_eq!(*scheme, json!({ "type": "http", "scheme": "bearer", "bearerFormat": "JWT" }));
    for (path, operations) in paths {
        for operation in operations.as_object().unwrap().values() {
            let asked_for = path.starts_with("/api/orders");
            let security = if asked_for { json!([{ "buyer": [] }]) } else { Value::Null };
            assert_eq!(operation["security"], security, "{path}");
        }
    }
    let schemas = &description["components"]["schemas"];
    for (page, rows) in [("OrderPage", "orders"), ("TicketPage", "tickets")] {
        assert_eq!(schemas[page]["properties"][rows]["maxItems"], MAX_LIMIT);
    }
    for schema in ["NewOrder", "NewPayment"] {
        assert_eq!(schemas[schema]["additionalProperties"], false);
    }
}
