//! The real model: SmolLM2-135M-Instruct as `make model` fetches it.

use crate::model::chat::encode_here;
use crate::model::testing::{models_folder, smollm2, SMOLLM2_GGUF, SMOLLM2_ID};
use crate::model::*;

#[derive(serde::Deserialize)]
struct Vector {
    text: String,
    ids: Vec<u32>,
}

fn user(content: &str) -> ChatMessage {
    ChatMessage { role: "user".to_string(), content: content.to_string() }
}

/// The id is what everyone who imports this file must get.
#[test]
fn real_model_has_the_pinned_id() {
    let folder = tempfile::tempdir().unwrap();
    let last = std::sync::Mutex::new(Progress { done: 0, total: 0 });
    let imported = import(&models_folder().join(SMOLLM2_GGUF), folder.path(), &|p| {
        let mut last = last.lock().unwrap();
        if p.done > last.done {
            *last = p;
        }
    })
    .unwrap();
    assert_eq!(hex::encode(imported.id), SMOLLM2_ID);
    assert!(!imported.existed);
    let Progress { done, total } = last.into_inner().unwrap();
    assert_eq!((done, total), (2 * 134_515_008, 2 * 134_515_008));

    let model = Model::open(&imported.path).unwrap();
    assert_eq!(hex::encode(model.id()), SMOLLM2_ID);
    assert_eq!(model.name(), "Smollm2 135M 8k Lc100K Mix1 Ep2");
    model.verify().unwrap();
}

/// Out to both formats and in again: one id.
#[test]
fn real_model_leaves_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let (gguf, hf) = (folder.path().join("f16.gguf"), folder.path().join("hf"));
    let model = smollm2();
    export::to_gguf(&model, &gguf).unwrap();
    export::to_safetensors(&model, &hf).unwrap();
    for path in [gguf, hf] {
        let models = tempfile::tempdir().unwrap();
        let imported = import(&path, models.path(), &|_| {}).unwrap();
        assert_eq!(hex::encode(imported.id), SMOLLM2_ID, "{}", path.display());
        assert!(!imported.existed);
    }
}

#[test]
fn real_tokenizer_matches_the_vectors() {
    let model = smollm2();
    let tokenizer = model.tokenizer();
    // Made by two other implementations that agree: a GPT-2 BPE in Python, and the tokenizers package with the
    // settings of the model's tokenizer.json.
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("smollm2_tokens.json")).unwrap();
    assert!(vectors.len() > 30);
    for Vector { text, ids } in vectors {
        assert_eq!(tokenizer.encode_prompt(&text).unwrap(), ids, "{text:?}");
        let joined: Vec<u8> = ids.iter().flat_map(|id| tokenizer.piece(*id).unwrap()).copied().collect();
        assert_eq!(joined, text.as_bytes());
    }
    assert_eq!(tokenizer.piece(49152), None);
    let error = tokenizer.encode("a\u{4}").unwrap_err().to_string();
    assert!(error.contains("byte 0x04"), "{error}");
}

#[test]
fn real_chat_template_gives_the_reference_ids() {
    let model = smollm2();
    let ids = encode_here(model.tokenizer(), &[user("What is gravity?")]);
    let expected = [
        1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712,
        8182, 2, 198, 1, 4093, 198, 1780, 314, 9354, 47, 2, 198, 1, 520, 9531, 198,
    ];
    assert_eq!(ids, expected);
    let turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "  2+2? ")]
        .map(|(role, content)| ChatMessage { role: role.to_string(), content: content.to_string() });
    let expected = [
        1, 9690, 198, 6077, 5453, 30, 2, 198, 1, 4093, 198, 26843, 2, 198, 1, 520, 9531, 198, 19556, 17, 2,
        198, 1, 4093, 11181, 34, 27, 34, 47, 216, 2, 198, 1, 520, 9531, 198,
    ];
    assert_eq!(encode_here(model.tokenizer(), &turns), expected);
}

/// A character's bytes may come in several tokens: the stream holds them back, and loses none.
#[test]
fn stream_yields_whole_characters() {
    let model = smollm2();
    let tokenizer = model.tokenizer();
    let text = "naïve 🙂👩‍👩‍👧 世界 \u{fffd}!";
    let ids = tokenizer.encode(text).unwrap();
    let mut stream = TextStream::default();
    let parts: Vec<String> = ids.iter().map(|id| stream.push(tokenizer, *id)).collect();
    assert!(parts.iter().any(String::is_empty), "some token ends inside a character");
    assert_eq!(parts.concat() + &stream.finish(), text);

    let cut = tokenizer.encode("🙂").unwrap();
    assert!(cut.len() > 1);
    assert_eq!(tokenizer.decode(&[&cut[..1], &tokenizer.encode("a").unwrap()].concat()), "\u{fffd}a");
    assert_eq!(tokenizer.decode(&cut[..1]), "\u{fffd}");
    assert_eq!(tokenizer.decode(&tokenizer.encode("a<|im_end|>b").unwrap()), "ab");
}
