//! Models of a chosen shape with generated weights, as GGUF files: what tests and benchmarks run on where no
//! real model is at hand. The same arguments give the same bytes.

use half::f16;

use super::dequant::Encoding;
use super::manifest::{slots, Role};
use super::source::tensor_name;
use crate::canon::Architecture;

/// A chat template like ChatML's.
const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
/// Pieces besides the 256 bytes: two special ones and three that merges make.
const EXTRA: [&str; 5] = ["<|im_start|>", "<|im_end|>", "th", "the", "Ġthe"];
/// Least vocabulary of a synthetic model. Ids 0 to 255 are the bytes, 257 ends a turn.
pub const MIN_VOCAB: u32 = 256 + EXTRA.len() as u32;

/// A small llama-shaped architecture: 2 layers, width 64, 2 heads over 1, head of 32.
pub fn small() -> Architecture {
    Architecture {
        layers: 2,
        width: 64,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        ffn: 96,
        vocab: 288,
        context: 256,
        eps: 1e-5,
        rope_base: 10_000.0,
        eos: vec![257],
        tied: true,
        qkv_bias: false,
    }
}

/// The bytes of a GGUF file of this architecture, its weights drawn from `seed`. Matrices are stored in
/// `encoding` where their rows are whole blocks, else as F16; vectors as F32. A model with biases is written as
/// qwen2, another as llama.
pub fn gguf(arch: &Architecture, encoding: Encoding, seed: u64) -> Vec<u8> {
    writer(arch, encoding, seed).finish()
}

/// A writer that holds that file.
pub fn writer(arch: &Architecture, encoding: Encoding, seed: u64) -> GgufWriter {
    let mut writer = metadata(arch);
    let mut random = SplitMix(seed);
    for slot in slots(arch) {
        let len = slot.rows * slot.cols;
        let (kind, bytes) = if slot.is_vector() {
            let centre = if matches!(slot.role, Role::QBias | Role::KBias | Role::VBias) { 0.0 } else { 1.0 };
            let values = (0..len).flat_map(|_| (centre + 0.25 * random.unit()).to_le_bytes()).collect();
            (Encoding::F32, values)
        } else {
            let encoding = if slot.cols % encoding.block_len() == 0 { encoding } else { Encoding::F16 };
            let scale = 1.7 / (slot.cols as f32).sqrt();
            let blocks = len / encoding.block_len();
            (encoding, (0..blocks).flat_map(|_| block(encoding, scale, &mut random)).collect())
        };
        let dimensions =
            if slot.is_vector() { vec![slot.cols as u64] } else { vec![slot.cols as u64, slot.rows as u64] };
        writer.tensor(&tensor_name(&slot), &dimensions, kind.ggml(), bytes);
    }
    writer
}

/// A writer that holds the metadata of a model of this architecture, and no tensors yet.
pub fn metadata(arch: &Architecture) -> GgufWriter {
    let family = if arch.qkv_bias { "qwen2" } else { "llama" };
    let mut writer = GgufWriter::default();
    writer.string("general.architecture", family);
    writer.string("general.name", "synthetic");
    for (name, value) in [
        ("block_count", arch.layers),
        ("context_length", arch.context),
        ("embedding_length", arch.width),
        ("feed_forward_length", arch.ffn),
        ("attention.head_count", arch.heads),
        ("attention.head_count_kv", arch.kv_heads),
        ("attention.key_length", arch.head_dim),
        ("attention.value_length", arch.head_dim),
        ("rope.dimension_count", arch.head_dim),
        ("vocab_size", arch.vocab),
    ] {
        writer.u32(&format!("{family}.{name}"), value);
    }
    writer.f32(&format!("{family}.attention.layer_norm_rms_epsilon"), arch.eps);
    writer.f32(&format!("{family}.rope.freq_base"), arch.rope_base);

    let alphabet = super::tokenizer::byte_alphabet();
    let mut tokens: Vec<String> = vec![String::new(); 256];
    for (letter, byte) in &alphabet {
        tokens[usize::from(*byte)] = letter.to_string();
    }
    tokens.extend(EXTRA.map(str::to_string));
    let unused = MIN_VOCAB..arch.vocab;
    let kinds =
        (0..MIN_VOCAB).map(|id| if id == 256 || id == 257 { 3 } else { 1 }).chain(unused.clone().map(|_| 5));
    tokens.extend(unused.map(|id| format!("[unused {id}]")));
    writer.string("tokenizer.ggml.model", "gpt2");
    writer.string("tokenizer.ggml.pre", "smollm");
    writer.strings("tokenizer.ggml.tokens", &tokens);
    writer.i32s("tokenizer.ggml.token_type", &kinds.collect::<Vec<_>>());
    writer.strings("tokenizer.ggml.merges", &["t h", "th e", "Ġ the"].map(str::to_string));
    for (key, id) in ["eos", "eot", "eom"].iter().zip(&arch.eos) {
        writer.u32(&format!("tokenizer.ggml.{key}_token_id"), *id);
    }
    writer.string("tokenizer.chat_template", TEMPLATE);
    writer
}

/// One block of weights of about -`scale` to `scale`.
fn block(encoding: Encoding, scale: f32, random: &mut SplitMix) -> Vec<u8> {
    let half = |x: f32| f16::from_f32(x).to_le_bytes();
    let mut codes = |n: usize| -> Vec<u8> { (0..n).map(|_| random.next() as u8).collect() };
    match encoding {
        Encoding::F32 => (scale * random.unit()).to_le_bytes().to_vec(),
        Encoding::F16 => half(scale * random.unit()).to_vec(),
        Encoding::Q4_0 => [&half(scale / 8.0)[..], &codes(16)].concat(),
        Encoding::Q4_1 => [&half(scale / 7.5)[..], &half(-scale), &codes(16)].concat(),
        Encoding::Q8_0 => [&half(scale / 127.0)[..], &codes(32)].concat(),
    }
}

/// Sebastiano Vigna's SplitMix64.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// From -1 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Writes GGUF version 3. It checks nothing, so that tests can write files that are wrong.
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    pub pairs: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

impl GgufWriter {
    const ALIGNMENT: usize = 32;

    fn pair(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.remove(key);
        self.pairs.push((key.to_string(), [&kind.to_le_bytes()[..], value].concat()));
    }

    /// Takes a pair away.
    pub fn remove(&mut self, key: &str) {
        self.pairs.retain(|(k, _)| k != key);
    }

    pub fn u32(&mut self, key: &str, value: u32) {
        self.pair(key, 4, &value.to_le_bytes());
    }

    pub fn f32(&mut self, key: &str, value: f32) {
        self.pair(key, 6, &value.to_le_bytes());
    }

    pub fn bool(&mut self, key: &str, value: bool) {
        self.pair(key, 7, &[value.into()]);
    }

    pub fn string(&mut self, key: &str, value: &str) {
        self.pair(key, 8, &string(value));
    }

    pub fn strings<S: AsRef<str>>(&mut self, key: &str, values: &[S]) {
        let items: Vec<u8> = values.iter().flat_map(|s| string(s.as_ref())).collect();
        self.pair(key, 9, &[&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &items].concat());
    }

    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        let items: Vec<u8> = values.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.pair(key, 9, &[&5u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &items].concat());
    }

    /// A tensor, dimensions fastest first.
    pub fn tensor(&mut self, name: &str, dimensions: &[u64], kind: u32, bytes: Vec<u8>) {
        self.tensors.push((name.to_string(), dimensions.to_vec(), kind, bytes));
    }

    pub fn finish(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            out.extend(string(key));
            out.extend(value);
        }
        let mut offset = 0;
        for (name, dimensions, kind, bytes) in &self.tensors {
            out.extend(string(name));
            out.extend((dimensions.len() as u32).to_le_bytes());
            out.extend(dimensions.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += bytes.len().next_multiple_of(Self::ALIGNMENT);
        }
        for (_, _, _, bytes) in &self.tensors {
            out.resize(out.len().next_multiple_of(Self::ALIGNMENT), 0);
            out.extend(bytes);
        }
        out.resize(out.len().next_multiple_of(Self::ALIGNMENT), 0);
        out
    }
}

fn string(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}
