//! Text to tokens for encoders: BERT's WordPiece.

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::AddedToken;

use super::json::{brief, pieces, vocab_and_added, Document, HfTokenizer, TokenizerFiles};
use super::spec::check_tokens;
use super::{PieceKind, MAX_TEXT};
use crate::canon::commit::{merkle_root, Digest};
use crate::model::documents::Unique;
use crate::model::error::{invalid, within, ModelError, Result};

/// Greatest number of characters of a word: the time to find its pieces grows with the square of it. BERT's own is 100.
const MAX_WORD: u64 = 200;
/// Begins every piece that goes on within a word.
const PREFIX: &str = "##";

/// Everything that a WordPiece tokenizer is built from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WordPieceSpec {
    /// By id.
    pub tokens: Vec<String>,
    pub kinds: Vec<PieceKind>,
    /// Whether control characters go, and every white space becomes a blank.
    pub clean_text: bool,
    /// Whether each Chinese character is a word.
    pub chinese_chars: bool,
    pub strip_accents: bool,
    pub lowercase: bool,
    /// Words with more characters than this are unknown.
    pub max_word: u32,
    /// What a word becomes that the vocabulary has no pieces for.
    pub unknown: u32,
    /// What every text begins with, and ends with.
    pub first: u32,
    pub last: u32,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    r#type: Option<String>,
    vocab: Unique<u32>,
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Normalizer {
    r#type: String,
    clean_text: bool,
    handle_chinese_chars: bool,
    strip_accents: Option<bool>,
    lowercase: bool,
}

impl WordPieceSpec {
    /// From the files of the transformers library. What they say of truncation and padding is not a part: a text is
    /// encoded whole, or refused.
    pub fn from_hf(files: &TokenizerFiles<'_>, vocab: u32) -> Result<Self> {
        let document = Document::<Model>::parse(files)?;
        let model = &document.model;
        let field = |what: &str| format!("{what} of tokenizer.json");
        if let Some(other) = model.r#type.as_deref().filter(|kind| *kind != "WordPiece") {
            return Err(invalid(field("model.type"), other, "known is WordPiece for encoders"));
        }
        if model.continuing_subword_prefix != PREFIX {
            let found = format!("{:?}", model.continuing_subword_prefix);
            return Err(invalid(
                field("model.continuing_subword_prefix"),
                found,
                format!("must be {PREFIX:?}"),
            ));
        }
        let normalizer = document.normalizer.clone().unwrap_or_default();
        let normalizer: Normalizer = match serde_json::from_value(normalizer.clone()) {
            Ok(Normalizer { r#type, .. }) if r#type != "BertNormalizer" => {
                return Err(invalid(field("normalizer"), r#type, "known is BertNormalizer"))
            }
            Ok(known) => known,
            Err(_) => {
                return Err(invalid(field("normalizer"), brief(&normalizer), "known is BertNormalizer"))
            }
        };
        let words = document.pre_tokenizer.clone().unwrap_or_default();
        if words["type"] != "BertPreTokenizer" {
            return Err(invalid(field("pre_tokenizer"), brief(&words), "known is BertPreTokenizer"));
        }
        let (tokens, kinds) = pieces(vocab, &model.vocab.0, &document.added_tokens)?;
        let id = |what: &str, token: &str| {
            let known = model.vocab.0.get(token).copied();
            known.ok_or_else(|| invalid(field(what), format!("{token:?}"), "must be a token"))
        };
        let processor = document.post_processor.clone().unwrap_or_default();
        let (first, last) = ends(&processor).ok_or_else(|| {
            invalid(
                field("post_processor"),
                brief(&processor),
                "must put one token before a text, one behind",
            )
        })?;
        let spec = Self {
            clean_text: normalizer.clean_text,
            chinese_chars: normalizer.handle_chinese_chars,
            strip_accents: normalizer.strip_accents.unwrap_or(normalizer.lowercase),
            lowercase: normalizer.lowercase,
            max_word: model.max_input_chars_per_word,
            unknown: id("model.unk_token", &model.unk_token)?,
            first: id("post_processor", first)?,
            last: id("post_processor", last)?,
            tokens,
            kinds,
        };
        spec.check()?;
        Ok(spec)
    }

    /// The files that `from_hf` reads as this.
    pub fn to_hf(&self) -> HfTokenizer {
        let text = |id: u32| self.tokens[id as usize].as_str();
        let (vocab, added) = vocab_and_added(&self.tokens, &self.kinds);
        let special = |id: u32, n: u32| json!({ "SpecialToken": { "id": text(id), "type_id": n } });
        let sequence = |name: &str, n: u32| json!({ "Sequence": { "id": name, "type_id": n } });
        let named = |id: u32| json!({ "id": text(id), "ids": [id], "tokens": [text(id)] });
        let (first, last) = (self.first, self.last);
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": self.clean_text,
                "handle_chinese_chars": self.chinese_chars,
                "strip_accents": self.strip_accents,
                "lowercase": self.lowercase,
            },
            "pre_tokenizer": { "type": "BertPreTokenizer" },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [special(first, 0), sequence("A", 0), special(last, 0)],
                "pair": [special(first, 0), sequence("A", 0), special(last, 0), sequence("B", 1), special(last, 1)],
                "special_tokens": { text(first): named(first), text(last): named(last) },
            },
            "decoder": { "type": "WordPiece", "prefix": PREFIX, "cleanup": true },
            "model": {
                "type": "WordPiece",
                "unk_token": text(self.unknown),
                "continuing_subword_prefix": PREFIX,
                "max_input_chars_per_word": self.max_word,
                "vocab": vocab,
            },
        });
        let config = json!({
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lowercase,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": self.chinese_chars,
            "unk_token": text(self.unknown),
            "cls_token": text(first),
            "sep_token": text(last),
        });
        HfTokenizer { tokenizer, config }
    }

    /// Refuses a description that contradicts itself.
    pub fn check(&self) -> Result<()> {
        check_tokens(&self.tokens, &self.kinds)?;
        let count = self.tokens.len() as u64;
        for (field, id) in [("unknown", self.unknown), ("first", self.first), ("last", self.last)] {
            within(format!("{field} id of the tokenizer"), id.into(), 0, count - 1)?;
        }
        within("characters of a word", self.max_word.into(), 1, MAX_WORD)?;
        Ok(())
    }

    /// Merkle root over the rules and the root over the pieces. Rules: each string as its length (u32 little-endian) and
    /// bytes, each integer as u32 little-endian: "wordpiece", clean_text, chinese_chars, strip_accents, lowercase, "##",
    /// max_word, unknown, first, last. A piece: its kind (a byte), its token.
    fn digest(&self) -> Digest {
        let mut rules = Vec::new();
        let word = |rules: &mut Vec<u8>, n: u32| rules.extend(n.to_le_bytes());
        let string = |rules: &mut Vec<u8>, s: &str| {
            rules.extend((s.len() as u32).to_le_bytes());
            rules.extend(s.as_bytes());
        };
        string(&mut rules, "wordpiece");
        for rule in [self.clean_text, self.chinese_chars, self.strip_accents, self.lowercase] {
            word(&mut rules, rule.into());
        }
        string(&mut rules, PREFIX);
        for n in [self.max_word, self.unknown, self.first, self.last] {
            word(&mut rules, n);
        }
        let pieces = self.kinds.iter().zip(&self.tokens);
        let leaves: Vec<Vec<u8>> =
            pieces.map(|(kind, token)| [&[*kind as u8], token.as_bytes()].concat()).collect();
        merkle_root(&[rules, merkle_root(&leaves).to_vec()])
    }
}

/// The tokens before and behind a text, by the post-processor.
fn ends(processor: &Value) -> Option<(&str, &str)> {
    match processor["type"].as_str()? {
        "TemplateProcessing" => match &processor["single"].as_array()?[..] {
            [first, text, last] if text["Sequence"]["id"] == "A" => {
                Some((first["SpecialToken"]["id"].as_str()?, last["SpecialToken"]["id"].as_str()?))
            }
            _ => None,
        },
        "BertProcessing" => Some((processor["cls"][0].as_str()?, processor["sep"][0].as_str()?)),
        _ => None,
    }
}

/// A WordPiece tokenizer, ready to use from many threads.
pub struct WordPiece {
    spec: WordPieceSpec,
    pieces: tokenizers::Tokenizer,
    digest: Digest,
}

impl std::fmt::Debug for WordPiece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WordPiece({} tokens)", self.spec.tokens.len())
    }
}

impl WordPiece {
    /// Builds the tokenizer; an inconsistent description is an error.
    pub fn new(spec: WordPieceSpec) -> Result<Self> {
        spec.check()?;
        let digest = spec.digest();
        let used = || spec.tokens.iter().zip(&spec.kinds).zip(0u32..);
        let vocab: Vec<(String, u32)> = used()
            .filter(|((_, kind), _)| **kind != PieceKind::Unused)
            .map(|((token, _), id)| (token.clone(), id))
            .collect();
        let model = wordpiece::WordPiece::builder()
            .vocab(vocab.into_iter().collect::<Vocab>())
            .unk_token(spec.tokens[spec.unknown as usize].clone())
            .continuing_subword_prefix(PREFIX.to_string())
            .max_input_chars_per_word(spec.max_word as usize)
            .build()
            .map_err(fault)?;
        let mut pieces = tokenizers::Tokenizer::new(model);
        let accents = Some(spec.strip_accents);
        pieces.with_normalizer(Some(BertNormalizer::new(
            spec.clean_text,
            spec.chinese_chars,
            accents,
            spec.lowercase,
        )));
        pieces.with_pre_tokenizer(Some(BertPreTokenizer));
        let added: Vec<AddedToken> = used()
            .filter(|((_, kind), _)| matches!(kind, PieceKind::Special | PieceKind::Added))
            .map(|((token, _), _)| AddedToken::from(token.clone(), true).normalized(false))
            .collect();
        pieces.add_special_tokens(&added);
        Ok(WordPiece { spec, pieces, digest })
    }

    /// The tokenizer digest, a leaf of the model id.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it was built from.
    pub fn spec(&self) -> &WordPieceSpec {
        &self.spec
    }

    /// The ids of a whole text, with those that begin and end it. Words without pieces become the unknown id; special
    /// tokens in the text are such.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        within("text length", text.len() as u64, 0, MAX_TEXT as u64)?;
        let encoding = self.pieces.encode_fast(text, false).map_err(fault)?;
        let (first, last) = (self.spec.first, self.spec.last);
        Ok([&[first][..], encoding.get_ids(), &[last]].concat())
    }
}

fn fault(error: tokenizers::Error) -> ModelError {
    ModelError::Tokenizer(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::synthetic::word_piece;

    fn files(document: &str) -> TokenizerFiles<'_> {
        TokenizerFiles { tokenizer: document.as_bytes(), config: None, template: None }
    }

    /// What is written is read as the same, and the library itself gives the ids that we do.
    #[test]
    fn written_as_the_library_reads() {
        let text = "The Cat's HÄT, 漢字 [MASK] zzzz\tcats\u{0}!";
        for (lowercase, strip_accents, chinese_chars) in
            [(true, true, true), (false, false, true), (true, false, false), (false, true, false)]
        {
            let spec = WordPieceSpec { lowercase, strip_accents, chinese_chars, ..word_piece(300) };
            let document = spec.to_hf().tokenizer.to_string();
            assert_eq!(WordPieceSpec::from_hf(&files(&document), 300).unwrap(), spec);
            let theirs = tokenizers::Tokenizer::from_bytes(document.as_bytes()).unwrap();
            let ours = WordPiece::new(spec).unwrap().encode(text).unwrap();
            assert_eq!(ours, theirs.encode_fast(text, true).unwrap().get_ids());
        }
    }

    #[test]
    fn texts_become_pieces() {
        let tokenizer = WordPiece::new(word_piece(300)).unwrap();
        let ids = |text: &str| tokenizer.encode(text).unwrap();
        let id = |token: &str| tokenizer.spec.tokens.iter().position(|t| t == token).unwrap() as u32;
        let (first, last, unknown) = (id("[CLS]"), id("[SEP]"), id("[UNK]"));
        assert_eq!(ids(""), [first, last]);
        assert_eq!(ids("The CÁT"), [first, id("the"), id("cat"), last]);
        assert_eq!(ids("cats"), [first, id("cat"), id("##s"), last]);
        assert_eq!(ids("漢 [SEP]"), [first, unknown, last, last]);
        assert_eq!(ids(&"a".repeat(101)), [first, unknown, last]);
        let error = tokenizer.encode(&"a".repeat(MAX_TEXT + 1)).unwrap_err().to_string();
        assert!(error.contains("text length is 4194305: must be 0 to 4194304"), "{error}");
    }

    #[test]
    fn every_rule_is_a_part_of_the_digest() {
        let spec = word_piece(300);
        let mut others: Vec<WordPieceSpec> = vec![spec.clone(); 10];
        others[0].clean_text ^= true;
        others[1].chinese_chars ^= true;
        others[2].strip_accents ^= true;
        others[3].lowercase ^= true;
        others[4].max_word += 1;
        others[5].unknown += 1;
        others[6].first += 1;
        others[7].last += 1;
        others[8].kinds[7] = PieceKind::Added;
        others[9].tokens[7].push('x');
        let digests: BTreeSet<Digest> = others.iter().chain([&spec]).map(WordPieceSpec::digest).collect();
        assert_eq!(digests.len(), 11);
    }

    #[test]
    fn refused() {
        let good = word_piece(300).to_hf().tokenizer;
        let refused = |change: &dyn Fn(&mut Value), part: &str| {
            let mut document = good.clone();
            change(&mut document);
            let document = document.to_string();
            let error = WordPieceSpec::from_hf(&files(&document), 300).unwrap_err().to_string();
            assert!(error.contains(part), "{part:?} in {error:?}");
        };
        refused(&|d| d["model"]["type"] = "Unigram".into(), "known is WordPiece");
        refused(&|d| d["model"]["continuing_subword_prefix"] = "@@".into(), "must be \"##\"");
        refused(&|d| d["model"]["max_input_chars_per_word"] = 0.into(), "characters of a word is 0");
        refused(
            &|d| d["model"]["unk_token"] = "<unk>".into(),
            "model.unk_token of tokenizer.json is \"<unk>\"",
        );
        refused(&|d| d["normalizer"] = json!({ "type": "NFC" }), "known is BertNormalizer");
        refused(&|d| d["normalizer"]["strip_everything"] = true.into(), "known is BertNormalizer");
        refused(&|d| d["pre_tokenizer"] = json!({ "type": "Whitespace" }), "known is BertPreTokenizer");
        refused(&|d| d["post_processor"] = Value::Null, "one token before a text");
        refused(
            &|d| d["post_processor"]["single"][2] = json!({ "SpecialToken": { "id": "xx" } }),
            "must be a token",
        );
        refused(&|d| d["model"]["vocab"]["xx"] = 300.into(), "must be 0 to 299");
    }
}
