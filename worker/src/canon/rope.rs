//! The rotary table: cos and sin of every position's angles, computed once in f64 and rounded to f32.
//!
//! Angle of position t and pair i in a head of d elements: t * base^(-2i / d). The functions are those of the
//! pure-Rust `libm` crate, so every machine gets the same bits; the table's digest is a leaf of the model id, so
//! another `libm` fails at import instead of forking.

use crate::canon::commit::Digest;

/// Cos and sin for positions 0 to `positions() - 1`.
#[derive(Clone, Debug)]
pub struct RopeTable {
    half: usize,
    /// `[position][d / 2]`, each (cos, sin).
    pairs: Vec<[f32; 2]>,
}

impl RopeTable {
    /// Table for heads of `head_dim` elements (even, not 0) and `positions` positions.
    pub fn new(base: f32, head_dim: u32, positions: u32) -> Self {
        let half = head_dim as usize / 2;
        let frequencies: Vec<f64> =
            (0..half).map(|i| libm::pow(f64::from(base), -(2.0 * i as f64) / f64::from(head_dim))).collect();
        let mut pairs = Vec::with_capacity(half * positions as usize);
        for t in 0..positions {
            pairs.extend(frequencies.iter().map(|f| {
                let angle = f64::from(t) * f;
                [libm::cos(angle) as f32, libm::sin(angle) as f32]
            }));
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

    /// BLAKE3 of cos, sin as f32 little-endian, `[position][d / 2][2]`.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        let mut bytes = Vec::with_capacity(self.half * 8);
        for row in self.pairs.chunks(self.half) {
            bytes.clear();
            bytes.extend(row.iter().flatten().flat_map(|x| x.to_le_bytes()));
            hasher.update(&bytes);
        }
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_position_turns_nothing() {
        let table = RopeTable::new(100_000.0, 64, 3);
        assert_eq!(table.positions(), 3);
        assert!(table.at(0).iter().all(|p| *p == [1.0, 0.0]));
        assert_eq!(table.at(2)[0], [libm::cos(2.0) as f32, libm::sin(2.0) as f32]);
    }

    /// Pins `libm` and the order of operations: any change here changes every model id.
    #[test]
    fn digest_is_pinned() {
        let digest = RopeTable::new(100_000.0, 64, 2048).digest();
        assert_eq!(hex(&digest), "cb8a9fe2f781d4832ec9c5b87026a295a963ed8083121ac21df288d6d2d3e518");
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }
}
