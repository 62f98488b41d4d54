use super::load;
use super::record::{Tip, IMPORT_KEY};
use super::version::{self, Version};
use super::{hex, state_key, tip_op, Database, DbError, DbResult};
use crate::backend::{Op, Table};
use crate::tree::{check_key, check_value, Hash};
use crate::{Entry, StoreName};

/// An empty database being filled from a state sync snapshot. Until it is finished the database does not open, so that
/// half a state is never taken for one.
pub struct Import {
    db: Database,
}

impl Import {
    pub(super) fn start(db: Database) -> DbResult<Self> {
        match db.height() {
            0 => {}
            height => return Err(DbError::NotEmpty(height)),
        }
        db.backend.commit(vec![Op { table: Table::META, key: IMPORT_KEY.into(), value: Some(vec![1]) }])?;
        Ok(Import { db })
    }

    /// Adds entries of a store, in any order; durable when it returns. Chunks of a few megabytes are best.
    pub fn add(&self, store: &str, entries: Vec<Entry>) -> DbResult<()> {
        let known = self.db.stores.iter().copied().find(|name| *name == store);
        let store: StoreName = known.ok_or_else(|| DbError::UnknownStore(store.into()))?;
        let op = |(key, value): Entry| {
            check_key(&key)
                .and_then(|()| check_value(&value))
                .map_err(|reason| DbError::Entry { store, reason })?;
            Ok(Op { table: Table::STATE, key: state_key(store, &key), value: Some(value) })
        };
        self.db.backend.commit(entries.into_iter().map(op).collect::<DbResult<_>>()?)
    }

    /// Ends the import if everything added has `app_hash`, the one that the light client verified for `height`.
    pub fn finish(self, height: u64, app_hash: Hash, progress: &mut dyn FnMut(u64)) -> DbResult<Database> {
        if height == 0 {
            return Err(DbError::Height { height, tip: 0 });
        }
        let db = self.db;
        let trees = load::trees(&*db.backend, &db.stores, progress)?;
        let found = version::app_hash(&trees);
        if found != app_hash {
            return Err(DbError::AppHash { height, want: hex(&app_hash), found: hex(&found) });
        }
        let done = Op { table: Table::META, key: IMPORT_KEY.into(), value: None };
        db.backend.commit(vec![done, tip_op(Tip { height, app_hash })])?;
        *db.versions.write() = [Version::tip(height, trees)].into();
        Ok(db)
    }
}
