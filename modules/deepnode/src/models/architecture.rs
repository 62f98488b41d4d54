//! The shape of a decoder, as the manifest's first leaf encodes it: u32 little-endian integers, in order the kind (1),
//! layers, width, heads, kv_heads, head_dim, ffn, vocab, context, bits of eps, bits of rope_base, bits of the rope
//! scaling's factor (1.0: none), flags (1: head tied to the embedding, 2: q, k and v have biases, 4: heads of q and k are
//! normalised), number of eos ids, eos ids; then, where there is one, 1 and the window; then, where the scaling is
//! Llama 3's, 2, bits of low, bits of high, original context.
//!
//! Floats are compared as bits, which for positive numbers order as the numbers do.

use std::io;

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{errors, Result};

use super::math;
use crate::fields::within;

/// Kind of a llama-shaped decoder.
const DECODER: u32 = 1;
const TIED: u32 = 1;
const QKV_BIAS: u32 = 2;
const QK_NORM: u32 = 4;
/// What may follow the eos ids, in this order: a tag, then its values.
const WINDOW: u32 = 1;
const LLAMA3: u32 = 2;
const MAX_EXTENSION: usize = 6;
/// Integers before the eos ids.
const FIXED: usize = 14;
const MAX_EOS: usize = 16;
/// 1.0 and the greatest finite number, as bits of binary32.
const ONE: u32 = 0x3f80_0000;
const MAX_FINITE: u32 = 0x7f7f_ffff;

/// Greatest length of the leaf, in bytes.
pub const MAX_LEAF: usize = 4 * (FIXED + MAX_EOS + MAX_EXTENSION);

/// The shape of a decoder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Heads of q and k are normalised.
    pub qk_norm: bool,
    /// Positions that a query sees, where that is less than the context.
    pub window: Option<u32>,
    pub rope_scaling: RopeScaling,
    /// Ids that end a generation, ascending.
    pub eos: Vec<u32>,
}

/// How the rotary frequencies are stretched. Numbers are bits of binary32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum RopeScaling {
    #[default]
    None,
    Linear {
        factor: u32,
    },
    Llama3 {
        factor: u32,
        low: u32,
        high: u32,
        /// Positions of the original context.
        original: u32,
    },
}

impl RopeScaling {
    fn factor(self) -> u32 {
        match self {
            RopeScaling::None => ONE,
            RopeScaling::Linear { factor } | RopeScaling::Llama3 { factor, .. } => factor,
        }
    }
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
        within("architecture.flags", flags, 0, TIED | QKV_BIAS | QK_NORM)?;
        within("architecture.eos' number", ends, 0, MAX_EOS as u32)?;
        let Some((eos, mut rest)) = usize::try_from(ends).ok().and_then(|ends| eos.split_at_checked(ends))
        else {
            return refuse(format!("architecture says {ends} eos ids and holds {}", eos.len()));
        };
        let mut window = None;
        if let [WINDOW, positions, more @ ..] = rest {
            (window, rest) = (Some(*positions), more);
        }
        let mut rope_scaling =
            if scaling == ONE { RopeScaling::None } else { RopeScaling::Linear { factor: scaling } };
        if let [LLAMA3, low, high, original, more @ ..] = rest {
            let [low, high, original] = [*low, *high, *original];
            (rope_scaling, rest) = (RopeScaling::Llama3 { factor: scaling, low, high, original }, more);
        }
        if let Some(tag) = rest.first() {
            return refuse(format!("architecture's extension {tag} is not known, or not in its place"));
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
            qk_norm: flags & QK_NORM != 0,
            window,
            rope_scaling,
            eos: eos.to_vec(),
        };
        architecture.check()?;
        Ok(architecture)
    }

    /// The leaf.
    pub fn encode(&self) -> Vec<u8> {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let flags = flag(self.tied, TIED) | flag(self.qkv_bias, QKV_BIAS) | flag(self.qk_norm, QK_NORM);
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
            self.rope_scaling.factor(),
            flags,
            u32::try_from(self.eos.len()).unwrap_or(u32::MAX),
        ];
        let mut words = fixed.to_vec();
        words.extend(&self.eos);
        if let Some(window) = self.window {
            words.extend([WINDOW, window]);
        }
        if let RopeScaling::Llama3 { low, high, original, .. } = self.rope_scaling {
            words.extend([LLAMA3, low, high, original]);
        }
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
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
        if let Some(window) = self.window {
            within("architecture.window", window, 1, self.context.saturating_sub(1))?;
        }
        self.check_scaling()?;
        if !self.eos.is_sorted_by(|a, b| a < b) {
            return refuse(format!("architecture.eos {:?} must ascend", self.eos));
        }
        match self.eos.last() {
            Some(last) => within("architecture.eos", *last, 0, self.vocab.saturating_sub(1)),
            None => Ok(()),
        }
    }

    /// A factor of 1 is no scaling, which has one encoding only.
    fn check_scaling(&self) -> Result<()> {
        let more_than_one = ONE.saturating_add(1);
        match self.rope_scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => {
                within("architecture.rope_scaling (bits)", factor, more_than_one, MAX_FINITE)
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                within("architecture.rope_scaling (bits)", factor, more_than_one, MAX_FINITE)?;
                within("architecture.rope_scaling.low (bits)", low, 1, MAX_FINITE)?;
                within("architecture.rope_scaling.high (bits)", high, low.saturating_add(1), MAX_FINITE)?;
                within("architecture.rope_scaling.original", original, 1, 1 << 20)
            }
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
        let part = |set: bool, leaves: u32| if set { leaves } else { 0 };
        let layer = 9u32.saturating_add(part(self.qkv_bias, 3)).saturating_add(part(self.qk_norm, 2));
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

/// Stored parts beyond those that every architecture has; behind the flags of biases.
const HAS_NORM: u8 = 2;
const HAS_WINDOW: u8 = 4;
const HAS_SCALING: u8 = 8;

/// The fields in order, booleans as bytes. The byte of the biases also says which of the later fields follow the eos ids,
/// so that an architecture without them is stored as it was before there were any.
impl BorshSerialize for Architecture {
    fn serialize<W: io::Write>(&self, to: &mut W) -> io::Result<()> {
        let sizes = [self.layers, self.width, self.heads, self.kv_heads, self.head_dim, self.ffn];
        (sizes, [self.vocab, self.context, self.eps, self.rope_base], self.tied).serialize(to)?;
        let scaled = self.rope_scaling != RopeScaling::None;
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let parts = u8::from(self.qkv_bias)
            | flag(self.qk_norm, HAS_NORM)
            | flag(self.window.is_some(), HAS_WINDOW)
            | flag(scaled, HAS_SCALING);
        (parts, &self.eos).serialize(to)?;
        if let Some(window) = self.window {
            window.serialize(to)?;
        }
        if scaled {
            self.rope_scaling.serialize(to)?;
        }
        Ok(())
    }
}

impl BorshDeserialize for Architecture {
    fn deserialize_reader<R: io::Read>(from: &mut R) -> io::Result<Self> {
        let [layers, width, heads, kv_heads, head_dim, ffn] = <[u32; 6]>::deserialize_reader(from)?;
        let [vocab, context, eps, rope_base] = <[u32; 4]>::deserialize_reader(from)?;
        let (tied, parts, eos) = <(bool, u8, Vec<u32>)>::deserialize_reader(from)?;
        if parts > HAS_SCALING | HAS_WINDOW | HAS_NORM | 1 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("architecture's parts are {parts}"),
            ));
        }
        let window = if parts & HAS_WINDOW != 0 { Some(u32::deserialize_reader(from)?) } else { None };
        let rope_scaling = match parts & HAS_SCALING {
            0 => RopeScaling::None,
            _ => RopeScaling::deserialize_reader(from)?,
        };
        Ok(Architecture {
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
            tied,
            qkv_bias: parts & 1 != 0,
            qk_norm: parts & HAS_NORM != 0,
            window,
            rope_scaling,
            eos,
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
            qk_norm: false,
            window: None,
            rope_scaling: RopeScaling::None,
            eos: vec![2],
        }
    }

    /// Everything that a leaf can hold.
    fn full() -> Architecture {
        let [factor, low, high] = [32f32, 1.0, 4.0].map(f32::to_bits);
        Architecture {
            qkv_bias: true,
            qk_norm: true,
            window: Some(4096),
            rope_scaling: RopeScaling::Llama3 { factor, low, high, original: 8192 },
            eos: (0..16).collect(),
            ..small()
        }
    }

    /// What is stored of an architecture without later parts is what was stored before there were any.
    #[test]
    fn stored_form() {
        let bytes = borsh::to_vec(&small()).unwrap();
        let sizes: Vec<u8> = [30u32, 576, 9, 3, 64, 1536, 49_152, 8_192, 0x3727_c5ac, 0x47c3_5000]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect();
        assert_eq!(bytes, [&sizes[..], &[1, 0], &[1, 0, 0, 0, 2, 0, 0, 0]].concat());
        let linear = RopeScaling::Linear { factor: 2f32.to_bits() };
        for a in [small(), full(), Architecture { rope_scaling: linear, ..small() }] {
            assert_eq!(borsh::from_slice::<Architecture>(&borsh::to_vec(&a).unwrap()).unwrap(), a);
            assert_eq!(Architecture::decode(&a.encode()), Ok(a));
        }
        assert!(borsh::from_slice::<Architecture>(&[&sizes[..], &[1, 16], &[0; 4]].concat()).is_err());
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
        assert_eq!(full().manifest_leaves(), 3 + 2 + 30 * 14);
        let leaf = hex::encode(full().encode());
        assert_eq!(leaf[88..112], *"000000420700000010000000");
        assert_eq!(leaf[240..], *"0100000000100000020000000000803f0000804000200000");
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
        assert!(message(|a| a.eos = (0..17).collect()).contains("architecture.eos' number is 17"));
        assert!(message(|a| a.window = Some(8192)).contains("architecture.window is 8192"));
        let one = RopeScaling::Llama3 { factor: ONE, low: 1, high: 2, original: 1 };
        assert!(refusal_of(one).contains("architecture.rope_scaling (bits) is 1065353216"));
        let factor = 8f32.to_bits();
        let fallen = RopeScaling::Llama3 { factor, low: 4f32.to_bits(), high: ONE, original: 8192 };
        assert!(refusal_of(fallen).contains("architecture.rope_scaling.high (bits)"));
    }

    fn refusal_of(rope_scaling: RopeScaling) -> String {
        Architecture::decode(&Architecture { rope_scaling, ..small() }.encode()).unwrap_err().to_string()
    }

    proptest! {
        /// Whatever bytes decode, they are the only bytes of that architecture.
        #[test]
        fn decoding_is_strict(
            is_full in any::<bool>(),
            word in 0usize..36,
            value in prop_oneof![0u32..70, any::<u32>()],
            cut in 0usize..64,
        ) {
            let mut leaf = if is_full { full() } else { small() }.encode();
            leaf.extend([0; 4]);
            let word = word % (leaf.len() / 4);
            leaf[4 * word..4 * word + 4].copy_from_slice(&value.to_le_bytes());
            leaf.truncate(leaf.len() - cut);
            if let Ok(decoded) = Architecture::decode(&leaf) {
                prop_assert_eq!(decoded.encode(), leaf);
                prop_assert!(decoded.weights().is_ok());
            }
        }
    }
}
