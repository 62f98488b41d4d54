//! Safetensors with their JSON that are wrong, by accident or on purpose.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{json, Value};

use crate::canon::{Architecture, RopeScaling};
use crate::model::dequant::Encoding;
use crate::model::source::{AnySource, Files};
use crate::model::{export, import, synthetic, Model};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A good checkpoint: its files by name.
fn good() -> BTreeMap<String, Vec<u8>> {
    static FILES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let arch =
            Architecture { layers: 1, width: 32, heads: 1, kv_heads: 1, ffn: 32, ..synthetic::small() };
        let gguf = folder.path().join("m.gguf");
        fs::write(&gguf, synthetic::gguf(&arch, Encoding::F16, 5)).unwrap();
        let model = Model::open(&import(&gguf, folder.path(), &|_| {}).unwrap().path).unwrap();
        let to = folder.path().join("hf");
        export::to_safetensors(&model, &to).unwrap();
        let file = |e: std::io::Result<fs::DirEntry>| {
            let e = e.unwrap();
            (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())
        };
        fs::read_dir(to).unwrap().map(file).collect()
    });
    files.clone()
}

fn import_files(files: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let models = folder.path().join("models");
    let result = import(folder.path(), &models, &|_| {}).map(drop).map_err(|e| e.to_string());
    if result.is_err() {
        let left = fs::read_dir(models).into_iter().flatten();
        let left = left.filter(|f| f.as_ref().unwrap().file_name() != ".lock").count();
        assert_eq!(left, 0, "a failed import leaves nothing");
    }
    result
}

/// Changes a good checkpoint and expects an error with `part`.
fn refused(change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>), part: &str) {
    let mut files = good();
    change(&mut files);
    let error = import_files(&files).unwrap_err();
    assert!(error.contains(part), "{part:?} in {error:?}");
}

fn document(
    file: &'static str,
    change: impl FnOnce(&mut Value),
) -> impl FnOnce(&mut BTreeMap<String, Vec<u8>>) {
    move |files| {
        let mut value: Value = serde_json::from_slice(&files[file]).unwrap();
        change(&mut value);
        files.insert(file.to_string(), value.to_string().into_bytes());
    }
}

fn config(change: impl FnOnce(&mut Value), part: &str) {
    refused(document("config.json", change), part);
}

/// The header and the data of a safetensors file.
fn split(file: &[u8]) -> (Value, &[u8]) {
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&file[8..8 + len]).unwrap(), &file[8 + len..])
}

fn joined(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn header(change: impl FnOnce(&mut Value), part: &str) {
    refused(
        |files| {
            let (mut header, data) = split(&files[WEIGHTS]);
            change(&mut header);
            let file = joined(&header.to_string(), data);
            files.insert(WEIGHTS.to_string(), file);
        },
        part,
    );
}

const Q: &str = "model.layers.0.self_attn.q_proj.weight";
const NORM: &str = "model.norm.weight";

#[test]
fn wrong_container() {
    assert_eq!(import_files(&good()), Ok(()));
    let weights = |bytes: Vec<u8>| {
        move |files: &mut BTreeMap<String, Vec<u8>>| {
            files.insert(WEIGHTS.to_string(), bytes);
        }
    };
    let file = good()[WEIGHTS].clone();
    refused(weights(Vec::new()), "length of model.safetensors is 0: must be at least 8");
    refused(weights(u64::MAX.to_le_bytes().to_vec()), "header length of model.safetensors");
    refused(weights([&(1u64 << 20).to_le_bytes()[..], &file[8..]].concat()), "header length");
    refused(weights(joined("[]", &[])), "must be its JSON");
    refused(weights(joined("{}", &[])), "tensors of model.safetensors is 0");
    refused(weights([&file[..], &[0; 8]].concat()), "must be a whole safetensors file");
    for len in (0..file.len() - 1).rev().step_by(997) {
        refused(weights(file[..len].to_vec()), "model.safetensors");
    }
    let (value, data) = split(&file);
    let twice = value.to_string().replacen('{', &format!("{{{:?}:{},", NORM, value[NORM]), 1);
    refused(weights(joined(&twice, data)), "key \"model.norm.weight\" occurs twice");

    header(|h| h[NORM]["data_offsets"] = h[Q]["data_offsets"].clone(), "must be a whole safetensors file");
    header(|h| h[NORM]["data_offsets"] = json!([0, u64::MAX]), "model.safetensors");
    header(|h| h[NORM]["shape"] = json!([33]), "model.safetensors");
    header(|h| h[NORM]["shape"] = json!([u64::MAX, u64::MAX]), "model.safetensors");
    header(|h| h[NORM]["shape"] = json!([1, 1, 32]), "dimension count of tensor model.norm.weight is 3");
    header(|h| h[NORM]["shape"] = json!([2, 16]), "2 rows of 16: must be 1 rows of 32");
    header(|h| h[NORM]["dtype"] = "I16".into(), "type of tensor model.norm.weight is");
    header(|h| h[NORM]["dtype"] = "Q4".into(), "model.safetensors");
    header(
        |h| {
            let tensor = h.as_object_mut().unwrap().remove(NORM).unwrap();
            h["model.norm.bias"] = tensor;
        },
        "tensor model.norm.weight is missing",
    );
    header(
        |h| {
            let end = h.as_object().unwrap().values().filter_map(|t| t["data_offsets"][1].as_u64()).max();
            h["lm_head.weight"] = json!({ "dtype": "F16", "shape": [0], "data_offsets": [end, end] });
        },
        "dimensions of tensor lm_head.weight is 0",
    );
}

#[test]
fn weights_that_are_not_finite() {
    for (bits, name) in [(0x7e00u16, "NaN"), (0xfc00, "-inf")] {
        refused(
            |files| {
                let file = files.get_mut(WEIGHTS).unwrap();
                let (header, data) = split(file);
                let at = file.len() - data.len() + header[Q]["data_offsets"][0].as_u64().unwrap() as usize;
                let place = at + 2 * (5 * 32 + 7);
                file[place..place + 2].copy_from_slice(&bits.to_le_bytes());
            },
            &format!("tensor {Q}, row 5, column 7: {name} is not a finite half"),
        );
    }
}

#[test]
fn wrong_settings() {
    config(
        |c| c["model_type"] = "mamba".into(),
        "known are llama, mistral, qwen2, qwen3 and, for encoders, bert",
    );
    config(|c| c["model_type"] = 3.into(), "model_type of config.json is 3: must be a string");
    config(
        |c| c["architectures"] = json!(["LlamaForSequenceClassification"]),
        "architectures of config.json",
    );
    config(|c| c["hidden_act"] = "gelu".into(), "hidden_act of config.json is \"gelu\": must be \"silu\"");
    config(|c| c["quantization_config"] = json!({ "bits": 4 }), "quantization_config of config.json");
    config(|c| c["logits_scaling"] = 8.0.into(), "logits_scaling");
    config(|c| c["sliding_window"] = 64.into(), "sliding_window of config.json is 64: must be null");
    config(|c| c["rope_interleaved"] = true.into(), "rope_interleaved");
    config(
        |c| c["rope_scaling"] = json!({ "type": "yarn", "factor": 4.0 }),
        "known are default, linear and llama3",
    );
    config(
        |c| c["rope_scaling"] = json!({ "type": "linear", "factor": 0.5 }),
        "factor of the rope scaling is 0.5",
    );
    config(|c| c["rope_scaling"] = json!({ "rope_type": "llama3", "factor": 8 }), "low_freq_factor");
    config(
        |c| c["rope_scaling"] = json!({ "type": "linear", "factor": 2.0, "attention_factor": 0.9 }),
        "attention_factor of config.json is 0.9: not known of rope_scaling of type linear",
    );
    config(
        |c| {
            c["rope_parameters"] =
                json!({ "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5 })
        },
        "partial_rotary_factor of config.json is 0.5: not known of rope_parameters of type default",
    );
    config(
        |c| c["rope_parameters"] = json!({ "rope_theta": 5e5 }),
        "rope_theta of config.json is 10000: rope_parameters says 500000",
    );
    config(
        |c| {
            c["rope_parameters"] = json!({ "rope_type": "default" });
            c["rope_scaling"] = json!({ "rope_type": "default" });
        },
        "rope_scaling of config.json is an object: rope_parameters says it already",
    );
    config(
        |c| c["attention_bias"] = true.into(),
        "attention_bias of config.json is true: the tensors have no biases",
    );
    config(|c| c["num_hidden_layers"] = 2.into(), "tensor model.layers.1.input_layernorm.weight is missing");
    config(|c| c["num_hidden_layers"] = u64::MAX.into(), "num_hidden_layers of config.json");
    config(|c| c["num_attention_heads"] = 0.into(), "num_attention_heads of config.json is 0");
    config(|c| c["rms_norm_eps"] = "1e-5".into(), "rms_norm_eps of config.json");
    config(|c| c["rms_norm_eps"] = 0.into(), "eps is 0");
    config(|c| c["tie_word_embeddings"] = false.into(), "tensor lm_head.weight is missing");
    config(|c| c["model_type"] = "qwen2".into(), "architectures");
    config(
        |c| {
            c["model_type"] = "mistral".into();
            c["architectures"] = json!(["MistralForCausalLM"]);
        },
        "sliding_window of config.json is missing",
    );
    refused(|files| drop(files.remove("config.json")), "config.json is missing");
    refused(|files| drop(files.insert("config.json".into(), vec![b'['; 4096])), "config.json");
    refused(document("generation_config.json", |c| c["eos_token_id"] = json!([288])), "eos id is 288");
}

/// The scaling is read from either object, and from nowhere else.
#[test]
fn rope_in_either_object() {
    let scaling = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64 });
    let mut newer = scaling.clone();
    newer["rope_theta"] = 5e5.into();
    let architecture = |change: &dyn Fn(&mut Value)| {
        let mut files = good();
        document("config.json", |c| change(c))(&mut files);
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in &files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let files = Files::open(folder.path()).unwrap();
        let AnySource::Decoder(source) = files.read().unwrap() else { panic!("an encoder") };
        (source.arch.rope_base, source.arch.rope_scaling)
    };
    let older = architecture(&|c| {
        c["rope_theta"] = 5e5.into();
        c["rope_scaling"] = scaling.clone();
    });
    let newer = architecture(&|c| {
        c.as_object_mut().unwrap().remove("rope_theta");
        c["rope_parameters"] = newer.clone();
    });
    let expected = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64 };
    assert_eq!(older, (5e5, expected));
    assert_eq!(newer, older);
}

/// Biases are there if attention_bias says so.
#[test]
fn biases_are_as_attention_bias_says() {
    let with = |said: Value| {
        let mut files = good();
        let (mut header, data) = split(&files[WEIGHTS]);
        let mut data = data.to_vec();
        for name in ["q", "k", "v"] {
            let offsets = json!([data.len(), data.len() + 64]);
            header[format!("model.layers.0.self_attn.{name}_proj.bias")] =
                json!({ "dtype": "F16", "shape": [32], "data_offsets": offsets });
            data.extend([0; 64]);
        }
        files.insert(WEIGHTS.to_string(), joined(&header.to_string(), &data));
        document("config.json", |c| c["attention_bias"] = said)(&mut files);
        import_files(&files)
    };
    assert_eq!(with(true.into()), Ok(()));
    for said in [false.into(), Value::Null] {
        let error = with(said).unwrap_err();
        assert!(error.contains("attention_bias of config.json is false: the tensors have biases"), "{error}");
    }
}

/// A tokenizer of another model.
#[test]
fn wrong_tokenizer() {
    config(|c| c["vocab_size"] = 287.into(), "shape of tensor model.embed_tokens.weight");
    refused(document("tokenizer.json", |t| t["model"]["vocab"]["extra"] = 288.into()), "must be 0 to 287");
    refused(
        document("tokenizer.json", |t| t["model"]["vocab"]["☃"] = 287.into()),
        "not in the byte-level alphabet",
    );
    refused(document("tokenizer_config.json", |t| t["eos_token"] = "</s>".into()), "must be a token");
    refused(|files| drop(files.remove("tokenizer.json")), "tokenizer.json is missing");
}

#[test]
fn wrong_index() {
    let sharded = |change: fn(&mut Value)| {
        move |files: &mut BTreeMap<String, Vec<u8>>| {
            let (header, _) = split(&files[WEIGHTS]);
            let names = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__");
            let map: serde_json::Map<String, Value> =
                names.map(|name| (name.clone(), WEIGHTS.into())).collect();
            let mut index = json!({ "weight_map": map });
            change(&mut index);
            files.insert(INDEX.to_string(), index.to_string().into_bytes());
        }
    };
    let mut files = good();
    sharded(|_| ())(&mut files);
    assert_eq!(import_files(&files), Ok(()));
    refused(sharded(|i| i["weight_map"][Q] = "../model.safetensors".into()), "must be the plain name");
    refused(sharded(|i| i["weight_map"][Q] = "/dev/zero".into()), "must be the plain name");
    refused(sharded(|i| i["weight_map"][Q] = "none.safetensors".into()), "none.safetensors: No such file");
    refused(sharded(|i| drop(i["weight_map"].as_object_mut().unwrap().remove(Q))), "does not put it there");
    refused(sharded(|i| i["weight_map"]["more.weight"] = WEIGHTS.into()), "the file does not have it");
    refused(sharded(|i| i["weight_map"] = json!({})), "tensors of model.safetensors.index.json is 0");
    refused(
        |files| {
            sharded(|i| i["weight_map"][Q] = "copy.safetensors".into())(files);
            files.insert("copy.safetensors".to_string(), files[WEIGHTS].clone());
        },
        "does not put it there",
    );
}

/// A head that is said to be the embedding must be, and frequencies that follow from the settings do not matter.
#[test]
fn tensors_that_need_not_be_there() {
    let with = |name: &str, like: &str, change: u8| {
        let mut files = good();
        let (mut header, data) = split(&files[WEIGHTS]);
        let range = [0, 1].map(|i| header[like]["data_offsets"][i].as_u64().unwrap() as usize);
        let mut copy = data[range[0]..range[1]].to_vec();
        copy[0] ^= change;
        header[name] = header[like].clone();
        header[name]["data_offsets"] = json!([data.len(), data.len() + copy.len()]);
        files.insert(WEIGHTS.to_string(), joined(&header.to_string(), &[data, &copy[..]].concat()));
        import_files(&files)
    };
    assert_eq!(with("model.layers.0.self_attn.rotary_emb.inv_freq", NORM, 0), Ok(()));
    assert_eq!(with("lm_head.weight", "model.embed_tokens.weight", 0), Ok(()));
    assert!(with("lm_head.weight", "model.embed_tokens.weight", 1)
        .unwrap_err()
        .contains("tie_word_embeddings"));
}

#[test]
fn folders_with_nothing_or_too_much() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| Files::open(path).unwrap_err().to_string();
    assert!(open(folder.path()).contains("0 .gguf and .safetensors files"));
    for file in ["a.gguf", "b.gguf"] {
        fs::write(folder.path().join(file), b"GGUF").unwrap();
    }
    assert!(open(folder.path()).contains("2 .gguf and .safetensors files"));
    assert!(open(&folder.path().join("c.gguf")).contains("c.gguf: No such file"));
}

/// A GGUF file that is one of several is told from one that is damaged.
#[test]
fn split_gguf_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let error = |path: &Path| {
        let error = import(path, &folder.path().join("models"), &|_| {}).unwrap_err().to_string();
        assert!(error.contains("merge them first: llama-gguf-split --merge"), "{error}");
        error
    };
    let arch = Architecture { layers: 1, ..synthetic::small() };
    let mut writer = synthetic::writer(&arch, Encoding::F16, 5);
    // As the first one of a split model that holds no tensors, which the reader alone would call damaged.
    let first = save("big-00001-of-00003.gguf", b"GGUF\x03\0\0\0");
    assert!(error(&first).contains("big-00001-of-00003.gguf is part 1 of 3"));
    save("big-00002-of-00003.gguf", b"GGUF");
    assert!(error(folder.path()).contains("big-00001-of-00003.gguf is part 1 of 3"));
    writer.u32("split.no", 1);
    writer.u32("split.count", 3);
    let renamed = save("renamed.gguf", &writer.finish());
    assert!(error(&renamed).contains("renamed.gguf is part 2 of 3"));

    // One part is the whole.
    writer.u32("split.no", 0);
    writer.u32("split.count", 1);
    let whole = save("big-00001-of-00001.gguf", &writer.finish());
    import(&whole, &folder.path().join("models"), &|_| {}).unwrap();
}
