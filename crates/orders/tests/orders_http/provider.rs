//! A payment provider that records its calls, and can be told to stall or to fail.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use common::events::{money::Price, order::Payment};
use futures::future::{BoxFuture, FutureExt};
use orders::payment::{Charge, FakeProvider, NotAuthorized, Provider};
use sqlx::PgPool;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use uuid::Uuid;

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Authorized {
        order: Uuid,
        amount: Price,
        reference: String,
    },
    Captured(String),
    /// The capture failed as configured, or the payment had completed no order.
    NotCaptured(String),
    Voided(String),
}

/// Authorizes as the fake provider does.
pub(crate) struct Recorder {
    pool: PgPool,
    calls: Mutex<Vec<Call>>,
    /// While it is held for writing, authorizations are not answered.
    gate: Arc<RwLock<()>>,
    failures: AtomicUsize,
}

impl Recorder {
    pub(crate) fn new(pool: PgPool) -> Self {
        let (calls, gate) = (Mutex::default(), Arc::default());
        Self { pool, calls, gate, failures: AtomicUsize::new(0) }
    }

    /// Holds back the answers to authorizations until the guard is dropped.
    pub(crate) async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        self.gate.clone().write_owned().await
    }

    /// Makes the next captures fail, this many of them.
    pub(crate) fn fail_captures(&self, times: usize) {
        self.failures.store(times, Ordering::Relaxed);
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// The authorized payments in order, repetitions included.
    pub(crate) fn authorized(&self) -> Vec<String> {
        self.those(|call| match call {
            Call::Authorized { reference, .. } => Some(reference),
            _ => None,
        })
    }

    pub(crate) fn captured(&self) -> Vec<String> {
        self.those(|call| match call {
            Call::Captured(reference) => Some(reference),
            _ => None,
        })
    }

    pub(crate) fn voided(&self) -> Vec<String> {
        self.those(|call| match call {
            Call::Voided(reference) => Some(reference),
            _ => None,
        })
    }

    fn those(&self, which: fn(Call) -> Option<String>) -> Vec<String> {
        self.calls().into_iter().filter_map(which).collect()
    }

    fn note(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }
}

impl Provider for Recorder {
    fn authorize<'a>(
        &'a self,
        charge: Charge<'a>,
    ) -> BoxFuture<'a, Result<Payment, NotAuthorized>> {
        async move {
            let payment = FakeProvider.authorize(charge).await?;
            let (order, amount) = (charge.order_id, charge.amount);
            let reference = payment.reference.clone();
            self.note(Call::Authorized { order, amount, reference });
            drop(self.gate.read().await);
            Ok(payment)
        }
        .boxed()
    }

    fn capture<'a>(&'a self, payment: &'a Payment) -> BoxFuture<'a, anyhow::Result<()>> {
        async move {
            let reference = payment.reference.clone();
            let fewer = |left: usize| left.checked_sub(1);
            let fails =
                self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok();
            // On a connection of its own, which cannot see uncommitted changes.
            let completed: i64 = sqlx::query_scalar(
                "select count(*) from orders
                 where status = 'completed' and payment_reference = $1 and payment_amount = $2",
            )
            .bind(&payment.reference)
            .bind(payment.amount)
            .fetch_one(&self.pool)
            .await?;
            if fails || completed != 1 {
                self.note(Call::NotCaptured(reference));
                anyhow::bail!("refused");
            }
            self.note(Call::Captured(reference));
            Ok(())
        }
        .boxed()
    }

    fn void<'a>(&'a self, payment: &'a Payment) -> BoxFuture<'a, anyhow::Result<()>> {
        self.note(Call::Voided(payment.reference.clone()));
        async { Ok(()) }.boxed()
    }
}
