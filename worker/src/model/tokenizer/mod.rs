//! Text to tokens and back: byte-level BPE, as GPT-2, SmolLM2, Llama 3 and Qwen use it, and SentencePiece's, as Llama 2
//! and Mistral 7B. `wordpiece` is what encoders use.
//!
//! The digest covers everything that decides which ids a text becomes and which bytes an id is, in a form that
//! does not depend on the file the tokenizer came from: `spec`. `gguf` and `json` read and write that form.

mod gguf;
pub(in crate::model) mod json;
mod sentencepiece;
mod spec;
#[cfg(test)]
mod tests;
mod wordpiece;

use std::borrow::Cow;

use serde_json::Value;
use tokenizers::models::bpe::{Vocab, BPE};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{AddedToken, NormalizedString, Normalizer, SplitDelimiterBehavior};

use super::chat::{Chat, ChatMessage, Job, Sandbox, MAX_MESSAGES};
use super::error::{invalid, within, ModelError, Result};
use crate::canon::commit::Digest;

pub use json::{HfTokenizer, TokenizerFiles};
pub use sentencepiece::SpacePrefix;
pub(in crate::model) use spec::byte_alphabet;
pub use spec::{PieceKind, PreTokenizer, TokenizerSpec};
pub use wordpiece::{WordPiece, WordPieceSpec};

/// Greatest length of a text to encode, in bytes.
pub const MAX_TEXT: usize = 4 << 20;

/// A tokenizer, ready to use from many threads.
pub struct Tokenizer {
    spec: TokenizerSpec,
    pieces: Vec<Vec<u8>>,
    bpe: tokenizers::Tokenizer,
    /// Where the chat template is run.
    sandbox: Option<Sandbox>,
    digest: Digest,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({:?}, {} tokens)", self.spec.pre, self.pieces.len())
    }
}

impl Tokenizer {
    /// Builds the tokenizer; an inconsistent description is an error.
    pub fn new(spec: TokenizerSpec) -> Result<Self> {
        spec.check()?;
        let pieces = spec.pieces()?;
        let digest = spec.digest(&pieces);
        let fault = |e: tokenizers::Error| ModelError::Tokenizer(e.to_string());

        let mut bpe = match spec.pre.space_prefix() {
            Some(prefix) => spec.sentencepiece(prefix),
            None => byte_level(&spec),
        }
        .map_err(fault)?;
        let added: Vec<AddedToken> = spec
            .tokens
            .iter()
            .zip(&spec.kinds)
            .filter(|(_, kind)| kind.is_whole())
            .map(|(token, _)| AddedToken::from(token.clone(), true).normalized(false))
            .collect();
        bpe.add_special_tokens(&added);

        Ok(Tokenizer { spec, pieces, bpe, sandbox: None, digest })
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

    /// Runs the chat template in `sandbox` from now on; before, it is not run at all.
    pub fn set_sandbox(&mut self, sandbox: Sandbox) {
        self.sandbox = Some(sandbox);
    }

    /// The ids of a chat that the assistant is to continue.
    pub fn encode_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>> {
        let bytes: usize = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        within("chat length", bytes as u64, 0, MAX_TEXT as u64)?;
        let messages: Vec<Value> = messages.iter().map(ChatMessage::to_json).collect();
        self.encode_chat_json(&messages, None)
    }

    /// The same for messages with more than role and content, as tool calls, and for a list of tools: the template says
    /// what becomes of them. Who calls this has bounded their size.
    pub fn encode_chat_json(&self, messages: &[Value], tools: Option<&Value>) -> Result<Vec<u32>> {
        within("chat messages", messages.len() as u64, 1, MAX_MESSAGES as u64)?;
        let chat = Chat { messages: messages.into(), tools: tools.map(Cow::Borrowed) };
        self.encode(&self.run_template(Some(chat))?)
    }

    /// Whether the chat template compiles, where there is one.
    pub fn check_template(&self) -> Result<()> {
        match self.spec.template {
            Some(_) => self.run_template(None).map(drop),
            None => Ok(()),
        }
    }

    fn run_template(&self, chat: Option<Chat>) -> Result<String> {
        let job = self.job(chat)?;
        let sandbox = self.sandbox.as_ref();
        let sandbox =
            sandbox.ok_or_else(|| ModelError::Sandbox("there is no sandbox to run it in".into()))?;
        sandbox.run(&job)
    }

    pub(in crate::model) fn job<'a>(&'a self, chat: Option<Chat<'a>>) -> Result<Job<'a>> {
        let template = self.spec.template.as_deref();
        let template = template.ok_or_else(|| ModelError::missing("the model's chat template"))?;
        let text = |id: Option<u32>| id.map_or("", |id| &self.spec.tokens[id as usize]).into();
        Ok(Job { template: template.into(), bos: text(self.spec.bos), eos: text(self.spec.eos), chat })
    }

    /// The ids of a text, special tokens in it as such. The pieces of the ids join to the text (in NFC where the
    /// model wants that, with the spaces that SentencePiece puts in front); a text that the vocabulary has no pieces for
    /// is an error.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        within("text length", text.len() as u64, 0, MAX_TEXT as u64)?;
        let fault = |e: tokenizers::Error| ModelError::Tokenizer(e.to_string());
        if self.spec.pre.space_prefix().is_some() {
            // Every byte has a piece.
            return Ok(self.bpe.encode_fast(text, false).map_err(fault)?.get_ids().to_vec());
        }
        let mut text = NormalizedString::from(text);
        if self.spec.pre.nfc() {
            NFC.normalize(&mut text).map_err(fault)?;
        }
        let text = text.get();
        let encoding = self.bpe.encode_fast(text, false).map_err(fault)?;
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
        let mut known = [false; 256];
        for piece in &self.pieces {
            if let [byte] = piece[..] {
                known[usize::from(byte)] = true;
            }
        }
        let byte = rest.iter().find(|byte| !known[usize::from(**byte)]);
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

    /// The text of ids, without special tokens and the space that encoding puts in front; bytes that are not UTF-8
    /// become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = TextStream::whole(self);
        let mut text: String = ids.iter().map(|id| stream.push(self, *id)).collect();
        text.push_str(&stream.finish());
        text
    }
}

/// The library's byte-level tokenizer, but for the tokens that are found as a whole.
fn byte_level(spec: &TokenizerSpec) -> tokenizers::Result<tokenizers::Tokenizer> {
    let token = |id: u32| spec.tokens[id as usize].clone();
    let merges = spec.merges.iter().map(|(left, right)| (token(*left), token(*right))).collect();
    let model = BPE::builder()
        .vocab_and_merges(spec.tokens.iter().cloned().zip(0..).collect::<Vocab>(), merges)
        .ignore_merges(spec.pre.ignore_merges())
        .build()?;
    let mut bpe = tokenizers::Tokenizer::new(model);
    bpe.with_pre_tokenizer(Some(words(spec.pre)?));
    Ok(bpe)
}

/// What cuts a text into words, and writes them in the byte-level alphabet.
fn words(pre: PreTokenizer) -> tokenizers::Result<Sequence> {
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for pattern in pre.patterns() {
        let pattern = SplitPattern::Regex(pattern.to_string());
        steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into());
    }
    steps.push(ByteLevel::new(false, false, false).into());
    Ok(Sequence::new(steps))
}

/// Text of ids as they come: what `push` returns is whole characters; the bytes of an unfinished one wait. The default
/// is of text that goes on from other text: no space is taken away.
#[derive(Debug, Default)]
pub struct TextStream {
    waiting: Vec<u8>,
    /// Whether a space that comes first is one that encoding puts in front of every text.
    prefixed: bool,
}

impl TextStream {
    /// Of a text of its own, as the library decodes it: the space that encoding puts in front is not shown.
    pub fn whole(tokenizer: &Tokenizer) -> Self {
        let prefixed = tokenizer.spec.pre.space_prefix().is_some_and(|prefix| prefix != SpacePrefix::Never);
        TextStream { waiting: Vec::new(), prefixed }
    }

    /// The text that `id` completes.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        self.push_bytes(if tokenizer.is_special(id) { &[] } else { tokenizer.piece(id).unwrap_or_default() })
    }

    /// The text that more bytes complete.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> String {
        let hides = !bytes.is_empty() && std::mem::take(&mut self.prefixed);
        self.waiting.extend(bytes.strip_prefix(b" ").filter(|_| hides).unwrap_or(bytes));
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
