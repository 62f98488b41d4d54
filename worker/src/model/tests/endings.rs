//! Which tokens end an answer, whatever the files of a model name.

use std::fs;
use std::path::Path;

use serde_json::{json, Value};

use crate::canon::Architecture;
use crate::model::dequant::Encoding;
use crate::model::gguf::Gguf;
use crate::model::source::{AnySource, Files};
use crate::model::tokenizer::{PieceKind, TokenizerSpec};
use crate::model::*;

/// A GGUF file that names `named` alone, in which `texts` are control tokens from id 261 on.
fn gguf(path: &Path, named: &[u32], texts: &[&str]) {
    let arch = Architecture { layers: 1, eos: named.to_vec(), ..synthetic::small() };
    let mut writer = synthetic::writer(&arch, Encoding::F16, 3);
    let mut spec: TokenizerSpec = synthetic::tokenizer(&arch);
    if !named.contains(&257) {
        // Else its text would say that it is an end.
        spec.tokens[257] = "[END]".to_string();
    }
    for (id, text) in (261..).zip(texts) {
        spec.tokens[id] = text.to_string();
        spec.kinds[id] = PieceKind::Special;
    }
    spec.write_gguf(&mut writer);
    fs::write(path, writer.finish()).unwrap();
}

fn eos(path: &Path) -> Vec<u32> {
    match Files::open(path).unwrap().read().unwrap() {
        AnySource::Decoder(source) => source.arch.eos,
        AnySource::Encoder(_) => panic!("an encoder"),
    }
}

fn set(folder: &Path, file: &str, eos: Value) {
    let path = folder.join(file);
    let mut document: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    document["eos_token_id"] = eos;
    fs::write(path, document.to_string()).unwrap();
}

/// GGUF files of Llama 3.1 and Qwen 2.5 name the end of a turn alone, generation_config.json all that end an answer.
#[test]
fn one_id_whichever_ends_the_files_name() {
    let llama = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"];
    let qwen = ["<|endoftext|>", "<|im_start2|>", "<|im_end2|>"];
    for (named, texts, ends) in [(263, &llama[..], &[261, 262, 263][..]), (257, &qwen, &[257, 261])] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        gguf(&at("m.gguf"), &[named], texts);
        let imported = import(&at("m.gguf"), &at("models"), &|_| {}).unwrap();
        let model = Model::open(&imported.path).unwrap();
        assert_eq!(model.arch().eos, ends);
        export::to_safetensors(&model, &at("hf")).unwrap();
        for (config, generation) in
            [(json!(named), json!(ends)), (json!(named), json!(named)), (json!(null), json!(null))]
        {
            set(&at("hf"), "config.json", config);
            set(&at("hf"), "generation_config.json", generation);
            let again = import(&at("hf"), &at("models"), &|_| {}).unwrap();
            assert_eq!((again.id, again.existed), (imported.id, true));
        }
        export::to_gguf(&model, &at("again.gguf")).unwrap();
        let again = import(&at("again.gguf"), &at("models"), &|_| {}).unwrap();
        assert_eq!((again.id, again.existed), (imported.id, true));
    }
}

/// Only control tokens are ends by what is written in them.
#[test]
fn text_of_an_end_is_none() {
    let mut spec = synthetic::tokenizer(&synthetic::small());
    assert_eq!(spec.end_tokens(&[]), [257]);
    spec.tokens[261] = "<|end|>".to_string();
    assert_eq!(spec.end_tokens(&[7, 3, 7]), [3, 7, 257]);
    spec.kinds[261] = PieceKind::Special;
    assert_eq!(spec.end_tokens(&[7, 3, 7]), [3, 7, 257, 261]);
}

/// Ends that are not known by their text have keys of their own.
#[test]
fn named_ends_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    gguf(&at("m.gguf"), &[1, 2, 3], &[]);
    let file = fs::read(at("m.gguf")).unwrap();
    let named = ["eos", "eot", "eom"].map(|name| {
        let key = format!("tokenizer.ggml.{name}_token_id");
        Gguf::parse(&file).unwrap().integer(&key, 0, 287).unwrap()
    });
    assert_eq!(named, [Some(1), Some(2), Some(3)]);
    let imported = import(&at("m.gguf"), &at("models"), &|_| {}).unwrap();
    let model = Model::open(&imported.path).unwrap();
    assert_eq!(model.arch().eos, [1, 2, 3]);
    export::to_gguf(&model, &at("again.gguf")).unwrap();
    export::to_safetensors(&model, &at("hf")).unwrap();
    for path in ["again.gguf", "hf"] {
        let again = import(&at(path), &at("models"), &|_| {}).unwrap();
        assert_eq!((again.id, again.existed), (imported.id, true), "{path}");
    }

    // What generation_config.json names goes before what config.json does; eos of the tokenizer ends in any case.
    set(&at("hf"), "config.json", json!(9));
    set(&at("hf"), "generation_config.json", json!([8, 4]));
    assert_eq!(eos(&at("hf")), [1, 4, 8]);
    set(&at("hf"), "generation_config.json", json!(null));
    assert_eq!(eos(&at("hf")), [1, 9]);
    fs::remove_file(at("hf/generation_config.json")).unwrap();
    assert_eq!(eos(&at("hf")), [1, 9]);

    set(&at("hf"), "config.json", json!([2, 3, 4]));
    let more = import(&at("hf"), &at("models"), &|_| {}).unwrap();
    let more = Model::open(&more.path).unwrap();
    assert_eq!(more.arch().eos, [1, 2, 3, 4]);
    let error = export::to_gguf(&more, &at("more.gguf")).unwrap_err().to_string();
    assert!(error.contains("eos ids is [1, 2, 3, 4]: GGUF knows eos, eot and eom"), "{error}");
}
