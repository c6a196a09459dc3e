//! Keys published by an issuer, fetched while the service runs, so that the issuer may rotate them
//! at any time.
//!
//! - They are refreshed in the background before they are stale: no request waits for that.
//! - A token with an unknown key triggers a fetch and waits for it, but all requests together
//!   trigger at most one fetch in [`EVERY`], whatever tokens are made up.
//! - While the issuer is unreachable, known keys stay in use for [`KEPT`]. A token that cannot be
//!   verified is answered 503, because it may be valid.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::{
    discovery::Source,
    keys::KeySet,
    refusal::Refusal,
    token::{Rules, Signed, Verifier},
};
use crate::pod::health::Health;
use bus::{Backoff, Shutdown};

/// The shortest time between two fetches that tokens trigger. A new key that the service does not
/// know yet is refused no longer than that.
const EVERY: Duration = Duration::from_secs(10);
/// How long one fetch may take. Shorter than the timeout of a request, which may wait for it.
const FETCH: Duration = Duration::from_secs(5);
/// How many requests may wait for a fetch. Otherwise made-up tokens could take all the service's
/// capacity while the issuer is slow.
const WAITING: usize = 32;
/// How long keys are used after they were last fetched: tokens live shorter, and an issuer that is
/// down for longer issues no new ones.
const KEPT: Duration = Duration::from_hours(24);
/// The pauses after failed fetches.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// The readiness gate: opens once there are keys. It stays open, because all replicas share the
/// issuer.
pub(super) const GATE: &str = "issuer";

/// An issuer and its keys.
#[derive(Debug)]
pub(super) struct Issuer {
    source: Source,
    rules: Rules,
    known: watch::Sender<Known>,
    wanted: Notify,
    waiting: Semaphore,
}

/// The state of the issuer, as last fetched.
#[derive(Debug, Default)]
struct Known {
    /// The keys last fetched, and when.
    keys: Option<(KeySet, Instant)>,
    /// When the newest fetch ended, and whether it failed. `None` before the first.
    last: Option<(Instant, bool)>,
    /// How many fetches have ended.
    fetches: u64,
}

impl Issuer {
    /// The issuer with this URL. Fetches nothing yet.
    ///
    /// # Errors
    /// If keys cannot be fetched from this URL.
    pub(super) fn new(url: &str, rules: Rules) -> Result<Self, String> {
        Ok(Self {
            source: Source::new(url)?,
            rules,
            known: watch::Sender::default(),
            wanted: Notify::new(),
            waiting: Semaphore::new(WAITING),
        })
    }

    /// Returns the verifier for a token with this header. Waits for a fetch if that may bring the
    /// key.
    ///
    /// # Errors
    /// 401 if the issuer has no such key; 503 if that is unknown.
    pub(super) async fn verifier(&self, signed: &Signed) -> Result<Arc<Verifier>, Refusal> {
        let mut changes = self.known.subscribe();
        let (found, fetches, may_fetch) = {
            let known = changes.borrow_and_update();
            (known.find(signed, Instant::now())?, known.fetches, known.may_fetch(Instant::now()))
        };
        if let Some(found) = found {
            return Ok(found);
        }
        if may_fetch {
            let Ok(_place) = self.waiting.try_acquire() else { return Err(Refusal::no_keys()) };
            self.wanted.notify_one();
            // After a timeout, nothing has changed.
            let _ = timeout(FETCH + EVERY / 10, changes.wait_for(|known| known.fetches > fetches))
                .await;
        }
        let known = changes.borrow();
        match known.find(signed, Instant::now())? {
            Some(found) => Ok(found),
            None if known.is_current(Instant::now()) => Err(Refusal::unknown_key()),
            None => Err(Refusal::no_keys()),
        }
    }

    /// Keeps the keys fresh until the process stops.
    ///
    /// # Errors
    /// Never; the type is what [`Shutdown::spawn`] takes.
    pub(super) async fn run(
        self: Arc<Self>,
        health: Health,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let mut retry = RETRY;
        loop {
            let begun = Instant::now();
            let fetched = tokio::select! {
                () = shutdown.begun() => return Ok(()),
                fetched = timeout(FETCH, self.fetch()) => fetched,
            };
            let fetched = fetched.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time")));
            let reachable = if fetched.is_ok() { 1.0 } else { 0.0 };
            metrics::gauge!("auth_issuer_reachable").set(reachable);
            let pause = match fetched {
                Ok((keys, fresh)) => {
                    if !keys.is_empty() {
                        health.ready(GATE);
                    }
                    self.is_answered(keys, retry.failures() > 0);
                    retry.reset();
                    fresh
                }
                Err(error) => {
                    self.has_failed(&error, retry.failures() == 0);
                    retry.pause()
                }
            };
            let asked_for = async {
                self.wanted.notified().await;
                sleep_until(begun + EVERY).await;
            };
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                () = sleep(pause) => {}
                () = asked_for => {}
            }
        }
    }

    async fn fetch(&self) -> anyhow::Result<(KeySet, Duration)> {
        let fetched = self.source.fetch().await?;
        let keys = KeySet::read(&fetched.document, &self.rules).context("its keys")?;
        Ok((keys, fetched.fresh))
    }

    fn is_answered(&self, keys: KeySet, again: bool) {
        let names = keys.names();
        self.known.send_modify(|known| {
            let before = known.keys.as_ref().map(|(keys, _)| keys.names());
            if keys.is_empty() {
                warn!("the token issuer has no usable key: every token is rejected");
            } else if again || before.is_none_or(|before| before != names) {
                info!(jwk.kid = names, "fetched the keys of the token issuer");
            }
            known.ends(Some(keys));
        });
    }

    fn has_failed(&self, error: &anyhow::Error, first: bool) {
        let error = format!("{error:#}");
        // Logged once per outage, not at every attempt.
        if first {
            warn!(error, "cannot fetch the keys of the token issuer");
        } else {
            debug!(error, "cannot fetch the keys of the token issuer");
        }
        self.known.send_modify(|known| known.ends(None));
    }
}

impl Known {
    /// Records the end of a fetch: its keys, or `None` if it failed.
    fn ends(&mut self, keys: Option<KeySet>) {
        let now = Instant::now();
        self.last = Some((now, keys.is_none()));
        self.fetches += 1;
        if let Some(keys) = keys {
            self.keys = Some((keys, now));
        }
    }

    /// Returns the verifier for a token with this header, if its key is known.
    ///
    /// # Errors
    /// 503 if there are no keys, or only expired ones.
    fn find(&self, signed: &Signed, now: Instant) -> Result<Option<Arc<Verifier>>, Refusal> {
        match &self.keys {
            Some((keys, fetched)) if now.duration_since(*fetched) < KEPT => Ok(keys.find(signed)),
            _ => Err(Refusal::no_keys()),
        }
    }

    /// Returns whether a token may trigger another fetch.
    fn may_fetch(&self, now: Instant) -> bool {
        self.last.is_none_or(|(ended, _)| now.duration_since(ended) >= EVERY)
    }

    /// Returns whether a key that is unknown here is most likely not the issuer's.
    fn is_current(&self, now: Instant) -> bool {
        !self.may_fetch(now) && self.last.is_some_and(|(_, failed)| !failed)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm;
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_used_for_a_day_after_they_were_last_fetched() {
        let key = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "a",
                          "x": "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE" });
        let set = json!({ "keys": [key] }).to_string();
        let rules = Rules::new(None, None);
        let mut known = Known::default();
        let signed = Signed { algorithm: Algorithm::EdDSA, key_id: Some("a".to_owned()) };
        let other = Signed { algorithm: Algorithm::RS256, ..signed.clone() };
        assert!(known.find(&signed, Instant::now()).is_err());

        known.ends(Some(KeySet::read(set.as_bytes(), &rules).unwrap()));
        let fetched = known.last.unwrap().0;
        let later = fetched + KEPT - Duration::from_secs(1);
        known.ends(None);
        for now in [fetched, later] {
            assert!(known.find(&signed, now).unwrap().is_some());
            assert!(known.find(&other, now).unwrap().is_none());
        }
        assert!(known.find(&signed, fetched + KEPT).is_err());
        assert!(!known.is_current(fetched), "a failed fetch proves nothing");
    }
}
