//! Buyers who order tickets, and checks that tickets and orders agree.

use std::collections::BTreeMap;

use jsonwebtoken::{EncodingKey, Header, encode};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Service, System, until};

/// The key that signs buyers' tokens.
pub(crate) const SECRET: &str = "a secret of thirty-two bytes or more";

/// A buyer's token.
pub(crate) fn token(buyer: &str) -> String {
    // Long after any test ends.
    let claims = json!({ "sub": buyer, "exp": 4_102_444_800_u64 });
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// A ticket in one of the services: its version, and the order that holds it, with the kind of hold.
pub(crate) type Held = (i32, Option<(Uuid, String)>);

impl System {
    /// Sends a request and returns the status and the JSON answer.
    pub(crate) async fn ask(
        &self,
        service: &Service,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self.http.request(method, format!("{}{path}", service.url));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// Reserves a ticket as soon as the service knows it. Returns the order.
    pub(crate) async fn reserve(&self, orders: &Service, ticket: Uuid) -> Value {
        until("orders knows the ticket", || async { self.known().await.contains_key(&ticket) })
            .await;
        let body = json!({ "ticketId": ticket });
        let (status, order) = self.ask(orders, Method::POST, "/api/orders", Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "{order}");
        order
    }

    /// Changes a ticket, whatever its version. Returns the answer.
    pub(crate) async fn put(&self, tickets: &Service, ticket: Uuid) -> (StatusCode, Value) {
        let put = self.http.put(format!("{}/api/tickets/{ticket}", tickets.url));
        let put = put.header("if-match", "*").json(&json!({ "title": "Opera", "price": 30 }));
        let answer = put.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// Waits until tickets shows this hold on a ticket; `None` means free.
    pub(crate) async fn until_held(&self, ticket: Uuid, by: Option<&str>) {
        until(&format!("the ticket is held: {by:?}"), || async {
            let held: Result<Option<String>, _> =
                sqlx::query_scalar("select hold_status from tickets where id = $1")
                    .bind(ticket)
                    .fetch_one(&self.tickets_db)
                    .await;
            held.is_ok_and(|held| held.as_deref() == by)
        })
        .await;
    }

    /// Once everything is quiet, checks in both services that each ticket is held by its order, if it has
    /// one. Returns the tickets.
    pub(crate) async fn both_agree(&self) -> BTreeMap<Uuid, Held> {
        self.everything_is_quiet().await;
        let columns = |row: (Uuid, i32, Option<Uuid>, Option<String>)| {
            let (ticket, version, order, status) = row;
            (ticket, (version, order.zip(status)))
        };
        let own = "select id, version, hold_order_id, hold_status from tickets";
        let own: Vec<_> = sqlx::query_as(own).fetch_all(&self.tickets_db).await.unwrap();
        let copy = "select id, version, (state->'hold'->>'orderId')::uuid, state->'hold'->>'status' from tickets";
        let copy: Vec<_> = sqlx::query_as(copy).fetch_all(&self.orders_db).await.unwrap();
        let own: BTreeMap<Uuid, Held> = own.into_iter().map(columns).collect();
        let copy: BTreeMap<Uuid, Held> = copy.into_iter().map(columns).collect();
        assert_eq!(own, copy, "the copy is the original");

        let having: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
            "select ticket_id, id, case status when 'completed' then 'sold' else status end
             from orders where status in ('reserved', 'completed')",
        )
        .fetch_all(&self.orders_db)
        .await
        .unwrap();
        let number = having.len();
        let having: BTreeMap<Uuid, (Uuid, String)> =
            having.into_iter().map(|(ticket, order, status)| (ticket, (order, status))).collect();
        assert_eq!(having.len(), number, "a ticket has one order");
        let held: BTreeMap<Uuid, (Uuid, String)> =
            own.iter().filter_map(|(ticket, (_, hold))| Some((*ticket, hold.clone()?))).collect();
        assert_eq!(held, having, "each ticket is held by its order");
        own
    }
}
