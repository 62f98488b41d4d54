//! The reference and the fast path must agree in every bit, whatever instruction set, threads or split.

use std::ops::RangeInclusive;
use std::sync::Arc;

use deepnode_worker::canon::random::RandomDecoder;
use deepnode_worker::canon::reference::Reference;
use deepnode_worker::canon::{Architecture, Backend, Forward, Tap};
use deepnode_worker::cpu::{Cpu, Isa};
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
        eps: 1e-5,
        rope_base: 10_000.0,
        eos: vec![0],
        tied: false,
        qkv_bias: true,
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

/// Runs `tokens` in the given pieces; the residual stream after layer 1 comes second, the last row's logits third.
fn run(backend: &dyn Backend, tokens: &[u32], pieces: &[usize]) -> (Forward, Vec<f32>, Vec<f32>) {
    let mut sequence = backend.open(tokens.len()).unwrap();
    let (mut all, mut residual, mut rest) = (Forward::default(), Vec::new(), tokens);
    for piece in pieces.iter().copied().chain([usize::MAX]) {
        let now;
        (now, rest) = rest.split_at(piece.min(rest.len()));
        let mut sink = |rows: &[f32]| residual.extend_from_slice(rows);
        let step = sequence.forward(now, Some(&mut Tap { layer: 1, sink: &mut sink }));
        all.x_final.extend(step.x_final);
        all.finite.extend(step.finite);
    }
    let width = backend.arch().width as usize;
    let mut logits = vec![0.0; backend.arch().vocab as usize];
    backend.logits(&all.x_final[all.x_final.len() - width..], &mut logits);
    (all, residual, logits)
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Compares every instruction set, several threads and several splits with the reference.
fn agree(model: RandomDecoder, threads: RangeInclusive<usize>, n: usize, splits: &[&[usize]]) -> Forward {
    let model = Arc::new(model);
    let reference = Reference::new(model.clone());
    let tokens = tokens(n, reference.arch().vocab);
    let (forward, residual, logits) = run(&reference, &tokens, &[]);
    assert_eq!(residual.len(), forward.x_final.len());
    let (width, vocab) = (reference.arch().width as usize, reference.arch().vocab as usize);
    let many_from = n.saturating_sub(13) * width;
    let mut logits_of_many = vec![0.0; (n - many_from / width) * vocab];
    reference.logits(&forward.x_final[many_from..], &mut logits_of_many);
    for isa in Isa::available() {
        for threads in threads.clone() {
            let cpu = Cpu::new(model.clone(), isa, threads).unwrap().with_all_threads();
            for pieces in splits {
                let (f, r, l) = run(&cpu, &tokens, pieces);
                let what = format!("{isa:?}, {threads} threads, split {pieces:?}");
                assert!(f == forward, "x_final: {what}");
                assert!(bits(&r) == bits(&residual), "residual stream: {what}");
                assert!(bits(&l) == bits(&logits), "logits: {what}");
            }
            let mut many = vec![0.0; logits_of_many.len()];
            cpu.logits(&forward.x_final[many_from..], &mut many);
            assert!(bits(&many) == bits(&logits_of_many), "many logits: {isa:?}, {threads} threads");
        }
    }
    forward
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

#[test]
fn heads_wider_than_a_block() {
    agree(RandomDecoder::new(wide_heads(), 2), 1..=3, 70, &[&[], &[5, 1, 1, 40]]);
}

#[test]
fn proportions_of_a_real_model() {
    agree(RandomDecoder::new(plain(), 3), 1..=2, 140, &[&[], &[130, 1, 1, 1, 1, 1]]);
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

fn any_architecture() -> impl Strategy<Value = Architecture> {
    (1..4u32, 1..4u32, 1..90u32, 1..300u32, 1..300u32, 1..200u32, any::<bool>(), any::<bool>()).prop_map(
        |(kv_heads, group, half, width, ffn, vocab, tied, qkv_bias)| Architecture {
            heads: kv_heads * group,
            kv_heads,
            head_dim: 2 * half,
            width,
            ffn,
            vocab,
            tied,
            qkv_bias,
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
