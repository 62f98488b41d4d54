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

/// Small, with tails everywhere, with the kernels that models of this architecture take, and with columns for several
/// passes of each product for few rows: the first model's of what gate and up leave, the second one's of the stream.
fn architectures(of: &Architecture) -> [Architecture; 2] {
    let deep = Architecture {
        layers: 1,
        width: 44,
        heads: 4,
        kv_heads: 2,
        head_dim: 22,
        ffn: LONG,
        vocab: 1500,
        context: 2 * PAGE as u32,
        eos: vec![0],
        tied: false,
        qkv_bias: true,
        qk_norm: of.qk_norm,
        window: of.window.map(|_| 100),
        ..small()
    };
    let wide = Architecture {
        layers: 2,
        width: LONG,
        heads: 2,
        kv_heads: 1,
        head_dim: 6,
        ffn: 9,
        vocab: 20,
        ..deep.clone()
    };
    [deep, wide]
}

/// Columns that no product for few rows sums in one pass.
const LONG: u32 = 4200;
/// Positions of the first sequence before the batched steps: the third of these begins its second page.
const FIRST: u32 = 126;
/// How many sequences step together: first with their prompts, then with one position each. A step of a width is recorded
/// once, and then repeated.
const STEPS: [usize; 9] = [32, 32, 16, 8, 4, 2, 1, 1, 1];
/// Rows of a step, which cut the prompts into three.
const ROWS: usize = 64;

/// Compares prefills and steps of all widths with the reference, in every bit, and the tokens drawn: of small models that
/// take every kernel which models of this architecture take. `open` opens the device, once for each of them.
pub fn prove<G: Gpu>(
    open: impl Fn() -> Result<G, DeviceError>,
    of: &Architecture,
) -> Result<(), DeviceError> {
    architectures(of).into_iter().try_for_each(|arch| agree(open()?, arch))
}

fn agree(gpu: impl Gpu, arch: Architecture) -> Result<(), DeviceError> {
    let model = Arc::new(RandomDecoder::new(arch, 1));
    let reference = Reference::new(model.clone());
    let device = Cuda::new(gpu, &*model, Room { rows: ROWS, pages: Some(STEPS[0] + 1) })?;
    let arch = device.arch();
    let (width, vocab) = (arch.width as usize, arch.vocab as usize);
    let wrong =
        |what: String| Err(DeviceError(format!("the device does not compute canon/1: {what} differs")));
    let params = SamplingParams { temperature_micros: 800_000, ..SamplingParams::GREEDY };
    let mut sequences: Vec<Vec<u32>> = (0..STEPS[0] as u32)
        .map(|i| {
            (0..if i == 0 { FIRST } else { 1 + i % 3 })
                .map(|j| (i * 31 + j * 7919 + 13) % arch.vocab)
                .collect()
        })
        .collect();
    let mut done = [0; STEPS[0]];
    for (step, count) in STEPS.into_iter().enumerate() {
        // The first sequence's second page is the last one.
        let pages: Vec<[u32; 2]> = (0..count as u32).map(|i| [i, STEPS[0] as u32]).collect();
        let runs: Vec<Run<'_>> = (0..count)
            .map(|i| Run { tokens: &sequences[i][done[i]..], first: done[i], pages: &pages[i] })
            .collect();
        let (got, want) = (device.forward(&runs, None)?, reference.forward(&runs, None)?);
        if got != want {
            return wrong(format!("step {step}"));
        }
        let mut logits = [0.0, 1.0].map(|fill| vec![fill; want.finite.len() * vocab]);
        device.logits(&want.x_final, &mut logits[0])?;
        reference.logits(&want.x_final, &mut logits[1])?;
        let [got, of_all] = logits.each_ref().map(|logits| logits.iter().map(|x| x.to_bits()));
        if !got.eq(of_all) {
            return wrong(format!("logits of step {step}"));
        }
        // The last row of each sequence.
        let rows: Vec<usize> = runs
            .iter()
            .scan(0, |end, run| {
                *end += run.tokens.len();
                Some(*end - 1)
            })
            .collect();
        let x: Vec<_> =
            rows.iter().flat_map(|row| want.x_final[row * width..][..width].iter().copied()).collect();
        let drawn = device.sample(&x, &vec![(params, step as u32); count])?;
        for (i, (row, token)) in rows.into_iter().zip(drawn).enumerate() {
            if token != params.sample(&logits[1][row * vocab..][..vocab], step as u32) {
                return wrong(format!("token of step {step}"));
            }
            done[i] = sequences[i].len();
            sequences[i].push(token);
        }
    }
    Ok(())
}
