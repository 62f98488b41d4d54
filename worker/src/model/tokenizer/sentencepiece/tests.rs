//! On generated vocabularies: what the library, SentencePiece's own algorithm, and the two formats make of them.

use proptest::prelude::*;

use super::*;
use crate::model::chat::encode_here;
use crate::model::dequant::Encoding;
use crate::model::gguf::{Gguf, GgufWriter};
use crate::model::synthetic;
use crate::model::tokenizer::{HfTokenizer, PreTokenizer, TokenizerFiles};
use crate::model::{ChatMessage, TextStream, Tokenizer};

const PREFIXES: [SpacePrefix; 4] =
    [SpacePrefix::Each, SpacePrefix::Always, SpacePrefix::First, SpacePrefix::Never];

/// The generated tokenizer, with an added token too.
fn spec(prefix: SpacePrefix) -> TokenizerSpec {
    let mut spec = synthetic::sentence_piece(320);
    (spec.tokens[319], spec.kinds[319]) = ("[tool]".to_string(), PieceKind::Added);
    TokenizerSpec { pre: PreTokenizer::SentencePiece(prefix), ..spec }
}

fn read(written: &HfTokenizer, vocab: u32) -> Result<TokenizerSpec> {
    let (tokenizer, config) = (written.tokenizer.to_string(), written.config.to_string());
    let (tokenizer, config) = (tokenizer.as_bytes(), Some(config.as_bytes()));
    TokenizerSpec::from_hf(&TokenizerFiles { tokenizer, config, template: None }, vocab, None, None)
}

/// A file of the tokenizer alone, but for the one tensor that there must be.
fn gguf(spec: &TokenizerSpec, change: impl FnOnce(&mut GgufWriter)) -> Result<TokenizerSpec> {
    let mut writer = GgufWriter::default();
    spec.write_gguf(&mut writer);
    writer.tensor("t", &[1], Encoding::F32.ggml(), vec![0; 4]);
    change(&mut writer);
    TokenizerSpec::from_gguf(&Gguf::parse(&writer.finish())?)
}

fn library(written: &HfTokenizer) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_bytes(written.tokenizer.to_string()).unwrap()
}

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("the".to_string()),
        Just("other".to_string()),
        " {1,9}",
        "[a-zTHI.,']{1,6}",
        "[é漢ß\\u{301}字\\n\\t]{1,3}",
        "[\\u{1f600}-\\u{1f64f}]{1,2}",
        Just("<s>".to_string()),
        Just("</s>".to_string()),
        Just("<unk>".to_string()),
        Just("[tool]".to_string()),
        Just("<0x41>".to_string()),
        Just("[PAD318]".to_string()),
        Just("▁".to_string()),
        any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The library reads what is written, and gives the ids and the texts that we do.
    #[test]
    fn written_as_the_library_reads(texts in proptest::collection::vec(text(), 8)) {
        for prefix in PREFIXES {
            let written = spec(prefix).to_hf().unwrap();
            let theirs = library(&written);
            let ours = Tokenizer::new(spec(prefix)).unwrap();
            for text in &texts {
                let ids = theirs.encode_fast(text.as_str(), true).unwrap().get_ids().to_vec();
                prop_assert_eq!(&ours.encode_prompt(text).unwrap(), &ids, "{:?} {:?}", prefix, text);
                let decoded = ours.decode(&ids);
                prop_assert_eq!(&theirs.decode(&ids, true).unwrap(), &decoded, "{:?} {:?}", prefix, text);
                let plain = !text.contains(['▁', '<', '[']);
                if plain && matches!(prefix, SpacePrefix::Each | SpacePrefix::Never) {
                    prop_assert_eq!(text, &decoded);
                }
            }
        }
    }
}

/// Pieces that are made one after the other, each of two that are there.
fn vocabulary() -> impl Strategy<Value = TokenizerSpec> {
    let picks =
        proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..40);
    picks.prop_map(|picks| {
        let mut made: Vec<String> = ["▁", "a", "b"].map(str::to_string).to_vec();
        for (left, right) in picks {
            let joined = left.get(&made).clone() + right.get(&made).as_str();
            if joined.chars().count() <= 8 && !made.contains(&joined) {
                made.push(joined);
            }
        }
        let mut spec = synthetic::sentence_piece(320);
        let at = spec.kinds.iter().position(|kind| *kind == PieceKind::Normal).unwrap();
        spec.tokens.truncate(at);
        spec.kinds.truncate(at);
        spec.tokens.extend(made.split_off(3));
        spec.tokens.extend(made);
        spec.kinds.resize(spec.tokens.len(), PieceKind::Normal);
        let scores: Vec<f32> = (0..spec.tokens.len()).map(|id| -(id as f32)).collect();
        spec.merges = from_scores(&spec.tokens, &spec.kinds, &scores).unwrap();
        spec
    })
}

/// The pieces of a word as SentencePiece and llama.cpp find them: again and again the two neighbours that join to
/// the best piece become it, the leftmost of equals.
fn best_first(spec: &TokenizerSpec, word: &str) -> Vec<String> {
    let rank = |piece: &str| spec.tokens.iter().position(|token| token == piece);
    let mut pieces: Vec<String> = word.chars().map(String::from).collect();
    loop {
        let joined = |at: usize| pieces[at].clone() + &pieces[at + 1];
        let best = (1..pieces.len()).filter_map(|at| Some((rank(&joined(at - 1))?, at - 1))).min();
        let Some((_, at)) = best else { return pieces };
        let right = pieces.remove(at + 1);
        pieces[at] += &right;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// The order of a piece's cuts does not matter: whatever it is in a tokenizer.json, the tokenizer is the same, and
    /// the library finds the same pieces by any, those that the scores give.
    #[test]
    fn order_of_cuts_does_not_matter(spec in vocabulary(), texts in proptest::collection::vec("[ab ]{1,24}", 8)) {
        let vocab = spec.tokens.len() as u32;
        prop_assert_eq!(&gguf(&spec, |_| {}).unwrap(), &spec);
        let mut written = spec.to_hf().unwrap();
        let ours = Tokenizer::new(spec.clone()).unwrap();
        // As older converters write it: by ids within a piece.
        let rank = |(left, right): &(u32, u32)| {
            let joined = spec.tokens[*left as usize].clone() + &spec.tokens[*right as usize];
            (spec.tokens.iter().position(|t| *t == joined), *left, *right)
        };
        let mut merges = spec.merges.clone();
        merges.sort_by_key(rank);
        let pair = |(left, right): &(u32, u32)| [left, right].map(|id| spec.tokens[*id as usize].clone());
        written.tokenizer["model"]["merges"] = json!(merges.iter().map(pair).collect::<Vec<_>>());
        prop_assert_eq!(&read(&written, vocab).unwrap(), &spec);
        let theirs = library(&written);
        for text in &texts {
            let ids = ours.encode(text).unwrap();
            let word = format!("▁{}", text.replace(' ', "▁"));
            let pieces: Vec<&str> = ids.iter().map(|id| spec.tokens[*id as usize].as_str()).collect();
            prop_assert_eq!(&pieces, &best_first(&spec, &word), "{:?}", text);
            let found = theirs.encode_fast(text.as_str(), false).unwrap();
            prop_assert_eq!(found.get_ids(), &ids, "{:?}", text);
        }
    }
}

/// What a user of Llama 2 would see: ids, pieces, and texts, whole and as they come.
#[test]
fn texts_and_their_pieces() {
    let tokenizer = Tokenizer::new(spec(SpacePrefix::Each)).unwrap();
    let written = |ids: &[u32]| -> Vec<String> {
        ids.iter().map(|id| tokenizer.spec().tokens[*id as usize].clone()).collect()
    };
    let ids = tokenizer.encode_prompt("the  other🙂").unwrap();
    let bytes = ["<0xF0>", "<0x9F>", "<0x99>", "<0x82>"];
    assert_eq!(written(&ids), [&["<s>", "▁the", "▁▁", "o", "ther"], &bytes[..]].concat());
    assert_eq!(tokenizer.piece(ids[1]), Some(&b" the"[..]));
    assert_eq!(tokenizer.piece(ids[5]), Some(&[0xf0][..]));

    // A text that goes on from other text keeps its space; a character waits until it is whole.
    let stream = |mut stream: TextStream| -> Vec<String> {
        let mut parts: Vec<String> = ids.iter().map(|id| stream.push(&tokenizer, *id)).collect();
        parts.push(stream.finish());
        parts
    };
    let rest = ["  ", "o", "ther", "", "", "", "🙂", ""];
    assert_eq!(stream(TextStream::whole(&tokenizer)), [&["", "the"], &rest[..]].concat());
    assert_eq!(stream(TextStream::default()), [&["", " the"], &rest[..]].concat());
    assert_eq!(tokenizer.decode(&ids[..7]), "the  other\u{fffd}");

    let message = |role: &str, content: &str| ChatMessage { role: role.into(), content: content.into() };
    let chat = [message("user", "hi"), message("assistant", "it"), message("user", "in")];
    let ids = encode_here(&tokenizer, &chat);
    let bytes = |text: &str| text.bytes().map(byte_piece).collect::<Vec<_>>();
    let inst = [
        &["▁".to_string()][..],
        &bytes("["),
        &["I".to_string()],
        &bytes("NS"),
        &["T".to_string()],
        &bytes("]"),
    ]
    .concat();
    assert_eq!(written(&ids[..1]), ["<s>"]);
    assert_eq!(written(&ids[1..1 + inst.len()]), inst);
    let last = written(&ids).iter().rposition(|token| token == "</s>").unwrap();
    assert_eq!(written(&ids[last + 1..last + 1 + inst.len()]), inst, "a space in front of each stretch");
}

#[test]
fn refused_in_json() {
    let good = spec(SpacePrefix::Each).to_hf().unwrap();
    let refused = |change: &dyn Fn(&mut HfTokenizer), part: &str| {
        let mut written = HfTokenizer { tokenizer: good.tokenizer.clone(), config: good.config.clone() };
        change(&mut written);
        let read = read(&written, 320).and_then(|spec| spec.check());
        let error = read.expect_err(part).to_string();
        assert!(error.contains(part), "{part:?} in {error:?}");
    };
    let json = |at: &'static str, value: Value, part: &str| {
        refused(&|w| *w.tokenizer.pointer_mut(at).unwrap() = value.clone(), part);
    };
    json("/normalizer", json!({ "type": "NFKC" }), "normalizer is");
    json("/normalizer/normalizers/0/prepend", json!("_"), "normalizer is");
    json("/normalizer", Value::Null, "pre_tokenizer is null");
    json("/pre_tokenizer", json!({ "type": "Whitespace" }), "without a pre_tokenizer");
    json("/decoder/decoders/3/start", json!(2), "decoder is");
    json("/decoder", Value::Null, "decoder is null");
    json("/post_processor/single/1", json!({ "SpecialToken": { "id": "</s>" } }), "post_processor is");
    json("/post_processor/single/0/SpecialToken/id", json!("</s>"), "must be the bos token");
    json("/model/ignore_merges", json!(true), "ignore_merges");
    json("/added_tokens/0/normalized", json!(true), "normalized of added token \"<unk>\"");
    json("/model/merges/0", json!(["▁", "x"]), "must join to a normal piece");
    json(
        "/model/merges/5",
        json!(["h", "e"]),
        "the 1 cuts of \"he\" into pieces must be together, each once",
    );
    json("/model/merges/6", json!(["h", "e"]), "the 2 cuts of \"▁▁▁\" into pieces must be together");
    refused(&|w| w.config["add_prefix_space"] = false.into(), "tokenizer.json says otherwise");
    let merges = |change: &dyn Fn(&mut Vec<Value>), part: &str| {
        refused(&|w| change(w.tokenizer["model"]["merges"].as_array_mut().unwrap()), part);
    };
    merges(&|merges| drop(merges.remove(0)), "no merge makes it");
    merges(&|merges| drop(merges.remove(6)), "must be together");
    merges(&|merges| merges.push(merges[0].clone()), "must be together, each once");
    merges(&|merges| merges.insert(1, merges[0].clone()), "must be together, each once");
    let vocab = |change: &dyn Fn(&mut serde_json::Map<String, Value>), part: &str| {
        refused(&|w| change(w.tokenizer["model"]["vocab"].as_object_mut().unwrap()), part);
    };
    vocab(&|vocab| drop(vocab.remove("<0xA0>")), "byte piece <0xA0> is missing");
    vocab(&|vocab| drop(vocab.insert("z".repeat(257), 318.into())), "length of token 318 is 257");
    let metaspace = SpacePrefix::First.to_json().1;
    refused(
        &|w| {
            w.tokenizer["normalizer"] = Value::Null;
            w.tokenizer["pre_tokenizer"] = metaspace.clone();
            w.tokenizer["pre_tokenizer"]["split"] = true.into();
        },
        "split false",
    );
}

#[test]
fn refused_in_gguf() {
    let spec = synthetic::sentence_piece(320);
    let refused = |change: &dyn Fn(&mut GgufWriter), part: &str| {
        let read = gguf(&spec, |writer| change(writer)).and_then(|spec| spec.check());
        let error = read.expect_err(part).to_string();
        assert!(error.contains(part), "{part:?} in {error:?}");
    };
    let id = |token: &str| spec.tokens.iter().position(|t| t == token).unwrap();
    let score = |token: &str, score: f32, part: &str| {
        let mut scores = spec.scores();
        scores[id(token)] = score;
        refused(&|w| w.f32s("tokenizer.ggml.scores", &scores), part);
    };
    score("he", f32::NAN, "scores of 260 is NaN: must be a finite number");
    score("he", f32::NEG_INFINITY, "must be a finite number");
    score("he", 0.0, "scores of 260 is 0: that of 259 too");
    refused(&|w| w.f32s("tokenizer.ggml.scores", &[1.0]), "length of tokenizer.ggml.scores is 1");
    refused(&|w| w.i32s("tokenizer.ggml.scores", &[1]), "must be an array of f32");
    refused(&|w| w.remove("tokenizer.ggml.scores"), "tokenizer.ggml.scores is missing");
    let types = |token: &str, kind: i32, part: &str| {
        let mut types: Vec<i32> = spec.kinds.iter().map(|kind| [1, 3, 4, 5, 6][*kind as usize]).collect();
        types[id(token)] = kind;
        refused(&|w| w.i32s("tokenizer.ggml.token_type", &types), part);
    };
    types("<0x0A>", 1, "byte piece <0x0A> is missing");
    types("he", 6, "a byte must be written <0x00> to <0xFF>");
    types("▁", 5, "normal piece \"▁\", the space, is missing");
    types("he", 7, "must be 1 to 6");
    let tokens = |token: &str, other: &str, part: &str| {
        let mut tokens = spec.tokens.clone();
        tokens[id(token)] = other.to_string();
        refused(&|w| w.strings("tokenizer.ggml.tokens", &tokens), part);
    };
    tokens("he", "in", "token 262 is \"in\": token 260 is the same");
    tokens("<0x0A>", "<0x0a>", "a byte must be written");
    tokens("<0x0A>", "<0x0B>", "token 14 is \"<0x0B>\": token 13 is the same");
    refused(&|w| w.bool("tokenizer.ggml.add_eos_token", true), "must be false");
    // Without what may be missing it is what llama.cpp takes it for.
    let least = gguf(&spec, |w| {
        for name in ["add_bos_token", "add_space_prefix", "pre", "unknown_token_id"] {
            w.remove(&format!("tokenizer.ggml.{name}"));
        }
    });
    assert_eq!(least.unwrap(), spec);
}

#[test]
fn refused_as_a_description() {
    let refused = |change: &dyn Fn(&mut TokenizerSpec), part: &str| {
        let mut spec = synthetic::sentence_piece(320);
        change(&mut spec);
        let error = spec.check().expect_err(part).to_string();
        assert!(error.contains(part), "{part:?} in {error:?}");
    };
    refused(&|s| s.merges.swap(4 + 1, 4 + 2), "longest left part first");
    refused(&|s| s.pre = PreTokenizer::Gpt2, "only SentencePiece has it");
    refused(&|s| s.kinds[260] = PieceKind::Added, "must join to a normal piece");
}

/// A vocabulary that sentencepiece 0.2.3 trained on this project's documents, with byte fallback and no normalisation, and
/// the ids that it gives texts. `pieces` are those behind the bytes: text, score, type. `merges` are in the order of
/// transformers' older converters: a piece's cuts by their ids.
#[test]
fn trained_by_sentencepiece() {
    let trained: Value = serde_json::from_str(include_str!("trained.json")).unwrap();
    let field = |name: &str| trained[name].as_array().unwrap();
    let pieces = |spec: &TokenizerSpec| (spec.tokens[..259].to_vec(), spec.scores()[..259].to_vec());
    let base = synthetic::sentence_piece(320);
    let (mut tokens, mut scores) = pieces(&base);
    let mut types = [vec![2, 3, 3], vec![6; 256]].concat();
    for piece in field("pieces") {
        tokens.push(piece[0].as_str().unwrap().to_string());
        scores.push(piece[1].as_f64().unwrap() as f32);
        types.push(piece[2].as_i64().unwrap() as i32);
    }
    let spec = gguf(&base, |writer| {
        writer.strings("tokenizer.ggml.tokens", &tokens);
        writer.f32s("tokenizer.ggml.scores", &scores);
        writer.i32s("tokenizer.ggml.token_type", &types);
    })
    .unwrap();
    let mut written = spec.to_hf().unwrap();
    assert_ne!(written.tokenizer["model"]["merges"], trained["merges"], "another order");
    written.tokenizer["model"]["merges"] = trained["merges"].clone();
    assert_eq!(read(&written, tokens.len() as u32).unwrap(), spec);

    let tokenizer = Tokenizer::new(spec).unwrap();
    assert!(field("texts").len() > 50);
    for text in field("texts") {
        let ids: Vec<u32> = serde_json::from_value(text[1].clone()).unwrap();
        let text = text[0].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids), text);
    }
}
