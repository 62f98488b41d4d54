//! Texts a second of all-MiniLM-L6-v2, beside candle's BERT in f32 on the same file: batches of equally long texts, which
//! is what suits candle best, for it pads others.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config, HiddenAct};
use deepnode_worker::canon::EncoderDevice;
use deepnode_worker::cpu::{CpuEncoder, Isa};
use deepnode_worker::model::testing::{minilm, models_folder, MINILM};

use super::Rates;

/// Texts of a batch, and tokens of each.
const BATCHES: [(usize, usize); 3] = [(64, 16), (16, 128), (4, 512)];

fn candle(vocab: u32) -> candle_core::Result<BertModel> {
    let weights =
        candle_core::safetensors::load(models_folder().join(MINILM).join("model.safetensors"), &Device::Cpu)?;
    let config = Config {
        vocab_size: vocab as usize,
        hidden_size: 384,
        num_hidden_layers: 6,
        num_attention_heads: 12,
        intermediate_size: 1536,
        hidden_act: HiddenAct::Gelu,
        ..Config::default()
    };
    BertModel::load(VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu), &config)
}

pub fn run(threads: &[usize], isas: &[Isa], rounds: usize) -> Result<(), Box<dyn std::error::Error>> {
    let model = std::sync::Arc::new(minilm());
    let vocab = model.arch().vocab;
    let bert = candle(vocab)?;
    println!("\n{MINILM}: texts/s, median of {rounds} (best); peer: candle 0.9.2, f32");
    print!("\n| {:>16} | threads | {:>16} |", "texts x tokens", "candle");
    isas.iter().for_each(|isa| print!(" {:>16} | ratio |", format!("{isa:?}")));
    println!(
        "\n|-----------------:|--------:|-----------------:|{}",
        "-----------------:|------:|".repeat(isas.len())
    );
    for (count, len) in BATCHES {
        let texts: Vec<Vec<u32>> = (0..count as u32)
            .map(|text| {
                (0..len as u32).map(|i| (i + 97 * text).wrapping_mul(2_654_435_761) % vocab).collect()
            })
            .collect();
        let slices: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let ids = Tensor::new(texts.clone(), &Device::Cpu)?;
        let types = ids.zeros_like()?;
        for threads in threads {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(*threads).build()?;
            let engines: Vec<CpuEncoder<_>> = isas
                .iter()
                .map(|isa| CpuEncoder::new(model.clone(), *isa, *threads))
                .collect::<Result<_, _>>()?;
            let mut theirs = Rates::default();
            let mut ours: Vec<Rates> = isas.iter().map(|_| Rates::default()).collect();
            for _ in 0..rounds {
                for (engine, rates) in engines.iter().zip(&mut ours) {
                    let start = Instant::now();
                    engine.encode(&slices)?;
                    rates.push(count as f64 / start.elapsed().as_secs_f64());
                }
                let start = Instant::now();
                pool.install(|| bert.forward(&ids, &types, None)?.mean(1)?.to_vec2::<f32>())?;
                theirs.push(count as f64 / start.elapsed().as_secs_f64());
            }
            print!("| {:>16} | {threads:>7} | {:>16} |", format!("{count} x {len}"), theirs.text());
            ours.iter_mut().for_each(|rates| {
                print!(" {:>16} | {:>5.2} |", rates.text(), rates.median() / theirs.median())
            });
            println!();
        }
    }
    Ok(())
}
