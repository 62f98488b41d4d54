//! Models of a chosen shape with generated weights, as GGUF files (encoders as safetensors): what tests and benchmarks run on where no
//! real model is at hand. The same arguments give the same bytes.

use std::path::Path;
use std::{fs, io};

use half::f16;

use super::dequant::Encoding;
use super::export::{divisors, gguf_metadata};
use super::family::{bert, gguf_name, hf_name};
use super::gguf::GgufWriter;
use super::kind::Kind;
use super::manifest::{slots, Role};
use super::source::gguf::ROPE_FREQS;
use super::source::safetensors::SINGLE;
use super::tokenizer::{byte_alphabet, PieceKind, PreTokenizer, SpacePrefix, TokenizerSpec, WordPieceSpec};
use crate::canon::{Architecture, EncoderArchitecture, RopeScaling};
use ::safetensors::tensor::TensorView;
use ::safetensors::Dtype;

/// A chat template like ChatML's.
const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
/// A chat template like Mistral 7B's.
const INSTRUCT: &str = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}";
/// Pieces besides the 256 bytes: two that are found as a whole and three that merges make.
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
        qk_norm: false,
        window: None,
        rope_scaling: RopeScaling::None,
    }
}

/// Small architectures of each family, by its name and what is different.
pub fn families() -> [(&'static str, Architecture); 8] {
    let llama = small();
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64 };
    [
        ("llama", llama.clone()),
        ("llama3", Architecture { tied: false, rope_scaling: llama3, ..llama.clone() }),
        ("mistral", Architecture { tied: false, window: Some(24), ..llama.clone() }),
        ("qwen2", Architecture { qkv_bias: true, kv_heads: 2, ..llama.clone() }),
        // As the larger ones of Qwen 2.5: several query heads a key head.
        ("qwen2 untied", Architecture { qkv_bias: true, tied: false, ..llama.clone() }),
        ("qwen3", Architecture { qk_norm: true, head_dim: 48, ..llama.clone() }),
        ("qwen3 untied", Architecture { qk_norm: true, tied: false, ..llama.clone() }),
        ("linear", Architecture { rope_scaling: RopeScaling::Linear { factor: 4.0 }, ..llama }),
    ]
}

/// The bytes of a GGUF file of this architecture, its weights drawn from `seed`. Matrices are stored in
/// `encoding` where their rows are whole blocks, else as F16; vectors as F32.
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
        writer.tensor(&gguf_name(&slot), &dimensions, kind.ggml(), bytes);
    }
    writer
}

/// The bytes of a GGUF file of the small model with another chat template.
pub fn with_template(template: &str) -> Vec<u8> {
    let mut writer = writer(&small(), Encoding::F16, 7);
    writer.string("tokenizer.chat_template", template);
    writer.finish()
}

/// The bytes of a GGUF file of the small model whose values in the second layer overflow whatever it is asked.
pub fn overflowing() -> Vec<u8> {
    let mut writer = writer(&small(), Encoding::F16, 7);
    for (name, _, _, weights) in &mut writer.tensors {
        if name == "blk.1.attn_v.weight" {
            for weight in weights.chunks_exact_mut(2) {
                // The sign stays.
                let large = f16::from_f32(if weight[1] & 0x80 == 0 { 6e4 } else { -6e4 });
                weight.copy_from_slice(&large.to_le_bytes());
            }
        }
    }
    writer.finish()
}

/// A writer that holds the metadata of a model of this architecture, and no tensors but those that belong to it.
pub fn metadata(arch: &Architecture) -> GgufWriter {
    let (_, mut writer) =
        gguf_metadata("synthetic", arch, &tokenizer(arch)).expect("an architecture that a family has");
    if let Some(divisors) = divisors(arch) {
        let bytes = divisors.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.tensor(ROPE_FREQS, &[divisors.len() as u64], Encoding::F32.ggml(), bytes);
    }
    writer
}

/// A tokenizer of `arch.vocab` ids that can say every text. Its eos is the architecture's first; `<|im_end|>` is a control
/// token, and so an end, only where the architecture says so.
pub fn tokenizer(arch: &Architecture) -> TokenizerSpec {
    let mut tokens: Vec<String> = vec![String::new(); 256];
    for (letter, byte) in &byte_alphabet() {
        tokens[usize::from(*byte)] = letter.to_string();
    }
    tokens.extend(EXTRA.map(str::to_string));
    let mut kinds = vec![PieceKind::Normal; tokens.len()];
    let end = if arch.eos.contains(&257) { PieceKind::Special } else { PieceKind::Added };
    (kinds[256], kinds[257]) = (PieceKind::Special, end);
    for id in MIN_VOCAB..arch.vocab {
        tokens.push(format!("[PAD{id}]"));
        kinds.push(PieceKind::Unused);
    }
    let id = |token: &str| tokens.iter().position(|t| t == token).expect("a token of EXTRA") as u32;
    TokenizerSpec {
        pre: PreTokenizer::SmolLm,
        kinds,
        merges: [("t", "h"), ("th", "e"), ("Ġ", "the")].map(|(left, right)| (id(left), id(right))).to_vec(),
        bos: None,
        eos: arch.eos.first().copied(),
        add_bos: false,
        template: Some(TEMPLATE.to_string()),
        tokens,
    }
}

/// A SentencePiece tokenizer of `vocab` ids, at least 320, as Llama 2's is laid out: `<unk>`, `<s>`, `</s>`, the bytes,
/// pieces by falling priority, then characters. Texts begin with 1 and end with 2.
pub fn sentence_piece(vocab: u32) -> TokenizerSpec {
    // Each with its cuts into two others, the longest left one first.
    const MERGED: [(&str, &[(&str, &str)]); 12] = [
        ("▁t", &[("▁", "t")]),
        ("he", &[("h", "e")]),
        ("▁the", &[("▁t", "he")]),
        ("in", &[("i", "n")]),
        ("▁▁", &[("▁", "▁")]),
        ("▁▁▁", &[("▁▁", "▁"), ("▁", "▁▁")]),
        ("▁▁▁▁", &[("▁▁▁", "▁"), ("▁▁", "▁▁"), ("▁", "▁▁▁")]),
        ("er", &[("e", "r")]),
        ("her", &[("he", "r"), ("h", "er")]),
        ("th", &[("t", "h")]),
        ("ther", &[("th", "er"), ("t", "her")]),
        ("it", &[("i", "t")]),
    ];
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_string).to_vec();
    let mut kinds = vec![PieceKind::Special; tokens.len()];
    tokens.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    kinds.resize(tokens.len(), PieceKind::Byte);
    tokens.extend(MERGED.map(|(token, _)| token.to_string()));
    tokens.extend("▁".chars().chain('a'..='z').chain("THIé漢.,'".chars()).map(String::from));
    kinds.resize(tokens.len(), PieceKind::Normal);
    for id in tokens.len()..vocab as usize {
        tokens.push(format!("[PAD{id}]"));
        kinds.push(PieceKind::Unused);
    }
    let id = |token: &str| tokens.iter().position(|t| t == token).expect("a token of these") as u32;
    TokenizerSpec {
        pre: PreTokenizer::SentencePiece(SpacePrefix::Each),
        kinds,
        merges: MERGED
            .iter()
            .flat_map(|(_, cuts)| *cuts)
            .map(|(left, right)| (id(left), id(right)))
            .collect(),
        bos: Some(1),
        eos: Some(2),
        add_bos: true,
        template: Some(INSTRUCT.to_string()),
        tokens,
    }
}

/// A small encoder: 2 layers, width 64, 2 heads of 32.
pub fn small_encoder() -> EncoderArchitecture {
    EncoderArchitecture {
        layers: 2,
        width: 64,
        heads: 2,
        ffn: 96,
        vocab: 300,
        context: 160,
        types: 2,
        eps: 1e-12,
    }
}

/// A WordPiece tokenizer of `vocab` ids, at least 80: some special ones, letters, and a few words.
pub fn word_piece(vocab: u32) -> WordPieceSpec {
    const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let mut tokens: Vec<String> = SPECIAL.map(str::to_string).to_vec();
    let mut kinds = vec![PieceKind::Special; SPECIAL.len()];
    tokens.extend(('a'..='z').flat_map(|c| [c.to_string(), format!("##{c}")]));
    tokens.extend(["the", "cat", "hat", "##ing", "'", ",", ".", "!"].map(str::to_string));
    kinds.resize(tokens.len(), PieceKind::Normal);
    for id in tokens.len()..vocab as usize {
        tokens.push(format!("[PAD{id}]"));
        kinds.push(PieceKind::Unused);
    }
    WordPieceSpec {
        tokens,
        kinds,
        clean_text: true,
        chinese_chars: true,
        strip_accents: true,
        lowercase: true,
        max_word: 100,
        unknown: 1,
        first: 2,
        last: 3,
    }
}

/// Writes `encoder_files` into a folder, which is made.
pub fn write_encoder(folder: &Path, arch: &EncoderArchitecture, seed: u64) -> io::Result<()> {
    for (name, bytes) in encoder_files(arch, seed) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, bytes)?;
    }
    Ok(())
}

/// The files of an encoder as sentence-transformers keeps them, its weights, in F32, drawn from `seed`: names in the
/// folder, and contents.
pub fn encoder_files(arch: &EncoderArchitecture, seed: u64) -> Vec<(String, Vec<u8>)> {
    let mut random = SplitMix(seed);
    let mut tensors = Vec::new();
    for slot in arch.slots() {
        let name = hf_name(&slot);
        let len = slot.rows * slot.cols;
        let (centre, spread) = match slot.is_vector() {
            true if name.ends_with("LayerNorm.weight") => (1.0, 0.25),
            true => (0.0, 0.25),
            false => (0.0, 1.7 / (slot.cols as f32).sqrt()),
        };
        let bytes: Vec<u8> = (0..len).flat_map(|_| (centre + spread * random.unit()).to_le_bytes()).collect();
        let shape = if slot.is_vector() { vec![slot.cols] } else { vec![slot.rows, slot.cols] };
        tensors.push((name, shape, bytes));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape has");
        (name.as_str(), view)
    });
    let weights = ::safetensors::serialize(views, None).expect("a plain container");
    let tokenizer = word_piece(arch.vocab).to_hf();
    let mut files: Vec<(String, Vec<u8>)> = bert::documents(arch)
        .into_iter()
        .chain([("tokenizer.json", tokenizer.tokenizer), ("tokenizer_config.json", tokenizer.config)])
        .map(|(name, document)| (name.to_string(), document.to_string().into_bytes()))
        .collect();
    files.push((SINGLE.to_string(), weights));
    files
}

/// One block of weights of about -`scale` to `scale`.
fn block(encoding: Encoding, scale: f32, random: &mut SplitMix) -> Vec<u8> {
    let half = |x: f32| f16::from_f32(x).to_le_bytes();
    let mut codes = |n: usize| -> Vec<u8> { (0..n).map(|_| random.next() as u8).collect() };
    match encoding {
        Encoding::F32 => (scale * random.unit()).to_le_bytes().to_vec(),
        Encoding::F16 => half(scale * random.unit()).to_vec(),
        Encoding::Bf16 => half::bf16::from_f32(scale * random.unit()).to_le_bytes().to_vec(),
        Encoding::Q4_0 => [&half(scale / 8.0)[..], &codes(16)].concat(),
        Encoding::Q4_1 => [&half(scale / 7.5)[..], &half(-scale), &codes(16)].concat(),
        Encoding::Q5_0 => [&half(scale / 16.0)[..], &codes(20)].concat(),
        Encoding::Q5_1 => [&half(scale / 15.5)[..], &half(-scale), &codes(20)].concat(),
        Encoding::Q8_0 => [&half(scale / 127.0)[..], &codes(32)].concat(),
        // Scales of up to 15 or 63, codes of up to 3, 15 or 31, and as much of them taken away on average.
        Encoding::Q2K => [&codes(80)[..], &half(scale / 22.5), &half(scale / 15.0)].concat(),
        Encoding::Q3K => [&codes(108)[..], &half(scale / 128.0)].concat(),
        Encoding::Q4K => [&half(scale / 472.0)[..], &half(scale / 63.0), &codes(140)].concat(),
        Encoding::Q5K => [&half(scale / 976.0)[..], &half(scale / 63.0), &codes(172)].concat(),
        Encoding::Q6K => [&codes(208)[..], &half(scale / 4096.0)].concat(),
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
