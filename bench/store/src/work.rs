//! Accounts as a token chain has them: keys of 40 bytes, values of 100, both incompressible where it matters.

use std::collections::BTreeMap;
use std::ops::Range;

use sha2::{Digest, Sha256};

pub const UPDATES: u64 = 2_000;
pub const READS: u64 = 4_000;

pub type Entries = Vec<(Vec<u8>, Vec<u8>)>;

fn digest(a: u64, b: u64, c: u64) -> [u8; 32] {
    Sha256::digest([a.to_be_bytes(), b.to_be_bytes(), c.to_be_bytes()].concat()).into()
}

fn key(account: u64) -> Vec<u8> {
    [b"acct/", &digest(0, account, 0)[..20], b"/ufactorytoken0"].concat()
}

fn value(account: u64, block: u64) -> Vec<u8> {
    let mut value: Vec<u8> = (0..4).flat_map(|part| digest(1 + part, account, block)).collect();
    value.truncate(100);
    value
}

fn pick(salt: u64, block: u64, n: u64, keys: u64) -> u64 {
    let digest = digest(salt, block, n);
    digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte)) % keys
}

pub fn initial(accounts: Range<u64>) -> Entries {
    accounts.map(|account| (key(account), value(account, 0))).collect()
}

pub fn reads(block: u64, keys: u64) -> Vec<Vec<u8>> {
    (0..READS).map(|n| key(pick(9, block, n, keys))).collect()
}

pub fn updates(block: u64, keys: u64) -> Entries {
    let accounts =
        (0..UPDATES).map(|n| pick(10, block, n, keys)).map(|account| (key(account), value(account, block)));
    accounts.collect::<BTreeMap<_, _>>().into_iter().collect()
}
