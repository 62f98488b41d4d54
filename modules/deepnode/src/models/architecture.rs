//! The shape of a decoder, as the manifest's first leaf encodes it: u32 little-endian integers, in order the kind (1),
//! layers, width, heads, kv_heads, head_dim, ffn, vocab, context, bits of eps, bits of rope_base, bits of the rope
//! scaling (1.0), flags (1: head tied to the embedding, 2: q, k and v have biases), number of eos ids, eos ids.
//!
//! Floats are compared as bits, which for positive numbers order as the numbers do.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{errors, Result};

use super::math;
use crate::fields::within;

/// Kind of a llama-shaped decoder.
const DECODER: u32 = 1;
const TIED: u32 = 1;
const QKV_BIAS: u32 = 2;
/// Integers before the eos ids.
const FIXED: usize = 14;
const MAX_EOS: usize = 16;
/// 1.0 and the greatest finite number, as bits of binary32.
const ONE: u32 = 0x3f80_0000;
const MAX_FINITE: u32 = 0x7f7f_ffff;

/// Greatest length of the leaf, in bytes.
pub const MAX_LEAF: usize = 4 * (FIXED + MAX_EOS);

/// The shape of a decoder.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Architecture {
    pub layers: u32,
    pub width: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub ffn: u32,
    pub vocab: u32,
    /// Greatest number of positions.
    pub context: u32,
    /// Bits of binary32.
    pub eps: u32,
    /// Bits of binary32.
    pub rope_base: u32,
    /// The head is the embedding.
    pub tied: bool,
    pub qkv_bias: bool,
    /// Ids that end a generation, ascending.
    pub eos: Vec<u32>,
}

impl Architecture {
    /// Reads the leaf. Strict: one architecture has one encoding.
    pub fn decode(leaf: &[u8]) -> Result<Self> {
        within("architecture's length", leaf.len(), 4 * FIXED, MAX_LEAF)?;
        let words = leaf.chunks_exact(4);
        if !words.remainder().is_empty() {
            return refuse(format!("architecture's length {} must be a multiple of 4", leaf.len()));
        }
        let words: Vec<u32> =
            words.map(|w| w.iter().rev().fold(0, |n, b| (n << 8) | u32::from(*b))).collect();
        let Some((fixed, eos)) = words.split_first_chunk::<FIXED>() else {
            return refuse(format!("architecture has {} integers, at least {FIXED} are needed", words.len()));
        };
        let [kind, layers, width, heads, kv_heads, head_dim, ffn, vocab, context, eps, rope_base, scaling, flags, ends] =
            *fixed;
        within("architecture.kind", kind, DECODER, DECODER)?;
        within("architecture.rope_scaling (bits)", scaling, ONE, ONE)?;
        within("architecture.flags", flags, 0, TIED | QKV_BIAS)?;
        if usize::try_from(ends) != Ok(eos.len()) {
            return refuse(format!("architecture says {ends} eos ids and holds {}", eos.len()));
        }
        let architecture = Architecture {
            layers,
            width,
            heads,
            kv_heads,
            head_dim,
            ffn,
            vocab,
            context,
            eps,
            rope_base,
            tied: flags & TIED != 0,
            qkv_bias: flags & QKV_BIAS != 0,
            eos: eos.to_vec(),
        };
        architecture.check()?;
        Ok(architecture)
    }

    /// The leaf.
    pub fn encode(&self) -> Vec<u8> {
        let flags = if self.tied { TIED } else { 0 } | if self.qkv_bias { QKV_BIAS } else { 0 };
        let fixed: [u32; FIXED] = [
            DECODER,
            self.layers,
            self.width,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.ffn,
            self.vocab,
            self.context,
            self.eps,
            self.rope_base,
            ONE,
            flags,
            u32::try_from(self.eos.len()).unwrap_or(u32::MAX),
        ];
        fixed.iter().chain(&self.eos).flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Bounds that keep every size and every CU far below overflow, and the operations defined.
    fn check(&self) -> Result<()> {
        for (field, value, max) in [
            ("architecture.layers", self.layers, 1 << 10),
            ("architecture.width", self.width, 1 << 16),
            ("architecture.heads", self.heads, 1 << 10),
            ("architecture.kv_heads", self.kv_heads, self.heads),
            ("architecture.head_dim", self.head_dim, 1 << 9),
            ("architecture.ffn", self.ffn, 1 << 18),
            ("architecture.vocab", self.vocab, 1 << 20),
            ("architecture.context", self.context, 1 << 20),
        ] {
            within(field, value, 1, max)?;
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return refuse(format!(
                "architecture.kv_heads {} must divide heads, {}",
                self.kv_heads, self.heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return refuse(format!("architecture.head_dim {} must be even", self.head_dim));
        }
        let rope = u64::from(self.context).saturating_mul(self.head_dim.into());
        within("architecture.context * head_dim", rope, 2, 1 << 27)?;
        within("architecture.eps (bits)", self.eps, 1, ONE)?;
        within("architecture.rope_base (bits)", self.rope_base, ONE, MAX_FINITE)?;
        if !self.eos.is_sorted_by(|a, b| a < b) {
            return refuse(format!("architecture.eos {:?} must ascend", self.eos));
        }
        match self.eos.last() {
            Some(last) => within("architecture.eos", *last, 0, self.vocab.saturating_sub(1)),
            None => Ok(()),
        }
    }

    /// W: weights of the matrix products in the layers.
    pub fn weights(&self) -> Result<u64> {
        let [width, heads, kv_heads, head_dim, ffn, layers] =
            [self.width, self.heads, self.kv_heads, self.head_dim, self.ffn, self.layers].map(u64::from);
        let attention = heads.checked_add(kv_heads).and_then(|h| h.checked_mul(head_dim)?.checked_mul(2));
        let rows = attention.and_then(|rows| rows.checked_add(ffn.checked_mul(3)?));
        rows.and_then(|rows| rows.checked_mul(width)?.checked_mul(layers))
            .ok_or_else(|| errors::overflow("architecture's weights"))
    }

    /// Leaves of the manifest of such a model: architecture, tokenizer, rope table, then every tensor.
    pub fn manifest_leaves(&self) -> u32 {
        // Embedding and final gain; a layer's seven matrices and two gains.
        let outside: u32 = if self.tied { 5 } else { 6 };
        let layer: u32 = if self.qkv_bias { 12 } else { 9 };
        outside.saturating_add(layer.saturating_mul(self.layers))
    }

    /// What its cost follows from.
    pub fn cost(&self) -> Result<math::Architecture> {
        Ok(math::Architecture {
            weights: self.weights()?,
            layers: self.layers,
            heads: self.heads,
            head_dim: self.head_dim,
            width: self.width,
            vocab: self.vocab,
            embedding: false,
        })
    }
}

fn refuse<T>(text: String) -> Result<T> {
    Err(errors::invalid_request(text))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// SmolLM2-135M.
    pub(crate) fn small() -> Architecture {
        Architecture {
            layers: 30,
            width: 576,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            ffn: 1536,
            vocab: 49_152,
            context: 8_192,
            eps: 1e-5f32.to_bits(),
            rope_base: 100_000f32.to_bits(),
            tied: true,
            qkv_bias: false,
            eos: vec![2],
        }
    }

    #[test]
    fn leaf_is_that_of_the_workers_manifest() {
        let expected = [
            "01000000", "1e000000", "40020000", "09000000", "03000000", "40000000", "00060000", "00c00000",
            "00200000", "acc52737", "0050c347", "0000803f", "01000000", "01000000", "02000000",
        ];
        assert_eq!(hex::encode(small().encode()), expected.concat());
        assert_eq!(Architecture::decode(&small().encode()), Ok(small()));
        assert_eq!(small().weights(), Ok(106_168_320));
        assert_eq!(small().manifest_leaves(), 3 + 2 + 30 * 9);
    }

    #[test]
    fn refusals_name_field_value_and_bound() {
        let message = |change: fn(&mut Architecture)| {
            let mut changed = small();
            change(&mut changed);
            Architecture::decode(&changed.encode()).unwrap_err().to_string()
        };
        assert!(message(|a| a.layers = 1025).contains("architecture.layers is 1025, allowed are 1 to 1024"));
        assert!(message(|a| a.kv_heads = 2).contains("architecture.kv_heads 2 must divide heads, 9"));
        assert!(message(|a| a.head_dim = 63).contains("architecture.head_dim 63 must be even"));
        assert!(message(|a| a.eps = 0).contains("architecture.eps (bits) is 0"));
        assert!(message(|a| a.eps = (-1f32).to_bits()).contains("architecture.eps (bits)"));
        assert!(message(|a| a.rope_base = f32::INFINITY.to_bits()).contains("architecture.rope_base (bits)"));
        assert!(message(|a| a.eos = vec![2, 2]).contains("must ascend"));
        assert!(
            message(|a| a.eos = vec![49_152]).contains("architecture.eos is 49152, allowed are 0 to 49151")
        );
        assert!(message(|a| a.eos = (0..17).collect()).contains("architecture's length is 124"));
    }

    proptest! {
        /// Whatever bytes decode, they are the only bytes of that architecture.
        #[test]
        fn decoding_is_strict(
            word in 0usize..16,
            value in prop_oneof![0u32..70, any::<u32>()],
            cut in 0usize..64,
        ) {
            let mut leaf = small().encode();
            leaf.extend([0; 4]);
            leaf[4 * word..4 * word + 4].copy_from_slice(&value.to_le_bytes());
            leaf.truncate(leaf.len() - cut);
            if let Ok(decoded) = Architecture::decode(&leaf) {
                prop_assert_eq!(decoded.encode(), leaf);
                prop_assert!(decoded.weights().is_ok());
            }
        }
    }
}
