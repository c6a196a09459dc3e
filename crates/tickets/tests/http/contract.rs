//! The API matches its OpenAPI description, as checked by schemathesis.

use testkit::{
    schemathesis,
    tokens::{claims, hs256},
};

use crate::service::Service;

#[tokio::test]
async fn every_answer_is_described_and_none_is_a_server_error() {
    let tickets = Service::start().await;
    // A schema cannot say that a version must be the newest one, or that a title needs a visible
    // character, so a request that it allows may still be refused.
    let bearer = format!("Authorization: Bearer {}", hs256(&claims("sally")));
    let arguments = ["--exclude-checks", "positive_data_acceptance", "-H", &bearer];
    schemathesis::finds_no_fault(&tickets.base, 4, &arguments).await;
}
