//! A device shows that it computes canon/1 before it computes for anybody: another card, driver or compiler than the
//! kernels were tested with may be wrong, and a worker that answers wrongly loses its stake.

use std::sync::Arc;

use super::device::{Cuda, Room};
use super::gpu::Gpu;
use crate::canon::device::{Device, DeviceError, Run, PAGE};
use crate::canon::random::RandomDecoder;
use crate::canon::reference::Reference;
use crate::canon::{Architecture, SamplingParams};
use crate::model::synthetic::small;

/// Small, with tails everywhere, and with the kernels that such a model takes.
fn architecture(of: &Architecture) -> Architecture {
    Architecture {
        layers: 2,
        width: 136,
        heads: 4,
        kv_heads: 2,
        head_dim: 22,
        ffn: 300,
        vocab: 1500,
        context: 2 * PAGE as u32,
        eos: vec![0],
        tied: false,
        qkv_bias: true,
        qk_norm: of.qk_norm,
        ..small()
    }
}

/// Positions of each sequence before the batched steps: across a page, and few.
const PROMPTS: [usize; 3] = [126, 3, 1];
/// Steps of all sequences together: recorded once, and repeated.
const STEPS: usize = 4;

/// Compares a prefill and some batched steps on the device with the reference, in every bit, and the tokens drawn: of a
/// small model that takes the kernels which models of this architecture take.
pub fn prove(gpu: impl Gpu, of: &Architecture) -> Result<(), DeviceError> {
    let model = Arc::new(RandomDecoder::new(architecture(of), 1));
    let reference = Reference::new(model.clone());
    let device = Cuda::new(gpu, &*model, Room { rows: 64, pages: Some(2 * PROMPTS.len()) })?;
    let arch = device.arch();
    let (width, vocab) = (arch.width as usize, arch.vocab as usize);
    let wrong =
        |what: String| Err(DeviceError(format!("the device does not compute canon/1: {what} differs")));
    let params = SamplingParams { temperature_micros: 800_000, ..SamplingParams::GREEDY };
    let mut sequences: Vec<Vec<u32>> =
        PROMPTS.iter().map(|n| (0..*n as u32).map(|i| (i * 7919 + 13) % arch.vocab).collect()).collect();
    let mut done = [0; PROMPTS.len()];
    for step in 0..=STEPS {
        let pages: Vec<[u32; 2]> = (0..PROMPTS.len() as u32).map(|i| [i, i + PROMPTS.len() as u32]).collect();
        let runs: Vec<Run<'_>> = (0..PROMPTS.len())
            .map(|i| Run { tokens: &sequences[i][done[i]..], first: done[i], pages: &pages[i] })
            .collect();
        let (got, want) = (device.forward(&runs, None)?, reference.forward(&runs, None)?);
        if got != want {
            return wrong(format!("step {step}"));
        }
        let (mut row, mut x) = (0, Vec::new());
        for run in &runs {
            row += run.tokens.len();
            x.extend_from_slice(&want.x_final[(row - 1) * width..row * width]);
        }
        let mut logits = [vec![0.0; PROMPTS.len() * vocab], vec![1.0; PROMPTS.len() * vocab]];
        device.logits(&x, &mut logits[0])?;
        reference.logits(&x, &mut logits[1])?;
        let bits = logits.each_ref().map(|logits| logits.iter().map(|x| x.to_bits()));
        let [got, want] = bits;
        if !got.eq(want) {
            return wrong(format!("logits of step {step}"));
        }
        let drawn = device.sample(&x, &[(params, step as u32); PROMPTS.len()])?;
        for (i, token) in drawn.into_iter().enumerate() {
            if token != params.sample(&logits[1][i * vocab..(i + 1) * vocab], step as u32) {
                return wrong(format!("token of step {step}"));
            }
            done[i] = sequences[i].len();
            sequences[i].push(token);
        }
    }
    Ok(())
}
