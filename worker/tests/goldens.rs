//! Generations of generated models, pinned: the tests run on x86-64, and by `make test-neon` on aarch64, and both must
//! come to the digests below. Whatever computes them, so must every other engine.
//!
//! A digest that changes is another arithmetic, another import or another commitment, and the network would no longer
//! agree about results: a reason to look for the mistake, not to pin anew.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use deepnode_worker::canon::{Architecture, SamplingParams};
use deepnode_worker::cpu::Isa;
use deepnode_worker::engine::*;
use deepnode_worker::model::dequant::Encoding;
use deepnode_worker::model::{import, synthetic, Model};

const WARM: SamplingParams =
    SamplingParams { temperature_micros: 800_000, top_p_micros: 950_000, top_k: 50, seed: [7; 32] };
const BEACON: [u8; 32] = [9; 32];
const RECEIPT: [u8; 32] = [5; 32];
/// Across the first border of blocks and pages, at 128.
const PROMPT: u32 = 120;
const OUTPUT: u32 = 20;
static GO: AtomicBool = AtomicBool::new(false);

/// Each model's name, the encoding of its file, and the start of its id and of what [`digests`] computes.
#[rustfmt::skip]
const GOLDENS: [(&str, Encoding, [&str; 5]); 14] = [
    ("llama", Encoding::Q4_0, ["c99a136f48de", "08b8d1d0e7df", "110ca9da1180", "4c6fc82236be", "a35f56c4008a"]),
    ("llama3", Encoding::Q8_0, ["e4af36920430", "bcc0124e78e8", "e495d44c2a7d", "28a0a9131cd2", "1251d12adab9"]),
    ("mistral", Encoding::Q4_1, ["5490d794d0b0", "c0093c050105", "cbb1c3316f31", "8dc7e6d0caba", "1e24ef9c0f80"]),
    ("qwen2", Encoding::Bf16, ["00cf06d6063f", "2ef8c091936e", "45fa055bf830", "ccd9bccdd95d", "06a8177e53f7"]),
    ("qwen3", Encoding::F32, ["0cf464c3badd", "53f2ffd2dea6", "ee4c0605c5b9", "0326a1c8df27", "bad134a7b1e2"]),
    ("qwen2 untied", Encoding::Q5_1, ["716cb9ef38de", "70e41702ae15", "6c1cae11e339", "c46c6ed14fa8", "77ebeb5a4657"]),
    ("qwen3 untied", Encoding::F16, ["91b8e0b2dea0", "74fda28957b7", "17a9af150cca", "683d24a40762", "aecad3ec08a1"]),
    ("linear", Encoding::Q8_0, ["34abfd95f00b", "617132c36754", "5aa32ca3f57f", "6217b12563e0", "ad05600a5f6f"]),
    ("tails", Encoding::F16, ["01602e3c6240", "cb400bd2f792", "0098a4a4e323", "b78b4ad4cf76", "a8aa9ad6ff1f"]),
    ("wide heads", Encoding::Q5_0, ["2eeb175acbc7", "4e70083746ac", "9468dcb9fccc", "f3dab831bf3f", "281d49583bd3"]),
    ("packed", Encoding::Q4_0, ["5cb118aae053", "e8fe087a1488", "00ec76ce542b", "ed7cd1d4c56c", "3dfd59a1b768"]),
    ("packed", Encoding::Q4_1, ["dbc7151c4921", "2e47cbdfa2e2", "f1544acd0216", "19b3ba30f6a3", "41f3cf35b19f"]),
    ("packed", Encoding::Q8_0, ["d2cc1bb32919", "8d89a5250818", "129b48131977", "bb194cf4bc02", "d143ec097bcd"]),
    ("long rows", Encoding::Q4K, ["dfc80c9a9882", "349516d479bf", "55a24689b44b", "3b2b2294592f", "94d8406aee65"]),
];

/// The families, and shapes with tails of rows, columns and halves of heads, with more queries a key head than a tile
/// has, and with heads of more than one block.
fn architecture(name: &str) -> Architecture {
    let small = synthetic::small();
    match name {
        "tails" => Architecture {
            width: 200,
            heads: 8,
            head_dim: 24,
            ffn: 330,
            vocab: 293,
            tied: false,
            qkv_bias: true,
            ..small
        },
        "wide heads" => {
            Architecture { heads: 2, kv_heads: 2, head_dim: 160, width: 128, qk_norm: true, ..small }
        }
        "packed" => Architecture { width: 192, heads: 6, kv_heads: 2, ffn: 352, ..small },
        "long rows" => Architecture { layers: 1, width: 256, heads: 8, kv_heads: 2, ffn: 512, ..small },
        family => {
            synthetic::families().into_iter().find(|(name, _)| *name == family).expect("a family of models").1
        }
    }
}

fn model(folder: &Path, name: &str, encoding: Encoding) -> Model {
    let path = folder.join("source.gguf");
    std::fs::write(&path, synthetic::gguf(&architecture(name), encoding, 2024)).unwrap();
    Model::open(&import(&path, folder, &|_| {}).unwrap().path).unwrap()
}

fn generate(engine: &Engine, request: &Request<'_>) -> Generation {
    let mut session = engine.session((PROMPT + OUTPUT) as usize).unwrap();
    session.generate(request, &mut |_| (), &GO).unwrap()
}

fn request<'a>(prompt: &'a [u32], params: &'a SamplingParams) -> Request<'a> {
    Request { prompt, params, max_output: OUTPUT, stop: Stop::NONE }
}

/// Trace root and layer digest of a greedy generation and of a warm one, each also audited.
fn digests(engine: &Engine, prompt: &[u32]) -> [String; 4] {
    let [greedy, warm] = [SamplingParams::GREEDY, WARM].map(|params| {
        let request = request(prompt, &params);
        let generation = generate(engine, &request);
        let claim = Claim {
            request,
            output: &generation.tokens,
            finish: generation.finish,
            trace_root: generation.trace_root,
            leaves: Some(&generation.leaves),
        };
        let audit = engine.audit(&Question { claim, beacon: BEACON, receipt: RECEIPT }, &GO).unwrap();
        assert!(audit.agrees(), "{:?}", audit.divergence);
        [short(&generation.trace_root), short(&audit.layer_digest)]
    });
    let ([a, b], [c, d]) = (greedy, warm);
    [a, b, c, d]
}

/// Trace roots of both when they are computed together.
fn together(engine: &Engine, prompt: &[u32]) -> [String; 2] {
    let pieces = vec![String::new(); engine.arch().vocab as usize];
    let mut batch = Batch::new(engine, &pieces, Limits::default());
    for (id, params) in [(0, SamplingParams::GREEDY), (1, WARM)] {
        let job =
            Job { prompt: prompt.to_vec(), params, max_output: OUTPUT, stop: Vec::new(), logprobs: None };
        batch.push(id, job).unwrap();
    }
    let mut roots = [String::new(), String::new()];
    while !batch.is_empty() {
        let mut hear = |id, event| {
            if let Event::Finished(generation) = event {
                roots[id as usize] = short(&generation.trace_root);
            }
        };
        batch.step(&mut hear).unwrap();
    }
    roots
}

/// The start of a digest is enough to tell.
fn short(digest: &[u8; 32]) -> String {
    hex::encode(&digest[..6])
}

#[test]
fn every_engine_comes_to_the_pinned_digests() {
    let mut wrong = String::new();
    for (name, encoding, golden) in GOLDENS {
        let folder = tempfile::tempdir().unwrap();
        let model = Arc::new(model(folder.path(), name, encoding));
        let prompt: Vec<u32> = (0..PROMPT).map(|i| i * 37 % 250).collect();
        let engine = |isa, threads| {
            let options = Options { isa, threads, huge_pages: false, positions: Some(1024) };
            Engine::new(model.clone(), options).unwrap()
        };
        let got = digests(&engine(Isa::detect(), 1), &prompt);
        for isa in Isa::available() {
            let engine = engine(isa, 2);
            assert_eq!(digests(&engine, &prompt), got, "{name}: {isa:?}");
            assert_eq!(together(&engine, &prompt), [&*got[0], &*got[2]], "{name}: {isa:?}, in a batch");
        }
        // Slow, and compared with the others at length in bits.rs.
        let reference = Engine::reference(model.clone()).unwrap();
        let warm = generate(&reference, &request(&prompt, &WARM));
        assert_eq!(short(&warm.trace_root), got[2], "{name}: reference");
        let [a, b, c, d] = got;
        let found = [short(&model.id()), a, b, c, d];
        if found != golden {
            wrong += &format!("    ({name:?}, Encoding::{encoding:?}, {found:?}),\n");
        }
    }
    assert!(wrong.is_empty(), "other digests than the pinned ones:\n{wrong}");
}
