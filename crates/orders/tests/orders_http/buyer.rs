//! A client with a token, and the requests it makes.

use reqwest::{Method, RequestBuilder, header};
use serde_json::json;
use testkit::Answer;
use uuid::Uuid;

use crate::service::Service;

/// A client that sends a token with each request.
pub(crate) struct Buyer<'a> {
    pub(crate) service: &'a Service,
    pub(crate) base: String,
    pub(crate) token: String,
}

impl Buyer<'_> {
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.service.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    /// The same buyer, at another replica.
    pub(crate) fn at(&self, base: &str) -> Self {
        Self { service: self.service, base: base.to_owned(), token: self.token.clone() }
    }

    pub(crate) fn posting(&self, path: &str, body: impl Into<String>) -> RequestBuilder {
        self.request(Method::POST, path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.into())
    }

    pub(crate) fn reserving(&self, ticket: Uuid) -> RequestBuilder {
        self.posting("/api/orders", json!({ "ticketId": ticket }).to_string())
    }

    pub(crate) async fn reserve(&self, ticket: Uuid) -> Answer {
        Answer::of(self.reserving(ticket)).await
    }

    pub(crate) async fn reserve_with_key(&self, key: &str, ticket: Uuid) -> Answer {
        let key = header::HeaderValue::from_bytes(key.as_bytes()).unwrap();
        Answer::of(self.reserving(ticket).header("idempotency-key", key)).await
    }

    /// Orders a new ticket. Returns the order's id.
    pub(crate) async fn order(&self) -> String {
        let ticket = self.service.ticket("20.50").await;
        self.reserve(ticket).await.id()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub(crate) async fn read(&self, order: &str) -> Answer {
        self.get(&format!("/api/orders/{order}")).await
    }

    pub(crate) async fn cancel(&self, order: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, &format!("/api/orders/{order}"))).await
    }

    pub(crate) async fn pay(&self, order: &str, token: &str) -> Answer {
        self.pay_with(order, &json!({ "token": token }).to_string()).await
    }

    pub(crate) async fn pay_with(&self, order: &str, body: &str) -> Answer {
        Answer::of(self.posting(&format!("/api/orders/{order}/payment"), body)).await
    }
}
