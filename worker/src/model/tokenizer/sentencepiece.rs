//! SentencePiece's BPE with byte fallback, as Llama 2, TinyLlama and Mistral 7B use it: a space is "▁" (U+2581), a
//! stretch of text is one word, and a character without a piece becomes the pieces of its bytes.
//!
//! A GGUF file ranks the pieces by their scores; a tokenizer.json lists merges. Both say the same when the merges are
//! all cuts of each piece into two others, piece by piece: `merges` is that list in the one order that is canonical.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use tokenizers::models::bpe::{Vocab, BPE};
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};

use super::json::brief;
use super::spec::MAX_MERGES;
use super::{PieceKind, TokenizerSpec};
use crate::model::error::{invalid, within, ModelError, Result};

/// What a space is in a piece.
pub(super) const SPACE: &str = "▁";
/// Longest normal piece, in bytes; SentencePiece's own are at most 16 characters unless it is told otherwise.
const MAX_PIECE: u64 = 256;

/// Where a space is put in front of the text. A stretch is what is between special and added tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpacePrefix {
    /// In front of every stretch, as the normaliser `Prepend` and llama.cpp do.
    Each,
    /// In front of every stretch that does not begin with one, as `Metaspace` does.
    Always,
    /// In front of a text that begins neither with one nor with a special or added token.
    First,
    Never,
}

impl SpacePrefix {
    /// Its name in the digest.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Each => "each",
            Self::Always => "always",
            Self::First => "first",
            Self::Never => "never",
        }
    }

    /// From the parts of a tokenizer.json that decide it.
    pub(super) fn from_json(
        normalizer: Option<&Value>,
        pre_tokenizer: Option<&Value>,
        decoder: Option<&Value>,
    ) -> Result<Self> {
        let space = |step: &Value| {
            step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == SPACE
        };
        let prepend = |step: &Value| step["type"] == "Prepend" && step["prepend"] == SPACE;
        let words = pre_tokenizer.unwrap_or(&Value::Null);
        let prefix = match (normalizer, pre_tokenizer) {
            (Some(step), None) if space(step) => Self::Never,
            (Some(steps), None) if steps["type"] == "Sequence" => match steps["normalizers"].as_array() {
                Some(steps) if steps.len() == 2 && prepend(&steps[0]) && space(&steps[1]) => Self::Each,
                Some(steps) if steps.len() == 1 && space(&steps[0]) => Self::Never,
                _ => return Err(invalid("normalizer", brief(steps), "must put and replace \"▁\" alone")),
            },
            (None, Some(_)) if words["type"] == "Metaspace" => {
                let prefix = match words.get("prepend_scheme").and_then(Value::as_str) {
                    Some("always") => Some(Self::Always),
                    Some("first") => Some(Self::First),
                    Some("never") => Some(Self::Never),
                    _ => None,
                };
                // What older files say must not contradict the scheme.
                let adds = words.get("add_prefix_space").unwrap_or(&Value::Null);
                match prefix {
                    Some(prefix)
                        if words["replacement"] == SPACE
                            && words["split"] == false
                            && (adds.is_null() || *adds == (prefix != Self::Never)) =>
                    {
                        prefix
                    }
                    _ => {
                        let bound = "must be Metaspace of \"▁\" with a prepend_scheme, and split false";
                        return Err(invalid("pre_tokenizer", brief(words), bound));
                    }
                }
            }
            (Some(other), _) => {
                let bound = "with byte_fallback it must put and replace \"▁\" alone, without a pre_tokenizer";
                return Err(invalid("normalizer", brief(other), bound));
            }
            (None, _) => {
                let bound = "with byte_fallback it must be Metaspace, or the normalizer what it does";
                return Err(invalid("pre_tokenizer", brief(words), bound));
            }
        };
        let mine = prefix.decoder();
        match decoder {
            Some(decoder) if *decoder == mine => Ok(prefix),
            other => {
                let found = brief(other.unwrap_or(&Value::Null));
                Err(invalid("decoder", found, format!("with this prefix it must be {mine}")))
            }
        }
    }

    /// Normalizer and pre-tokenizer of a tokenizer.json.
    pub(super) fn to_json(self) -> (Value, Value) {
        if self == Self::Each {
            let steps = json!([
                { "type": "Prepend", "prepend": SPACE },
                { "type": "Replace", "pattern": { "String": " " }, "content": SPACE },
            ]);
            return (json!({ "type": "Sequence", "normalizers": steps }), Value::Null);
        }
        let words = json!({
            "type": "Metaspace", "replacement": SPACE, "prepend_scheme": self.name(), "split": false,
        });
        (Value::Null, words)
    }

    /// The decoder of a tokenizer.json.
    pub(super) fn decoder(self) -> Value {
        let mut steps = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if self != Self::Never {
            steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        json!({ "type": "Sequence", "decoders": steps })
    }
}

/// Refuses a post-processor that does more than to put a token in front of a text.
pub(super) fn check_post_processor(processor: Option<&Value>) -> Result<()> {
    let Some(processor) = processor else { return Ok(()) };
    let steps = processor["single"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |step: &Value| step["Sequence"]["id"] == "A";
    let plain = match steps {
        [only] => text(only),
        [first, last] => first["SpecialToken"]["id"].is_string() && text(last),
        _ => false,
    };
    if processor["type"] == "TemplateProcessing" && plain {
        return Ok(());
    }
    Err(invalid(
        "post_processor",
        brief(processor),
        "must be TemplateProcessing of a text, or a token and a text",
    ))
}

/// The byte that a piece `<0xNN>` is.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let byte = u8::from_str_radix(digits, 16).ok()?;
    (byte_piece(byte) == token).then_some(byte)
}

fn byte_piece(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// A tokenizer.json does not say which of its pieces are bytes: those that are named so.
pub(super) fn mark_bytes(tokens: &[String], kinds: &mut [PieceKind]) {
    for (token, kind) in tokens.iter().zip(kinds) {
        if *kind == PieceKind::Normal && byte(token).is_some() {
            *kind = PieceKind::Byte;
        }
    }
}

/// The bytes that a piece decodes to.
pub(super) fn piece(token: &str, kind: PieceKind) -> Vec<u8> {
    match (kind, byte(token)) {
        (PieceKind::Byte, Some(byte)) => vec![byte],
        (PieceKind::Normal | PieceKind::Added, _) => token.replace(SPACE, " ").into_bytes(),
        _ => token.as_bytes().to_vec(),
    }
}

/// The normal pieces, which merges make, by their text.
struct Normal<'a> {
    tokens: &'a [String],
    ids: HashMap<&'a str, u32>,
}

impl<'a> Normal<'a> {
    fn new(tokens: &'a [String], kinds: &[PieceKind]) -> Result<Self> {
        let mut ids = HashMap::new();
        for ((token, kind), id) in tokens.iter().zip(kinds).zip(0u32..) {
            if *kind != PieceKind::Normal {
                continue;
            }
            within(format!("length of token {id}"), token.len() as u64, 1, MAX_PIECE)?;
            if let Some(other) = ids.insert(token.as_str(), id) {
                let bound = format!("token {other} is the same");
                return Err(invalid(format!("token {id}"), format!("{token:?}"), bound));
            }
        }
        Ok(Normal { tokens, ids })
    }

    /// The cuts of a piece into two pieces, the longest left one first.
    fn cuts(&self, token: &str) -> Vec<(u32, u32)> {
        let cut = |(at, _)| {
            let (left, right) = token.split_at(at);
            self.ids.get(left).copied().zip(self.ids.get(right).copied())
        };
        token.char_indices().rev().filter_map(cut).collect()
    }

    /// All merges, from the merged pieces in order of priority.
    fn merges(&self, ranked: impl IntoIterator<Item = u32>) -> Result<Vec<(u32, u32)>> {
        let mut merges = Vec::new();
        for id in ranked {
            merges.extend(self.cuts(&self.tokens[id as usize]));
            within("merges of the pieces", merges.len() as u64, 0, MAX_MERGES)?;
        }
        Ok(merges)
    }

    /// The pieces that merges make, by id.
    fn merged(&self) -> impl Iterator<Item = u32> + '_ {
        let ids = 0..self.tokens.len() as u32;
        ids.filter(|id| {
            let token = self.tokens[*id as usize].as_str();
            self.ids.get(token) == Some(id) && !self.cuts(token).is_empty()
        })
    }
}

/// The canonical merges of a list of them. Which cut of a piece comes before another does not count; that the piece's
/// cuts are together and all there does.
pub(super) fn canonical(
    tokens: &[String],
    kinds: &[PieceKind],
    merges: &[(u32, u32)],
) -> Result<Vec<(u32, u32)>> {
    let normal = Normal::new(tokens, kinds)?;
    within("merges of the pieces", merges.len() as u64, 0, MAX_MERGES)?;
    let mut canonical: Vec<(u32, u32)> = Vec::with_capacity(merges.len());
    let mut ranked = vec![false; tokens.len()];
    while let Some(&(left, right)) = merges.get(canonical.len()) {
        let refuse = |bound: String| {
            let pair = [left, right].map(|id| tokens.get(id as usize).map_or("", String::as_str));
            Err(invalid(format!("merge {}", canonical.len()), format!("{pair:?}"), bound))
        };
        let last = tokens.len() as u64 - 1;
        within("merged id", left.max(right).into(), 0, last)?;
        let joined = tokens[left as usize].clone() + &tokens[right as usize];
        let Some(id) = normal.ids.get(joined.as_str()) else {
            return refuse("must join to a normal piece".to_string());
        };
        let cuts = normal.cuts(&joined);
        let mut found: Vec<(u32, u32)> = merges[canonical.len()..].iter().take(cuts.len()).copied().collect();
        found.sort_unstable();
        let mut all = cuts.clone();
        all.sort_unstable();
        if found != all || std::mem::replace(&mut ranked[*id as usize], true) {
            let bound =
                format!("the {} cuts of {joined:?} into pieces must be together, each once", all.len());
            return refuse(bound);
        }
        canonical.extend(cuts);
    }
    if let Some(id) = normal.merged().find(|id| !ranked[*id as usize]) {
        let found = format!("{:?}", tokens[id as usize]);
        return Err(invalid(format!("token {id}"), found, "no merge makes it, though two pieces join to it"));
    }
    Ok(canonical)
}

/// The canonical merges of scored pieces: the higher score first.
pub(super) fn from_scores(tokens: &[String], kinds: &[PieceKind], scores: &[f32]) -> Result<Vec<(u32, u32)>> {
    let field = |id: usize| format!("tokenizer.ggml.scores of {id}");
    let len = tokens.len() as u64;
    within("length of tokenizer.ggml.scores", scores.len() as u64, len, len)?;
    if let Some((id, score)) = scores.iter().enumerate().find(|(_, score)| !score.is_finite()) {
        return Err(invalid(field(id), score, "must be a finite number"));
    }
    let normal = Normal::new(tokens, kinds)?;
    let score = |id: u32| scores[id as usize];
    let mut ranked: Vec<u32> = normal.merged().collect();
    ranked.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
    // Which of two comes first would be left to whoever reads the file.
    if let Some(pair) = ranked.windows(2).find(|pair| score(pair[0]) == score(pair[1])) {
        let bound = format!("that of {} too, and pieces that merges make need an order", pair[0]);
        return Err(invalid(field(pair[1] as usize), score(pair[1]), bound));
    }
    normal.merges(ranked)
}

impl TokenizerSpec {
    /// Scores from which `from_scores` makes the merges: 0, -1, and so on for the merged pieces, then less for what
    /// else is normal.
    pub(super) fn scores(&self) -> Vec<f32> {
        let mut rank: Vec<Option<usize>> = vec![None; self.tokens.len()];
        let ids: HashMap<&str, usize> = self.tokens.iter().map(String::as_str).zip(0..).collect();
        let mut count = 0;
        for (left, right) in &self.merges {
            let joined = self.tokens[*left as usize].clone() + &self.tokens[*right as usize];
            let Some(id) = ids.get(joined.as_str()) else { continue };
            rank[*id].get_or_insert_with(|| {
                count += 1;
                count - 1
            });
        }
        let score = |(kind, rank): (&PieceKind, Option<usize>)| match (kind, rank) {
            (_, Some(rank)) => 0.0 - rank as f32,
            (PieceKind::Normal, None) => {
                count += 1;
                1.0 - count as f32
            }
            _ => 0.0,
        };
        self.kinds.iter().zip(rank).map(score).collect()
    }

    /// The piece for what cannot be said, which the formats want to name and byte fallback leaves without use.
    pub(super) fn unknown(&self) -> Option<u32> {
        let mut pieces = self.tokens.iter().zip(&self.kinds);
        pieces.position(|(token, kind)| token == "<unk>" && *kind == PieceKind::Special).map(|id| id as u32)
    }

    /// What `check` wants of SentencePiece pieces besides.
    pub(super) fn check_pieces(&self) -> Result<()> {
        let mut bytes = [None; 256];
        for (id, (token, kind)) in self.tokens.iter().zip(&self.kinds).enumerate() {
            if *kind == PieceKind::Byte {
                let Some(byte) = byte(token) else {
                    let bound = "a byte must be written <0x00> to <0xFF>";
                    return Err(invalid(format!("token {id}"), format!("{token:?}"), bound));
                };
                bytes[usize::from(byte)] = Some(id);
            }
        }
        if let Some(byte) = (0..=u8::MAX).find(|byte| bytes[usize::from(*byte)].is_none()) {
            return Err(ModelError::missing(format!("byte piece {}", byte_piece(byte))));
        }
        if !self.tokens.iter().zip(&self.kinds).any(|(t, k)| t == SPACE && *k == PieceKind::Normal) {
            return Err(ModelError::missing("normal piece \"▁\", the space,"));
        }
        if canonical(&self.tokens, &self.kinds, &self.merges)? != self.merges {
            return Err(invalid("merges", "other", "must have a piece's longest left part first"));
        }
        Ok(())
    }

    /// The library's tokenizer, but for the tokens that are found as a whole.
    pub(super) fn sentencepiece(&self, prefix: SpacePrefix) -> tokenizers::Result<tokenizers::Tokenizer> {
        let token = |id: &u32| self.tokens[*id as usize].clone();
        // What is unused must not be found, were it but one character.
        let used = self.tokens.iter().cloned().zip(0..).zip(&self.kinds);
        let vocabulary = used.filter(|(_, kind)| **kind != PieceKind::Unused).map(|(entry, _)| entry);
        let merges = self.merges.iter().map(|(left, right)| (token(left), token(right))).collect();
        let model = BPE::builder()
            .vocab_and_merges(vocabulary.collect::<Vocab>(), merges)
            .byte_fallback(true)
            .build()?;
        let mut bpe = tokenizers::Tokenizer::new(model);
        let scheme = match prefix {
            SpacePrefix::Each => {
                let steps = vec![
                    Prepend::new(SPACE.to_string()).into(),
                    Replace::new(" ".to_string(), SPACE)?.into(),
                ];
                bpe.with_normalizer(Some(Sequence::new(steps)));
                return Ok(bpe);
            }
            SpacePrefix::Always => PrependScheme::Always,
            SpacePrefix::First => PrependScheme::First,
            SpacePrefix::Never => PrependScheme::Never,
        };
        bpe.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
        Ok(bpe)
    }
}

#[cfg(test)]
mod tests;
