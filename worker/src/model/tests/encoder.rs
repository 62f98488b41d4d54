//! Encoders: to a model file and back, and folders that are wrong, by accident or on purpose.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{json, Value};

use crate::canon::encoder::ReferenceEncoder;
use crate::canon::{EncoderArchitecture, EncoderDevice};
use crate::model::{export, import, list, synthetic, AnyModel, EncoderModel, Model};

type Files = BTreeMap<String, Vec<u8>>;

const WEIGHTS: &str = "model.safetensors";

fn arch() -> EncoderArchitecture {
    EncoderArchitecture { layers: 1, width: 32, ffn: 48, ..synthetic::small_encoder() }
}

fn good() -> Files {
    synthetic::encoder_files(&arch(), 7).into_iter().collect()
}

fn write(folder: &Path, files: &Files) {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn out_and_in_again_is_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let (source, models) = (folder.path().join("MyEncoder"), folder.path().join("models"));
    write(&source, &good());
    let imported = import(&source, &models, &|_| {}).unwrap();
    assert!(import(&source, &models, &|_| {}).unwrap().existed);
    let model = EncoderModel::open(&imported.path).unwrap();
    model.verify().unwrap();
    assert_eq!((model.name(), model.arch(), model.id()), ("MyEncoder", &arch(), imported.id));
    assert!(
        matches!(&list(&models).unwrap()[0].model, Ok(AnyModel::Encoder(model)) if model.id() == imported.id)
    );
    let error = Model::open(&imported.path).unwrap_err().to_string();
    assert!(error.contains("is an encoder: must be a language model"), "{error}");

    let again = folder.path().join("again");
    export::encoder_to_safetensors(&model, &again).unwrap();
    assert_eq!(import(&again, &folder.path().join("others"), &|_| {}).unwrap().id, imported.id);

    // A weight that changes on disk is found, and named.
    let mut bytes = fs::read(&imported.path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(folder.path().join("bad.dnm"), bytes).unwrap();
    let bad = EncoderModel::open(&folder.path().join("bad.dnm")).unwrap();
    let error = bad.verify().unwrap_err().to_string();
    assert!(error.starts_with("FfnNormBias of layer 0: digest"), "{error}");
}

/// A language model's file is no encoder.
#[test]
fn kinds_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("m.gguf");
    fs::write(&gguf, synthetic::gguf(&synthetic::small(), crate::model::dequant::Encoding::F16, 1)).unwrap();
    let path = import(&gguf, folder.path(), &|_| {}).unwrap().path;
    assert!(matches!(AnyModel::open(&path).unwrap(), AnyModel::Decoder(_)));
    let error = EncoderModel::open(&path).unwrap_err().to_string();
    assert!(error.contains("is a language model: must be an encoder"), "{error}");
}

/// The id is pinned: of the architecture, the tokenizer's digest, no rope table and the tensors in their order.
#[test]
fn id_and_vector_are_pinned() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &good());
    let imported = import(folder.path(), &folder.path().join("models"), &|_| {}).unwrap();
    assert_eq!(hex::encode(imported.id), "b23225be1a864ae4168ac61b814bc7cb031cf6bd33e12df6b654b6aba607648d");
    let model = std::sync::Arc::new(EncoderModel::open(&imported.path).unwrap());
    let tokens = model.tokenizer().encode("The cat's hat.").unwrap();
    let vectors = ReferenceEncoder(model).encode(&[&tokens]).unwrap();
    assert_eq!(
        hex::encode(vectors[0].trace_root()),
        "c5d19e14384d6ab7976e050d49eb3a5aa8b034a4546917ff051c6af9bdf7a0bc"
    );
}

/// Changes a good folder and expects an error with `part`, and no file left.
fn refused(change: impl FnOnce(&mut Files), part: &str) {
    let mut files = good();
    change(&mut files);
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &files);
    let models = folder.path().join("models");
    let error = import(folder.path(), &models, &|_| {}).unwrap_err().to_string();
    assert!(error.contains(part), "{part:?} in {error:?}");
    let left = fs::read_dir(models).into_iter().flatten();
    assert_eq!(left.filter(|f| f.as_ref().unwrap().file_name() != ".lock").count(), 0);
}

fn set(name: &'static str, change: impl FnOnce(&mut Value)) -> impl FnOnce(&mut Files) {
    move |files| {
        let mut document: Value = serde_json::from_slice(&files[name]).unwrap();
        change(&mut document);
        files.insert(name.into(), document.to_string().into_bytes());
    }
}

/// Changes the tensors: each its shape and values.
fn tensors(change: impl FnOnce(&mut BTreeMap<String, (Vec<usize>, Vec<f32>)>)) -> impl FnOnce(&mut Files) {
    use safetensors::tensor::TensorView;
    move |files| {
        let container = safetensors::SafeTensors::deserialize(&files[WEIGHTS]).unwrap();
        let floats =
            |bytes: &[u8]| bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        let mut tensors = container
            .iter()
            .map(|(name, t)| (name.to_string(), (t.shape().to_vec(), floats(t.data()))))
            .collect();
        change(&mut tensors);
        let bytes: Vec<_> = tensors
            .iter()
            .map(|(name, (shape, x))| {
                (name, shape, x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, x)| {
            (name, TensorView::new(safetensors::Dtype::F32, shape.to_vec(), x).unwrap())
        });
        files.insert(WEIGHTS.into(), safetensors::serialize(views, None).unwrap());
    }
}

#[test]
fn wrong_tensors() {
    const UP: &str = "encoder.layer.0.intermediate.dense.weight";
    refused(tensors(|t| drop(t.remove(UP))), "tensor encoder.layer.0.intermediate.dense.weight is missing");
    refused(
        tensors(|t| t.get_mut(UP).unwrap().0.swap(0, 1)),
        "shape of tensor encoder.layer.0.intermediate.dense.weight is 32 rows of 48: must be 48 rows of 32",
    );
    let nan = |x: f32| tensors(move |t| t.get_mut(UP).unwrap().1[32 * 5 + 7] = x);
    for (x, name) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf"), (1e5, "100000")] {
        refused(nan(x), &format!("tensor {UP}, row 5, column 7: {name} is not a finite half"));
    }
    refused(
        tensors(|t| drop(t.insert("encoder.layer.1.output.dense.bias".into(), (vec![32], vec![0.0; 32])))),
        "tensor is encoder.layer.1.output.dense.bias: not a part of this architecture",
    );
    refused(|f| f.get_mut(WEIGHTS).unwrap().truncate(9000), "model.safetensors");
}

#[test]
fn wrong_settings() {
    let config = |key: &'static str, value: Value| set("config.json", move |d| d[key] = value);
    refused(config("hidden_act", "relu".into()), "hidden_act of config.json is \"relu\": must be \"gelu\"");
    refused(config("hidden_act", "gelu_new".into()), "hidden_act of config.json");
    refused(
        config("position_embedding_type", "relative_key".into()),
        "position_embedding_type of config.json",
    );
    refused(config("model_type", "roberta".into()), "for encoders, bert");
    refused(config("is_decoder", true.into()), "is_decoder of config.json");
    refused(config("architectures", json!(["BertForMaskedLM"])), "architectures of config.json");
    refused(config("num_attention_heads", 3.into()), "heads is 3: must divide width, 32");
    refused(config("num_attention_heads", 0.into()), "heads is 0: must be 1");
    refused(
        config("num_hidden_layers", 2.into()),
        "tensor encoder.layer.1.attention.self.query.weight is missing",
    );
    refused(config("num_hidden_layers", 4_000_000_000u32.into()), "layers is 4000000000: must be 1 to 1024");
    refused(config("max_position_embeddings", 100_000.into()), "context is 100000: must be 1 to 8192");
    refused(config("layer_norm_eps", 0.into()), "eps is 0");
    refused(
        set("config.json", |d| drop(d.as_object_mut().unwrap().remove("layer_norm_eps"))),
        "layer_norm_eps",
    );
    refused(
        config("vocab_size", 299.into()),
        "word_embeddings.weight is 300 rows of 32: must be 299 rows of 32",
    );
}

#[test]
fn wrong_pooling() {
    let pooling = "1_Pooling/config.json";
    refused(|f| drop(f.remove("modules.json")), "modules.json is missing");
    refused(|f| drop(f.remove(pooling)), "1_Pooling/config.json is missing");
    let cls = |d: &mut Value| {
        (d["pooling_mode_mean_tokens"], d["pooling_mode_cls_token"]) = (false.into(), true.into());
    };
    refused(set("1_Pooling/config.json", cls), "pooling_mode_cls_token of 1_Pooling/config.json is true");
    let none = |d: &mut Value| d["pooling_mode_mean_tokens"] = false.into();
    refused(set("1_Pooling/config.json", none), "pooling_mode_mean_tokens of 1_Pooling/config.json is false");
    let dense = |d: &mut Value| d[2]["type"] = "sentence_transformers.models.Dense".into();
    refused(set("modules.json", dense), "types of modules.json is Transformer, Pooling, Dense");
    refused(set("modules.json", |d| d[1]["path"] = "../../etc".into()), "path of modules.json");
    refused(set("modules.json", |d| *d = json!({})), "modules.json");
}
