//! Reading a database back: the trees from the flat state, checked against the stored app hash, and the kept heights.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use borsh::BorshDeserialize;

use super::record::{Tip, Undo, FORMAT, FORMAT_KEY, IMPORT_KEY, TIP_KEY};
use super::version::{self, Next, Trees, Version};
use super::{hex, DbError, DbResult};
use crate::backend::{Backend, Op, Table};
use crate::tree::Builder;
use crate::{Range, StoreName};

/// Entries hashed at a time.
const CHUNK: usize = 8192;

const ALL: Range = Range { start: Vec::new(), end: None, reverse: false };

/// The kept heights, latest last. Marks a new database with its format.
pub(super) fn versions(
    backend: &dyn Backend,
    path: &Path,
    stores: &[StoreName],
    keep: u64,
    progress: &mut dyn FnMut(u64),
) -> DbResult<VecDeque<Arc<Version>>> {
    check_format(backend, path)?;
    if backend.get(Table::META, IMPORT_KEY)?.is_some() {
        return Err(DbError::Unfinished { path: path.to_owned() });
    }
    let tip = tip(backend, path)?;
    let trees = trees(backend, stores, progress)?;
    let found = version::app_hash(&trees);
    if found != tip.app_hash {
        let (want, found) = (hex(&tip.app_hash), hex(&found));
        let what = format!("the state at height {} has app hash {found}, but it was {want}", tip.height);
        return Err(DbError::Damaged { path: path.to_owned(), what });
    }
    history(backend, path, stores, keep, Version::tip(tip.height, trees))
}

fn check_format(backend: &dyn Backend, path: &Path) -> DbResult<()> {
    match backend.get(Table::META, FORMAT_KEY)? {
        Some(format) if format == FORMAT.to_be_bytes() => Ok(()),
        Some(format) => Err(DbError::Format { path: path.to_owned(), found: hex(&format), want: FORMAT }),
        None => {
            let mut empty = true;
            for table in [Table::META, Table::STATE, Table::UNDO] {
                backend.scan(table, &ALL, &mut |_, _| {
                    empty = false;
                    false
                })?;
            }
            if !empty {
                let what = "it has content but no format".into();
                return Err(DbError::Damaged { path: path.to_owned(), what });
            }
            let value = Some(FORMAT.to_be_bytes().to_vec());
            backend.commit(vec![Op { table: Table::META, key: FORMAT_KEY.into(), value }])
        }
    }
}

/// The stored height and app hash.
pub(super) fn tip(backend: &dyn Backend, path: &Path) -> DbResult<Tip> {
    match backend.get(Table::META, TIP_KEY)? {
        None => Ok(Tip { height: 0, app_hash: version::app_hash(&Trees::new()) }),
        Some(tip) => Tip::try_from_slice(&tip).map_err(|e| DbError::Damaged {
            path: path.to_owned(),
            what: format!("height and app hash: {e}"),
        }),
    }
}

/// The trees of all rows of the table STATE.
pub(super) fn trees(
    backend: &dyn Backend,
    stores: &[StoreName],
    progress: &mut dyn FnMut(u64),
) -> DbResult<Trees> {
    let (mut trees, mut total) = (Trees::new(), 0);
    let mut reading: Option<(StoreName, Builder)> = None;
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(CHUNK);
    let mut start = Some(Vec::new());
    while let Some(from) = start.take() {
        // A chunk ends with its size or its store.
        let (mut store, mut bad) = (None, None);
        let rows = Range { start: from, end: None, reverse: false };
        backend.scan(Table::STATE, &rows, &mut |row, value| {
            let cut = row.iter().position(|byte| *byte == 0).unwrap_or(row.len());
            let (name, key) = (&row[..cut], row.get(cut + 1..).unwrap_or_default());
            if store.is_none() {
                store = stores.iter().copied().find(|store| store.as_bytes() == name);
                if store.is_none() {
                    bad = Some(String::from_utf8_lossy(name).into_owned());
                    return false;
                }
            }
            if entries.len() == CHUNK || store.is_some_and(|store| store.as_bytes() != name) {
                start = Some(row.to_vec());
                return false;
            }
            entries.push((key.to_vec(), value.to_vec()));
            true
        })?;
        if let Some(name) = bad {
            return Err(DbError::UnknownStore(name));
        }
        let Some(store) = store else { break };
        let mut builder = match reading.take() {
            Some((name, builder)) if name == store => builder,
            done => {
                trees.extend(done.map(|(name, builder)| (name, builder.finish())));
                Builder::default()
            }
        };
        builder.extend(&entries).map_err(|reason| DbError::Entry { store, reason })?;
        reading = Some((store, builder));
        total += entries.len() as u64;
        entries.clear();
        progress(total);
    }
    trees.extend(reading.map(|(name, builder)| (name, builder.finish())));
    Ok(trees)
}

/// The heights before `tip` that the stored undo records lead back to.
fn history(
    backend: &dyn Backend,
    path: &Path,
    stores: &[StoreName],
    keep: u64,
    tip: Arc<Version>,
) -> DbResult<VecDeque<Arc<Version>>> {
    let damaged = |what| DbError::Damaged { path: path.to_owned(), what };
    let mut records = BTreeMap::new();
    backend.scan(Table::UNDO, &ALL, &mut |key, value| {
        records.insert(key.to_vec(), value.to_vec());
        true
    })?;
    let mut versions = VecDeque::from([tip]);
    while versions.len() as u64 <= keep {
        let Some((key, record)) = records.pop_last() else { break };
        let after = versions[0].clone();
        if key != after.height.to_be_bytes() {
            return Err(damaged(format!("undo record {} beside height {}", hex(&key), after.height)));
        }
        let undo =
            Undo::decode(&record, stores).map_err(|e| damaged(format!("undo record {}: {e}", hex(&key))))?;
        if undo.before.height >= after.height {
            return Err(damaged(format!("undo record {} leads to height {}", hex(&key), undo.before.height)));
        }
        let next = Next { undo: undo.state, version: after };
        versions.push_front(Version::before(undo.before.height, undo.before.app_hash, next));
    }
    if !records.is_empty() {
        // The last run kept more heights.
        let forget = |key| Op { table: Table::UNDO, key, value: None };
        backend.commit(records.into_keys().map(forget).collect())?;
    }
    Ok(versions)
}
