//! Committed heights, linked forwards: each knows what the next block changed.
//!
//! The backend holds the latest state only. The state at an earlier height is the backend's, with the old values of
//! every later block put back; the first later block that changed a key has its value at that height. Links are only
//! ever added, and a block's link is there before its batch is written. So whoever reads the backend first and the
//! links after it never sees half of two heights, without any lock, whatever a commit is doing meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::{hex, DbError, DbResult};
use crate::overlay::Changes;
use crate::tree::{Hash, Tree};
use crate::{proof, StoreName};

/// The trees of all stores that hold a key.
pub(super) type Trees = BTreeMap<StoreName, Tree>;

/// One committed height, or 0 for the empty start.
pub(super) struct Version {
    pub(super) height: u64,
    pub(super) app_hash: Hash,
    trees: OnceLock<Trees>,
    next: OnceLock<Next>,
}

/// The block after a version.
pub(super) struct Next {
    /// What the block changed, with the values of before.
    pub(super) undo: Changes,
    pub(super) version: Arc<Version>,
}

impl Version {
    /// A version without a successor.
    pub(super) fn tip(height: u64, trees: Trees) -> Arc<Self> {
        let app_hash = app_hash(&trees);
        Arc::new(Version { height, app_hash, trees: OnceLock::from(trees), next: OnceLock::new() })
    }

    /// An earlier version; its trees are made when a proof is asked for.
    pub(super) fn before(height: u64, app_hash: Hash, next: Next) -> Arc<Self> {
        Arc::new(Version { height, app_hash, trees: OnceLock::new(), next: OnceLock::from(next) })
    }

    /// Links the next block; false if one was linked before.
    pub(super) fn link(&self, next: Next) -> bool {
        self.next.set(next).is_ok()
    }

    /// What the blocks after this version changed, next block first.
    pub(super) fn later(&self) -> impl Iterator<Item = &Changes> {
        let mut version = self;
        std::iter::from_fn(move || {
            let next = version.next.get()?;
            version = &next.version;
            Some(&next.undo)
        })
    }

    /// The trees at this version. After a restart those of earlier heights are made by undoing the block after them,
    /// and checked against the app hash that the height had.
    pub(super) fn trees(&self) -> DbResult<&Trees> {
        if let Some(trees) = self.trees.get() {
            return Ok(trees);
        }
        let height = self.height;
        let next =
            self.next.get().ok_or_else(|| DbError::Inconsistent(format!("height {height} has no trees")))?;
        let trees = apply(next.version.trees()?, &next.undo)?;
        let found = app_hash(&trees);
        if found != self.app_hash {
            let (want, found) = (hex(&self.app_hash), hex(&found));
            let what = format!("undone to height {height}, the app hash is {found}, but it was {want}");
            return Err(DbError::Inconsistent(what));
        }
        Ok(self.trees.get_or_init(|| trees))
    }
}

impl Drop for Version {
    /// Link by link: a snapshot held for long has a long chain behind it, too long to drop recursively.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut version) = next.and_then(|next| Arc::into_inner(next.version)) {
            next = version.next.take();
        }
    }
}

/// The trees with `changes` made.
pub(super) fn apply(trees: &Trees, changes: &Changes) -> DbResult<Trees> {
    let mut trees = trees.clone();
    for (store, changes) in changes {
        let changes: Vec<_> = changes.iter().map(|(k, v)| (k.as_slice(), v.as_deref())).collect();
        let tree = trees.entry(store).or_default();
        *tree = tree.update(&changes).map_err(|reason| DbError::Entry { store, reason })?;
    }
    trees.retain(|_, tree| !tree.is_empty());
    Ok(trees)
}

/// The app hash. A store takes part from its first key on, so that the hash depends on the content only.
pub(super) fn app_hash(trees: &Trees) -> Hash {
    proof::app_hash(trees.iter().map(|(name, tree)| (*name, tree.root())))
}
