//! Every family of decoders, on generated weights: through both formats and back to one model id, and close to an
//! independent engine that reads the exported files itself.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::gguf_file::Content;
use candle_core::safetensors::save;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{
    llama, mistral, quantized_llama, quantized_qwen2, quantized_qwen3, qwen2, qwen3,
};
use deepnode_worker::canon::reference::Reference;
use deepnode_worker::canon::{Architecture, Device as _, Run};
use deepnode_worker::cpu::{Cpu, Isa};
use deepnode_worker::model::dequant::Encoding;
use deepnode_worker::model::{export, import, synthetic, Imported, Model};
use half::{bf16, f16};
use serde_json::{json, Value};

fn import_into(folder: &Path, path: &Path) -> Imported {
    import(path, folder, &|_| {}).unwrap()
}

/// A model of `arch` in `folder`.
fn model(folder: &Path, arch: &Architecture, encoding: Encoding) -> Model {
    let path = folder.join("source.gguf");
    fs::write(&path, synthetic::gguf(arch, encoding, 11)).unwrap();
    Model::open(&import_into(&folder.join("models"), &path).path).unwrap()
}

fn tokens(n: usize, vocab: u32) -> Vec<u32> {
    (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect()
}

#[test]
fn formats_agree_on_the_id() {
    for (name, arch) in synthetic::families() {
        let folder = tempfile::tempdir().unwrap();
        let at = |file: &str| folder.path().join(file);
        let model = model(folder.path(), &arch, Encoding::Q4K);
        assert_eq!(model.arch(), &arch, "{name}");
        export::to_gguf(&model, &at("f16.gguf")).unwrap();
        export::to_safetensors(&model, &at("hf")).unwrap();

        // The same values in other types, and in two files with an index.
        let tensors = candle_core::safetensors::load(at("hf/model.safetensors"), &Device::Cpu).unwrap();
        let documents = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
        let copy_documents = |to: &str| {
            fs::create_dir(at(to)).unwrap();
            for file in documents {
                fs::copy(at("hf").join(file), at(to).join(file)).unwrap();
            }
        };
        copy_documents("wide");
        let wide = tensors.iter().map(|(n, t)| (n.clone(), t.to_dtype(DType::F32).unwrap())).collect();
        save(&wide, at("wide/weights.safetensors")).unwrap();
        // As checkpoints are published: F32, F16 and BF16 of values that BF16 has are one model.
        let half = |dtype| {
            let values = tensors.iter().map(|(n, t)| (n.clone(), t.to_dtype(DType::BF16).unwrap()));
            let to = format!("{dtype:?}");
            copy_documents(&to);
            let stored = values.map(|(n, t)| (n, t.to_dtype(dtype).unwrap())).collect();
            save(&stored, at(&to).join("model.safetensors")).unwrap();
            import_into(&at("again"), &at(&to))
        };
        let [brain, others @ ..] = [DType::BF16, DType::F16, DType::F32].map(half);
        assert!(!brain.existed && brain.id != model.id(), "{name}");
        assert_eq!(others, [brain.clone(), brain].map(|same| Imported { existed: true, ..same }), "{name}");
        copy_documents("sharded");
        let (mut shards, mut map) = ([std::collections::HashMap::new(), Default::default()], json!({}));
        for (n, (tensor, value)) in tensors.into_iter().enumerate() {
            map[&tensor] = format!("part-{}.safetensors", n % 2).into();
            shards[n % 2].insert(tensor, value);
        }
        for (n, shard) in shards.iter().enumerate() {
            save(shard, at("sharded").join(format!("part-{n}.safetensors"))).unwrap();
        }
        let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string();
        fs::write(at("sharded/model.safetensors.index.json"), index).unwrap();

        for path in ["f16.gguf", "hf", "hf/model.safetensors", "wide", "wide/weights.safetensors", "sharded"]
        {
            let again = import_into(&at("again"), &at(path));
            assert_eq!(hex::encode(again.id), hex::encode(model.id()), "{name}: {path}");
        }
        let error = export::to_gguf(&model, &at("f16.gguf")).unwrap_err().to_string();
        assert!(error.contains("f16.gguf"), "{error}");
        let error = export::to_safetensors(&model, &at("hf")).unwrap_err().to_string();
        assert!(error.contains("must be empty"), "{error}");
        let left = fs::read_dir(folder.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
        assert_eq!(left.count(), 0, "no temporary file stays");
    }
}

/// BF16 has less digits than F16, but not among the smallest numbers: these are rounded, once, ties to even.
#[test]
fn brain_floats_are_rounded() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), &synthetic::small(), Encoding::F16);
    let to = folder.path().join("hf");
    export::to_safetensors(&model, &to).unwrap();
    let path = to.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    // The smallest step of F16 is 2^-24.
    let step = (-24f32).exp2();
    let mut gain = vec![1.0; 64];
    let rounded = [(1.0078125, 1.0078125), (17.0 * step, 17.0 * step), (16.125 * step, 16.0 * step)];
    let ties =
        [(16.5 * step, 16.0 * step), (17.5 * step, 18.0 * step), (0.25 * step, 0.0), (-0.25 * step, 0.0)];
    for (at, (value, _)) in rounded.iter().chain(&ties).enumerate() {
        assert_eq!(bf16::from_f32(*value).to_f32(), *value, "a value of BF16");
        gain[at] = *value;
    }
    let gain = gain.into_iter().map(bf16::from_f32).collect();
    tensors.insert(
        "model.norm.weight".to_string(),
        Tensor::from_vec::<_, bf16>(gain, 64, &Device::Cpu).unwrap(),
    );
    save(&tensors, &path).unwrap();
    let imported = Model::open(&import_into(&folder.path().join("models"), &to).path).unwrap();
    let found = &imported.weights().final_gain[..7];
    let expected: Vec<f16> = rounded.iter().chain(&ties).map(|(_, half)| f16::from_f32(*half)).collect();
    assert_eq!(found, expected);
    assert!(found[6].is_sign_positive(), "a zero is +0");
}

/// Logits of the last of `tokens` by candle, from safetensors; None of linear scaling, which it does not know.
fn candle(kind: &str, folder: &Path, tokens: &[u32]) -> Option<Vec<f32>> {
    let weights = fs::read(folder.join("model.safetensors")).unwrap();
    let vb = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let input = Tensor::new(vec![tokens.to_vec()], &Device::Cpu).unwrap();
    let logits = match kind {
        "llama" | "llama3" => {
            let config: llama::LlamaConfig = serde_json::from_value(config).unwrap();
            let config = config.into_config(false);
            let mut cache = llama::Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
            llama::Llama::load(vb, &config).unwrap().forward(&input, 0, &mut cache)
        }
        "mistral" => {
            // Candle sees a window's size of positions before the query's own, everyone else one less.
            config["sliding_window"] = json!(config["sliding_window"].as_u64().unwrap() - 1);
            let config: mistral::Config = serde_json::from_value(config).unwrap();
            mistral::Model::new(&config, vb).unwrap().forward(&input, 0)
        }
        "qwen2" | "qwen2 untied" => {
            config["sliding_window"] = json!(1 << 20);
            config["max_window_layers"] = config["num_hidden_layers"].clone();
            let config: qwen2::Config = serde_json::from_value(config).unwrap();
            qwen2::ModelForCausalLM::new(&config, vb).unwrap().forward(&input, 0)
        }
        "qwen3" | "qwen3 untied" => {
            config["sliding_window"] = Value::Null;
            config["max_window_layers"] = config["num_hidden_layers"].clone();
            let config: qwen3::Config = serde_json::from_value(config).unwrap();
            qwen3::ModelForCausalLM::new(&config, vb).unwrap().forward(&input, 0)
        }
        "linear" => return None,
        other => panic!("{other}"),
    };
    Some(logits.unwrap().flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap())
}

/// The same from GGUF; None where candle's reader knows no such family, or not all of it.
fn candle_gguf(kind: &str, path: &Path, tokens: &[u32]) -> Option<Vec<f32>> {
    let mut file = fs::File::open(path).unwrap();
    let content = Content::read(&mut file).unwrap();
    let input = Tensor::new(vec![tokens.to_vec()], &Device::Cpu).unwrap();
    let (file, cpu) = (&mut file, &Device::Cpu);
    let logits = match kind {
        "llama" => quantized_llama::ModelWeights::from_gguf(content, file, cpu).unwrap().forward(&input, 0),
        "qwen2" | "qwen2 untied" => {
            quantized_qwen2::ModelWeights::from_gguf(content, file, cpu).unwrap().forward(&input, 0)
        }
        "qwen3" | "qwen3 untied" => {
            quantized_qwen3::ModelWeights::from_gguf(content, file, cpu).unwrap().forward(&input, 0)
        }
        _ => return None,
    };
    Some(logits.unwrap().flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap())
}

/// RMS of the difference over RMS.
fn relative_error(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let square = |x: f32| f64::from(x).powi(2);
    let error: f64 = ours.iter().zip(theirs).map(|(a, b)| square(a - b)).sum();
    let norm: f64 = theirs.iter().map(|x| square(*x)).sum();
    (error / norm).sqrt()
}

/// Positions beyond the window of the one, beyond the original context of another.
#[test]
fn close_to_an_independent_f32_engine() {
    for (name, arch) in synthetic::families() {
        let folder = tempfile::tempdir().unwrap();
        let at = |file: &str| folder.path().join(file);
        let model = model(folder.path(), &arch, Encoding::F16);
        export::to_gguf(&model, &at("f16.gguf")).unwrap();
        export::to_safetensors(&model, &at("hf")).unwrap();
        let (width, vocab) = (arch.width as usize, arch.vocab as usize);

        let tokens = tokens(150, arch.vocab);
        let model = Arc::new(model);
        let reference = Reference::new(model.clone());
        let run = [Run { tokens: &tokens, first: 0, pages: &[1, 0] }];
        let forward = reference.forward(&run, None).unwrap();
        assert!(forward.finite.iter().all(|finite| *finite));
        let cpu = Cpu::new(model, Isa::detect(), 2, 2).unwrap();
        assert!(cpu.forward(&run, None).unwrap() == forward, "{name}: every bit of the fast path");
        for len in [1, 20, 24, 25, 26, 70, 150] {
            let mut ours = vec![0.0; vocab];
            reference.logits(&forward.x_final[(len - 1) * width..len * width], &mut ours).unwrap();
            if let Some(theirs) = candle(name, &at("hf"), &tokens[..len]) {
                let error = relative_error(&ours, &theirs);
                assert!(error < 2e-2, "{name}, {len} tokens: relative error {error}");
            }
            if let Some(theirs) = candle_gguf(name, &at("f16.gguf"), &tokens[..len]) {
                let error = relative_error(&ours, &theirs);
                assert!(error < 2e-2, "{name}, {len} tokens from GGUF: relative error {error}");
            }
        }
    }
}
