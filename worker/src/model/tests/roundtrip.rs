//! From generated GGUF files to weights.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::f16;

use crate::canon::{Architecture, Tensor};
use crate::model::dequant::Encoding;
use crate::model::gguf::Gguf;
use crate::model::*;

fn save(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn shapes() -> Vec<Architecture> {
    let small = synthetic::small();
    let biased =
        Architecture { qkv_bias: true, tied: false, kv_heads: 2, eos: vec![1, 257], ..small.clone() };
    // Rows of whole blocks of 256.
    let wide = Architecture { layers: 1, width: 256, ffn: 256, ..small.clone() };
    // Rows that fill no panel, columns that are no whole blocks, a head that is not width / heads.
    let odd = Architecture { layers: 1, width: 24, heads: 3, kv_heads: 3, head_dim: 10, ffn: 70, ..small };
    let families = synthetic::families().map(|(_, arch)| arch);
    families.into_iter().chain([biased, wide, odd]).collect()
}

/// A row of the file by the reader alone.
fn stored(gguf: &Gguf<'_>, name: &str, row: usize) -> Vec<f16> {
    let tensor = &gguf.tensors[name];
    let mut out = vec![f16::ZERO; tensor.cols];
    let bytes = &tensor.bytes[row * tensor.row_bytes()..(row + 1) * tensor.row_bytes()];
    tensor.encoding.decode(bytes, &mut out).unwrap();
    out
}

/// Every weight is the stored one, and rotary rows are in half-split order: element i of a head's first half
/// was row 2i of the file, its partner row 2i + 1, in llama files; those of Qwen have that order already.
#[test]
fn weights_are_those_of_the_file() {
    for arch in shapes() {
        for encoding in Encoding::ALL {
            let folder = tempfile::tempdir().unwrap();
            let bytes = synthetic::gguf(&arch, encoding, 7);
            let imported = import(&save(folder.path(), "m.gguf", &bytes), folder.path(), &|_| {}).unwrap();
            let model = Model::open(&imported.path).unwrap();
            assert_eq!(model.arch(), &arch);
            model.verify().unwrap();

            let gguf = Gguf::parse(&bytes).unwrap();
            let d = arch.head_dim as usize;
            let rotated = |row: usize| {
                let (head, at) = (row / d, row % d);
                match (arch.qkv_bias || arch.qk_norm, at < d / 2) {
                    (true, _) => row,
                    (false, true) => head * d + 2 * at,
                    (false, false) => head * d + 2 * (at - d / 2) + 1,
                }
            };
            let weights = model.weights();
            let check = |tensor: &Tensor<'_>, name: &str, source: &dyn Fn(usize) -> usize| {
                let mut found = vec![f16::ZERO; tensor.cols];
                for row in 0..tensor.rows {
                    tensor.row(row, &mut found);
                    assert_eq!(found, stored(&gguf, name, source(row)), "{name} row {row} {encoding:?}");
                }
            };
            check(&weights.embedding, "token_embd.weight", &|row| row);
            if !arch.tied {
                check(&weights.head, "output.weight", &|row| row);
            }
            for (n, layer) in weights.layers.iter().enumerate() {
                let name = |part: &str| format!("blk.{n}.{part}");
                check(&layer.q, &name("attn_q.weight"), &rotated);
                check(&layer.k, &name("attn_k.weight"), &rotated);
                check(&layer.v, &name("attn_v.weight"), &|row| row);
                check(&layer.o, &name("attn_output.weight"), &|row| row);
                check(&layer.gate, &name("ffn_gate.weight"), &|row| row);
                check(&layer.up, &name("ffn_up.weight"), &|row| row);
                check(&layer.down, &name("ffn_down.weight"), &|row| row);
                assert_eq!(layer.ffn_gain, stored(&gguf, &name("ffn_norm.weight"), 0));
                assert_eq!(layer.q_bias.is_some(), arch.qkv_bias);
                if let Some(bias) = layer.k_bias {
                    assert_eq!(bias, stored(&gguf, &name("attn_k.bias"), 0));
                }
                assert_eq!(layer.k_norm.is_some(), arch.qk_norm);
                if let Some(gain) = layer.q_norm {
                    assert_eq!(gain, stored(&gguf, &name("attn_q_norm.weight"), 0));
                }
            }
            assert_eq!(weights.layers.len(), arch.layers as usize);
        }
    }
}

/// The id names the values, not the file: the same weights, stored as F32, are the same model; another weight,
/// token or template is another.
#[test]
fn id_covers_values_tokenizer_and_template() {
    let folder = tempfile::tempdir().unwrap();
    let id = |bytes: &[u8]| import(&save(folder.path(), "m.gguf", bytes), folder.path(), &|_| {}).unwrap().id;
    let arch = synthetic::small();
    let packed = synthetic::gguf(&arch, Encoding::Q4_1, 1);
    let first = id(&packed);

    let mut wide = synthetic::metadata(&arch);
    wide.string("general.name", "another name");
    for (name, tensor) in Gguf::parse(&packed).unwrap().tensors {
        let mut halves = vec![f16::ZERO; tensor.rows * tensor.cols];
        tensor.encoding.decode(tensor.bytes, &mut halves).unwrap();
        let bytes = halves.iter().flat_map(|h| h.to_f32().to_le_bytes()).collect();
        wide.tensor(name, &[tensor.cols as u64, tensor.rows as u64], Encoding::F32.ggml(), bytes);
    }
    assert_eq!(id(&wide.finish()), first);

    let mut others = vec![first];
    others.push(id(&synthetic::gguf(&arch, Encoding::Q4_1, 2)));
    others.push(id(&synthetic::gguf(&Architecture { context: 255, ..arch.clone() }, Encoding::Q4_1, 1)));
    let mut changed = wide.clone();
    changed.string("tokenizer.chat_template", "{{ messages[0].content }}");
    others.push(id(&changed.finish()));
    let mut changed = wide.clone();
    changed.strings("tokenizer.ggml.merges", &["t h", "Ġ the", "th e"].map(str::to_string));
    others.push(id(&changed.finish()));
    let mut changed = wide.clone();
    changed.string("tokenizer.ggml.pre", "gpt-2");
    others.push(id(&changed.finish()));
    let count = others.len();
    others.sort();
    others.dedup();
    assert_eq!(others.len(), count, "each is another model");

    let mut models: Vec<_> =
        list(folder.path()).unwrap().into_iter().map(|l| l.model.unwrap().id()).collect();
    models.sort();
    assert_eq!(models, others);
}

#[test]
fn import_is_idempotent_and_repairs() {
    let folder = tempfile::tempdir().unwrap();
    let source = save(folder.path(), "m.gguf", &synthetic::gguf(&synthetic::small(), Encoding::Q8_0, 3));
    let models = folder.path().join("models");
    assert!(list(&models).unwrap().is_empty());
    let first = import(&source, &models, &|_| {}).unwrap();
    let bytes = fs::read(&first.path).unwrap();
    save(&models, ".import-killed", b"half a mod");
    let again = import(&source, &models, &|_| {}).unwrap();
    assert!(!first.existed && again.existed);
    assert_eq!((again.id, &again.path), (first.id, &first.path));

    std::thread::scope(|scope| {
        let imports: Vec<_> = (0..4).map(|_| scope.spawn(|| import(&source, &models, &|_| {}))).collect();
        for import in imports {
            assert_eq!(import.join().unwrap().unwrap().id, first.id);
        }
    });
    let mut names: Vec<_> = fs::read_dir(&models).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    assert_eq!(names, [models.join(".lock"), first.path.clone()], "no temporary file stays");

    // A flipped bit in the last tensor, found and mended.
    let file = fs::OpenOptions::new().write(true).open(&first.path).unwrap();
    file.write_all_at(&[bytes[bytes.len() - 2] ^ 1], bytes.len() as u64 - 2).unwrap();
    let error = Model::open(&first.path).unwrap().verify().unwrap_err().to_string();
    assert!(error.starts_with("Down of layer 1: digest "), "{error}");
    assert_eq!(Model::open_verified(&first.path).unwrap_err().to_string(), error);
    assert!(!import(&source, &models, &|_| {}).unwrap().existed);
    Model::open(&first.path).unwrap().verify().unwrap();
    assert_eq!(Model::open_verified(&first.path).unwrap().id(), first.id);
    assert_eq!(fs::read(&first.path).unwrap(), bytes);
}

#[test]
fn model_file_that_is_not_whole_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = save(folder.path(), "m.gguf", &synthetic::gguf(&synthetic::small(), Encoding::F16, 3));
    let good = fs::read(import(&source, folder.path(), &|_| {}).unwrap().path).unwrap();
    let open = |bytes: &[u8]| Model::open(&save(folder.path(), "bad.dnm", bytes)).map(|m| m.verify());
    open(&good).unwrap().unwrap();

    for (bytes, part) in [
        (&[][..], "length of"),
        (&good[..63], "a model file has at least 64 bytes"),
        (&good[..good.len() - 1], "length of"),
        (&[&good[..], &[0]].concat(), "length of"),
        (b"GGUF_and_more_bytes_than_the_prefix_of_a_model_file_would_have__", "import it first"),
    ] {
        let error = open(bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    // No byte of the prefix or the header can change unseen, and no other byte but the unused ones between.
    let mut seen = 0;
    for at in (0..good.len()).step_by(311).chain(0..64) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        match open(&bad) {
            Ok(Ok(())) => assert_eq!(good[at], 0, "byte {at} changed unseen"),
            _ => seen += 1,
        }
    }
    assert!(seen > good.len() / 311 / 2);
    let listed = list(folder.path()).unwrap();
    assert_eq!(listed.iter().filter(|l| l.model.is_ok()).count(), 1, "the good one");
}

/// A model with SentencePiece's tokenizer, as Llama 2 and Mistral 7B have it, is one model in GGUF and in safetensors with a
/// tokenizer.json, and what it is exported to is that model again.
#[test]
fn sentencepiece_is_one_model_in_both_formats() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let arch = Architecture { vocab: 320, eos: vec![2], tied: false, ..synthetic::small() };
    let mut writer = synthetic::writer(&arch, Encoding::F16, 11);
    writer.remove("tokenizer.ggml.merges");
    synthetic::sentence_piece(arch.vocab).write_gguf(&mut writer);
    let source = save(folder.path(), "m.gguf", &writer.finish());
    let imported = import(&source, &at("models"), &|_| {}).unwrap();
    let model = Model::open(&imported.path).unwrap();
    let ids = model.tokenizer().encode_prompt("in the é").unwrap();
    assert_eq!((ids[0], model.tokenizer().decode(&ids).as_str()), (1, "in the é"));

    export::to_gguf(&model, &at("again.gguf")).unwrap();
    export::to_safetensors(&model, &at("hf")).unwrap();
    for path in [at("again.gguf"), at("hf")] {
        let again = import(&path, &at("models"), &|_| {}).unwrap();
        assert_eq!((again.id, again.existed), (imported.id, true), "{}", path.display());
    }

    // Metaspace of newer files, which puts no space behind special tokens, is another tokenizer, and none of GGUF's.
    let tokenizer = at("hf/tokenizer.json");
    let mut document: serde_json::Value = serde_json::from_slice(&fs::read(&tokenizer).unwrap()).unwrap();
    document["normalizer"] = serde_json::Value::Null;
    document["pre_tokenizer"] = serde_json::json!({
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false,
    });
    fs::write(&tokenizer, document.to_string()).unwrap();
    let first = import(&at("hf"), &at("models"), &|_| {}).unwrap();
    assert_ne!(first.id, imported.id);
    let first = Model::open(&first.path).unwrap();
    assert!(export::to_gguf(&first, &at("no.gguf")).unwrap_err().to_string().contains("GGUF cannot say it"));
    export::to_safetensors(&first, &at("hf2")).unwrap();
    assert_eq!(import(&at("hf2"), &at("models"), &|_| {}).unwrap().id, first.id());
}
