//! Files that are wrong, by accident or on purpose: an error that says what and where, never a panic.

use crate::canon::Architecture;
use crate::model::dequant::Encoding;
use crate::model::family::gguf_name;
use crate::model::gguf::{Gguf, GgufWriter};
use crate::model::manifest::slots;
use crate::model::synthetic;
use crate::model::*;

fn arch() -> Architecture {
    Architecture { layers: 1, width: 32, heads: 1, kv_heads: 1, ffn: 32, ..synthetic::small() }
}

/// A writer of a good file.
fn good() -> GgufWriter {
    let mut writer = synthetic::metadata(&arch());
    for slot in slots(&arch()) {
        let bytes = vec![0; 2 * slot.rows * slot.cols];
        let dimensions = [slot.cols as u64, slot.rows as u64];
        let dimensions = if slot.is_vector() { &dimensions[..1] } else { &dimensions };
        writer.tensor(&gguf_name(&slot), dimensions, Encoding::F16.ggml(), bytes);
    }
    writer
}

fn import_bytes(bytes: &[u8]) -> std::result::Result<Imported, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let result = import(&path, &folder.path().join("models"), &|_| {}).map_err(|e| e.to_string());
    if result.is_err() {
        let files = std::fs::read_dir(folder.path().join("models")).into_iter().flatten();
        let left = files.filter(|f| f.as_ref().unwrap().file_name() != ".lock").count();
        assert_eq!(left, 0, "a failed import leaves nothing");
    }
    result
}

/// Changes a good file with `change` and expects an error with all of `parts`.
fn refused(change: impl FnOnce(&mut GgufWriter), parts: &[&str]) {
    let mut writer = good();
    change(&mut writer);
    refused_bytes(&writer.finish(), parts);
}

fn refused_bytes(bytes: &[u8], parts: &[&str]) {
    let error = import_bytes(bytes).unwrap_err();
    for part in parts {
        assert!(error.contains(part), "{part:?} in {error:?}");
    }
}

fn tensor<'a>(writer: &'a mut GgufWriter, name: &str) -> &'a mut (String, Vec<u64>, u32, Vec<u8>) {
    writer.tensors.iter_mut().find(|t| t.0 == name).unwrap()
}

/// The place of a tensor's offset in the file.
fn offset_at(file: &[u8], name: &str, dimensions: usize) -> usize {
    let at = file.windows(name.len()).position(|w| w == name.as_bytes()).unwrap();
    at + name.len() + 4 + 8 * dimensions + 4
}

#[test]
fn good_file_is_imported() {
    import_bytes(&good().finish()).unwrap();
}

#[test]
fn wrong_container() {
    let file = good().finish();
    refused_bytes(b"", &["gguf magic is 4 bytes at byte 0: the file ends at 0"]);
    refused_bytes(b"PK\x03\x04....", &["gguf magic is 504b0304"]);
    let with = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    refused_bytes(&with(4, &[9]), &["gguf version is 9: must be 2 to 3"]);
    refused_bytes(&with(4, &[0, 0, 0, 3]), &["big-endian"]);
    refused_bytes(&with(8, &u64::MAX.to_le_bytes()), &["gguf tensor count is 18446744073709551615"]);
    refused_bytes(&with(16, &u64::MAX.to_le_bytes()), &["gguf pair count is 18446744073709551615"]);
    refused_bytes(
        &with(24, &(1u64 << 40).to_le_bytes()),
        &["length of gguf key 0 is 1099511627776: at most 256"],
    );
    refused_bytes(&[&file[..], &[0; 64]].concat(), &["gguf data section", "the tensors end at"]);

    let norm = offset_at(&file, "blk.0.attn_norm.weight", 1);
    refused_bytes(&with(norm, &[33]), &["offset of tensor blk.0.attn_norm.weight", "multiple of 32"]);
    refused_bytes(&with(norm, &0u64.to_le_bytes()), &["offset of tensor", "the tensor before it ends at"]);
    refused_bytes(&with(norm, &(u64::MAX - 31).to_le_bytes()), &["attn_norm", "the data section has"]);
    refused_bytes(&with(norm - 4, &[15]), &["type of tensor blk.0.attn_norm.weight is 15", "Q8_0 (8)"]);
    refused_bytes(&with(norm - 16, &[3]), &["dimension count of tensor blk.0.attn_norm.weight is 3"]);
    refused_bytes(
        &with(norm - 12, &u64::MAX.to_le_bytes()),
        &["dimensions of tensor blk.0.attn_norm.weight"],
    );
}

#[test]
fn every_truncated_file_is_refused() {
    let file = good().finish();
    for len in (0..file.len()).rev().step_by(13) {
        let error = Gguf::parse(&file[..len]).unwrap_err().to_string();
        assert!(
            error.contains("file ends at") || error.contains("bytes") || error.contains("at most"),
            "{error}"
        );
    }
}

#[test]
fn wrong_tensors() {
    refused(|w| w.tensors[3] = w.tensors[4].clone(), &["gguf tensor", "occurs twice"]);
    refused(|w| drop(w.tensors.remove(3)), &["tensor blk.0.attn_q.weight is missing"]);
    refused(
        |w| w.tensor("rope_freqs.weight", &[16], 1, vec![0; 32]),
        &["rope_freqs.weight", "a vector of F32"],
    );
    refused(|w| w.tensor("rope_freqs.weight", &[16], 0, vec![0; 64]), &["rope_freqs.weight", "Llama 3's"]);
    refused(|w| w.tensor("rope_freqs.weight", &[8], 0, vec![0; 32]), &["elements of", "must be 16 to 16"]);
    refused(
        |w| w.tensor("blk.0.attn_q_norm.weight", &[32], 0, vec![0; 128]),
        &["attn_q_norm", "not a part of llama"],
    );
    refused(
        |w| tensor(w, "blk.0.attn_v.weight").1 = vec![64, 16],
        &["attn_v", "16 rows of 64: must be 32 rows of 32"],
    );
    refused(
        |w| {
            let up = tensor(w, "blk.0.ffn_up.weight");
            (up.1, up.2, up.3) = (vec![48, 32], Encoding::Q8_0.ggml(), vec![0; 48 * 34]);
        },
        &["dimensions of tensor blk.0.ffn_up.weight is 48", "Q8_0's block, 32"],
    );
    for (bits, name) in [(0x7e00u16, "NaN"), (0xfc00, "-inf")] {
        let place = 2 * (5 * 32 + 7);
        refused(
            |w| tensor(w, "blk.0.ffn_down.weight").3[place..place + 2].copy_from_slice(&bits.to_le_bytes()),
            &["tensor blk.0.ffn_down.weight, row 5, column 7", name],
        );
    }
    refused(
        |w| {
            let norm = tensor(w, "output_norm.weight");
            norm.2 = Encoding::F32.ggml();
            norm.3 = [1e5f32; 32].iter().flat_map(|x| x.to_le_bytes()).collect();
        },
        &["tensor output_norm.weight, row 0, column 0: 100000 is not a finite half"],
    );
}

#[test]
fn wrong_architecture() {
    refused(
        |w| w.string("general.architecture", "mamba"),
        &["general.architecture", "mamba", "llama, qwen2 and qwen3"],
    );
    refused(|w| w.remove("general.architecture"), &["general.architecture is missing"]);
    refused(|w| w.u32("general.architecture", 1), &["general.architecture is 1: must be a string"]);
    refused(|w| w.remove("llama.block_count"), &["llama.block_count is missing"]);
    refused(|w| w.u32("llama.block_count", 2), &["tensor blk.1.attn_norm.weight is missing"]);
    refused(|w| w.u32("llama.block_count", 1 << 30), &["layers is 1073741824: must be 1 to 1024"]);
    refused(|w| w.u32("llama.context_length", 0), &["llama.context_length is 0"]);
    refused(|w| w.u32("llama.attention.head_count_kv", 3), &["kv_heads is 3: must be 1 to 1"]);
    refused(
        |w| w.u32("llama.rope.dimension_count", 16),
        &["llama.rope.dimension_count is 16: must be 32 to 32"],
    );
    refused(|w| w.string("llama.rope.scaling.type", "yarn"), &["llama.rope.scaling.type is yarn"]);
    refused(|w| w.u32("llama.attention.sliding_window", 0), &["llama.attention.sliding_window is 0"]);
    refused(|w| w.u32("llama.attention.sinks", 64), &["llama.attention.sinks"]);
    refused(
        |w| w.f32("llama.attention.layer_norm_rms_epsilon", f32::NAN),
        &["layer_norm_rms_epsilon is NaN"],
    );
    refused(|w| w.f32("llama.rope.freq_base", 0.0), &["rope_base is 0"]);
    refused(
        |w| w.u32("tokenizer.ggml.eos_token_id", 288),
        &["eos_token_id is 288: must be an integer, 0 to 287"],
    );
    refused(|w| w.u32("tokenizer.ggml.eot_token_id", 288), &["eos id is 288: must be 0 to 287"]);
    refused(|w| w.u32("general.alignment", 48), &["general.alignment"]);
    refused(|w| w.pairs.push(w.pairs[5].clone()), &["gguf key", "occurs twice"]);
}

#[test]
fn wrong_tokenizer() {
    let tokens = |w: &GgufWriter| -> Vec<String> {
        let file = w.finish();
        let gguf = Gguf::parse(&file).unwrap();
        gguf.strings("tokenizer.ggml.tokens").unwrap().unwrap().iter().map(|t| t.to_string()).collect()
    };
    refused(|w| w.string("tokenizer.ggml.model", "t5"), &["tokenizer.ggml.model is t5"]);
    refused(|w| w.string("tokenizer.ggml.model", "llama"), &["tokenizer.ggml.scores is missing"]);
    refused(|w| w.string("tokenizer.ggml.pre", "default"), &["tokenizer.ggml.pre is default"]);
    refused(|w| w.remove("tokenizer.ggml.merges"), &["tokenizer.ggml.merges is missing"]);
    let merge =
        |m: &'static str| move |w: &mut GgufWriter| w.strings("tokenizer.ggml.merges", &[m.to_string()]);
    refused(merge("t x"), &["merge is \"tx\": must be a token"]);
    refused(merge("th"), &["tokenizer.ggml.merges is \"th\": must be two tokens"]);
    refused(|w| w.strings("tokenizer.ggml.merges", &["t h", "t h"].map(str::to_string)), &["occurs twice"]);
    refused(|w| w.i32s("tokenizer.ggml.token_type", &[1; 287]), &["kinds of the tokens is 287"]);
    refused(|w| w.i32s("tokenizer.ggml.token_type", &[7; 288]), &["token_type of 0 is 7"]);
    refused(
        |w| {
            let mut t = tokens(w);
            t[260] = "a b".to_string();
            w.strings("tokenizer.ggml.tokens", &t);
            w.strings::<&str>("tokenizer.ggml.merges", &[]);
        },
        &["token 260 is \"a b\": not in the byte-level alphabet"],
    );
    refused(
        |w| {
            let mut t = tokens(w);
            t[270] = t[65].clone();
            w.strings("tokenizer.ggml.tokens", &t);
        },
        &["token 270 is \"A\": token 65 is the same"],
    );
    // A tokenizer of another model: one token short of the embedding.
    refused(
        |w| {
            let mut t = tokens(w);
            t.pop();
            w.strings("tokenizer.ggml.tokens", &t);
            w.i32s("tokenizer.ggml.token_type", &[[1; 256].as_slice(), &[3; 31]].concat());
        },
        &["tokens of the tokenizer is 287: must be 288 to 288"],
    );
    refused(|w| w.remove("tokenizer.ggml.token_type"), &["tokenizer.ggml.token_type is missing"]);
    // What is cheap to write and costly to build or to search.
    let renamed = |w: &mut GgufWriter, id: usize, name: String| {
        let mut t = tokens(w);
        t[id] = name;
        w.strings("tokenizer.ggml.tokens", &t);
    };
    refused(|w| renamed(w, 256, "x".repeat(257)), &["length of token 256 is 257: must be 1 to 256"]);
    refused(|w| renamed(w, 0, "x".repeat(1025)), &["length of token 0 is 1025: must be 1 to 1024"]);
    let long = "x".repeat((1 << 20) + 1);
    refused(|w| w.string("tokenizer.chat_template", &long), &["tokenizer.chat_template", "at most 1048576"]);
    refused(
        |w| {
            let names: Vec<String> = (0..1 << 15).map(|id| format!("<{id}>")).collect();
            w.strings("tokenizer.ggml.tokens", &names);
            w.i32s("tokenizer.ggml.token_type", &[3; 1 << 15]);
            w.strings::<&str>("tokenizer.ggml.merges", &[]);
        },
        &["special and added tokens is 32768: must be 0 to 16384"],
    );
}
