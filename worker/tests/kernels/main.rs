//! The CUDA kernels, compiled for the CPU, in the launches that a card gets: equal to the reference in every bit, whatever
//! the schedule, and each of their waits is needed.

#[path = "../alone/mod.rs"]
mod alone;
mod emulated;
mod engine;
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use deepnode_emulator::Schedule;
use deepnode_worker::canon::device::{Device, Forward, Point, Run, Tap, PAGE};
use deepnode_worker::canon::random::RandomDecoder;
use deepnode_worker::canon::reference::Reference;
use deepnode_worker::canon::{Architecture, SamplingParams};
use deepnode_worker::cuda::{args, cards, prove, Cuda, Driver, Gpu, GpuError, Launch, Room, Spent, Timed};
use deepnode_worker::model::synthetic::small;
use emulated::{Emulated, Mutants};

/// Pages that a device has in these tests.
const PAGES: usize = 40;

/// Sizes with tails everywhere: rows, columns, chunks, more query heads a key head than a tile has.
fn odd() -> Architecture {
    Architecture {
        layers: 2,
        width: 202,
        heads: 9,
        kv_heads: 1,
        head_dim: 22,
        ffn: 331,
        vocab: 1131,
        context: 320,
        eos: vec![0],
        tied: false,
        qkv_bias: true,
        ..small()
    }
}

/// Heads of more than one block and of more than one slice.
fn wide_heads() -> Architecture {
    Architecture { layers: 1, heads: 4, kv_heads: 2, head_dim: 160, width: 64, ffn: 24, vocab: 70, ..odd() }
}

/// Columns that take several passes: first of the norm and of all products but the last, then of that one.
fn long_rows(columns: u32) -> [Architecture; 2] {
    let arch = Architecture { layers: 1, heads: 1, head_dim: 2, vocab: 21, qkv_bias: false, ..odd() };
    [
        Architecture { width: columns, ffn: 19, ..arch.clone() },
        Architecture { width: 34, ffn: columns, ..arch },
    ]
}

/// Norms of heads, which are of more than one block.
fn normed() -> Architecture {
    Architecture { qk_norm: true, ..wide_heads() }
}

/// Small, with heads in the proportions of a real model.
fn plain() -> Architecture {
    Architecture {
        layers: 2,
        heads: 6,
        kv_heads: 3,
        head_dim: 64,
        width: 384,
        ffn: 256,
        vocab: 300,
        tied: true,
        qkv_bias: false,
        ..odd()
    }
}

fn tokens(n: usize, arch: &Architecture, seed: usize) -> Vec<u32> {
    (0..n)
        .map(|i| ((i * 7919 + seed * 104_729 + 13) as u32).wrapping_mul(2_654_435_761) % arch.vocab)
        .collect()
}

/// The pages of sequence `which`, in no order, none of another sequence below 13.
fn table(n: usize, which: usize) -> Vec<u32> {
    (0..n.div_ceil(PAGE)).map(|i| ((which * 3 + i) * 7 % PAGES) as u32).collect()
}

fn cuda<G: Gpu>(model: &RandomDecoder, gpu: G, rows: usize) -> Cuda<G> {
    Cuda::new(gpu, model, Room { rows, pages: Some(PAGES) }).unwrap()
}

/// Everything that a call of forward leaves, and logits of some rows.
#[derive(PartialEq)]
struct Left {
    forward: Forward,
    tapped: Vec<(u32, Point, Vec<u32>)>,
    logits: Vec<u32>,
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Runs with every tensor of every layer tapped, and the head.
fn everything(device: &dyn Device, runs: &[Run<'_>]) -> Left {
    let mut tapped = Vec::new();
    let mut sink = |layer, point, rows: &[f32]| tapped.push((layer, point, bits(rows)));
    let mut tap = Tap { wants: &|_, _| true, sink: &mut sink };
    let forward = device.forward(runs, Some(&mut tap)).unwrap();
    let mut logits = vec![0.0; forward.finite.len() * device.arch().vocab as usize];
    device.logits(&forward.x_final, &mut logits).unwrap();
    Left { forward, tapped, logits: bits(&logits) }
}

/// Fails with the first tensor that differs, which names the kernel.
fn assert_same(got: &Left, want: &Left, what: &str) {
    assert_eq!(got.tapped.len(), want.tapped.len(), "{what}");
    for ((layer, point, got), (_, _, want)) in got.tapped.iter().zip(&want.tapped) {
        assert_eq!(got.len(), want.len(), "{what}: layer {layer} {point:?}");
        let differ = got.iter().zip(want).position(|(a, b)| a != b);
        assert_eq!(differ, None, "{what}: layer {layer} {point:?}: first element that differs");
    }
    assert!(got.forward == want.forward, "{what}: x_final or finite");
    assert!(got.logits == want.logits, "{what}: logits");
}

/// Sequences of these lengths step together: a prompt for each, then single positions of all.
fn batched(device: &dyn Device, lengths: &[usize], steps: usize) -> Vec<Left> {
    let arch = device.arch().clone();
    let all: Vec<Vec<u32>> = lengths.iter().enumerate().map(|(i, n)| tokens(n + steps, &arch, i)).collect();
    let tables: Vec<Vec<u32>> = (0..all.len()).map(|i| table(all[i].len(), i)).collect();
    let runs = |from: &dyn Fn(usize) -> usize, to: &dyn Fn(usize) -> usize| -> Vec<Run<'_>> {
        let run = |i: usize| Run { tokens: &all[i][from(i)..to(i)], first: from(i), pages: &tables[i] };
        (0..all.len()).map(run).collect()
    };
    let mut left = vec![everything(device, &runs(&|_| 0, &|i| lengths[i]))];
    for step in 0..steps {
        left.push(everything(device, &runs(&|i| lengths[i] + step, &|i| lengths[i] + step + 1)));
    }
    left
}

/// Compares every tensor, under every schedule. Answers the kernels that ran, and their passes over columns.
fn agree(arch: Architecture, lengths: &[usize], steps: usize, rows: usize) -> BTreeMap<&'static str, usize> {
    let launched = Arc::default();
    let model = Arc::new(RandomDecoder::new(arch, 1));
    let want = batched(&Reference::new(model.clone()), lengths, steps);
    for (i, schedule) in Schedule::ALL.into_iter().enumerate() {
        let mut gpu = Emulated::new(schedule);
        gpu.narrow = i % 2 == 1;
        gpu.launched = Arc::clone(&launched);
        let got = batched(&cuda(&model, gpu, rows), lengths, steps);
        for (step, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_same(got, want, &format!("{schedule:?}, step {step}, sequences {lengths:?}"));
        }
    }
    let launched = launched.lock().clone();
    launched
}

/// One sequence over two page boundaries (128 and 256): prefilled in tiles, then one row at a time.
#[test]
fn one_sequence_over_pages() {
    agree(odd(), &[126], 3, 512);
    agree(odd(), &[255], 2, 50);
}

/// Batches of every width of kernel, with rows to spare in most.
#[test]
fn batches() {
    agree(plain(), &[5, 1, 130], 2, 512);
    for rows in [2, 7, 13, 32] {
        let lengths: Vec<usize> = (0..rows).map(|i| 1 + i % 3).collect();
        agree(Architecture { layers: 1, ..odd() }, &lengths, 1, 64);
    }
}

/// Norms of heads, with biases and without, for few rows and for many.
#[test]
fn norms_of_heads() {
    agree(normed(), &[3], 2, 64);
    agree(Architecture { layers: 1, qk_norm: true, ..plain() }, &[130, 4], 1, 64);
    agree(Architecture { layers: 1, qk_norm: true, ..odd() }, &[40, 1, 1], 1, 64);
}

/// Windows that end in a block, at its end, and across two; and one wider than what there is.
#[test]
fn windows() {
    for window in [1, 5, 128, 140, 1000] {
        let arch = Architecture { layers: 1, window: Some(window), ..small() };
        agree(arch, &[253, 130, 3], 2, 512);
    }
}

#[test]
fn heads_wider_than_a_block() {
    agree(wide_heads(), &[130, 3], 1, 512);
}

/// Rows of a step that take each width of kernel, and columns of a matrix for three passes of it, the last one shorter.
const SEVERAL_PASSES: [(usize, u32); 6] =
    [(1, 8200), (2, 8200), (3, 4100), (7, 2060), (13, 2060), (20, 1030)];

/// Every product for few rows takes several passes over its columns.
#[test]
fn rows_of_several_passes() {
    let mut passes = BTreeMap::new();
    for (rows, columns) in SEVERAL_PASSES {
        for arch in long_rows(columns) {
            for (kernel, most) in agree(arch, &vec![1; rows], 1, 64) {
                let known = passes.entry(kernel).or_default();
                *known = most.max(*known);
            }
        }
    }
    for kernel in files::few() {
        assert_eq!(passes.get(kernel), Some(&3), "{kernel}");
    }
}

/// Steps that were recorded, without a tap, as a server runs them: whole generations, each token sampled on the device.
#[test]
fn generations_are_the_references() {
    let sampled = SamplingParams {
        temperature_micros: 900_000,
        top_p_micros: 900_000,
        top_k: 0,
        seed: std::array::from_fn(|i| i as u8),
    };
    let cold = SamplingParams { top_p_micros: 0, top_k: 5, temperature_micros: 300_000, ..sampled };
    let all = [SamplingParams::GREEDY, sampled, cold];
    for arch in [Architecture { layers: 1, ..odd() }, small()] {
        let model = Arc::new(RandomDecoder::new(arch.clone(), 2));
        let prompts = [tokens(120, &arch, 1), tokens(3, &arch, 2), tokens(9, &arch, 3)];
        let tables: Vec<Vec<u32>> = (0..3).map(|i| table(160, i)).collect();
        let reference = Reference::new(model.clone());
        for schedule in Schedule::ALL {
            let device = cuda(&model, Emulated::new(schedule), 128);
            let mut sequences = prompts.clone();
            let mut first = [0; 3];
            for step in 0..12 {
                let runs = |_| -> Vec<Run<'_>> {
                    let run = |i: usize| Run {
                        tokens: &sequences[i][first[i]..],
                        first: first[i],
                        pages: &tables[i],
                    };
                    (0..3).map(run).collect()
                };
                let (got, want) =
                    (device.forward(&runs(0), None).unwrap(), reference.forward(&runs(0), None).unwrap());
                assert!(got == want, "{schedule:?}, step {step}");
                let width = arch.width as usize;
                let mut last = 0;
                let rows: Vec<_> = (0..3)
                    .flat_map(|i| {
                        last += sequences[i].len() - first[i];
                        got.x_final[(last - 1) * width..last * width].iter().copied()
                    })
                    .collect();
                let drawn = device.sample(&rows, &all.map(|params| (params, step))).unwrap();
                let mut logits = vec![0.0; 3 * arch.vocab as usize];
                reference.logits(&rows, &mut logits).unwrap();
                for (i, logits) in logits.chunks(arch.vocab as usize).enumerate() {
                    assert_eq!(
                        drawn[i],
                        all[i].sample(logits, step),
                        "{schedule:?}, step {step}, sequence {i}"
                    );
                    first[i] = sequences[i].len();
                    sequences[i].push(drawn[i]);
                }
            }
        }
    }
}

/// Stores that overflow are zero and mark their row, and no other.
#[test]
fn overflow_marks_its_row() {
    let mut model = RandomDecoder::new(odd(), 4);
    model.scale_value_row(0, 5, 1e6);
    let model = Arc::new(model);
    let want = batched(&Reference::new(model.clone()), &[40, 3], 3);
    let got = batched(&cuda(&model, Emulated::new(Schedule::ALL[0]), 512), &[40, 3], 3);
    let finite = want[0].forward.finite.iter().filter(|finite| **finite).count();
    assert!(finite > 0 && finite < 43, "{finite} of 43 rows are finite");
    got.iter().zip(&want).for_each(|(got, want)| assert_same(got, want, "overflow"));
}

/// A copied page is the page.
#[test]
fn pages_are_copied() {
    let model = Arc::new(RandomDecoder::new(odd(), 5));
    let (reference, device) =
        (Reference::new(model.clone()), cuda(&model, Emulated::new(Schedule::ALL[0]), 64));
    let all = tokens(20, &odd(), 1);
    for device in [&reference as &dyn Device, &device] {
        device.forward(&[Run { tokens: &all[..19], first: 0, pages: &[3] }], None).unwrap();
        device.copy_page(3, 8).unwrap();
    }
    let next = [Run { tokens: &all[19..], first: 19, pages: &[8] }];
    assert_same(&everything(&device, &next), &everything(&reference, &next), "copied");
}

/// A device that is lost in the middle of a step gives an error, then and ever after; so does input that is out of range.
#[test]
fn failures_are_errors() {
    let model = RandomDecoder::new(odd(), 6);
    let mut gpu = Emulated::new(Schedule::ALL[0]);
    gpu.fuse = Some(25);
    let device = cuda(&model, gpu, 64);
    let run = |tokens: &'static [u32], first, pages: &'static [u32]| Run { tokens, first, pages };
    for (wrong, why) in [
        (run(&[2000], 0, &[0]), "token is 2000, must be below 1131"),
        (run(&[1], 128, &[0]), "1 pages for 129 positions"),
        (run(&[1], 0, &[40]), "page is 40, must be below 40"),
        (run(&[1], 320, &[0, 1, 2]), "1 tokens up to position 321"),
        (run(&[], 0, &[0]), "0 tokens up to position 0"),
    ] {
        let error = device.forward(&[wrong], None).unwrap_err().to_string();
        assert!(error.ends_with(why), "{error}");
    }
    let right = [run(&[1], 0, &[0])];
    assert!(device.forward(&right, None).is_ok());
    let lost = device.forward(&right, None).unwrap_err().to_string();
    assert!(lost.contains("the device is lost"), "{lost}");
    assert_eq!(device.forward(&right, None).unwrap_err().to_string(), lost);
    assert_eq!(device.logits(&[], &mut []).map_err(|e| e.to_string()), Ok(()));
    assert!(device.copy_page(0, 1).is_err());
}

/// What a card must pass before it serves is passed by the right kernels, and takes every kernel that a model of the
/// architecture takes, the products for few rows with several passes; it is passed by none that lack a wait.
#[test]
fn the_proof_is_passed_and_failed() {
    for (of, others) in [(odd(), &[args::HEAD_NORM][..]), (normed(), &args::QKV)] {
        let launched = Arc::default();
        let open = || {
            let mut gpu = Emulated::new(Schedule::ALL[2]);
            gpu.launched = Arc::clone(&launched);
            Ok(gpu)
        };
        prove(open, &of).unwrap();
        let launched = launched.lock();
        let wanted: BTreeSet<_> = args::kernels().filter(|kernel| !others.contains(kernel)).collect();
        assert_eq!(launched.keys().copied().collect::<BTreeSet<_>>(), wanted);
        for kernel in files::few().filter(|kernel| wanted.contains(kernel)) {
            assert!(launched[kernel] > 1, "{kernel}");
        }
    }
    let wait = files::waits().into_iter().find(|(_, file, _)| file == "decode.cuh");
    let wait = wait.map(|(_, file, line)| (file, line));
    let broken = || {
        let mut gpu = Emulated::new(Schedule::ALL[0]);
        gpu.skip = wait.clone();
        Ok(gpu)
    };
    let error = prove(broken, &odd()).unwrap_err().to_string();
    assert!(error.contains("the device does not compute canon/1"), "{error}");
}

/// Every launch of a step is timed, by its kernel's name, recorded ones as well; and nothing is computed otherwise.
#[test]
fn every_kernel_of_a_step_is_timed() {
    fn time(gpu: &mut Emulated, launches: &[Launch]) -> Result<Vec<Duration>, GpuError> {
        gpu.run(launches)?;
        Ok(vec![Duration::from_micros(3); launches.len()])
    }
    let model = Arc::new(RandomDecoder::new(plain(), 1));
    let spent = Arc::new(parking_lot::Mutex::new(Spent::new()));
    let gpu = Emulated::new(Schedule::ALL[0]);
    let launched = Arc::clone(&gpu.launched);
    let device = cuda(&model, Timed::new(gpu, time, Arc::clone(&spent)), 64);
    let reference = Reference::new(model.clone());
    let all = tokens(43, &plain(), 1);
    // In tiles, then a step that is recorded, then one that is repeated.
    for (first, end) in [(0, 40), (40, 41), (41, 42)] {
        launched.lock().clear();
        spent.lock().clear();
        let run = [Run { tokens: &all[first..end], first, pages: &[0] }];
        let forward = device.forward(&run, None).unwrap();
        assert!(forward == reference.forward(&run, None).unwrap());
        let x = &forward.x_final[forward.x_final.len() - plain().width as usize..];
        device.sample(x, &[(SamplingParams::GREEDY, 0)]).unwrap();
        let spent = spent.lock();
        assert!(spent.keys().eq(launched.lock().keys()), "{spent:?}");
        let launches: usize = spent.values().map(|(count, _)| count).sum();
        assert_eq!(launches, 2 + 9 * plain().layers as usize + 3);
        assert_eq!(spent[args::NORM], (5, Duration::from_micros(15)));
    }
}

/// Where this machine has cards, they agree as well; where it has none, it says so, and nothing panics.
#[test]
fn cards_agree() {
    let cards = match cards() {
        Ok(cards) => cards,
        Err(none) => return assert!(!none.to_string().is_empty()),
    };
    let [long, deep] = long_rows(4100);
    for arch in [odd(), plain(), wide_heads(), normed(), long, deep] {
        let model = Arc::new(RandomDecoder::new(arch, 1));
        let want = batched(&Reference::new(model.clone()), &[130, 3, 1], 2);
        for card in &cards {
            for overlap in [false, true] {
                let got = batched(&cuda(&model, Driver::open(card, overlap).unwrap(), 64), &[130, 3, 1], 2);
                got.iter().zip(&want).for_each(|(got, want)| assert_same(got, want, &card.name));
            }
        }
    }
}

/// Each kernel with any one of its waits left out gives another result, or a deadlock, under some schedule: each kernel
/// that is made of a template as well.
#[test]
fn every_wait_is_needed() {
    let mutants = Arc::new(parking_lot::Mutex::new(Mutants::default()));
    let params = SamplingParams { temperature_micros: 900_000, ..SamplingParams::GREEDY };
    let try_out = |arch: Architecture, lengths: &[usize]| {
        let device = cuda(&RandomDecoder::new(arch.clone(), 7), Emulated::with_mutants(mutants.clone()), 64);
        for left in batched(&device, lengths, 1) {
            let rows = left.forward.finite.len().min(64);
            let x = &left.forward.x_final[..rows * arch.width as usize];
            device.sample(x, &vec![(params, 0); rows]).ok();
        }
    };
    let small = Architecture { layers: 1, ..odd() };
    try_out(small.clone(), &[1]);
    try_out(small, &[130, 3]);
    try_out(wide_heads(), &[2]);
    try_out(normed(), &[2]);
    for (rows, columns) in SEVERAL_PASSES {
        long_rows(columns).into_iter().for_each(|arch| try_out(arch, &vec![1; rows]));
    }
    let noticed = &mutants.lock().noticed;
    let missed: Vec<_> = noticed.iter().filter(|(_, noticed)| !**noticed).collect();
    assert!(missed.is_empty(), "waits that nothing needs: {missed:?}");
    // Every wait of every kernel was tried.
    let all: BTreeSet<_> = files::waits().into_iter().collect();
    let untried: Vec<_> = all.iter().filter(|wait| !noticed.contains_key(*wait)).collect();
    assert!(untried.is_empty(), "waits that no test reaches: {untried:?}");
    assert_eq!(noticed.len(), all.len());
}
