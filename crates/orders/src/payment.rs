//! Payments, as this service needs them of a provider, and a provider to try it with.
//!
//! An order is paid in three steps, so that nobody is charged for a ticket that they do not get: the
//! amount is authorized, which charges nothing; the order is completed, if nothing else has become of
//! it meanwhile; and after that commit the payment is captured. An authorization that loses the race is
//! voided, and one that is forgotten, because the process died or the buyer hung up between the first
//! two steps, lapses at the provider by itself.

use common::events::{money::Price, order::Payment};
use futures::future::{BoxFuture, FutureExt};
use uuid::Uuid;

/// What is to be paid, and with what.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'a> {
    /// The order that it is for.
    pub order_id: Uuid,
    /// How much.
    pub amount: Price,
    /// The buyer's means of payment, as the provider has named it to the buyer.
    pub token: &'a str,
}

/// Why an amount was not authorized.
#[derive(Debug, thiserror::Error)]
pub enum NotAuthorized {
    /// The provider will not: the reason is for the buyer.
    #[error("{0}")]
    Declined(String),
    /// Nobody knows: the provider cannot be reached, or failed.
    #[error("the payment provider failed: {0:#}")]
    Failed(anyhow::Error),
}

/// A payment provider. Each call may be repeated, after a crash or an answer that was lost, and must
/// then have the effect of one.
pub trait Provider: Send + Sync + 'static {
    /// Sets an amount aside. The same order and token are the same payment.
    fn authorize<'a>(&'a self, charge: Charge<'a>)
    -> BoxFuture<'a, Result<Payment, NotAuthorized>>;

    /// Takes what was set aside.
    fn capture<'a>(&'a self, payment: &'a Payment) -> BoxFuture<'a, anyhow::Result<()>>;

    /// Gives back what was set aside.
    fn void<'a>(&'a self, payment: &'a Payment) -> BoxFuture<'a, anyhow::Result<()>>;
}

/// A provider that has nobody's money: it authorizes whatever it is asked to, but for two tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeProvider;

impl FakeProvider {
    /// The token that is declined.
    pub const DECLINED: &'static str = "tok_declined";
    /// The token with which the provider cannot be reached.
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
                Err(NotAuthorized::Failed(anyhow::anyhow!("{} says so", Self::UNREACHABLE)))
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
