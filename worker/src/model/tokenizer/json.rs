//! A tokenizer as the transformers library keeps it: `tokenizer.json`, and what `tokenizer_config.json` says of bos,
//! eos and the chat template.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::Deserialize;
use serde_json::{json, Value};

use super::sentencepiece::{self, SpacePrefix};
use super::{PieceKind, PreTokenizer, TokenizerSpec};
use crate::model::documents::{parse, Settings, Unique};
use crate::model::error::{invalid, within, ModelError, Result};

pub const TOKENIZER: &str = "tokenizer.json";
pub const CONFIG: &str = "tokenizer_config.json";
const MAX_TOKENIZER: u64 = 64 << 20;
const MAX_CONFIG: u64 = 16 << 20;

/// The files of a tokenizer, whole.
#[derive(Clone, Copy, Debug)]
pub struct TokenizerFiles<'a> {
    pub tokenizer: &'a [u8],
    pub config: Option<&'a [u8]>,
    /// A chat template in a file of its own.
    pub template: Option<&'a [u8]>,
}

/// The two documents of a tokenizer.
#[derive(Debug)]
pub struct HfTokenizer {
    pub tokenizer: Value,
    pub config: Value,
}

#[derive(Deserialize)]
pub(super) struct Document<M> {
    #[serde(default)]
    pub added_tokens: Vec<Added>,
    #[serde(default)]
    pub normalizer: Option<Value>,
    #[serde(default)]
    pub pre_tokenizer: Option<Value>,
    #[serde(default)]
    pub post_processor: Option<Value>,
    #[serde(default)]
    pub decoder: Option<Value>,
    pub model: M,
}

#[derive(Deserialize)]
pub(super) struct Added {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
}

#[derive(Deserialize)]
struct Bpe {
    #[serde(default)]
    r#type: Option<String>,
    vocab: Unique<u32>,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
}

/// Two tokens, as older files and newer ones write them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair([String; 2]),
    Joined(String),
}

impl<M: DeserializeOwned> Document<M> {
    pub fn parse(files: &TokenizerFiles<'_>) -> Result<Self> {
        parse(TOKENIZER, files.tokenizer, MAX_TOKENIZER)
    }
}

/// The settings beside a tokenizer; none are none.
pub(super) fn settings(files: &TokenizerFiles<'_>) -> Result<Settings> {
    Settings::parse(CONFIG, files.config.unwrap_or(b"{}"), MAX_CONFIG)
}

/// Tokens and kinds by id, up to `vocab`: those of the model, the added ones over them, and unused ids between.
pub(super) fn pieces(
    vocab: u32,
    model: &BTreeMap<String, u32>,
    added: &[Added],
) -> Result<(Vec<String>, Vec<PieceKind>)> {
    let last = u64::from(within("tokens of the tokenizer", vocab.into(), 1, 1 << 20)? as u32 - 1);
    let mut pieces: Vec<Option<(&str, PieceKind)>> = vec![None; vocab as usize];
    for (token, id) in model {
        within(format!("id of token {token:?}"), (*id).into(), 0, last)?;
        if let Some((other, _)) = pieces[*id as usize].replace((token, PieceKind::Normal)) {
            return Err(invalid(format!("id of token {token:?}"), id, format!("that of {other:?} too")));
        }
    }
    for token in added {
        let field = format!("id of added token {:?}", token.content);
        within(&field, token.id.into(), 0, last)?;
        if token.lstrip || token.rstrip || token.single_word {
            return Err(invalid(field, token.id, "lstrip, rstrip and single_word must be false"));
        }
        match pieces[token.id as usize] {
            Some((other, _)) if other != token.content => {
                return Err(invalid(field, token.id, format!("that of {other:?} too")));
            }
            _ => {}
        }
        let kind = if token.special || looks_special(&token.content) {
            PieceKind::Special
        } else {
            PieceKind::Added
        };
        pieces[token.id as usize] = Some((&token.content, kind));
    }
    let unused = |id: usize| (format!("[PAD{id}]"), PieceKind::Unused);
    let named = |(token, kind): (&str, PieceKind)| (token.to_string(), kind);
    Ok(pieces.into_iter().enumerate().map(|(id, piece)| piece.map_or_else(|| unused(id), named)).unzip())
}

/// Added tokens that are written like control tokens are such, whatever the file says: llama.cpp's converter sees it so.
fn looks_special(token: &str) -> bool {
    let between = |open: &str, close: &str| token.starts_with(open) && token.ends_with(close);
    matches!(token, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

/// The id of the token that tokenizer_config.json names under `key`; else `other`, which config.json may know.
pub(super) fn named_id(
    settings: &Settings,
    key: &str,
    tokens: &[String],
    other: Option<u32>,
) -> Result<Option<u32>> {
    let text = settings.get(key, "a token", |value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(token) => token.get("content")?.as_str().map(str::to_string),
        _ => None,
    })?;
    let Some(text) = text else { return Ok(other) };
    match tokens.iter().position(|token| *token == text) {
        Some(id) => Ok(Some(id as u32)),
        None => Err(invalid(settings.field(key), format!("{text:?}"), "must be a token")),
    }
}

impl PreTokenizer {
    const BYTE_LEVEL: [Self; 4] = [Self::Gpt2, Self::SmolLm, Self::Llama3, Self::Qwen2];

    /// From the parts of a tokenizer.json that decide it.
    fn from_json(document: &Document<Bpe>, ignore_merges: bool) -> Result<Self> {
        let nfc = match &document.normalizer {
            None => false,
            Some(value) if value["type"] == "NFC" => true,
            Some(other) => return Err(invalid("normalizer", brief(other), "must be null or NFC")),
        };
        let mut patterns = Vec::new();
        let whole = document.pre_tokenizer.as_ref().unwrap_or(&Value::Null);
        let steps = match whole["pretokenizers"].as_array() {
            Some(steps) if whole["type"] == "Sequence" => &steps[..],
            _ => std::slice::from_ref(whole),
        };
        let unknown = |step: &Value| Err(invalid("pre_tokenizer", brief(step), "not known"));
        for (n, step) in steps.iter().enumerate() {
            match step["type"].as_str() {
                Some("Digits") if step["individual_digits"] == true => patterns.push(r"\p{N}"),
                Some("Split") if step["behavior"] == "Isolated" && step["invert"] == false => {
                    match step["pattern"]["Regex"].as_str() {
                        Some(regex) => patterns.push(regex),
                        None => return unknown(step),
                    }
                }
                Some("ByteLevel") if step["add_prefix_space"] == false && n + 1 == steps.len() => {
                    if step.get("use_regex").is_none_or(|on| *on == true) {
                        patterns.push(super::spec::GPT2);
                    }
                }
                _ => return unknown(step),
            }
        }
        let fits = |pre: &Self| {
            pre.patterns() == patterns && pre.nfc() == nfc && pre.ignore_merges() == ignore_merges
        };
        Self::BYTE_LEVEL.into_iter().find(fits).ok_or_else(|| {
            let found = format!("{} with NFC {nfc}, ignore_merges {ignore_merges}", brief(whole));
            invalid("pre_tokenizer", found, "known are those of gpt-2, smollm, llama-bpe and qwen2")
        })
    }

    fn to_json(self) -> (Value, Value) {
        let bytes = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
        let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
        let sequence = |steps: Vec<Value>| json!({ "type": "Sequence", "pretokenizers": steps });
        let words = match self {
            Self::Gpt2 => bytes(true),
            Self::SmolLm => {
                sequence(vec![json!({ "type": "Digits", "individual_digits": true }), bytes(true)])
            }
            Self::Llama3 | Self::Qwen2 => sequence(vec![split(self.patterns()[0]), bytes(false)]),
            Self::SentencePiece(prefix) => return prefix.to_json(),
        };
        (if self.nfc() { json!({ "type": "NFC" }) } else { Value::Null }, words)
    }
}

/// Where SentencePiece puts spaces in front; what else there is must be as SentencePiece has it.
fn sentencepiece_prefix(document: &Document<Bpe>, settings: &Settings) -> Result<SpacePrefix> {
    let Document { normalizer, pre_tokenizer, decoder, .. } = document;
    let prefix = SpacePrefix::from_json(normalizer.as_ref(), pre_tokenizer.as_ref(), decoder.as_ref())?;
    if document.model.ignore_merges {
        return Err(invalid("ignore_merges of tokenizer.json", true, "must be false with byte_fallback"));
    }
    if let Some(added) = document.added_tokens.iter().find(|added| added.normalized) {
        let field = format!("normalized of added token {:?}", added.content);
        return Err(invalid(field, true, "must be false with byte_fallback"));
    }
    sentencepiece::check_post_processor(document.post_processor.as_ref())?;
    match settings.boolean("add_prefix_space")? {
        Some(adds) if adds != (prefix != SpacePrefix::Never) => {
            Err(invalid(settings.field("add_prefix_space"), adds, "tokenizer.json says otherwise"))
        }
        _ => Ok(prefix),
    }
}

pub(super) fn brief(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

/// The special token that a text begins with, by the template of the post-processor.
fn first_token(processor: &Value) -> Option<&str> {
    if processor["type"] == "TemplateProcessing" {
        return processor["single"][0]["SpecialToken"]["id"].as_str();
    }
    processor["processors"].as_array()?.iter().find_map(first_token)
}

impl TokenizerSpec {
    /// From the files of the transformers library. `vocab` is the number of ids that the model has; `bos` and `eos` are
    /// the ids of config.json, for where tokenizer_config.json names none.
    pub fn from_hf(
        files: &TokenizerFiles<'_>,
        vocab: u32,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> Result<Self> {
        let document = Document::<Bpe>::parse(files)?;
        let (settings, model) = (settings(files)?, &document.model);
        if let Some(other) = model.r#type.as_deref().filter(|kind| *kind != "BPE") {
            return Err(invalid("model.type of tokenizer.json", other, "known is BPE"));
        }
        let affix = |affix: &Option<String>| affix.as_ref().is_some_and(|text| !text.is_empty());
        if model.dropout.is_some_and(|p| p != 0.0)
            || affix(&model.continuing_subword_prefix)
            || affix(&model.end_of_word_suffix)
        {
            let bound = "must be BPE without dropout, prefix and suffix";
            return Err(invalid("model of tokenizer.json", "another kind of BPE", bound));
        }
        let pre = if model.byte_fallback {
            PreTokenizer::SentencePiece(sentencepiece_prefix(&document, &settings)?)
        } else {
            PreTokenizer::from_json(&document, model.ignore_merges)?
        };
        let (tokens, mut kinds) = pieces(vocab, &model.vocab.0, &document.added_tokens)?;

        let id = |token: &str| model.vocab.0.get(token).copied();
        let mut merges: Vec<(u32, u32)> = model
            .merges
            .iter()
            .map(|merge| {
                let (left, right) = match merge {
                    Merge::Pair([left, right]) => (left.as_str(), right.as_str()),
                    Merge::Joined(text) => text.split_once(' ').unwrap_or((text, "")),
                };
                id(left).zip(id(right)).ok_or_else(|| {
                    invalid("merges of tokenizer.json", format!("{left:?}, {right:?}"), "must be two tokens")
                })
            })
            .collect::<Result<_>>()?;
        if model.byte_fallback {
            sentencepiece::mark_bytes(&tokens, &mut kinds);
            merges = sentencepiece::canonical(&tokens, &kinds, &merges)?;
        }

        if settings.boolean("add_eos_token")? == Some(true) {
            return Err(invalid(settings.field("add_eos_token"), true, "must be false"));
        }
        let bos = named_id(&settings, "bos_token", &tokens, bos)?;
        let eos = named_id(&settings, "eos_token", &tokens, eos)?;
        let first = document.post_processor.as_ref().and_then(first_token);
        let begins = bos.is_some_and(|id| first == tokens.get(id as usize).map(String::as_str));
        if let Some(other) = first.filter(|_| model.byte_fallback && !begins) {
            return Err(invalid("post_processor", format!("{other:?} in front"), "must be the bos token"));
        }
        Ok(TokenizerSpec {
            pre,
            kinds,
            merges,
            bos,
            eos,
            add_bos: settings.boolean("add_bos_token")?.unwrap_or(begins),
            template: template(&settings, files.template)?,
            tokens,
        })
    }

    /// The files that `from_hf` reads as this. A tokenizer that they cannot say is an error.
    pub fn to_hf(&self) -> Result<HfTokenizer> {
        let text = |id: Option<u32>| id.map(|id| self.tokens[id as usize].as_str());
        let (vocab, added) = vocab_and_added(&self.tokens, &self.kinds);
        let merges: Vec<[&str; 2]> = self
            .merges
            .iter()
            .map(|(left, right)| [left, right].map(|id| self.tokens[*id as usize].as_str()))
            .collect();
        let (normalizer, pre_tokenizer) = self.pre.to_json();
        let post_processor = match text(self.bos.filter(|_| self.add_bos)) {
            None => Value::Null,
            Some(bos) => {
                let first = json!({ "SpecialToken": { "id": bos, "type_id": 0 } });
                let sequence = |id: &str, n: u32| json!({ "Sequence": { "id": id, "type_id": n } });
                let second = json!({ "SpecialToken": { "id": bos, "type_id": 1 } });
                json!({
                    "type": "TemplateProcessing",
                    "single": [first, sequence("A", 0)],
                    "pair": [first, sequence("A", 0), second, sequence("B", 1)],
                    "special_tokens": { bos: { "id": bos, "ids": [self.bos], "tokens": [bos] } },
                })
            }
        };
        let prefix = self.pre.space_prefix();
        let decoder = prefix.map(SpacePrefix::decoder);
        let decoder = decoder.unwrap_or_else(|| {
            json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true })
        });
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": post_processor,
            "decoder": decoder,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": text(prefix.and_then(|_| self.unknown())),
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": prefix.is_some(),
                "byte_fallback": prefix.is_some(),
                "ignore_merges": self.pre.ignore_merges(),
                "vocab": vocab,
                "merges": merges,
            },
        });
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self.add_bos,
            "add_eos_token": false,
            "bos_token": text(self.bos),
            "eos_token": text(self.eos),
            "clean_up_tokenization_spaces": false,
        });
        if let Some(template) = &self.template {
            config["chat_template"] = template.as_str().into();
        }
        let written = HfTokenizer { tokenizer, config };
        let (tokenizer, config) = (written.tokenizer.to_string(), written.config.to_string());
        let files = TokenizerFiles {
            tokenizer: tokenizer.as_bytes(),
            config: Some(config.as_bytes()),
            template: None,
        };
        let again = Self::from_hf(&files, self.tokens.len() as u32, None, None)?;
        for (id, (mine, theirs)) in self.tokens.iter().zip(&again.tokens).enumerate() {
            if mine != theirs || self.kinds[id] != again.kinds[id] {
                let found = format!("{mine:?} ({:?})", self.kinds[id]);
                return Err(invalid(format!("token {id}"), found, "cannot be said in tokenizer.json"));
            }
        }
        if again != *self {
            return Err(ModelError::Tokenizer("cannot be said in tokenizer.json".to_string()));
        }
        Ok(written)
    }
}

/// The chat template: the file's, as the transformers library has it, else the one of tokenizer_config.json (of several
/// the default).
pub(super) fn template(settings: &Settings, file: Option<&[u8]>) -> Result<Option<String>> {
    if let Some(file) = file {
        return match std::str::from_utf8(file) {
            Ok(text) => Ok(Some(text.to_string())),
            Err(e) => Err(invalid("chat_template.jinja", e, "must be UTF-8")),
        };
    }
    let text = |value: &Value| value.as_str().map(str::to_string);
    settings.get("chat_template", "a template, or templates with a default", |value| match value {
        Value::Array(templates) => {
            let default = templates.iter().find(|t| t["name"] == "default")?;
            text(&default["template"])
        }
        one => text(one),
    })
}

/// The tokens by their ids, and those of them that no text is cut into: members `vocab` and `added_tokens`.
pub(super) fn vocab_and_added(tokens: &[String], kinds: &[PieceKind]) -> (Value, Vec<Value>) {
    let used = || tokens.iter().zip(kinds).zip(0u32..).filter(|((_, kind), _)| **kind != PieceKind::Unused);
    let vocab: serde_json::Map<String, Value> =
        used().map(|((token, _), id)| (token.clone(), id.into())).collect();
    let added = used()
        .filter(|((_, kind), _)| !matches!(kind, PieceKind::Normal | PieceKind::Byte))
        .map(|((token, kind), id)| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind == PieceKind::Special,
            })
        })
        .collect();
    (vocab.into(), added)
}

#[cfg(test)]
mod tests {
    use super::super::spec::byte_alphabet;
    use super::*;

    fn spec(pre: PreTokenizer, add_bos: bool) -> TokenizerSpec {
        let mut tokens = vec![String::new(); 256];
        for (letter, byte) in byte_alphabet() {
            tokens[usize::from(byte)] = letter.to_string();
        }
        tokens.extend(["<s>", "th", "the", "tool", "[PAD260]"].map(str::to_string));
        let mut kinds = vec![PieceKind::Normal; 256];
        kinds.extend([
            PieceKind::Special,
            PieceKind::Normal,
            PieceKind::Normal,
            PieceKind::Added,
            PieceKind::Unused,
        ]);
        let merges = vec![(116, 104), (257, 101)];
        let template = Some("{{ messages }}".to_string());
        TokenizerSpec { pre, tokens, kinds, merges, bos: Some(256), eos: None, add_bos, template }
    }

    fn files(written: &HfTokenizer) -> (Vec<u8>, Vec<u8>) {
        (written.tokenizer.to_string().into_bytes(), written.config.to_string().into_bytes())
    }

    /// What is written is read as the same, and the tokenizers library itself gives the ids that we do.
    #[test]
    fn written_as_the_library_reads() {
        let text = "the THE th 123 it's\n\n the<s>tool é 漢字";
        for pre in PreTokenizer::BYTE_LEVEL {
            for add_bos in [false, true] {
                let spec = spec(pre, add_bos);
                let (tokenizer, _) = files(&spec.to_hf().unwrap());
                let theirs = tokenizers::Tokenizer::from_bytes(&tokenizer).unwrap();
                let ours = crate::model::Tokenizer::new(spec).unwrap();
                let ids = theirs.encode_fast(text, true).unwrap().get_ids().to_vec();
                assert_eq!(ours.encode_prompt(text).unwrap(), ids, "{pre:?}");
            }
        }
    }

    #[test]
    fn templates_and_named_tokens() {
        let written = spec(PreTokenizer::Qwen2, false).to_hf().unwrap();
        let read = |config: Value, template: Option<&[u8]>| {
            let (tokenizer, config) = (written.tokenizer.to_string(), config.to_string());
            let files =
                TokenizerFiles { tokenizer: tokenizer.as_bytes(), config: Some(config.as_bytes()), template };
            TokenizerSpec::from_hf(&files, 261, Some(3), None).map_err(|e| e.to_string())
        };
        let named = json!({ "bos_token": { "content": "<s>" }, "eos_token": "tool",
            "chat_template": [{ "name": "rag", "template": "no" }, { "name": "default", "template": "yes" }] });
        let spec = read(named.clone(), None).unwrap();
        assert_eq!((spec.bos, spec.eos, spec.template.as_deref()), (Some(256), Some(259), Some("yes")));
        let spec = read(named, Some(b"file")).unwrap();
        assert_eq!(spec.template.as_deref(), Some("file"), "a file of its own goes first");
        assert!(read(json!({}), Some(b"\xff")).unwrap_err().contains("chat_template.jinja"));
        let spec = read(json!({ "bos_token": null }), Some(b"file")).unwrap();
        assert_eq!((spec.bos, spec.template.as_deref()), (Some(3), Some("file")));
        assert!(read(json!({ "eos_token": "</s>" }), None)
            .unwrap_err()
            .contains("eos_token of tokenizer_config.json"));
        assert!(read(json!({ "add_eos_token": true }), None).unwrap_err().contains("must be false"));
    }

    #[test]
    fn refused() {
        let good = spec(PreTokenizer::Gpt2, false).to_hf().unwrap().tokenizer;
        let refused = |change: &dyn Fn(&mut Value), part: &str| {
            let mut document = good.clone();
            change(&mut document);
            let text = document.to_string();
            let files = TokenizerFiles { tokenizer: text.as_bytes(), config: None, template: None };
            let error = TokenizerSpec::from_hf(&files, 261, None, None).unwrap_err().to_string();
            assert!(error.contains(part), "{part:?} in {error:?}");
        };
        refused(&|d| d["model"]["type"] = "Unigram".into(), "known is BPE");
        refused(&|d| d["model"]["byte_fallback"] = true.into(), "byte_fallback");
        refused(&|d| d["normalizer"] = json!({ "type": "Lowercase" }), "normalizer");
        refused(&|d| d["pre_tokenizer"]["add_prefix_space"] = true.into(), "pre_tokenizer");
        refused(&|d| d["pre_tokenizer"] = json!({ "type": "Split" }), "pre_tokenizer");
        refused(&|d| d["model"]["vocab"]["xx"] = 261.into(), "id of token \"xx\" is 261: must be 0 to 260");
        refused(&|d| d["model"]["vocab"]["xx"] = 65.into(), "that of");
        refused(&|d| d["model"]["merges"][0] = json!("t qq"), "must be two tokens");
        refused(&|d| d["added_tokens"][0]["lstrip"] = true.into(), "must be false");
        refused(&|d| d["added_tokens"][0]["id"] = 9.into(), "that of");
        refused(&|d| d["model"]["merges"] = json!(3), "tokenizer.json is");
        let twice = good.to_string().replacen("\"th\":257", "\"th\":257,\"th\":260", 1);
        let files = TokenizerFiles { tokenizer: twice.as_bytes(), config: None, template: None };
        let error = TokenizerSpec::from_hf(&files, 261, None, None).unwrap_err().to_string();
        assert!(error.contains("key \"th\" occurs twice"), "{error}");
    }
}
