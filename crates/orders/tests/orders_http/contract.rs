//! The API does what its description says, as schemathesis finds out.

#[path = "../../../tickets/tests/contract/schemathesis.rs"]
mod schemathesis;

use crate::{
    service::Service,
    tokens::{claims, hs256},
};

#[tokio::test]
async fn no_answer_is_a_failure_of_the_server_or_missing_in_the_description() {
    let orders = Service::start().await;
    // The one that the description's example orders.
    orders.known_ticket("01936b2e-7c00-7000-8000-000000000001".parse().unwrap(), "20.50").await;
    let bearer = format!("Authorization: Bearer {}", hs256(&claims("anna")));
    // A schema cannot say which tickets there are, and that nobody has them: what it allows may still
    // be refused.
    let arguments = ["--exclude-checks", "positive_data_acceptance", "-H", &bearer];
    schemathesis::finds_no_fault(&orders.base, 7, &arguments).await;
}
