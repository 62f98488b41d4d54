//! An auditor's journal: what it committed to, so that it can reveal after a restart.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::log::{JournalError, Log};
use crate::canon::Digest;

/// Audits that are remembered; older ones are closed.
const KEPT: usize = 10_000;

/// A verdict under its salt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    pub audit: u64,
    /// Number of the draw.
    pub draw: u32,
    /// The draw's beacon: on a chain that began anew it is another one.
    #[serde(with = "hex::serde")]
    pub beacon: Digest,
    /// As in deepnode.audits.v1.Verdict.
    pub verdict: i32,
    #[serde(with = "hex::serde")]
    pub digest: Digest,
    #[serde(with = "hex::serde")]
    pub salt: [u8; 32],
}

/// The open journal.
#[derive(Debug)]
pub struct AuditJournal {
    log: Log<Sealed>,
    sealed: BTreeMap<(u64, u32), Sealed>,
}

impl AuditJournal {
    /// Fails where another process has it open.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let (mut log, entries) = Log::<Sealed>::open(path)?;
        let newest = entries.len().saturating_sub(KEPT);
        if newest > 0 {
            log.rewrite(entries[newest..].iter())?;
        }
        let sealed = entries.into_iter().skip(newest).map(|s| ((s.audit, s.draw), s)).collect();
        Ok(Self { log, sealed })
    }

    /// What was sealed for this draw.
    pub fn get(&self, audit: u64, draw: u32, beacon: &Digest) -> Option<&Sealed> {
        self.sealed.get(&(audit, draw)).filter(|s| s.beacon == *beacon)
    }

    /// Keeps a verdict; answers the one to commit to, which is the first of its draw.
    pub fn seal(&mut self, sealed: Sealed) -> Result<Sealed, JournalError> {
        if let Some(first) = self.get(sealed.audit, sealed.draw, &sealed.beacon) {
            return Ok(first.clone());
        }
        self.log.append(&sealed)?;
        self.sealed.insert((sealed.audit, sealed.draw), sealed.clone());
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_verdict_of_a_draw_stays() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.journal");
        let one = Sealed { audit: 1, draw: 0, beacon: [1; 32], verdict: 1, digest: [2; 32], salt: [3; 32] };
        let mut journal = AuditJournal::open(&path).unwrap();
        assert_eq!(journal.seal(one.clone()).unwrap(), one);
        drop(journal);
        let mut journal = AuditJournal::open(&path).unwrap();
        assert_eq!(journal.seal(Sealed { salt: [9; 32], ..one.clone() }).unwrap(), one);
        assert_eq!(journal.get(1, 1, &[1; 32]), None);
        let anew = Sealed { beacon: [7; 32], verdict: 2, ..one.clone() };
        assert_eq!(journal.seal(anew.clone()).unwrap(), anew);
    }
}
