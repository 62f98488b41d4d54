//! Counting verdicts.

use std::collections::BTreeMap;

use super::math;
use super::state::{Member, Verdict};

/// What the members of one draw say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Weight of the heaviest group that found the result right and computed one digest. Two groups of that weight:
    /// nobody knows who computed, so 0.
    pub right: u128,
    /// That group's digest.
    pub digest: Option<[u8; 32]>,
    /// Weight of those against the worker, and of these the ones that could not get its blobs.
    pub against: u128,
    pub unavailable: u128,
}

/// Counts the reveals among `members`, all of one draw: only there digests can be compared.
pub(super) fn tally<'a>(members: impl Iterator<Item = &'a Member>) -> Tally {
    let mut tally = Tally::default();
    let mut groups: BTreeMap<[u8; 32], u128> = BTreeMap::new();
    for member in members {
        match member.verdict {
            Some(Verdict::Right) => {
                let group = groups.entry(member.digest).or_default();
                *group = group.saturating_add(member.weight);
            }
            Some(verdict) => {
                tally.against = tally.against.saturating_add(member.weight);
                if verdict == Verdict::Unavailable {
                    tally.unavailable = tally.unavailable.saturating_add(member.weight);
                }
            }
            None => {}
        }
    }
    let heaviest = groups.values().copied().max().unwrap_or(0);
    let mut leaders = groups.iter().filter(|(_, weight)| **weight == heaviest);
    if let (Some((digest, _)), None) = (leaders.next(), leaders.next()) {
        tally.right = heaviest;
        tally.digest = Some(*digest);
    }
    tally
}

impl Tally {
    /// Both together, as a vote; the digests are forgotten.
    pub fn and(self, other: Tally) -> Tally {
        Tally {
            right: self.right.saturating_add(other.right),
            digest: None,
            against: self.against.saturating_add(other.against),
            unavailable: self.unavailable.saturating_add(other.unavailable),
        }
    }

    /// Whether most of those against miss blobs rather than found an error.
    pub fn withheld(&self) -> bool {
        self.unavailable > self.against.saturating_sub(self.unavailable)
    }
}

/// As the mathematics of a first draw takes it.
pub(super) fn reveals<'a>(members: impl Iterator<Item = &'a Member>) -> Vec<(math::Verdict, [u8; 32])> {
    let verdict = |m: &Member| match m.verdict? {
        Verdict::Right => Some((math::Verdict::Right, m.digest)),
        Verdict::Wrong | Verdict::Unavailable => Some((math::Verdict::Wrong, m.digest)),
    };
    members.filter_map(verdict).collect()
}
