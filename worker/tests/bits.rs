//! The reference and the fast path must agree in every bit, whatever instruction set, threads or split.

use std::ops::RangeInclusive;
use std::sync::Arc;

use deepnode_worker::canon::packed::Packing;
use deepnode_worker::canon::random::RandomDecoder;
use deepnode_worker::canon::reference::Reference;
use deepnode_worker::canon::{Architecture, Decoder, Device, Forward, Point, Run, SamplingParams, Tap, PAGE};
use deepnode_worker::cpu::{Cpu, Isa, Resident};
use deepnode_worker::model::synthetic::small;
use proptest::prelude::*;

/// Sizes with tails everywhere: rows, columns, halves of a head, more queries a key head than a tile has.
fn odd() -> Architecture {
    Architecture {
        layers: 2,
        width: 200,
        heads: 8,
        kv_heads: 1,
        head_dim: 24,
        ffn: 330,
        vocab: 131,
        context: 320,
        eos: vec![0],
        tied: false,
        qkv_bias: true,
        ..small()
    }
}

/// Heads of more than one block and of more than one panel.
fn wide_heads() -> Architecture {
    Architecture { heads: 4, kv_heads: 2, head_dim: 160, width: 192, ffn: 128, context: 100, ..odd() }
}

/// The proportions of SmolLM2.
fn plain() -> Architecture {
    Architecture {
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        width: 576,
        ffn: 640,
        vocab: 256,
        tied: true,
        qkv_bias: false,
        ..odd()
    }
}

fn tokens(n: usize, vocab: u32) -> Vec<u32> {
    (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect()
}

/// Pages that the device has in these tests.
const PAGES: usize = 16;

/// A table for `n` positions, whose pages are in no order; `which` differs where tables must not share a page.
fn table(n: usize, which: usize) -> Vec<u32> {
    (0..n.div_ceil(PAGE)).map(|i| ((7 * i + 5 * which + 3) % PAGES) as u32).collect()
}

/// What a sequence leaves: the residual stream after layer 1, and the last row's logits.
#[derive(PartialEq)]
struct Left {
    forward: Forward,
    residual: Vec<u32>,
    logits: Vec<u32>,
}

/// Runs `tokens` in the given pieces.
fn run(device: &dyn Device, tokens: &[u32], pieces: &[usize]) -> Left {
    let pages = table(tokens.len(), 0);
    let (mut all, mut residual, mut rest, mut first) = (Forward::default(), Vec::new(), tokens, 0);
    for piece in pieces.iter().copied().chain([usize::MAX]) {
        let now;
        (now, rest) = rest.split_at(piece.min(rest.len()));
        if now.is_empty() {
            break;
        }
        let mut sink = |_: u32, _: Point, rows: &[f32]| residual.extend(bits(rows));
        let wants = |layer, point| (layer, point) == (1, Point::Residual);
        let mut tap = Tap { wants: &wants, sink: &mut sink };
        let step = device.forward(&[Run { tokens: now, first, pages: &pages }], Some(&mut tap)).unwrap();
        all.x_final.extend(step.x_final);
        all.finite.extend(step.finite);
        first += now.len();
    }
    let width = device.arch().width as usize;
    let mut logits = vec![0.0; device.arch().vocab as usize];
    device.logits(&all.x_final[all.x_final.len() - width..], &mut logits).unwrap();
    Left { forward: all, residual, logits: bits(&logits) }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Compares every instruction set, several threads and several splits with the reference.
fn agree(model: RandomDecoder, threads: RangeInclusive<usize>, n: usize, splits: &[&[usize]]) -> Forward {
    let model = Arc::new(model);
    let reference = Reference::new(model.clone());
    let tokens = tokens(n, reference.arch().vocab);
    let want = run(&reference, &tokens, &[]);
    assert_eq!(want.residual.len(), want.forward.x_final.len());
    let (width, vocab) = (reference.arch().width as usize, reference.arch().vocab as usize);
    let mut logits_of = |rows: usize| {
        let x = want.forward.x_final[n.saturating_sub(rows) * width..].to_vec();
        let mut logits = vec![0.0; x.len() / width * vocab];
        reference.logits(&x, &mut logits).unwrap();
        (x, bits(&logits))
    };
    let many_logits = [13, 60].map(&mut logits_of);
    for isa in Isa::available() {
        for threads in threads.clone() {
            let cpu = Cpu::new(model.clone(), isa, threads, PAGES).unwrap().with_all_threads();
            for pieces in splits {
                let got = run(&cpu, &tokens, pieces);
                let what = format!("{isa:?}, {threads} threads, split {pieces:?}");
                assert!(got.forward == want.forward, "x_final: {what}");
                assert!(got.residual == want.residual, "residual stream: {what}");
                assert!(got.logits == want.logits, "logits: {what}");
            }
            for (x, logits) in &many_logits {
                let mut many = vec![0.0; logits.len()];
                cpu.logits(x, &mut many).unwrap();
                let rows = x.len() / width;
                assert!(bits(&many) == *logits, "logits of {rows} rows: {isa:?}, {threads} threads");
            }
        }
    }
    want.forward
}

/// Tokens that many threads choose at once are those that the rows' logits give.
#[test]
fn choices() {
    let model = Arc::new(RandomDecoder::new(odd(), 3));
    let reference = Reference::new(model.clone());
    let width = odd().width as usize;
    let all = run(&reference, &tokens(90, odd().vocab), &[]).forward.x_final;
    let warm =
        SamplingParams { temperature_micros: 900_000, top_p_micros: 800_000, ..SamplingParams::GREEDY };
    for rows in [1, 2, 3, 40, 41, 90] {
        let choices: Vec<_> =
            (0..rows).map(|i| ([warm, SamplingParams::GREEDY][i as usize % 2], i)).collect();
        let x = &all[..rows as usize * width];
        let want = reference.sample(x, &choices).unwrap();
        for (isa, threads) in Isa::available().into_iter().flat_map(|isa| [1, 2, 3].map(|n| (isa, n))) {
            let cpu = Cpu::new(model.clone(), isa, threads, PAGES).unwrap();
            assert_eq!(cpu.sample(x, &choices).unwrap(), want, "{rows} rows, {isa:?}, {threads} threads");
        }
    }
}

/// Positions across two block boundaries of attention (128 and 256), prefilled whole, in pieces and, around the
/// boundaries, one by one.
#[test]
fn sizes_with_tails() {
    let mut ones = [1; 40];
    (ones[0], ones[20]) = (120, 118);
    let splits: [&[usize]; 4] = [&[], &[1, 2, 3, 122, 1, 1], &[127, 2, 126, 3, 1], &ones];
    let forward = agree(RandomDecoder::new(odd(), 1), 1..=2, 290, &splits);
    assert!(forward.finite.iter().all(|finite| *finite));
}

/// Norms of heads, and windows that begin within a block and span one or several.
#[test]
fn norms_and_windows() {
    for window in [20, 128, 200] {
        let arch = Architecture { qk_norm: true, window: Some(window), ..odd() };
        let splits: [&[usize]; 3] = [&[], &[127, 2, 126, 3, 1], &[250, 1, 1, 1]];
        agree(RandomDecoder::new(arch, 6), 1..=2, 290, &splits);
    }
}

#[test]
fn heads_wider_than_a_block() {
    agree(RandomDecoder::new(wide_heads(), 2), 1..=3, 70, &[&[], &[5, 1, 1, 40]]);
}

#[test]
fn proportions_of_a_real_model() {
    agree(RandomDecoder::new(plain(), 3), 1..=2, 140, &[&[], &[130, 1, 1, 1, 1, 1]]);
}

/// Weights that stay quantised: as the reference has it, and as they come out when they are made halves beforehand.
#[test]
fn packed_weights() {
    let arch = Architecture { width: 192, heads: 6, kv_heads: 2, head_dim: 32, ffn: 352, ..odd() };
    for packing in Packing::ALL {
        let model = RandomDecoder::new(arch.clone(), 10).packed(packing);
        let weights = model.weights();
        assert!([weights.embedding, weights.head, weights.layers[1].down]
            .iter()
            .all(|w| w.packing == Some(packing)));
        let expanded =
            Resident::copy(&Arc::new(RandomDecoder::new(arch.clone(), 10).packed(packing)), true).unwrap();
        assert!(expanded.weights().layers[1].down.packing.is_none());
        let want =
            run(&Cpu::new(Arc::new(expanded), Isa::detect(), 2, PAGES).unwrap(), &tokens(70, 131), &[]);
        let got = agree(model, 1..=2, 70, &[&[], &[1, 1, 50, 3, 1], &[41, 20]]);
        assert!(got == want.forward, "{packing:?}");
    }
}

/// Stores that overflow mark their position and no other bit depends on the path taken.
#[test]
fn overflow_marks_its_position() {
    let mut model = RandomDecoder::new(odd(), 4);
    model.scale_value_row(0, 5, 1e6);
    let forward = agree(model, 1..=2, 40, &[&[], &[10, 1, 1]]);
    let finite = forward.finite.iter().filter(|finite| **finite).count();
    assert!(finite > 0 && finite < 40, "{finite} of 40 positions are finite");
    assert!(forward.x_final.iter().all(|x| x.is_finite()));
}

/// Sequences that are computed together: prompts of several lengths, then one position of each at a time, then some
/// with prompts between them. Each comes out as it does alone.
#[test]
fn runs_are_independent() {
    for (arch, seed) in [(odd(), 6), (plain(), 7)] {
        let model = Arc::new(RandomDecoder::new(arch, seed));
        let reference = Reference::new(model.clone());
        // At each step, how many positions of each sequence.
        let steps: [[usize; 5]; 8] = [
            [1, 3, 0, 0, 120],
            [1, 1, 1, 0, 1],
            [1, 1, 2, 0, 1],
            [1, 1, 1, 1, 1],
            [30, 1, 40, 1, 1],
            [1, 1, 1, 90, 8],
            [1, 0, 1, 1, 1],
            [2, 2, 2, 2, 2],
        ];
        let lens: Vec<usize> = (0..5).map(|i| steps.iter().map(|step| step[i]).sum()).collect();
        let prompts: Vec<Vec<u32>> =
            (0..5).map(|i| tokens(lens[i] + 3 * i, reference.arch().vocab)[3 * i..].to_vec()).collect();
        let alone: Vec<Forward> = prompts.iter().map(|prompt| run(&reference, prompt, &[]).forward).collect();
        for (isa, threads) in Isa::available().into_iter().flat_map(|isa| [1, 2, 3].map(|n| (isa, n))) {
            let cpu = Cpu::new(model.clone(), isa, threads, PAGES).unwrap().with_all_threads();
            let tables: Vec<Vec<u32>> = (0..5).map(|i| vec![3 * i, 3 * i + 1]).collect();
            let mut got = vec![Forward::default(); 5];
            for step in &steps {
                let width = cpu.arch().width as usize;
                let at: Vec<usize> = got.iter().map(|g| g.finite.len()).collect();
                let in_step: Vec<usize> = (0..5).filter(|i| step[*i] > 0).collect();
                let runs: Vec<Run<'_>> = in_step
                    .iter()
                    .map(|i| Run {
                        tokens: &prompts[*i][at[*i]..at[*i] + step[*i]],
                        first: at[*i],
                        pages: &tables[*i],
                    })
                    .collect();
                let all = cpu.forward(&runs, None).unwrap();
                let mut row = 0;
                for i in in_step {
                    got[i].x_final.extend(&all.x_final[row * width..(row + step[i]) * width]);
                    got[i].finite.extend(&all.finite[row..row + step[i]]);
                    row += step[i];
                }
            }
            assert!(got == alone, "{isa:?}, {threads} threads");
        }
    }
}

/// Thirty-two sequences, a position of each at a time: more rows than any tile has, and every instruction set.
#[test]
fn thirty_two_rows_at_once() {
    const SEQUENCES: usize = 32;
    for (arch, seed) in [(odd(), 8), (plain(), 9)] {
        let model = Arc::new(RandomDecoder::new(arch, seed));
        let reference = Reference::new(model.clone());
        let (vocab, width) = (reference.arch().vocab, reference.arch().width as usize);
        let prompts: Vec<Vec<u32>> =
            (0..SEQUENCES).map(|i| tokens(i % 5 + 3 + 2 * i, vocab)[2 * i..].to_vec()).collect();
        let alone: Vec<Forward> = prompts.iter().map(|prompt| run(&reference, prompt, &[]).forward).collect();
        for (isa, threads) in Isa::available().into_iter().flat_map(|isa| [1, 2].map(|n| (isa, n))) {
            let cpu = Cpu::new(model.clone(), isa, threads, SEQUENCES).unwrap().with_all_threads();
            let mut got = vec![Forward::default(); SEQUENCES];
            // All that the prompts have in common in length, then what is left, one position at a time.
            for step in 0..5 {
                let (first, last) = if step == 0 { (0, 3) } else { (2 + step, 3 + step) };
                let taking: Vec<usize> = (0..SEQUENCES).filter(|i| prompts[*i].len() >= last).collect();
                let pages: Vec<[u32; 1]> = taking.iter().map(|i| [*i as u32]).collect();
                let runs: Vec<Run<'_>> = taking
                    .iter()
                    .zip(&pages)
                    .map(|(i, pages)| Run { tokens: &prompts[*i][first..last], first, pages })
                    .collect();
                let all = cpu.forward(&runs, None).unwrap();
                for (place, i) in taking.into_iter().enumerate() {
                    let rows = place * (last - first)..(place + 1) * (last - first);
                    got[i].finite.extend(&all.finite[rows.clone()]);
                    got[i].x_final.extend(&all.x_final[rows.start * width..rows.end * width]);
                }
            }
            assert!(got == alone, "{isa:?}, {threads} threads");
        }
    }
}

/// A page that is copied serves its copy as it served the original, and both go on apart.
#[test]
fn pages_are_copied() {
    let model = Arc::new(RandomDecoder::new(odd(), 8));
    let cpu = Cpu::new(model.clone(), Isa::detect(), 2, PAGES).unwrap();
    let reference = Reference::new(model);
    let (first, second) = (tokens(100, 131), [tokens(60, 131), vec![7; 50]].concat());
    for device in [&cpu as &dyn Device, &reference] {
        let run =
            |tokens, first, page| device.forward(&[Run { tokens, first, pages: &[page] }], None).unwrap();
        let width = device.arch().width as usize;
        let whole = run(&first, 0, 2);
        device.copy_page(2, 5).unwrap();
        let rest = run(&second[60..], 60, 5);
        let alone = run(&second, 0, 9);
        assert!(rest.x_final == alone.x_final[60 * width..]);
        assert!(run(&first[99..], 99, 2).x_final == whole.x_final[99 * width..]);
    }
}

/// What a tap hears is the same from both, whatever is wanted, and ends in what the layer leaves.
#[test]
fn taps_hear_the_same() {
    let model = Arc::new(RandomDecoder::new(odd(), 9));
    let reference = Reference::new(model.clone());
    let prompt = tokens(30, 131);
    let pages = [4];
    let listen = |device: &dyn Device, wants: &(dyn Fn(u32, Point) -> bool + Sync)| {
        let mut heard = Vec::new();
        let mut sink = |layer: u32, point: Point, rows: &[f32]| heard.push((layer, point, bits(rows)));
        let runs = [
            Run { tokens: &prompt[..20], first: 0, pages: &pages },
            Run { tokens: &prompt[20..], first: 0, pages: &[6] },
        ];
        device.forward(&runs, Some(&mut Tap { wants, sink: &mut sink })).unwrap();
        heard
    };
    let all = listen(&reference, &|_, _| true);
    assert_eq!(all.len(), 2 * Point::ALL.len());
    for (_, point, rows) in &all {
        assert_eq!(rows.len(), 30 * point.len(reference.arch()), "{point:?}");
    }
    for isa in Isa::available() {
        let cpu = Cpu::new(model.clone(), isa, 2, PAGES).unwrap().with_all_threads();
        assert!(listen(&cpu, &|_, _| true) == all, "{isa:?}");
        let residual = listen(&cpu, &|_, point| point == Point::Residual);
        let want: Vec<_> = all.iter().filter(|(_, point, _)| *point == Point::Residual).cloned().collect();
        assert!(residual == want, "{isa:?}");
    }
}

fn any_architecture() -> impl Strategy<Value = Architecture> {
    let sizes = (1..4u32, 1..4u32, 1..90u32, 1..300u32, 1..300u32, 1..200u32);
    let parts = (any::<bool>(), any::<bool>(), any::<bool>(), prop::option::of(1..150u32));
    (sizes, parts).prop_map(
        |((kv_heads, group, half, width, ffn, vocab), (tied, qkv_bias, qk_norm, window))| Architecture {
            heads: kv_heads * group,
            kv_heads,
            head_dim: 2 * half,
            width,
            ffn,
            vocab,
            tied,
            qkv_bias,
            qk_norm,
            window,
            ..odd()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sizes(arch in any_architecture(), n in 1..150usize, split in prop::collection::vec(1..40usize, 0..4)) {
        agree(RandomDecoder::new(arch, 5), 1..=2, n, &[&split]);
    }
}
