//! The architecture leaf of encoders, and their tensors.

use super::{Role, Slot};
use crate::canon::EncoderArchitecture;
use crate::model::error::{invalid, within, Result};

/// First integer of an architecture leaf: an encoder of BERT's shape, whose vector is the mean of its positions.
pub const KIND_ENCODER: u32 = 2;
const WORDS: usize = 9;

/// What a tensor is in an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderRole {
    Embedding,
    Positions,
    Types,
    NormGain,
    NormBias,
    Q,
    QBias,
    K,
    KBias,
    V,
    VBias,
    O,
    OBias,
    AttnNormGain,
    AttnNormBias,
    Up,
    UpBias,
    Down,
    DownBias,
    FfnNormGain,
    FfnNormBias,
}

impl EncoderRole {
    /// Whether it is a gain or a bias.
    pub fn is_vector(self) -> bool {
        use EncoderRole::*;
        !matches!(self, Embedding | Positions | Types | Q | K | V | O | Up | Down)
    }
}

/// The canonical bytes, all u32 little-endian: kind (2), layers, width, heads, ffn, vocab, context, types, bits of eps.
pub fn encode_encoder(arch: &EncoderArchitecture) -> Vec<u8> {
    let EncoderArchitecture { layers, width, heads, ffn, vocab, context, types, eps } = *arch;
    let words: [u32; WORDS] = [KIND_ENCODER, layers, width, heads, ffn, vocab, context, types, eps.to_bits()];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The architecture of a leaf; within the bounds of `check_encoder`.
pub fn decode_encoder(leaf: &[u8]) -> Result<EncoderArchitecture> {
    let length = 4 * WORDS as u64;
    within("length of the architecture leaf", leaf.len() as u64, length, length)?;
    let word = |n: usize| u32::from_le_bytes(std::array::from_fn(|i| leaf[4 * n + i]));
    within("kind of architecture", word(0).into(), KIND_ENCODER.into(), KIND_ENCODER.into())?;
    let arch = EncoderArchitecture {
        layers: word(1),
        width: word(2),
        heads: word(3),
        ffn: word(4),
        vocab: word(5),
        context: word(6),
        types: word(7),
        eps: f32::from_bits(word(8)),
    };
    check_encoder(&arch)?;
    Ok(arch)
}

/// Bounds that keep every size below overflow, and the operations defined.
pub fn check_encoder(arch: &EncoderArchitecture) -> Result<()> {
    let bounds: [(&str, u32, u32); 7] = [
        ("layers", arch.layers, 1 << 10),
        ("width", arch.width, 1 << 14),
        ("heads", arch.heads, 1 << 8),
        ("ffn", arch.ffn, 1 << 16),
        ("vocab", arch.vocab, 1 << 20),
        ("context", arch.context, 1 << 13),
        ("types", arch.types, 1 << 8),
    ];
    for (field, value, max) in bounds {
        within(field, value.into(), 1, max.into())?;
    }
    if !arch.width.is_multiple_of(arch.heads) {
        return Err(invalid("heads", arch.heads, format!("must divide width, {}", arch.width)));
    }
    within("head_dim", arch.head_dim().into(), 1, 1 << 9)?;
    if !(arch.eps > 0.0 && arch.eps <= 1.0) {
        return Err(invalid("eps", arch.eps, "must be above 0, at most 1"));
    }
    Ok(())
}

/// Every tensor of an encoder, in the manifest's order.
pub fn encoder_slots(arch: &EncoderArchitecture) -> Vec<Slot> {
    use EncoderRole::*;
    let [width, ffn, vocab, context, types] =
        [arch.width, arch.ffn, arch.vocab, arch.context, arch.types].map(|n| n as usize);
    let slot = |role, layer, rows, cols| Slot { role: Role::Encoder(role), layer, rows, cols };
    let mut slots = vec![
        slot(Embedding, None, vocab, width),
        slot(Positions, None, context, width),
        slot(Types, None, types, width),
        slot(NormGain, None, 1, width),
        slot(NormBias, None, 1, width),
    ];
    for layer in (0..arch.layers).map(Some) {
        for (matrix, bias) in [(Q, QBias), (K, KBias), (V, VBias), (O, OBias)] {
            slots.extend([slot(matrix, layer, width, width), slot(bias, layer, 1, width)]);
        }
        slots.extend([
            slot(AttnNormGain, layer, 1, width),
            slot(AttnNormBias, layer, 1, width),
            slot(Up, layer, ffn, width),
            slot(UpBias, layer, 1, ffn),
            slot(Down, layer, width, ffn),
            slot(DownBias, layer, 1, width),
            slot(FfnNormGain, layer, 1, width),
            slot(FfnNormBias, layer, 1, width),
        ]);
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn minilm() -> EncoderArchitecture {
        EncoderArchitecture {
            layers: 6,
            width: 384,
            heads: 12,
            ffn: 1536,
            vocab: 30522,
            context: 512,
            types: 2,
            eps: 1e-12,
        }
    }

    #[test]
    fn leaf_is_pinned() {
        let expected = [
            "02000000", "06000000", "80010000", "0c000000", "00060000", "3a770000", "00020000", "02000000",
            "ccbc8c2b",
        ];
        assert_eq!(hex::encode(encode_encoder(&minilm())), expected.concat());
        assert_eq!(encoder_slots(&minilm()).len(), 5 + 6 * 16);
    }

    proptest! {
        /// Whatever bytes decode, they are the only bytes of that architecture.
        #[test]
        fn decoding_is_strict(word in 0usize..10, value in prop_oneof![0u32..70, any::<u32>()], cut in 0usize..40) {
            let mut changed = encode_encoder(&minilm());
            changed.extend([0; 4]);
            changed[4 * word..4 * word + 4].copy_from_slice(&value.to_le_bytes());
            changed.truncate(changed.len() - cut);
            if let Ok(arch) = decode_encoder(&changed) {
                prop_assert_eq!(encode_encoder(&arch), changed);
            }
        }
    }
}
