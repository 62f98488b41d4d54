//! The manifest: what a model is, as an ordered list of leaves. The model id is their Merkle root (RFC 6962
//! shape, BLAKE3), so that any leaf can be shown to the chain with a short path.
//!
//! Leaves, in order:
//! 0. the architecture, `encode_architecture` below, or `encode_encoder`;
//! 1. the tokenizer digest, 32 bytes;
//! 2. the rope table's digest, 32 bytes (an encoder has no table: BLAKE3 of nothing);
//! 3. and on, the tensors of `slots`: rows, columns (u32 little-endian), BLAKE3 of the elements (binary16
//!    little-endian, row-major, unpadded, rotary rows half-split): 40 bytes each.

mod encoder;

use crate::canon::commit::{merkle_path, merkle_root, Digest};
use crate::canon::{Architecture, RopeScaling};

use super::error::{invalid, within, Result};
use super::kind::Kind;
pub use encoder::{check_encoder, decode_encoder, encode_encoder, encoder_slots, EncoderRole, KIND_ENCODER};

/// First integer of an architecture leaf: a llama-shaped decoder.
pub const KIND_DECODER: u32 = 1;
const FLAG_TIED: u32 = 1;
const FLAG_QKV_BIAS: u32 = 2;
const FLAG_QK_NORM: u32 = 4;
/// Integers before the eos ids.
const FIXED_WORDS: usize = 14;
/// Greatest number of eos ids.
pub const MAX_EOS: usize = 16;
/// What may follow the eos ids, each at most once, in this order: a tag, then its values.
const TAG_WINDOW: u32 = 1;
const TAG_LLAMA3_ROPE: u32 = 2;
/// Most integers behind the eos ids.
const MAX_EXTENSION: usize = 2 + 4;

/// The canonical bytes of an architecture, all u32 little-endian: kind (1), layers, width, heads, kv_heads,
/// head_dim, ffn, vocab, context, bits of eps, bits of rope_base, bits of the rope scaling's factor (1.0: none),
/// flags (1: head tied to the embedding, 2: q, k and v have biases, 4: heads of q and k are normalised), number of eos
/// ids, eos ids; then, where there is one, 1 and the window; then, where the scaling is Llama 3's, 2, bits of low, bits
/// of high, original.
pub fn encode_architecture(arch: &Architecture) -> Vec<u8> {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let flags =
        flag(arch.tied, FLAG_TIED) | flag(arch.qkv_bias, FLAG_QKV_BIAS) | flag(arch.qk_norm, FLAG_QK_NORM);
    let fixed: [u32; FIXED_WORDS] = [
        KIND_DECODER,
        arch.layers,
        arch.width,
        arch.heads,
        arch.kv_heads,
        arch.head_dim,
        arch.ffn,
        arch.vocab,
        arch.context,
        arch.eps.to_bits(),
        arch.rope_base.to_bits(),
        arch.rope_scaling.factor().to_bits(),
        flags,
        arch.eos.len() as u32,
    ];
    let mut words = fixed.to_vec();
    words.extend(&arch.eos);
    if let Some(window) = arch.window {
        words.extend([TAG_WINDOW, window]);
    }
    if let RopeScaling::Llama3 { low, high, original, .. } = arch.rope_scaling {
        words.extend([TAG_LLAMA3_ROPE, low.to_bits(), high.to_bits(), original]);
    }
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The architecture of a leaf. Strict: the bytes are those that `encode_architecture` gives for the result, and
/// the result is within the bounds of `check_architecture`.
pub fn decode_architecture(leaf: &[u8]) -> Result<Architecture> {
    let length = leaf.len() as u64;
    within(
        "length of the architecture leaf",
        length,
        4 * FIXED_WORDS as u64,
        4 * (FIXED_WORDS + MAX_EOS + MAX_EXTENSION) as u64,
    )?;
    let words: Vec<u32> =
        leaf.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
    let (fixed, rest) = words.split_at(FIXED_WORDS);
    within("length of the architecture leaf", length, 4 * words.len() as u64, 4 * words.len() as u64)?;
    within("kind of architecture", fixed[0].into(), KIND_DECODER.into(), KIND_DECODER.into())?;
    within("eos ids", fixed[13].into(), 0, rest.len().min(MAX_EOS) as u64)?;
    let flags = FLAG_TIED | FLAG_QKV_BIAS | FLAG_QK_NORM;
    within("flags of the architecture", fixed[12].into(), 0, flags.into())?;
    let (eos, mut rest) = rest.split_at(fixed[13] as usize);
    let mut window = None;
    if let [TAG_WINDOW, positions, more @ ..] = rest {
        (window, rest) = (Some(*positions), more);
    }
    let factor = f32::from_bits(fixed[11]);
    let mut rope_scaling = if factor == 1.0 { RopeScaling::None } else { RopeScaling::Linear { factor } };
    if let [TAG_LLAMA3_ROPE, low, high, original, more @ ..] = rest {
        let [low, high] = [low, high].map(|bits| f32::from_bits(*bits));
        rope_scaling = RopeScaling::Llama3 { factor, low, high, original: *original };
        rest = more;
    }
    if let Some(tag) = rest.first() {
        return Err(invalid(
            "extension of the architecture",
            tag,
            "known are 1 (window) and 2 (Llama 3's rope)",
        ));
    }
    let arch = Architecture {
        layers: fixed[1],
        width: fixed[2],
        heads: fixed[3],
        kv_heads: fixed[4],
        head_dim: fixed[5],
        ffn: fixed[6],
        vocab: fixed[7],
        context: fixed[8],
        eps: f32::from_bits(fixed[9]),
        rope_base: f32::from_bits(fixed[10]),
        eos: eos.to_vec(),
        tied: fixed[12] & FLAG_TIED != 0,
        qkv_bias: fixed[12] & FLAG_QKV_BIAS != 0,
        qk_norm: fixed[12] & FLAG_QK_NORM != 0,
        window,
        rope_scaling,
    };
    check_architecture(&arch)?;
    Ok(arch)
}

/// Bounds that keep every size and every compute unit below overflow, and the operations defined.
pub fn check_architecture(arch: &Architecture) -> Result<()> {
    let bounds: [(&str, u32, u32); 8] = [
        ("layers", arch.layers, 1 << 10),
        ("width", arch.width, 1 << 16),
        ("heads", arch.heads, 1 << 10),
        ("kv_heads", arch.kv_heads, arch.heads),
        ("head_dim", arch.head_dim, 1 << 9),
        ("ffn", arch.ffn, 1 << 18),
        ("vocab", arch.vocab, 1 << 20),
        ("context", arch.context, 1 << 20),
    ];
    for (field, value, max) in bounds {
        within(field, value.into(), 1, max.into())?;
    }
    if !arch.heads.is_multiple_of(arch.kv_heads) {
        return Err(invalid("kv_heads", arch.kv_heads, format!("must divide heads, {}", arch.heads)));
    }
    if !arch.head_dim.is_multiple_of(2) {
        return Err(invalid("head_dim", arch.head_dim, "must be even"));
    }
    within("context times head_dim", u64::from(arch.context) * u64::from(arch.head_dim), 2, 1 << 27)?;
    if !(arch.eps > 0.0 && arch.eps <= 1.0) {
        return Err(invalid("eps", arch.eps, "must be above 0, at most 1"));
    }
    if !(arch.rope_base >= 1.0 && arch.rope_base.is_finite()) {
        return Err(invalid("rope_base", arch.rope_base, "must be finite and at least 1"));
    }
    if let Some(window) = arch.window {
        within("window", window.into(), 1, u64::from(arch.context) - 1)?;
    }
    check_scaling(&arch.rope_scaling)?;
    within("eos ids", arch.eos.len() as u64, 0, MAX_EOS as u64)?;
    if !arch.eos.windows(2).all(|pair| pair[0] < pair[1]) {
        return Err(invalid("eos ids", format!("{:?}", arch.eos), "must ascend"));
    }
    if let Some(last) = arch.eos.last() {
        within("eos id", (*last).into(), 0, u64::from(arch.vocab) - 1)?;
    }
    Ok(())
}

/// A factor of 1 is no scaling, which has one encoding only.
fn check_scaling(scaling: &RopeScaling) -> Result<()> {
    let factor = scaling.factor();
    match scaling {
        RopeScaling::None => return Ok(()),
        _ if factor > 1.0 && factor.is_finite() => {}
        _ => return Err(invalid("factor of the rope scaling", factor, "must be finite and above 1")),
    }
    if let RopeScaling::Llama3 { low, high, original, .. } = scaling {
        if !(*low > 0.0 && low < high && high.is_finite()) {
            let found = format!("{low} and {high}");
            return Err(invalid(
                "low and high of the rope scaling",
                found,
                "must be finite, above 0, ascending",
            ));
        }
        within("original context of the rope scaling", (*original).into(), 1, 1 << 20)?;
    }
    Ok(())
}

impl Architecture {
    /// Weights of the layers' matrices, W in `compute_units`.
    pub fn matmul_weights(&self) -> u64 {
        let [width, q, kv, ffn] = [self.width, self.q_rows(), self.kv_rows(), self.ffn].map(u64::from);
        // In bounds: at most 2^10 layers of (2 * 2^19 + 2 * 2^19 + 3 * 2^18) * 2^16 weights.
        u64::from(self.layers) * width * (2 * q + 2 * kv + 3 * ffn)
    }

    /// Compute units of a generation: ceil(flops / 10^6) with N = input + output - 1 positions and
    /// flops = 2 W N + 2 vocab width output + 2 layers heads head_dim N (N + 1). None unless
    /// input >= 1, output >= 1 and N <= context.
    pub fn compute_units(&self, input: u32, output: u32) -> Option<u64> {
        let positions = input.checked_add(output)?.checked_sub(1)?;
        if input == 0 || output == 0 || positions > self.context {
            return None;
        }
        let n = u128::from(positions);
        let layers = 2 * u128::from(self.matmul_weights()) * n;
        let head = 2 * u128::from(self.vocab) * u128::from(self.width) * u128::from(output);
        let attention = 2 * u128::from(self.layers) * u128::from(self.q_rows()) * n * (n + 1);
        u64::try_from((layers + head + attention).div_ceil(1_000_000)).ok()
    }
}

/// What a tensor is in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Embedding,
    Head,
    FinalGain,
    AttnGain,
    Q,
    K,
    V,
    QBias,
    KBias,
    VBias,
    /// Gain of the norm over a head of q.
    QNorm,
    /// Gain of the norm over a head of k.
    KNorm,
    O,
    FfnGain,
    Gate,
    Up,
    Down,
    /// All of an encoder.
    Encoder(EncoderRole),
}

/// One tensor of an architecture. A vector has one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub role: Role,
    /// The layer, for the roles that a layer has.
    pub layer: Option<u32>,
    pub rows: usize,
    pub cols: usize,
}

impl Slot {
    /// Whether it is a gain or a bias, which is kept as it is; a matrix is kept in panels.
    pub fn is_vector(&self) -> bool {
        use Role::*;
        match self.role {
            FinalGain | AttnGain | FfnGain | QBias | KBias | VBias | QNorm | KNorm => true,
            Embedding | Head | Q | K | V | O | Gate | Up | Down => false,
            Encoder(role) => role.is_vector(),
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.role {
            Role::Encoder(role) => write!(f, "{role:?}")?,
            role => write!(f, "{role:?}")?,
        }
        self.layer.map_or(Ok(()), |layer| write!(f, " of layer {layer}"))
    }
}

/// Every tensor of an architecture, in the manifest's order.
pub fn slots(arch: &Architecture) -> Vec<Slot> {
    use Role::*;
    let [width, q, kv, ffn, vocab] =
        [arch.width, arch.q_rows(), arch.kv_rows(), arch.ffn, arch.vocab].map(|n| n as usize);
    let slot = |role, layer, rows, cols| Slot { role, layer, rows, cols };
    let mut slots = vec![slot(Embedding, None, vocab, width)];
    if !arch.tied {
        slots.push(slot(Head, None, vocab, width));
    }
    slots.push(slot(FinalGain, None, 1, width));
    for layer in (0..arch.layers).map(Some) {
        slots.extend([
            slot(AttnGain, layer, 1, width),
            slot(Q, layer, q, width),
            slot(K, layer, kv, width),
            slot(V, layer, kv, width),
        ]);
        if arch.qkv_bias {
            slots.extend([slot(QBias, layer, 1, q), slot(KBias, layer, 1, kv), slot(VBias, layer, 1, kv)]);
        }
        if arch.qk_norm {
            let dim = arch.head_dim as usize;
            slots.extend([slot(QNorm, layer, 1, dim), slot(KNorm, layer, 1, dim)]);
        }
        slots.extend([
            slot(O, layer, width, q),
            slot(FfnGain, layer, 1, width),
            slot(Gate, layer, ffn, width),
            slot(Up, layer, ffn, width),
            slot(Down, layer, width, ffn),
        ]);
    }
    slots
}

/// The parts of a model that its id covers.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest<A = Architecture> {
    pub arch: A,
    pub tokenizer: Digest,
    pub rope: Digest,
    /// Digests of the tensors of the architecture's slots.
    pub tensors: Vec<Digest>,
}

/// The architecture leaf with its Merkle path, as the chain asks for it when a model is registered.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchitectureProof {
    pub leaf: Vec<u8>,
    /// Leaves of the manifest. The architecture is number 0.
    pub leaves: u32,
    /// Siblings, nearest first.
    pub path: Vec<Digest>,
}

impl<A: Kind> Manifest<A> {
    /// The leaves, in order.
    pub fn leaves(&self) -> Vec<Vec<u8>> {
        let mut leaves = vec![self.arch.to_leaf(), self.tokenizer.to_vec(), self.rope.to_vec()];
        leaves.extend(self.arch.slots().iter().zip(&self.tensors).map(|(slot, digest)| {
            [&(slot.rows as u32).to_le_bytes()[..], &(slot.cols as u32).to_le_bytes(), digest].concat()
        }));
        leaves
    }

    /// The model id.
    pub fn id(&self) -> Digest {
        merkle_root(&self.leaves())
    }

    /// Shows that the id is that of a model with this architecture.
    pub fn architecture_proof(&self) -> ArchitectureProof {
        let mut leaves = self.leaves();
        let path = merkle_path(&leaves, 0).unwrap_or_default();
        ArchitectureProof { leaves: leaves.len() as u32, path, leaf: leaves.swap_remove(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canon::commit::merkle_verify;
    use proptest::prelude::*;

    fn smollm2() -> Architecture {
        Architecture {
            layers: 30,
            width: 576,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            ffn: 1536,
            vocab: 49152,
            context: 8192,
            eps: 1e-5,
            rope_base: 100_000.0,
            eos: vec![2],
            tied: true,
            qkv_bias: false,
            qk_norm: false,
            window: None,
            rope_scaling: RopeScaling::None,
        }
    }

    /// Everything that a leaf can hold.
    fn full() -> Architecture {
        Architecture {
            eos: (0..16).collect(),
            qkv_bias: true,
            qk_norm: true,
            window: Some(4096),
            rope_scaling: RopeScaling::Llama3 { factor: 32.0, low: 1.0, high: 4.0, original: 8192 },
            ..smollm2()
        }
    }

    #[test]
    fn architecture_leaf_is_pinned() {
        let leaf = hex::encode(encode_architecture(&smollm2()));
        let expected = [
            "01000000", "1e000000", "40020000", "09000000", "03000000", "40000000", "00060000", "00c00000",
            "00200000", "acc52737", "0050c347", "0000803f", "01000000", "01000000", "02000000",
        ];
        assert_eq!(leaf, expected.concat());
        let leaf = hex::encode(encode_architecture(&full()));
        assert_eq!(&leaf[88..112], "000000420700000010000000");
        assert_eq!(
            &leaf[240..],
            ["01000000", "00100000", "02000000", "0000803f", "00008040", "00200000"].concat()
        );
        let linear = Architecture { rope_scaling: RopeScaling::Linear { factor: 2.0 }, ..smollm2() };
        assert_eq!(decode_architecture(&encode_architecture(&linear)).unwrap(), linear);
    }

    #[test]
    fn compute_units_follow_the_formula() {
        let arch = smollm2();
        assert_eq!(arch.matmul_weights(), 106_168_320);
        // N = 1: 2 W = 212336640, head 56623104, attention 69120.
        // N = 511: 2 W N = 108504023040, head 2 * 49152 * 576 * 256 = 14495514624,
        // attention 2 * 30 * 576 * 511 * 512 = 9041817600: together 132041355264.
        assert_eq!(arch.compute_units(256, 256), Some(132_042));
        assert_eq!(arch.compute_units(1, 1), Some(270));
        assert!(arch.compute_units(8192, 1).is_some());
        for (input, output) in [(0, 1), (1, 0), (8192, 2), (u32::MAX, 2)] {
            assert_eq!(arch.compute_units(input, output), None, "{input} in, {output} out");
        }
        let mut largest = arch.clone();
        (largest.layers, largest.width, largest.heads, largest.head_dim) =
            (1 << 10, 1 << 16, 1 << 10, 1 << 7);
        (largest.kv_heads, largest.ffn, largest.vocab, largest.context) =
            (1 << 10, 1 << 18, 1 << 20, 1 << 20);
        check_architecture(&largest).unwrap();
        assert!(largest.compute_units(1, 1 << 20).is_some());
    }

    proptest! {
        /// Whatever bytes decode, they are the only bytes of that architecture; one changed word does not pass
        /// for the same.
        #[test]
        fn decoding_is_strict(
            is_full in any::<bool>(), word in 0usize..36, value in prop_oneof![0u32..70, any::<u32>()], cut in 0usize..64
        ) {
            let arch = if is_full { full() } else { smollm2() };
            let leaf = encode_architecture(&arch);
            let mut changed = leaf.clone();
            changed.extend([0; 4]);
            let word = word % (changed.len() / 4);
            changed[4 * word..4 * word + 4].copy_from_slice(&value.to_le_bytes());
            changed.truncate(changed.len().saturating_sub(cut));
            if let Ok(arch) = decode_architecture(&changed) {
                prop_assert_eq!(encode_architecture(&arch), changed);
            }
            prop_assert_eq!(decode_architecture(&leaf).unwrap(), arch);
        }
    }

    #[test]
    fn architecture_proof_opens_the_id() {
        let arch = smollm2();
        let tensors = (0..slots(&arch).len()).map(|n| [n as u8; 32]).collect();
        let manifest = Manifest { arch, tokenizer: [1; 32], rope: [2; 32], tensors };
        let proof = manifest.architecture_proof();
        assert_eq!(proof.leaves, 3 + 2 + 30 * 9);
        assert!(merkle_verify(&manifest.id(), &proof.leaf, 0, proof.leaves as usize, &proof.path));
        let mut other = proof.leaf.clone();
        other[4] ^= 1;
        assert!(!merkle_verify(&manifest.id(), &other, 0, proof.leaves as usize, &proof.path));
    }
}
