//! What a tokenizer is built from, and the digest over it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sentencepiece::{self, SpacePrefix};
use crate::canon::commit::{merkle_root, Digest};
use crate::model::error::{invalid, within, ModelError, Result};

pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Most merges; Gemma's, the most that there are, are half as many.
pub(super) const MAX_MERGES: u64 = 1 << 20;
/// Greatest length of a token as it is written, in bytes; Llama 3's longest has 256. Texts of an answer grow by a token
/// at a time.
const MAX_TOKEN: u64 = 1024;
/// Most tokens that are found in texts as a whole, and their greatest length in bytes: the automaton that finds them has a
/// state for each of their bytes, and is built in the square of their number.
const MAX_WHOLE: u64 = 1 << 14;
const MAX_WHOLE_TOKEN: u64 = 256;
/// Greatest length of a chat template, in bytes.
const MAX_TEMPLATE: u64 = 1 << 20;

/// Control tokens that end an answer in every vocabulary that has them, whatever else the files say: those at which
/// llama.cpp ends. Files of one model differ in which of its end tokens they name.
const END_TOKENS: [&str; 8] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "<|end_of_text|>",
];

/// How a text is cut into words before BPE merges inside each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PreTokenizer {
    Gpt2,
    SmolLm,
    Llama3,
    Qwen2,
    /// The pieces are not byte-level: a stretch of text is one word, with a space in front.
    SentencePiece(SpacePrefix),
}

impl PreTokenizer {
    /// From `tokenizer.ggml.pre`.
    pub fn from_ggml(name: &str) -> Option<Self> {
        match name {
            "gpt-2" => Some(Self::Gpt2),
            "smollm" => Some(Self::SmolLm),
            "llama-bpe" => Some(Self::Llama3),
            "qwen2" => Some(Self::Qwen2),
            _ => None,
        }
    }

    /// The name in `tokenizer.ggml.pre`.
    pub fn ggml(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt-2",
            Self::SmolLm => "smollm",
            Self::Llama3 => "llama-bpe",
            Self::Qwen2 => "qwen2",
            Self::SentencePiece(_) => "default",
        }
    }

    /// Regular expressions applied one after the other; each match, and each gap, is a word of its own.
    pub(super) fn patterns(self) -> &'static [&'static str] {
        match self {
            Self::Gpt2 => &[GPT2],
            Self::SmolLm => &[r"\p{N}", GPT2],
            Self::Llama3 => &[LLAMA3],
            Self::Qwen2 => &[QWEN2],
            Self::SentencePiece(_) => &[],
        }
    }

    /// Whether the text is brought into Unicode NFC first.
    pub(super) fn nfc(self) -> bool {
        self == Self::Qwen2
    }

    /// Whether a word that is a token stays whole, whatever the merges make of it.
    pub(super) fn ignore_merges(self) -> bool {
        self == Self::Llama3
    }

    /// Whether a text begins with bos where a GGUF file does not say: files of Llama 2 and 3 do not.
    pub(super) fn adds_bos(self) -> bool {
        matches!(self, Self::Llama3 | Self::SentencePiece(_))
    }

    /// Where SentencePiece puts spaces in front; None where the pieces are byte-level.
    pub(super) fn space_prefix(self) -> Option<SpacePrefix> {
        match self {
            Self::SentencePiece(prefix) => Some(prefix),
            _ => None,
        }
    }
}

/// What kind of piece an id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum PieceKind {
    /// Bytes, written in the byte-level alphabet; of SentencePiece text with "▁" for a space.
    Normal = 0,
    /// A control token: found in text as a whole, not shown to the user.
    Special = 1,
    /// An added token: found in text as a whole, and shown.
    Added = 2,
    /// Never found in text.
    Unused = 3,
    /// SentencePiece's for one byte of a character that has no piece: written `<0xNN>`.
    Byte = 4,
}

impl PieceKind {
    /// Whether it is found in a text as a whole, before the text is cut.
    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::Special | Self::Added)
    }
}

impl From<PieceKind> for u8 {
    fn from(kind: PieceKind) -> u8 {
        kind as u8
    }
}

impl TryFrom<u8> for PieceKind {
    type Error = String;
    fn try_from(kind: u8) -> std::result::Result<Self, String> {
        [Self::Normal, Self::Special, Self::Added, Self::Unused, Self::Byte]
            .into_iter()
            .find(|k| *k as u8 == kind)
            .ok_or_else(|| format!("kind of piece is {kind}: must be 0 to 4"))
    }
}

/// Everything that a tokenizer is built from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSpec {
    pub pre: PreTokenizer,
    /// By id; normal pieces in the byte-level alphabet, or as SentencePiece writes them.
    pub tokens: Vec<String>,
    pub kinds: Vec<PieceKind>,
    /// Pairs of ids that become one, in order of priority. Of SentencePiece all that join to a piece follow each other,
    /// the longest left one first.
    pub merges: Vec<(u32, u32)>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// Whether a text (not a chat) begins with `bos`.
    pub add_bos: bool,
    /// Jinja template of a chat.
    pub template: Option<String>,
}

/// Refuses a vocabulary with too many, too long or equal tokens; gives the ids of all.
pub(super) fn check_tokens<'a>(
    tokens: &'a [String],
    kinds: &[PieceKind],
) -> Result<BTreeMap<&'a str, usize>> {
    let count = within("tokens of the tokenizer", tokens.len() as u64, 1, 1 << 20)?;
    within("kinds of the tokens", kinds.len() as u64, count, count)?;
    let whole = kinds.iter().filter(|kind| kind.is_whole()).count();
    within("special and added tokens", whole as u64, 0, MAX_WHOLE)?;
    let mut ids = BTreeMap::new();
    for (id, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
        let most = if kind.is_whole() { MAX_WHOLE_TOKEN } else { MAX_TOKEN };
        within(format!("length of token {id}"), token.len() as u64, 1, most)?;
        if let Some(other) = ids.insert(token.as_str(), id) {
            let bound = format!("token {other} is the same");
            return Err(invalid(format!("token {id}"), format!("{token:?}"), bound));
        }
    }
    Ok(ids)
}

impl TokenizerSpec {
    /// Refuses a description that contradicts itself.
    pub fn check(&self) -> Result<()> {
        let ids = check_tokens(&self.tokens, &self.kinds)?;
        let last = self.tokens.len() as u64 - 1;
        for (field, id) in [("bos", self.bos), ("eos", self.eos)] {
            within(field, id.unwrap_or(0).into(), 0, last)?;
        }
        if self.add_bos && self.bos.is_none() {
            return Err(ModelError::missing("bos id, which every text is to begin with,"));
        }
        let template = self.template.as_ref().map_or(0, String::len);
        within("length of the chat template", template as u64, 0, MAX_TEMPLATE)?;
        within("merges of the tokenizer", self.merges.len() as u64, 0, MAX_MERGES)?;
        let mut seen = std::collections::BTreeSet::new();
        for merge @ &(left, right) in &self.merges {
            within("merged id", left.max(right).into(), 0, last)?;
            let joined = self.tokens[left as usize].clone() + &self.tokens[right as usize];
            if !ids.contains_key(joined.as_str()) {
                return Err(invalid("merge", format!("{joined:?}"), "must be a token"));
            }
            if !seen.insert(merge) {
                return Err(invalid("merge", format!("{joined:?}"), "occurs twice"));
            }
        }
        if self.pre.space_prefix().is_some() {
            return self.check_pieces();
        }
        match self.kinds.iter().position(|kind| *kind == PieceKind::Byte) {
            Some(id) => Err(invalid(format!("kind of token {id}"), "byte", "only SentencePiece has it")),
            None => Ok(()),
        }
    }

    /// The ids that end an answer, ascending: those that the model's files name, `eos`, and the control tokens that are
    /// written like an end.
    pub fn end_tokens(&self, named: &[u32]) -> Vec<u32> {
        let written = self.tokens.iter().zip(&self.kinds).zip(0..).filter_map(|((token, kind), id)| {
            (*kind == PieceKind::Special && END_TOKENS.contains(&token.as_str())).then_some(id)
        });
        let mut ids: Vec<u32> = named.iter().copied().chain(self.eos).chain(written).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The bytes of every piece.
    pub(super) fn pieces(&self) -> Result<Vec<Vec<u8>>> {
        if self.pre.space_prefix().is_some() {
            let pieces = self.tokens.iter().zip(&self.kinds);
            return Ok(pieces.map(|(token, kind)| sentencepiece::piece(token, *kind)).collect());
        }
        let bytes = byte_alphabet();
        self.tokens
            .iter()
            .zip(&self.kinds)
            .enumerate()
            .map(|(id, (token, kind))| match kind {
                PieceKind::Normal => token
                    .chars()
                    .map(|c| {
                        bytes.get(&c).copied().ok_or_else(|| {
                            invalid(
                                format!("token {id}"),
                                format!("{token:?}"),
                                "not in the byte-level alphabet",
                            )
                        })
                    })
                    .collect(),
                _ => Ok(token.clone().into_bytes()),
            })
            .collect()
    }

    /// Merkle root over two leaves: the rules, and the root over the pieces. Rules: each string as its length
    /// (u32 little-endian) and bytes, each integer as u32 little-endian, an absent one as 2^32 - 1:
    /// "byte-level-bpe", normalizer ("" or "nfc"), number of patterns, patterns, ignore_merges, bos, eos,
    /// add_bos, whether there is a template, template, number of merges, merges (left id, right id).
    /// Those of SentencePiece begin with "sentencepiece-bpe" and where a space is put in front, and go on with bos.
    /// A piece: its kind (a byte), its bytes; of SentencePiece those of its token as it is written.
    pub(super) fn digest(&self, pieces: &[Vec<u8>]) -> Digest {
        let mut rules = Vec::new();
        let word = |rules: &mut Vec<u8>, n: u32| rules.extend(n.to_le_bytes());
        let string = |rules: &mut Vec<u8>, s: &str| {
            word(rules, s.len() as u32);
            rules.extend(s.as_bytes());
        };
        let prefix = self.pre.space_prefix();
        if let Some(prefix) = prefix {
            string(&mut rules, "sentencepiece-bpe");
            string(&mut rules, prefix.name());
        } else {
            string(&mut rules, "byte-level-bpe");
            string(&mut rules, if self.pre.nfc() { "nfc" } else { "" });
            word(&mut rules, self.pre.patterns().len() as u32);
            for pattern in self.pre.patterns() {
                string(&mut rules, pattern);
            }
            word(&mut rules, self.pre.ignore_merges().into());
        }
        word(&mut rules, self.bos.unwrap_or(u32::MAX));
        word(&mut rules, self.eos.unwrap_or(u32::MAX));
        word(&mut rules, self.add_bos.into());
        word(&mut rules, self.template.is_some().into());
        string(&mut rules, self.template.as_deref().unwrap_or(""));
        word(&mut rules, self.merges.len() as u32);
        for (left, right) in &self.merges {
            word(&mut rules, *left);
            word(&mut rules, *right);
        }
        let leaves: Vec<Vec<u8>> = self
            .kinds
            .iter()
            .zip(self.tokens.iter().zip(pieces))
            .map(|(kind, (token, piece))| {
                let bytes = if prefix.is_some() { token.as_bytes() } else { piece };
                [&[*kind as u8], bytes].concat()
            })
            .collect();
        merkle_root(&[rules, merkle_root(&leaves).to_vec()])
    }
}

/// The byte-level alphabet: the printable bytes of Latin-1 stand for themselves, the others, in order, for the
/// characters from U+0100.
pub(in crate::model) fn byte_alphabet() -> BTreeMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let own = (0..=255u8).filter(printable).map(|byte| (char::from(byte), byte));
    let others = ('\u{100}'..).zip((0..=255u8).filter(|byte| !printable(byte)));
    own.chain(others).collect()
}
