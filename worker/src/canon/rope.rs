//! The rotary table: cos and sin of every position's angles, computed once in f64 and rounded to f32.
//!
//! Angle of position t and pair i in a head of d elements: t * base^(-2i / d), or what `RopeScaling` makes of the power. The functions are those of the
//! pure-Rust `libm` crate, so every machine gets the same bits; the table's digest is a leaf of the model id, so
//! another `libm` fails at import instead of forking.

use crate::canon::commit::Digest;
use crate::canon::{Architecture, RopeScaling};

/// Cos and sin for positions 0 to `positions() - 1`.
#[derive(Clone, Debug)]
pub struct RopeTable {
    half: usize,
    /// `[position][d / 2]`, each (cos, sin).
    pairs: Vec<[f32; 2]>,
}

impl RopeTable {
    /// The table of an architecture, for every position of its context.
    pub fn of(arch: &Architecture) -> Self {
        Self::new(arch.rope_base, arch.rope_scaling, arch.head_dim, arch.context)
    }

    /// Table for heads of `head_dim` elements (even, not 0) and `positions` positions.
    pub fn new(base: f32, scaling: RopeScaling, head_dim: u32, positions: u32) -> Self {
        let half = head_dim as usize / 2;
        let frequencies = scaled(base, scaling, head_dim);
        let mut pairs = Vec::with_capacity(half * positions as usize);
        for t in 0..positions {
            pairs.extend(row(&frequencies, t));
        }
        Self { half, pairs }
    }

    /// Positions that the table holds.
    pub fn positions(&self) -> usize {
        self.pairs.len() / self.half
    }

    /// The `head_dim / 2` pairs (cos, sin) of one position.
    pub fn at(&self, position: usize) -> &[[f32; 2]] {
        &self.pairs[position * self.half..(position + 1) * self.half]
    }
}

/// Digest of the table that [`RopeTable::new`] makes of the same: BLAKE3 of cos, sin as f32 little-endian,
/// `[position][d / 2][2]`. It takes no memory for the table, which a small file with a long context makes large.
pub fn digest(base: f32, scaling: RopeScaling, head_dim: u32, positions: u32) -> Digest {
    let frequencies = scaled(base, scaling, head_dim);
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::with_capacity(8 * frequencies.len());
    for t in 0..positions {
        bytes.clear();
        bytes.extend(row(&frequencies, t).flatten().flat_map(f32::to_le_bytes));
        hasher.update(&bytes);
    }
    *hasher.finalize().as_bytes()
}

/// The frequencies of a head's pairs, in radians a position.
fn scaled(base: f32, scaling: RopeScaling, head_dim: u32) -> Vec<f64> {
    frequencies(base, head_dim).map(|frequency| scaling.scaled(frequency)).collect()
}

/// (cos, sin) of each pair at position `t`.
fn row(frequencies: &[f64], t: u32) -> impl Iterator<Item = [f32; 2]> + '_ {
    frequencies.iter().map(move |f| {
        let angle = f64::from(t) * f;
        [libm::cos(angle) as f32, libm::sin(angle) as f32]
    })
}

/// The frequencies of a head's pairs before any scaling, in radians a position.
pub fn frequencies(base: f32, head_dim: u32) -> impl Iterator<Item = f64> {
    (0..head_dim / 2).map(move |i| libm::pow(f64::from(base), -(2.0 * f64::from(i)) / f64::from(head_dim)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_position_turns_nothing() {
        let table = RopeTable::new(100_000.0, RopeScaling::None, 64, 3);
        assert_eq!(table.positions(), 3);
        assert!(table.at(0).iter().all(|p| *p == [1.0, 0.0]));
        assert_eq!(table.at(2)[0], [libm::cos(2.0) as f32, libm::sin(2.0) as f32]);
    }

    /// Pins `libm` and the order of operations: any change here changes every model id.
    #[test]
    fn digest_is_pinned() {
        let digest = digest(100_000.0, RopeScaling::None, 64, 2048);
        assert_eq!(hex(&digest), "cb8a9fe2f781d4832ec9c5b87026a295a963ed8083121ac21df288d6d2d3e518");
    }

    /// Llama 3.1's parameters: short waves stay, long ones are stretched by the factor, between them it is monotonous.
    #[test]
    fn scaled_frequencies() {
        let llama = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192 };
        let wave = |frequency: f64| std::f64::consts::TAU / frequency;
        let mut kinds = [0; 3];
        let mut last = 0.0;
        for f in frequencies(500_000.0, 128) {
            let stretched = f / llama.scaled(f);
            assert!(stretched >= last);
            last = stretched;
            match wave(f) {
                w if w < 2048.0 => {
                    assert_eq!(llama.scaled(f), f);
                    kinds[0] += 1;
                }
                w if w > 8192.0 => {
                    assert_eq!(stretched, 8.0);
                    kinds[1] += 1;
                }
                _ => {
                    assert!(stretched > 1.0 && stretched < 8.0);
                    kinds[2] += 1;
                }
            }
        }
        assert_eq!(kinds, [29, 29, 6]);
        assert_eq!(RopeScaling::Linear { factor: 4.0 }.scaled(1.0), 0.25);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}
