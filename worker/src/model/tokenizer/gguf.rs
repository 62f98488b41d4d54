//! A tokenizer in the metadata of a GGUF file.

use std::collections::BTreeMap;

use super::{sentencepiece, PieceKind, PreTokenizer, SpacePrefix, TokenizerSpec};
use crate::model::error::{invalid, Result};
use crate::model::gguf::{required, Gguf, GgufWriter};

impl TokenizerSpec {
    /// From the metadata of a GGUF file.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self> {
        let model = required("tokenizer.ggml.model", gguf.string("tokenizer.ggml.model"))?;
        let add_space = gguf.boolean("tokenizer.ggml.add_space_prefix")?;
        let pre = match model {
            "llama" if add_space == Some(false) => PreTokenizer::SentencePiece(SpacePrefix::Never),
            "llama" => PreTokenizer::SentencePiece(SpacePrefix::Each),
            "gpt2" => {
                if add_space == Some(true) {
                    return Err(invalid("tokenizer.ggml.add_space_prefix", true, "must be false"));
                }
                let pre = required("tokenizer.ggml.pre", gguf.string("tokenizer.ggml.pre"))?;
                PreTokenizer::from_ggml(pre).ok_or_else(|| {
                    invalid("tokenizer.ggml.pre", pre, "known are gpt-2, smollm, llama-bpe and qwen2")
                })?
            }
            _ => {
                let bound = "known are gpt2 (byte-level BPE) and llama (SentencePiece's)";
                return Err(invalid("tokenizer.ggml.model", model, bound));
            }
        };
        let add_bos = gguf.boolean("tokenizer.ggml.add_bos_token")?;
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
            6 => Ok(PieceKind::Byte),
            _ => Err(invalid(format!("tokenizer.ggml.token_type of {id}"), kind, "must be 1 to 6")),
        };
        let kinds: Vec<PieceKind> = types.into_iter().enumerate().map(kind).collect::<Result<_>>()?;

        let tokens: Vec<String> = tokens.into_iter().map(str::to_string).collect();
        let merges = if pre.space_prefix().is_some() {
            let scores = required("tokenizer.ggml.scores", gguf.floats("tokenizer.ggml.scores"))?;
            sentencepiece::from_scores(&tokens, &kinds, &scores)?
        } else {
            merges(gguf, &tokens)?
        };
        let last = u32::try_from(tokens.len()).unwrap_or(u32::MAX).saturating_sub(1);
        Ok(TokenizerSpec {
            pre,
            kinds,
            merges,
            bos: gguf.integer("tokenizer.ggml.bos_token_id", 0, last)?,
            eos: gguf.integer("tokenizer.ggml.eos_token_id", 0, last)?,
            add_bos: add_bos.unwrap_or(pre.adds_bos()),
            template: gguf.string("tokenizer.chat_template")?.map(str::to_string),
            tokens,
        })
    }

    /// Writes the metadata that `from_gguf` reads.
    pub fn write_gguf(&self, writer: &mut GgufWriter) {
        let prefix = self.pre.space_prefix();
        writer.string("tokenizer.ggml.model", if prefix.is_some() { "llama" } else { "gpt2" });
        writer.string("tokenizer.ggml.pre", self.pre.ggml());
        writer.strings("tokenizer.ggml.tokens", &self.tokens);
        let unknown = prefix.and_then(|_| self.unknown());
        let kind = |(kind, id): (&PieceKind, u32)| match kind {
            PieceKind::Normal => 1,
            PieceKind::Special if unknown == Some(id) => 2,
            PieceKind::Special => 3,
            PieceKind::Added => 4,
            PieceKind::Unused => 5,
            PieceKind::Byte => 6,
        };
        writer.i32s("tokenizer.ggml.token_type", &self.kinds.iter().zip(0..).map(kind).collect::<Vec<_>>());
        if let Some(prefix) = prefix {
            writer.f32s("tokenizer.ggml.scores", &self.scores());
            writer.bool("tokenizer.ggml.add_space_prefix", prefix != SpacePrefix::Never);
        } else {
            let merge = |(left, right): &(u32, u32)| {
                format!("{} {}", self.tokens[*left as usize], self.tokens[*right as usize])
            };
            writer.strings("tokenizer.ggml.merges", &self.merges.iter().map(merge).collect::<Vec<_>>());
        }
        for (name, id) in [("bos", self.bos), ("eos", self.eos), ("unknown", unknown)] {
            if let Some(id) = id {
                writer.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
            }
        }
        writer.bool("tokenizer.ggml.add_bos_token", self.add_bos);
        if let Some(template) = &self.template {
            writer.string("tokenizer.chat_template", template);
        }
    }
}

/// The merges that a file lists.
fn merges(gguf: &Gguf<'_>, tokens: &[String]) -> Result<Vec<(u32, u32)>> {
    let ids: BTreeMap<&str, u32> = tokens.iter().zip(0..).map(|(token, id)| (token.as_str(), id)).collect();
    let merges = required("tokenizer.ggml.merges", gguf.strings("tokenizer.ggml.merges"))?;
    let pair = |merge: &str| {
        let (left, right) = merge.split_once(' ').unwrap_or((merge, ""));
        ids.get(left).copied().zip(ids.get(right).copied()).ok_or_else(|| {
            let bound = "must be two tokens with a space between";
            invalid("tokenizer.ggml.merges", format!("{merge:?}"), bound)
        })
    };
    merges.into_iter().map(pair).collect()
}
