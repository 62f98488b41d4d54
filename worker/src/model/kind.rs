//! The kinds of models, language models and encoders: what imports, model files and manifests need to know of each.

use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde::Serialize;

use super::error::Result;
use super::manifest::{
    check_architecture, check_encoder, decode_architecture, decode_encoder, encode_architecture,
    encode_encoder, encoder_slots, slots, Slot, KIND_DECODER, KIND_ENCODER,
};
use super::tokenizer::{Tokenizer, TokenizerSpec, WordPiece, WordPieceSpec};
use crate::canon::commit::Digest;
use crate::canon::rope;
use crate::canon::{Architecture, EncoderArchitecture};

/// A kind of model: its architecture.
pub trait Kind: Clone + Debug + PartialEq + Serialize + Send + Sync + 'static {
    /// First integer of its leaves.
    const KIND: u32;
    /// For people.
    const NAME: &'static str;
    type Tokenizer: Vocabulary;

    /// The architecture leaf.
    fn to_leaf(&self) -> Vec<u8>;
    /// The architecture of a leaf, whose bytes are those that `to_leaf` gives for it.
    fn from_leaf(leaf: &[u8]) -> Result<Self>;
    /// Whether all sizes are within bounds.
    fn check(&self) -> Result<()>;
    /// Every tensor, in the manifest's order.
    fn slots(&self) -> Vec<Slot>;
    fn vocab(&self) -> u32;
    /// Digest of the rope table; of an empty one where there is none.
    fn rope(&self) -> Digest;
}

/// A tokenizer of a kind of models.
pub trait Vocabulary: Debug + Send + Sync + Sized + 'static {
    /// What it is built from.
    type Spec: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send;

    fn build(spec: Self::Spec) -> Result<Self>;
    fn spec(&self) -> &Self::Spec;
    /// A leaf of the model id.
    fn digest(&self) -> Digest;
    /// Number of ids.
    fn size(&self) -> usize;
}

/// What the tokenizer of a kind is built from.
pub type Spec<A> = <<A as Kind>::Tokenizer as Vocabulary>::Spec;

impl Kind for Architecture {
    const KIND: u32 = KIND_DECODER;
    const NAME: &'static str = "a language model";
    type Tokenizer = Tokenizer;

    fn to_leaf(&self) -> Vec<u8> {
        encode_architecture(self)
    }

    fn from_leaf(leaf: &[u8]) -> Result<Self> {
        decode_architecture(leaf)
    }

    fn check(&self) -> Result<()> {
        check_architecture(self)
    }

    fn slots(&self) -> Vec<Slot> {
        slots(self)
    }

    fn vocab(&self) -> u32 {
        self.vocab
    }

    fn rope(&self) -> Digest {
        rope::digest(self.rope_base, self.rope_scaling, self.head_dim, self.context)
    }
}

impl Kind for EncoderArchitecture {
    const KIND: u32 = KIND_ENCODER;
    const NAME: &'static str = "an encoder";
    type Tokenizer = WordPiece;

    fn to_leaf(&self) -> Vec<u8> {
        encode_encoder(self)
    }

    fn from_leaf(leaf: &[u8]) -> Result<Self> {
        decode_encoder(leaf)
    }

    fn check(&self) -> Result<()> {
        check_encoder(self)
    }

    fn slots(&self) -> Vec<Slot> {
        encoder_slots(self)
    }

    fn vocab(&self) -> u32 {
        self.vocab
    }

    fn rope(&self) -> Digest {
        *blake3::hash(&[]).as_bytes()
    }
}

impl Vocabulary for Tokenizer {
    type Spec = TokenizerSpec;

    fn build(spec: TokenizerSpec) -> Result<Self> {
        Tokenizer::new(spec)
    }

    fn spec(&self) -> &TokenizerSpec {
        Tokenizer::spec(self)
    }

    fn digest(&self) -> Digest {
        Tokenizer::digest(self)
    }

    fn size(&self) -> usize {
        self.len()
    }
}

impl Vocabulary for WordPiece {
    type Spec = WordPieceSpec;

    fn build(spec: WordPieceSpec) -> Result<Self> {
        WordPiece::new(spec)
    }

    fn spec(&self) -> &WordPieceSpec {
        WordPiece::spec(self)
    }

    fn digest(&self) -> Digest {
        WordPiece::digest(self)
    }

    fn size(&self) -> usize {
        self.spec().tokens.len()
    }
}
