//! A chain in which every block is a function of its height, and what it must have become.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use deepnode_store::backend::Memory;
use deepnode_store::{Changes, Database, DbResult, Hash, IndexChanges, Options, StoreName, Table};

use crate::recorder;

const STORES: [StoreName; 2] = ["bank", "tasks"];
const TXS: Table = Table::index(0);
const KEEP: u64 = 8;

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// About 300 writes, some removals and some values that are cut into pieces.
fn block(height: u64) -> (Changes, IndexChanges) {
    let mut random = Random(height);
    let mut changes = Changes::new();
    for store in STORES {
        for _ in 0..150 {
            let key = random.below(2000).to_be_bytes().repeat(3);
            let value = match random.below(60) {
                0..8 => None,
                8 => Some(vec![height as u8; 3000 + random.below(10_000) as usize]),
                _ => Some((0..20).map(|_| random.below(256) as u8).collect()),
            };
            changes.entry(store).or_default().insert(key, value);
        }
    }
    let tx = ((TXS, height.to_be_bytes().to_vec()), Some(vec![1]));
    let old = ((TXS, height.saturating_sub(20).to_be_bytes().to_vec()), None);
    (changes, BTreeMap::from([old, tx]))
}

pub fn open(dir: &Path) -> DbResult<Database> {
    Database::open(dir, &STORES, &Options { cache_bytes: 16 << 20, keep: KEEP }, &mut |_| {})
}

fn commit(db: &Database) -> u64 {
    let height = db.height() + 1;
    let (changes, index) = block(height);
    db.commit(db.prepare(height, changes, index).unwrap()).unwrap();
    height
}

/// Opens the database and adds blocks to it, telling each height to whoever listens, and to the record.
pub fn write(dir: &Path, blocks: u64) {
    let say = |height: u64| {
        let mut out = std::io::stdout();
        writeln!(out, "\nheight {height}").and_then(|()| out.flush()).unwrap();
        recorder::ack(height);
    };
    let db = open(dir).unwrap();
    say(db.height());
    (0..blocks).for_each(|_| say(commit(&db)));
}

/// The right app hash of every height, computed without a disk.
pub struct Oracle {
    db: Database,
    hashes: Vec<Hash>,
}

impl Default for Oracle {
    fn default() -> Self {
        let options = Options { keep: 0, ..Options::default() };
        let db = Database::with_backend(
            Arc::new(Memory::default()),
            Path::new(""),
            &STORES,
            &options,
            &mut |_| {},
        );
        let db = db.unwrap();
        Oracle { hashes: vec![db.app_hash()], db }
    }
}

impl Oracle {
    /// Opens the database, which compares the state with its app hash, and checks the hashes of all kept heights, the
    /// index, and that the chain goes on. Returns the height.
    pub fn check(&mut self, dir: &Path) -> DbResult<u64> {
        let db = open(dir)?;
        let height = db.height();
        while self.db.height() <= height {
            commit(&self.db);
            self.hashes.push(self.db.app_hash());
        }
        for kept in height.saturating_sub(KEEP)..=height {
            let snapshot = db.at(kept)?;
            assert_eq!(snapshot.app_hash(), self.hashes[kept as usize], "app hash of height {kept}");
            if kept > 0 {
                // Makes the tree of that height out of the undo records.
                let key = [0; 24];
                let (value, proof) = snapshot.prove("bank", &key)?;
                assert!(proof.verify(&snapshot.app_hash(), "bank", &key, value.as_deref()));
            }
        }
        for indexed in height.saturating_sub(30)..=height + 2 {
            let there = db.index_get(TXS, &indexed.to_be_bytes())?.is_some();
            assert_eq!(
                there,
                indexed > 0 && indexed <= height && indexed + 20 > height,
                "index {indexed} at {height}"
            );
        }
        let (changes, index) = block(height + 1);
        assert_eq!(db.prepare(height + 1, changes, index)?.app_hash(), self.hashes[height as usize + 1]);
        Ok(height)
    }
}
