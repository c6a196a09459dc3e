//! A token shared by everyone who has a permission: `Authorization: Bearer …`.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

/// A shared token, kept as its hash.
#[derive(Debug, Clone)]
pub struct Bearer(Arc<[u8; 32]>);

impl Bearer {
    /// This token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self(Arc::new(hash(token)))
    }

    /// Whether a request has it.
    #[must_use]
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = given.and_then(|given| given.strip_prefix("Bearer "));
        // Hashes: the time of the comparison reveals nothing about the token.
        token.is_some_and(|token| hash(token) == *self.0)
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
