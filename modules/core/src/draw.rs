//! Weighted draws: the one way in which the chain turns a beacon into a choice.
//!
//! A [`Stream`] is the output of BLAKE3 (XOF, key derivation mode) over (beacon, purpose, id), each with its
//! length before it, so that no two triples share a stream. A number below n takes 16 bytes of it, little
//! endian, cut to the bits of n - 1, and takes the next 16 while they are not below n: every value is
//! equally likely. A weighted draw asks for a number below the total weight and walks the candidates in
//! ascending order; who was drawn leaves before the next.

/// Separates these streams from every other use of BLAKE3 on the chain.
const CONTEXT: &str = "DeepNode 2026 weighted draw v1";

/// Uniform numbers that everybody derives alike from a beacon.
pub struct Stream(blake3::OutputReader);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrawError {
    #[error("the total weight of {candidates} candidates exceeds the maximum {}", u128::MAX)]
    TotalWeight { candidates: usize },
    #[error("candidate {position} of {candidates} (in ascending order) appears twice")]
    Twice { position: usize, candidates: usize },
}

impl Stream {
    /// `purpose` names the kind of draw ("audit.committee"), `id` the occasion (a receipt's digest).
    pub fn new(beacon: &[u8; 32], purpose: &str, id: &[u8]) -> Stream {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        for part in [beacon.as_slice(), purpose.as_bytes(), id] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Stream(hasher.finalize_xof())
    }

    /// A uniform number below `n`; `None` if n is 0. Takes two tries on average at worst.
    pub fn below(&mut self, n: u128) -> Option<u128> {
        let mask = u128::MAX.checked_shr(n.checked_sub(1)?.leading_zeros()).unwrap_or(0);
        loop {
            let mut bytes = [0; 16];
            self.0.fill(&mut bytes);
            let value = u128::from_le_bytes(bytes) & mask;
            if value < n {
                return Some(value);
            }
        }
    }

    /// True with the chance `numerator` / `denominator`; never if the denominator is 0.
    pub fn chance(&mut self, numerator: u128, denominator: u128) -> bool {
        self.below(denominator).is_some_and(|value| value < numerator)
    }

    /// Draws `k` of the candidates without replacement, each by its weight among those left; in the order
    /// drawn. Who weighs 0 is never drawn, so fewer may come back. The order of the slice does not matter.
    pub fn draw<T: Ord + Clone>(&mut self, candidates: &[(T, u128)], k: usize) -> Result<Vec<T>, DrawError> {
        let mut sorted: Vec<&(T, u128)> = candidates.iter().collect();
        sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some(position) = sorted.windows(2).position(|pair| matches!(pair, [a, b] if a.0 == b.0)) {
            return Err(DrawError::Twice { position, candidates: candidates.len() });
        }
        sorted.retain(|(_, weight)| *weight > 0);
        let mut total = (sorted.iter())
            .try_fold(0u128, |sum, (_, weight)| sum.checked_add(*weight))
            .ok_or(DrawError::TotalWeight { candidates: candidates.len() })?;

        let mut drawn = Vec::with_capacity(k.min(sorted.len()));
        while drawn.len() < k {
            let Some(mut point) = self.below(total) else { break };
            // The point lies below the sum of the weights, so some candidate holds it.
            let Some(at) = sorted.iter().position(|(_, weight)| match point.checked_sub(*weight) {
                Some(rest) => {
                    point = rest;
                    false
                }
                None => true,
            }) else {
                break;
            };
            let (winner, weight) = sorted.remove(at);
            total = total.saturating_sub(*weight);
            drawn.push(winner.clone());
        }
        Ok(drawn)
    }
}

/// `k` candidates by weight, without replacement, from the stream of (beacon, purpose, id): see [`Stream::draw`].
pub fn draw<T: Ord + Clone>(
    beacon: &[u8; 32],
    purpose: &str,
    id: &[u8],
    candidates: &[(T, u128)],
    k: usize,
) -> Result<Vec<T>, DrawError> {
    Stream::new(beacon, purpose, id).draw(candidates, k)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BEACON: [u8; 32] = [7; 32];

    fn stream(id: u32) -> Stream {
        Stream::new(&BEACON, "test", &id.to_le_bytes())
    }

    /// Sum of (seen - expected)^2 / expected, in thousandths.
    fn chi_square_thousandths(seen: &[u64], expected: &[u64]) -> u64 {
        seen.iter().zip(expected).map(|(s, e)| s.abs_diff(*e).pow(2) * 1000 / e).sum()
    }

    /// Made once by a Python program of its own (`blake3.blake3(derive_key_context=..)`).
    #[test]
    fn golden() {
        let mut numbers = stream(0);
        let below = [10, 1000, 1 << 64, u128::MAX, 1].map(|n| numbers.below(n).unwrap());
        assert_eq!(below, [8, 824, 6694362295247173287, 322236648210494328376557432866994595934, 0]);
        let candidates: Vec<(String, u128)> =
            (1..=8u32).map(|i| (format!("validator{i}"), u128::from(i).pow(3))).collect();
        let drawn = |purpose, id| draw(&BEACON, purpose, id, &candidates, 3).unwrap();
        assert_eq!(drawn("audit.committee", b"receipt 1"), ["validator6", "validator8", "validator5"]);
        assert_eq!(drawn("audit.committee", b"receipt 2"), ["validator5", "validator7", "validator8"]);
        assert_eq!(drawn("task.worker", b"receipt 1"), ["validator7", "validator5", "validator8"]);
    }

    #[test]
    fn parts_cannot_be_shifted_into_one_another() {
        let first = |purpose: &str, id: &[u8]| Stream::new(&BEACON, purpose, id).below(u128::MAX);
        assert_ne!(first("ab", b"c"), first("a", b"bc"));
        assert_ne!(first("a", b""), first("", b"a"));
        assert_eq!(first("a", b"b"), first("a", b"b"));
    }

    #[test]
    fn numbers_are_uniform() {
        // n = 5 of 8 masked values: a reduction instead of a rejection would show at once. 18.467: 0.1% at 4 degrees.
        let mut seen = [0u64; 5];
        let mut numbers = stream(1);
        for _ in 0..50_000 {
            seen[numbers.below(5).unwrap() as usize] += 1;
        }
        assert!(chi_square_thousandths(&seen, &[10_000; 5]) < 18_467, "{seen:?}");
        assert_eq!((numbers.below(0), numbers.below(1)), (None, Some(0)));
    }

    #[test]
    fn a_chance_is_kept() {
        let mut numbers = stream(2);
        let hits = (0..40_000).filter(|_| numbers.chance(1, 4)).count() as u64;
        assert!(chi_square_thousandths(&[hits, 40_000 - hits], &[10_000, 30_000]) < 10_828, "{hits}");
        assert!(!numbers.chance(0, 4) && numbers.chance(4, 4) && !numbers.chance(1, 0));
    }

    #[test]
    fn draws_follow_the_weights() {
        let weights = [1u128, 2, 0, 3, 4];
        let candidates: Vec<(usize, u128)> = weights.into_iter().enumerate().collect();
        let mut first = [0u64; 5];
        let mut second_after_4 = [0u64; 5];
        for id in 0..40_000 {
            let pair = stream(id).draw(&candidates, 2).unwrap();
            first[pair[0]] += 1;
            if pair[0] == 4 {
                second_after_4[pair[1]] += 1;
            }
        }
        assert_eq!(first[2], 0);
        let without_zero = |seen: [u64; 5]| [seen[0], seen[1], seen[3], seen[4]];
        // 16.266: 0.1% at 3 degrees; 13.816 at 2.
        let expected = [4_000, 8_000, 12_000, 16_000];
        assert!(chi_square_thousandths(&without_zero(first), &expected) < 16_266, "{first:?}");
        let n = first[4];
        let chi = chi_square_thousandths(&without_zero(second_after_4)[..3], &[n / 6, n / 3, n / 2]);
        assert!(chi < 13_816, "{second_after_4:?}");
    }

    #[test]
    fn bad_candidates_are_refused() {
        let message = |candidates: &[(u8, u128)]| stream(0).draw(candidates, 1).unwrap_err().to_string();
        assert_eq!(message(&[(3, 1), (1, 1), (3, 1)]), "candidate 1 of 3 (in ascending order) appears twice");
        assert_eq!(
            message(&[(1, u128::MAX), (2, 1)]),
            "the total weight of 2 candidates exceeds the maximum 340282366920938463463374607431768211455"
        );
        assert_eq!(stream(0).draw(&[(1, u128::MAX), (2, 0)], 2), Ok(vec![1]));
        assert_eq!(stream(0).draw::<u8>(&[], 2), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn distinct_weighty_and_blind_to_order(
            weights in proptest::collection::vec(prop_oneof![Just(0u128), 1..u128::MAX / 64], 0..40),
            k in 0usize..50,
            id in any::<u32>(),
        ) {
            let candidates: Vec<(usize, u128)> = weights.iter().copied().enumerate().collect();
            let drawn = stream(id).draw(&candidates, k).unwrap();
            let weighty = weights.iter().filter(|w| **w > 0).count();
            prop_assert_eq!(drawn.len(), k.min(weighty));
            prop_assert!(drawn.iter().all(|at| weights[*at] > 0));
            let distinct: std::collections::BTreeSet<_> = drawn.iter().collect();
            prop_assert_eq!(distinct.len(), drawn.len());
            let backwards: Vec<_> = candidates.into_iter().rev().collect();
            prop_assert_eq!(stream(id).draw(&backwards, k).unwrap(), drawn);
        }
    }
}
