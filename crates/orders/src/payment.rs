//! The interface of a payment provider, and a fake provider for trials.
//!
//! A payment takes three steps, so that nobody is charged for a ticket that they do not get. First
//! the amount is authorized, which charges nothing. Then the order is completed, unless it was
//! cancelled or has expired meanwhile. After that commit the payment is captured. An authorization
//! that loses the race is voided. An authorization that is abandoned between the first two steps, because the
//! process died or the buyer hung up, lapses at the provider on its own.

use common::events::{money::Price, order::Payment};
use futures::future::{BoxFuture, FutureExt};
use uuid::Uuid;

/// The amount to charge, and the means of payment.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'a> {
    /// The order to pay for.
    pub order_id: Uuid,
    /// The amount.
    pub amount: Price,
    /// The buyer's means of payment: a token that the provider issued to the buyer.
    pub token: &'a str,
}

/// Why an amount was not authorized.
#[derive(Debug, thiserror::Error)]
pub enum NotAuthorized {
    /// The provider declined. The reason is for the buyer.
    #[error("{0}")]
    Declined(String),
    /// The outcome is unknown: the provider is unreachable or failed.
    #[error("the payment provider failed: {0:#}")]
    Failed(anyhow::Error),
}

/// A payment provider. Every call is idempotent, because it is repeated after a crash or a lost
/// answer.
pub trait Provider: Send + Sync + 'static {
    /// Authorizes an amount, without charging it. Repeating an order and token returns the same
    /// payment.
    fn authorize<'a>(&'a self, charge: Charge<'a>)
    -> BoxFuture<'a, Result<Payment, NotAuthorized>>;

    /// Captures an authorized payment.
    fn capture<'a>(&'a self, payment: &'a Payment) -> BoxFuture<'a, anyhow::Result<()>>;

    /// Voids an authorized payment.
    fn void<'a>(&'a self, payment: &'a Payment) -> BoxFuture<'a, anyhow::Result<()>>;
}

/// A provider without real money. It authorizes everything except two tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeProvider;

impl FakeProvider {
    /// A token that is declined.
    pub const DECLINED: &'static str = "tok_declined";
    /// A token that simulates an unreachable provider.
    pub const UNREACHABLE: &'static str = "tok_unreachable";
}

impl Provider for FakeProvider {
    fn authorize<'a>(
        &'a self,
        charge: Charge<'a>,
    ) -> BoxFuture<'a, Result<Payment, NotAuthorized>> {
        let authorized = match charge.token {
            Self::DECLINED => Err(NotAuthorized::Declined("insufficient funds".to_owned())),
            Self::UNREACHABLE => {
                Err(NotAuthorized::Failed(anyhow::anyhow!("{} was used", Self::UNREACHABLE)))
            }
            token => {
                let name = Uuid::new_v5(&charge.order_id, token.as_bytes());
                let reference = format!("pay_{}", name.simple());
                Ok(Payment { amount: charge.amount, reference })
            }
        };
        async { authorized }.boxed()
    }

    fn capture<'a>(&'a self, _: &'a Payment) -> BoxFuture<'a, anyhow::Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn void<'a>(&'a self, _: &'a Payment) -> BoxFuture<'a, anyhow::Result<()>> {
        async { Ok(()) }.boxed()
    }
}
