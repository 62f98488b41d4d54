//! Compute units: what a request costs, counted by the chain from the architecture alone.

use deepnode_core::num::{amount, NumError};

/// Floating-point operations of one CU.
const FLOPS_PER_CU: u128 = 1_000_000;

/// The sizes of a model that its cost follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    /// W: weights of the matrix products in the layers.
    pub weights: u64,
    pub layers: u32,
    pub heads: u32,
    pub head_dim: u32,
    /// Size of the hidden state.
    pub width: u32,
    pub vocab: u32,
    /// An embedding model makes one vector of its input and no tokens.
    pub embedding: bool,
}

impl Architecture {
    /// Floating-point operations of `input` tokens read and `output` tokens made (ignored for an embedding):
    /// 2 W N + 2 vocab width output + 2 layers heads head_dim N (N + 1) with N = input + output - 1, as the
    /// last token made is not read; an embedding has N = input and no vocabulary.
    pub fn flops(&self, input: u64, output: u64) -> Result<u128, NumError> {
        NumError::in_range("input tokens", input, 1, u64::MAX)?;
        let (read, made) = match (self.embedding, u128::from(output)) {
            (true, _) => (u128::from(input), 0),
            (false, made) => (amount::add(input.into(), made)?.saturating_sub(1), made),
        };
        let layers = product(&[2, self.weights.into(), read])?;
        let vocabulary = product(&[2, self.vocab.into(), self.width.into(), made])?;
        let pairs = amount::mul(read, amount::add(read, 1)?)?;
        let attention = product(&[2, self.layers.into(), self.heads.into(), self.head_dim.into(), pairs])?;
        amount::add(amount::add(layers, vocabulary)?, attention)
    }

    /// The cost in CU: flops / 10^6, rounded up.
    pub fn cu(&self, input: u64, output: u64) -> Result<u128, NumError> {
        Ok(self.flops(input, output)?.div_ceil(FLOPS_PER_CU))
    }
}

fn product(factors: &[u128]) -> Result<u128, NumError> {
    factors.iter().try_fold(1, |product, factor| amount::mul(product, *factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Architecture = Architecture {
        weights: 106_000_000,
        layers: 30,
        heads: 9,
        head_dim: 64,
        width: 576,
        vocab: 49_152,
        embedding: false,
    };

    #[test]
    fn counted_by_hand() {
        // N = 511: 108,332,000,000 + 14,495,514,624 + 9,042,001,920 flops.
        assert_eq!(SMALL.flops(256, 256), Ok(108_332_000_000 + 14_495_514_624 + 9_042_001_920));
        assert_eq!(SMALL.cu(256, 256), Ok(131_870));
        let embedding = Architecture { embedding: true, ..SMALL };
        assert_eq!(embedding.flops(2, 99), Ok(4 * 106_000_000 + 2 * 30 * 9 * 64 * 6));
        assert_eq!(SMALL.cu(1, 0), Ok(0));
        assert_eq!(
            SMALL.cu(0, 5).unwrap_err().to_string(),
            "input tokens is 0, allowed are 1 to 18446744073709551615"
        );
        assert!(SMALL.cu(u64::MAX, 1).is_err());
    }

    proptest! {
        #[test]
        fn longer_requests_cost_more(input in 1u64..100_000, output in 1u64..100_000) {
            let cost = SMALL.flops(input, output).unwrap();
            prop_assert!(SMALL.flops(input + 1, output).unwrap() > cost);
            prop_assert!(SMALL.flops(input, output + 1).unwrap() > SMALL.flops(input + 1, output).unwrap());
        }
    }
}
