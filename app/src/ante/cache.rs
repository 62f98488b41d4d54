//! Signatures that were found good, so that CheckTx, the proposal and FinalizeBlock verify each once.

use std::num::NonZeroUsize;

use deepnode_tx::PublicKey;
use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// sha256 over what a signature is good for: never the transaction's hash, which says nothing about the account.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Entry([u8; 32]);

impl Entry {
    pub(super) fn new(sign_bytes: &[u8], key: &PublicKey, signature: &[u8]) -> Self {
        let PublicKey::Secp256k1(key) = key;
        // Two parts of fixed length, then the rest.
        let hash = Sha256::new().chain_update(Sha256::digest(sign_bytes)).chain_update(key.serialize());
        Entry(hash.chain_update(signature).finalize().into())
    }
}

/// A bounded set of signatures known to be good; the least recently used go first. What it holds never changes a
/// result or its gas.
pub struct SignatureCache(Mutex<LruCache<Entry, ()>>);

impl SignatureCache {
    /// Twice CometBFT's usual mempool of 5,000 transactions and a full block: about 10 MB.
    const CAPACITY: NonZeroUsize = match NonZeroUsize::new(65_536) {
        Some(capacity) => capacity,
        None => NonZeroUsize::MIN,
    };

    /// An empty cache.
    pub fn new() -> Self {
        SignatureCache(Mutex::new(LruCache::new(Self::CAPACITY)))
    }

    pub(super) fn has(&self, entry: &Entry) -> bool {
        self.0.lock().get(entry).is_some()
    }

    pub(super) fn insert(&self, entry: Entry) {
        self.0.lock().put(entry, ());
    }

    /// Signatures that it holds.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for SignatureCache {
    fn default() -> Self {
        Self::new()
    }
}
