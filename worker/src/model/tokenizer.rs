//! Text to tokens and back: byte-level BPE, as GPT-2, SmolLM2, Llama 3 and Qwen 2 use it.
//!
//! The digest covers everything that decides which ids a text becomes and which bytes an id is, in a form that
//! does not depend on the file the tokenizer came from.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokenizers::models::bpe::{Vocab, BPE};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{AddedToken, NormalizedString, Normalizer, SplitDelimiterBehavior};

use super::chat::{ChatMessage, ChatTemplate};
use super::error::{invalid, within, ModelError, Result};
use super::gguf::{required, Gguf};
use crate::canon::commit::{merkle_root, Digest};

/// Greatest length of a text to encode, in bytes.
pub const MAX_TEXT: usize = 4 << 20;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a text is cut into words before BPE merges inside each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PreTokenizer {
    Gpt2,
    SmolLm,
    Llama3,
    Qwen2,
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
        }
    }

    /// Regular expressions applied one after the other; each match, and each gap, is a word of its own.
    fn patterns(self) -> &'static [&'static str] {
        match self {
            Self::Gpt2 => &[GPT2],
            Self::SmolLm => &[r"\p{N}", GPT2],
            Self::Llama3 => &[LLAMA3],
            Self::Qwen2 => &[QWEN2],
        }
    }

    /// Whether the text is brought into Unicode NFC first.
    fn nfc(self) -> bool {
        self == Self::Qwen2
    }

    /// Whether a word that is a token stays whole, whatever the merges make of it.
    fn ignore_merges(self) -> bool {
        self == Self::Llama3
    }
}

/// What kind of piece an id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum PieceKind {
    /// Bytes, written in the byte-level alphabet.
    Normal = 0,
    /// A control token: found in text as a whole, not shown to the user.
    Special = 1,
    /// An added token: found in text as a whole, and shown.
    Added = 2,
    /// Never found in text.
    Unused = 3,
}

impl From<PieceKind> for u8 {
    fn from(kind: PieceKind) -> u8 {
        kind as u8
    }
}

impl TryFrom<u8> for PieceKind {
    type Error = String;
    fn try_from(kind: u8) -> std::result::Result<Self, String> {
        [Self::Normal, Self::Special, Self::Added, Self::Unused]
            .into_iter()
            .find(|k| *k as u8 == kind)
            .ok_or_else(|| format!("kind of piece is {kind}: must be 0 to 3"))
    }
}

/// Everything that a tokenizer is built from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSpec {
    pub pre: PreTokenizer,
    /// By id; normal pieces in the byte-level alphabet.
    pub tokens: Vec<String>,
    pub kinds: Vec<PieceKind>,
    /// Pairs of ids that become one, in order of priority.
    pub merges: Vec<(u32, u32)>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// Whether a text (not a chat) begins with `bos`.
    pub add_bos: bool,
    /// Jinja template of a chat.
    pub template: Option<String>,
}

impl TokenizerSpec {
    /// From the metadata of a GGUF file.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self> {
        let model = required("tokenizer.ggml.model", gguf.string("tokenizer.ggml.model"))?;
        if model != "gpt2" {
            return Err(invalid("tokenizer.ggml.model", model, "known is gpt2 (byte-level BPE)"));
        }
        let pre = required("tokenizer.ggml.pre", gguf.string("tokenizer.ggml.pre"))?;
        let pre = PreTokenizer::from_ggml(pre).ok_or_else(|| {
            invalid("tokenizer.ggml.pre", pre, "known are gpt-2, smollm, llama-bpe and qwen2")
        })?;
        if gguf.boolean("tokenizer.ggml.add_space_prefix")? == Some(true) {
            return Err(invalid("tokenizer.ggml.add_space_prefix", true, "must be false"));
        }
        if gguf.boolean("tokenizer.ggml.add_eos_token")? == Some(true) {
            return Err(invalid("tokenizer.ggml.add_eos_token", true, "must be false"));
        }
        let tokens = required("tokenizer.ggml.tokens", gguf.strings("tokenizer.ggml.tokens"))?;
        let types = required("tokenizer.ggml.token_type", gguf.integers("tokenizer.ggml.token_type"))?;
        let kind = |(id, kind): (usize, i64)| match kind {
            1 => Ok(PieceKind::Normal),
            2 | 3 => Ok(PieceKind::Special),
            4 => Ok(PieceKind::Added),
            5 => Ok(PieceKind::Unused),
            _ => Err(invalid(format!("tokenizer.ggml.token_type of {id}"), kind, "must be 1 to 5")),
        };
        let kinds = types.into_iter().enumerate().map(kind).collect::<Result<_>>()?;

        let ids: BTreeMap<&str, u32> = tokens.iter().zip(0..).map(|(token, id)| (*token, id)).collect();
        let merges = required("tokenizer.ggml.merges", gguf.strings("tokenizer.ggml.merges"))?;
        let merges = merges
            .into_iter()
            .map(|merge| {
                let (left, right) = merge.split_once(' ').unwrap_or((merge, ""));
                ids.get(left).copied().zip(ids.get(right).copied()).ok_or_else(|| {
                    invalid(
                        "tokenizer.ggml.merges",
                        format!("{merge:?}"),
                        "must be two tokens with a space between",
                    )
                })
            })
            .collect::<Result<_>>()?;

        let last = u32::try_from(tokens.len()).unwrap_or(u32::MAX).saturating_sub(1);
        Ok(TokenizerSpec {
            pre,
            kinds,
            merges,
            bos: gguf.integer("tokenizer.ggml.bos_token_id", 0, last)?,
            eos: gguf.integer("tokenizer.ggml.eos_token_id", 0, last)?,
            add_bos: gguf.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(false),
            template: gguf.string("tokenizer.chat_template")?.map(str::to_string),
            tokens: tokens.into_iter().map(str::to_string).collect(),
        })
    }

    /// Refuses a description that contradicts itself.
    pub fn check(&self) -> Result<()> {
        within("tokens of the tokenizer", self.tokens.len() as u64, 1, 1 << 20)?;
        within(
            "kinds of the tokens",
            self.kinds.len() as u64,
            self.tokens.len() as u64,
            self.tokens.len() as u64,
        )?;
        let last = self.tokens.len() as u64 - 1;
        for (field, id) in [("bos", self.bos), ("eos", self.eos)] {
            within(field, id.unwrap_or(0).into(), 0, last)?;
        }
        if self.add_bos && self.bos.is_none() {
            return Err(ModelError::missing("bos id, which every text is to begin with,"));
        }
        let mut ids = BTreeMap::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if token.is_empty() {
                return Err(invalid(format!("token {id}"), "empty", "must have bytes"));
            }
            if let Some(other) = ids.insert(token.as_str(), id) {
                return Err(invalid(
                    format!("token {id}"),
                    format!("{token:?}"),
                    format!("token {other} is the same"),
                ));
            }
        }
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
        Ok(())
    }

    /// The bytes of every piece.
    fn pieces(&self) -> Result<Vec<Vec<u8>>> {
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
    /// A piece: its kind (a byte), its bytes.
    fn digest(&self, pieces: &[Vec<u8>]) -> Digest {
        let mut rules = Vec::new();
        let word = |rules: &mut Vec<u8>, n: u32| rules.extend(n.to_le_bytes());
        let string = |rules: &mut Vec<u8>, s: &str| {
            word(rules, s.len() as u32);
            rules.extend(s.as_bytes());
        };
        string(&mut rules, "byte-level-bpe");
        string(&mut rules, if self.pre.nfc() { "nfc" } else { "" });
        word(&mut rules, self.pre.patterns().len() as u32);
        for pattern in self.pre.patterns() {
            string(&mut rules, pattern);
        }
        word(&mut rules, self.pre.ignore_merges().into());
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
            .zip(pieces)
            .map(|(kind, piece)| [&[*kind as u8], &piece[..]].concat())
            .collect();
        merkle_root(&[rules, merkle_root(&leaves).to_vec()])
    }
}

/// A tokenizer, ready to use from many threads.
pub struct Tokenizer {
    spec: TokenizerSpec,
    pieces: Vec<Vec<u8>>,
    bpe: tokenizers::Tokenizer,
    chat: Option<ChatTemplate>,
    digest: Digest,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({:?}, {} tokens)", self.spec.pre, self.pieces.len())
    }
}

impl Tokenizer {
    /// Builds the tokenizer; an inconsistent description or a template that does not compile is an error.
    pub fn new(spec: TokenizerSpec) -> Result<Self> {
        spec.check()?;
        let pieces = spec.pieces()?;
        let digest = spec.digest(&pieces);
        let fault = |e: tokenizers::Error| ModelError::Tokenizer(e.to_string());

        let token = |id: u32| spec.tokens[id as usize].clone();
        let vocabulary: Vec<(String, u32)> = spec.tokens.iter().cloned().zip(0..).collect();
        let merges = spec.merges.iter().map(|(left, right)| (token(*left), token(*right))).collect();
        let model = BPE::builder()
            .vocab_and_merges(vocabulary.into_iter().collect::<Vocab>(), merges)
            .ignore_merges(spec.pre.ignore_merges())
            .build()
            .map_err(fault)?;
        let mut words: Vec<PreTokenizerWrapper> = Vec::new();
        for pattern in spec.pre.patterns() {
            let pattern = SplitPattern::Regex(pattern.to_string());
            words.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(fault)?.into());
        }
        words.push(ByteLevel::new(false, false, false).into());
        let mut bpe = tokenizers::Tokenizer::new(model);
        bpe.with_pre_tokenizer(Some(Sequence::new(words)));
        let whole = |kind: &PieceKind| matches!(kind, PieceKind::Special | PieceKind::Added);
        let added: Vec<AddedToken> = spec
            .tokens
            .iter()
            .zip(&spec.kinds)
            .filter(|(_, kind)| whole(kind))
            .map(|(token, _)| AddedToken::from(token.clone(), true).normalized(false))
            .collect();
        bpe.add_special_tokens(&added);

        let chat = match &spec.template {
            None => None,
            Some(template) => {
                let text = |id: Option<u32>| id.map(token).unwrap_or_default();
                Some(ChatTemplate::new(template, &text(spec.bos), &text(spec.eos))?)
            }
        };
        Ok(Tokenizer { spec, pieces, bpe, chat, digest })
    }

    /// The tokenizer digest, a leaf of the model id.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it was built from.
    pub fn spec(&self) -> &TokenizerSpec {
        &self.spec
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Never: a tokenizer has at least one piece.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The ids of a prompt: `encode`, with the bos id in front where the model wants one.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let bos = self.spec.bos.filter(|_| self.spec.add_bos);
        Ok(bos.into_iter().chain(self.encode(text)?).collect())
    }

    /// The ids of a chat that the assistant is to continue.
    pub fn encode_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>> {
        let chat = self.chat.as_ref().ok_or_else(|| ModelError::missing("the model's chat template"))?;
        self.encode(&chat.render(messages)?)
    }

    /// The ids of a chat with more than roles and contents: see `ChatTemplate::render_json`.
    pub fn encode_chat_json(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&serde_json::Value>,
    ) -> Result<Vec<u32>> {
        let chat = self.chat.as_ref().ok_or_else(|| ModelError::missing("the model's chat template"))?;
        self.encode(&chat.render_json(messages, tools)?)
    }

    /// The ids of a text, special tokens in it as such. The pieces of the ids join to the text (in NFC where the
    /// model wants that); a text that the vocabulary has no pieces for is an error.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        within("text length", text.len() as u64, 0, MAX_TEXT as u64)?;
        let mut text = NormalizedString::from(text);
        if self.spec.pre.nfc() {
            NFC.normalize(&mut text).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        }
        let text = text.get();
        let encoding = self.bpe.encode_fast(text, false).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        let mut rest = text.as_bytes();
        for id in encoding.get_ids() {
            rest = rest
                .strip_prefix(self.piece(*id).unwrap_or_default())
                .ok_or_else(|| self.unspeakable(text, rest))?;
        }
        if !rest.is_empty() {
            return Err(self.unspeakable(text, rest));
        }
        Ok(encoding.get_ids().to_vec())
    }

    fn unspeakable(&self, text: &str, rest: &[u8]) -> ModelError {
        let at = text.len() - rest.len();
        let byte = rest.iter().find(|byte| !self.pieces.iter().any(|piece| piece[..] == [**byte]));
        let byte = byte.map(|b| format!(" (byte 0x{b:02x})")).unwrap_or_default();
        invalid(
            "text",
            format!("at byte {at}, or soon after, beyond the vocabulary{byte}"),
            "every byte needs a token",
        )
    }

    /// The bytes that an id stands for; None beyond the vocabulary.
    pub fn piece(&self, id: u32) -> Option<&[u8]> {
        self.pieces.get(id as usize).map(Vec::as_slice)
    }

    /// Whether an id is a control token, which is not shown to a user.
    pub fn is_special(&self, id: u32) -> bool {
        self.spec.kinds.get(id as usize) == Some(&PieceKind::Special)
    }

    /// The text of ids, without special tokens; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = TextStream::default();
        let mut text: String = ids.iter().map(|id| stream.push(self, *id)).collect();
        text.push_str(&stream.finish());
        text
    }
}

/// Text of ids as they come: what `push` returns is whole characters; the bytes of an unfinished one wait.
#[derive(Debug, Default)]
pub struct TextStream {
    waiting: Vec<u8>,
}

impl TextStream {
    /// The text that `id` completes.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        self.push_bytes(if tokenizer.is_special(id) { &[] } else { tokenizer.piece(id).unwrap_or_default() })
    }

    /// The text that more bytes complete.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.waiting.extend(bytes);
        // An incomplete character at the end has no error length: it may still be finished.
        let mut text = String::new();
        let mut taken = 0;
        for chunk in self.waiting.utf8_chunks() {
            text.push_str(chunk.valid());
            taken += chunk.valid().len();
            let end = taken + chunk.invalid().len();
            let unfinished = end == self.waiting.len()
                && std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
            if unfinished {
                break;
            }
            if taken != end {
                text.push(char::REPLACEMENT_CHARACTER);
            }
            taken = end;
        }
        self.waiting.drain(..taken);
        text
    }

    /// What is left when no more ids come.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.waiting).into_owned()
    }
}

/// The byte-level alphabet: the printable bytes of Latin-1 stand for themselves, the others, in order, for the
/// characters from U+0100.
pub(super) fn byte_alphabet() -> BTreeMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let own = (0..=255u8).filter(printable).map(|byte| (char::from(byte), byte));
    let others = ('\u{100}'..).zip((0..=255u8).filter(|byte| !printable(byte)));
    own.chain(others).collect()
}
