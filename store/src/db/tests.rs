use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::backend::Memory;
use crate::overlay::StoreChanges;
use crate::{KvRead, MAX_KEY_LEN};

const STORES: [StoreName; 3] = ["auth", "bank", "b"];
const TXS: Table = Table::index(7);

type State = BTreeMap<StoreName, BTreeMap<Vec<u8>, Vec<u8>>>;
type Index = BTreeMap<Vec<u8>, Vec<u8>>;

fn options(keep: u64) -> Options {
    Options { cache_bytes: 16 << 20, keep }
}

fn apply(state: &mut State, changes: &Changes) {
    for (store, changes) in changes {
        for (key, value) in changes {
            let entries = state.entry(store).or_default();
            match value {
                Some(value) => entries.insert(key.clone(), value.clone()),
                None => entries.remove(key),
            };
        }
    }
}

fn app_hash_of(state: &State) -> Hash {
    let full = |store: &StoreName, entries: &BTreeMap<Vec<u8>, Vec<u8>>| {
        let mut builder = crate::tree::Builder::default();
        builder.extend(&entries.clone().into_iter().collect::<Vec<_>>()).unwrap();
        (*store, builder.finish().root())
    };
    let full: Vec<_> = state.iter().filter(|(_, e)| !e.is_empty()).map(|(s, e)| full(s, e)).collect();
    crate::proof::app_hash(full)
}

/// Everything that a snapshot can be asked equals the model: values, scans both ways, the app hash and proofs.
fn check(snapshot: &Snapshot, state: &State) {
    assert_eq!(snapshot.app_hash(), app_hash_of(state), "height {}", snapshot.height());
    for store in STORES {
        let none = BTreeMap::new();
        let entries = state.get(store).unwrap_or(&none);
        for (start, end) in [(vec![], None), (vec![1], Some(vec![2, 1])), (vec![2], Some(vec![1]))] {
            for reverse in [false, true] {
                let range = Range { start: start.clone(), end: end.clone(), reverse };
                let mut want: Vec<_> = entries
                    .iter()
                    .filter(|(k, _)| range.contains(k))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect();
                if reverse {
                    want.reverse();
                }
                let got: Vec<_> = snapshot.scan(store, range).map(Result::unwrap).collect();
                assert!(got == want, "height {}: {store} {start:?}..{end:?}", snapshot.height());
            }
        }
        for key in (0..3u8).flat_map(|a| (0..4u8).map(move |b| vec![a, b])).chain([vec![0], vec![9]]) {
            let value = entries.get(&key).map(Vec::as_slice);
            assert_eq!(snapshot.get(store, &key).unwrap().as_deref(), value);
            match snapshot.prove(store, &key) {
                Ok((proved, proof)) => {
                    assert_eq!(proved.as_deref(), value);
                    assert!(proof.verify(&snapshot.app_hash(), store, &key, value));
                }
                Err(e) => assert!(matches!(e, DbError::NothingToProve(_)) && entries.is_empty()),
            }
        }
    }
}

fn block() -> impl Strategy<Value = (Changes, IndexChanges)> {
    let key = prop_oneof![
        4 => (0u8..3, 0u8..4).prop_map(|(a, b)| vec![a, b]),
        1 => prop::collection::vec(any::<u8>(), 1..=MAX_KEY_LEN),
    ];
    let value = prop::option::weighted(
        0.7,
        prop_oneof![9 => prop::collection::vec(any::<u8>(), 1..4), 1 => Just(vec![5; 9000])],
    );
    let store = prop::collection::btree_map(key, value, 0..24);
    let index = prop::collection::btree_map(
        (Just(TXS), prop::collection::vec(0u8..4, 0..2)),
        any::<Option<[u8; 2]>>(),
        0..4,
    );
    (prop::collection::btree_map(prop::sample::select(STORES.to_vec()), store, 0..3), index).prop_map(
        |(state, index)| (state, index.into_iter().map(|(key, value)| (key, value.map(Vec::from))).collect()),
    )
}

/// Runs blocks on a database that is reopened now and then, and compares it with models of every kept height.
fn run(
    blocks: Vec<(Changes, IndexChanges)>,
    reopen: &mut dyn FnMut(Option<Database>) -> Database,
    keep: u64,
) {
    const FIRST: u64 = 5;
    let mut db = reopen(None);
    let mut models: Vec<(u64, State, Index)> = vec![(0, State::new(), Index::new())];
    let check_all = |db: &Database, models: &[(u64, State, Index)]| {
        let (height, _, index) = models.last().unwrap();
        assert_eq!(db.height(), *height);
        let mut seen = Index::new();
        db.index_scan(TXS, &Range { start: vec![], end: None, reverse: false }, &mut |k, v| {
            seen.insert(k.to_vec(), v.to_vec());
            true
        })
        .unwrap();
        assert_eq!(seen, *index);
        let kept = models.len().saturating_sub(keep as usize + 1);
        for (height, state, _) in &models[kept..] {
            check(&db.at(*height).unwrap(), state);
        }
        for (height, ..) in &models[..kept] {
            assert!(matches!(db.at(*height), Err(DbError::NotKept { .. })));
        }
    };
    for (n, (changes, index)) in blocks.into_iter().enumerate() {
        let height = models.last().unwrap().0.max(FIRST - 1) + 1;
        let (_, mut state, mut rows) = models.last().unwrap().clone();
        apply(&mut state, &changes);
        for ((_, key), value) in &index {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        let before = db.app_hash();
        let dropped = db.prepare(height, changes.clone(), index.clone()).unwrap().app_hash();
        assert_eq!((db.app_hash(), db.height()), (before, models.last().unwrap().0));
        let prepared = db.prepare(height, changes, index).unwrap();
        assert_eq!(prepared.app_hash(), dropped);
        assert_eq!(db.commit(prepared).unwrap(), dropped);
        models.push((height, state, rows));
        match n % 5 {
            2 => {
                check_all(&db, &models);
                db = reopen(Some(db));
                check_all(&db, &models);
            }
            4 => {
                db = db.rollback().unwrap();
                models.pop();
                // What lay beyond the kept heights is gone for good, so a rollback shortens the reach.
                let oldest = models.len().saturating_sub(keep as usize);
                models.drain(..oldest);
                check_all(&db, &models);
                db = reopen(Some(db));
            }
            _ => {}
        }
    }
    check_all(&db, &models);
}

/// A memory that outlives the database that uses it.
struct Shared(Arc<Memory>);

impl Backend for Shared {
    fn get(&self, table: Table, key: &[u8]) -> DbResult<Option<Vec<u8>>> {
        self.0.get(table, key)
    }

    fn scan(&self, table: Table, range: &Range, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> DbResult<()> {
        self.0.scan(table, range, visit)
    }

    fn commit(&self, ops: Vec<Op>) -> DbResult<()> {
        self.0.commit(ops)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn equals_models_of_every_kept_height(blocks in prop::collection::vec(block(), 1..18), keep in 1u64..6) {
        let memory = Arc::new(Memory::default());
        run(blocks, &mut |db| {
            drop(db);
            let backend = Arc::new(Shared(memory.clone()));
            Database::with_backend(backend, Path::new("memory"), &STORES, &options(keep), &mut |_| {}).unwrap()
        }, keep);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn equals_models_on_disk(blocks in prop::collection::vec(block(), 12)) {
        let dir = tempfile::tempdir().unwrap();
        run(blocks, &mut |db| {
            drop(db);
            Database::open(dir.path(), &STORES, &options(4), &mut |_| {}).unwrap()
        }, 4);
    }
}

/// Block `height` of a chain in which every value names the height that wrote it.
fn numbered(height: u64) -> Changes {
    let key = |n: u64| vec![(n % 3) as u8, (n % 61) as u8, (n % 7) as u8];
    let changes: StoreChanges = (height * 31..height * 31 + 40)
        .map(|n| (key(n), (n % 4 != 0).then(|| height.to_be_bytes().to_vec())))
        .collect();
    BTreeMap::from([("auth", changes.clone()), ("bank", changes)])
}

/// While blocks are committed, every scan sees exactly one height: the one of its snapshot, also an old one.
#[test]
fn readers_never_mix_heights() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path(), &STORES, &options(100), &mut |_| {}).unwrap();
    let last = 120;
    let (mut state, mut models) = (State::new(), vec![State::new()]);
    for height in 1..=last {
        apply(&mut state, &numbered(height));
        models.push(state.clone());
    }
    let done = AtomicBool::new(false);
    let read = |old: u64| {
        let (mut snapshot, mut rounds) = (db.latest(), 0);
        while !done.load(Ordering::Relaxed) || rounds < 10 {
            if rounds % (old + 1) == 0 {
                snapshot = db.latest();
            }
            rounds += 1;
            let model = &models[snapshot.height() as usize];
            for store in ["auth", "bank"] {
                for reverse in [false, true] {
                    let range = Range { start: vec![], end: None, reverse };
                    let mut got: Vec<_> = snapshot.scan(store, range).map(Result::unwrap).collect();
                    if reverse {
                        got.reverse();
                    }
                    let want: Vec<_> =
                        model.get(store).into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
                    assert!(got == want, "height {}", snapshot.height());
                }
            }
            if let Some((key, value)) = model.get("bank").and_then(|entries| entries.iter().next()) {
                let (proved, proof) = snapshot.prove("bank", key).unwrap();
                assert_eq!(proved.as_ref(), Some(value));
                assert!(proof.verify(&snapshot.app_hash(), "bank", key, Some(value)));
            }
        }
        rounds
    };
    std::thread::scope(|threads| {
        let readers = [0, 3, 40].map(|old| threads.spawn(move || read(old)));
        for height in 1..=last {
            let prepared = db.prepare(height, numbered(height), IndexChanges::new()).unwrap();
            db.commit(prepared).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| assert!(reader.join().unwrap() >= 10));
    });
}

#[test]
fn a_hundred_heights_stay_readable_and_provable() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Database::open(dir.path(), &STORES, &Options::default(), &mut |_| {}).unwrap();
    let mut db = open();
    let (mut state, mut models) = (State::new(), vec![State::new()]);
    for height in 1..=130 {
        db.commit(db.prepare(height, numbered(height), IndexChanges::new()).unwrap()).unwrap();
        apply(&mut state, &numbered(height));
        models.push(state.clone());
    }
    for _ in 0..2 {
        for height in (30..=130).step_by(10) {
            check(&db.at(height).unwrap(), &models[height as usize]);
        }
        assert!(matches!(db.at(29), Err(DbError::NotKept { height: 29, oldest: 30, latest: 130 })));
        assert!(matches!(db.at(131), Err(DbError::NotKept { .. })));
        drop(db);
        db = open();
    }
    drop(db);
    let db = Database::open(dir.path(), &STORES, &options(10), &mut |_| {}).unwrap();
    assert!(matches!(db.at(119), Err(DbError::NotKept { oldest: 120, .. })));
    drop(db);
    let db = open();
    assert!(matches!(db.at(119), Err(DbError::NotKept { oldest: 120, .. })));
    check(&db.at(120).unwrap(), &models[120]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = |stores: &[StoreName]| Database::open(dir.path(), stores, &options(10), &mut |_| {});
    let db = open(&STORES).unwrap();
    let one = |store, key: &[u8], value: &[u8]| {
        Changes::from([(store, StoreChanges::from([(key.to_vec(), Some(value.to_vec()))]))])
    };
    let prepare = |height, changes| db.prepare(height, changes, IndexChanges::new());
    assert!(matches!(prepare(0, Changes::new()), Err(DbError::Height { height: 0, tip: 0 })));
    assert!(matches!(prepare(1, one("gov", b"k", b"v")), Err(DbError::UnknownStore(name)) if name == "gov"));
    assert!(matches!(prepare(1, one("bank", &[1; 128], b"v")), Err(DbError::Entry { store: "bank", .. })));
    assert!(matches!(prepare(1, one("bank", b"k", b"")), Err(DbError::Entry { store: "bank", .. })));
    let long = IndexChanges::from([((TXS, vec![1]), Some(vec![0; MAX_VALUE_LEN + 1]))]);
    assert!(matches!(db.prepare(1, Changes::new(), long), Err(DbError::IndexValue { .. })));
    let (a, b) = (prepare(7, one("bank", b"k", b"a")).unwrap(), prepare(7, one("bank", b"k", b"b")).unwrap());
    db.commit(a).unwrap();
    assert!(matches!(db.commit(b), Err(DbError::Stale { height: 7 })));
    assert!(matches!(prepare(7, Changes::new()), Err(DbError::Height { height: 7, tip: 7 })));
    assert!(matches!(prepare(9, Changes::new()), Err(DbError::Height { height: 9, tip: 7 })));

    // One process, one handle at a time.
    let error = open(&STORES).err().unwrap().to_string();
    assert!(
        error.contains("another process uses this database") && error.contains(dir.path().to_str().unwrap())
    );

    let snapshot = db.latest();
    assert!(matches!(db.rollback(), Err(DbError::Shared)));
    drop(snapshot);
    assert!(matches!(open(&["auth"]), Err(DbError::UnknownStore(name)) if name == "bank"));
    let db = open(&["auth", "bank", "later"]).unwrap();
    assert_eq!(db.latest().get("bank", b"k").unwrap(), Some(b"a".to_vec()));
    let db = db.rollback().unwrap();
    assert_eq!((db.height(), db.latest().get("bank", b"k").unwrap()), (0, None));
    assert!(matches!(db.rollback(), Err(DbError::NotKept { .. })));
}

#[test]
fn state_sync_opens_only_when_whole_and_right() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &str| Database::open(&dir.path().join(path), &STORES, &options(10), &mut |_| {});
    let source = open("source").unwrap();
    for height in 1..=12 {
        source.commit(source.prepare(height, numbered(height), IndexChanges::new()).unwrap()).unwrap();
    }
    let snapshot = source.at(11).unwrap();
    let copy = |import: &Import, skip: usize| {
        for store in STORES {
            let all = Range { start: vec![], end: None, reverse: false };
            let entries: Vec<_> = snapshot.scan(store, all).map(Result::unwrap).skip(skip).collect();
            entries.chunks(50).for_each(|chunk| import.add(store, chunk.to_vec()).unwrap());
        }
    };
    let import = open("target").unwrap().import().unwrap();
    copy(&import, 0);
    let db = import.finish(11, snapshot.app_hash(), &mut |_| {}).unwrap();
    db.commit(db.prepare(12, numbered(12), IndexChanges::new()).unwrap()).unwrap();
    assert_eq!(db.app_hash(), source.app_hash());
    drop(db);
    assert_eq!(open("target").unwrap().app_hash(), source.app_hash());
    assert!(matches!(open("target").unwrap().import(), Err(DbError::NotEmpty(12))));

    let import = open("short").unwrap().import().unwrap();
    copy(&import, 1);
    assert!(matches!(
        import.finish(11, snapshot.app_hash(), &mut |_| {}),
        Err(DbError::AppHash { height: 11, .. })
    ));
    assert!(matches!(open("short"), Err(DbError::Unfinished { .. })));
}

/// With a damaged file the database opens with everything that was committed, or it says what is wrong and where.
#[test]
fn damage_is_never_silent() {
    let dir = tempfile::tempdir().unwrap();
    let (home, copy) = (dir.path().join("home"), dir.path().join("copy"));
    let db = Database::open(&home, &STORES, &options(100), &mut |_| {}).unwrap();
    let (mut state, mut middle) = (State::new(), State::new());
    for height in 1..=40 {
        db.commit(db.prepare(height, numbered(height), IndexChanges::new()).unwrap()).unwrap();
        apply(&mut state, &numbered(height));
        if height == 20 {
            middle = state.clone();
        }
    }
    let app_hash = db.app_hash();
    drop(db);
    let inside =
        fs::read_dir(home.join("sled")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let files: Vec<_> = inside.filter(|name| name != "blobs").map(|name| format!("sled/{name}")).collect();
    let files = [files, vec!["LOCK".into()]].concat();
    assert!(files.len() >= 4, "{files:?}");
    let (mut refused, mut opened) = (0, 0);
    for file in &files {
        let whole = fs::read(home.join(file)).unwrap();
        for n in 0..24 {
            let at = whole.len() * n / 24;
            let mut bytes = whole.clone();
            match n % 3 {
                0 => bytes.truncate(at),
                1 => bytes[at] ^= 0x10,
                _ => (at..bytes.len().min(at + 4096)).for_each(|i| bytes[i] = 0),
            }
            let _ = fs::remove_dir_all(&copy);
            fs::create_dir_all(copy.join("sled/blobs")).unwrap();
            for other in &files {
                fs::copy(home.join(other), copy.join(other)).unwrap();
            }
            fs::write(copy.join(file), bytes).unwrap();
            match Database::open(&copy, &STORES, &options(100), &mut |_| {}) {
                Ok(db) => {
                    opened += 1;
                    assert_eq!((db.height(), db.app_hash()), (40, app_hash), "{file} at {at}");
                    check(&db.latest(), &state);
                    check(&db.at(20).unwrap(), &middle);
                }
                Err(e) => {
                    refused += 1;
                    assert!(e.to_string().contains(copy.to_str().unwrap()), "{e}");
                }
            }
        }
    }
    assert!(refused > 10 && opened > 0, "{refused} refused, {opened} opened");
}
