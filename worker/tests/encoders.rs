//! Encoders: the fast path equals the reference in every bit, whatever instruction set, threads or company; and both are
//! close to an independent engine, candle in f32.

use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config, HiddenAct};
use deepnode_worker::canon::encoder::ReferenceEncoder;
use deepnode_worker::canon::random::RandomEncoder;
use deepnode_worker::canon::{Embedding, EncoderArchitecture, EncoderDevice};
use deepnode_worker::cpu::{CpuEncoder, Isa};
use deepnode_worker::engine::{Embedder, Options};
use deepnode_worker::model::testing::{minilm, models_folder, MINILM};
use deepnode_worker::model::{import, synthetic, EncoderModel};
use half::f16;

/// Sizes with tails everywhere: rows, columns, halves of a head.
fn odd() -> EncoderArchitecture {
    EncoderArchitecture {
        layers: 3,
        width: 200,
        heads: 5,
        ffn: 330,
        vocab: 131,
        context: 310,
        types: 2,
        eps: 1e-12,
    }
}

/// The proportions of MiniLM.
fn plain() -> EncoderArchitecture {
    EncoderArchitecture { layers: 2, width: 384, heads: 12, ffn: 768, ..odd() }
}

/// Heads of more than one block.
fn wide_heads() -> EncoderArchitecture {
    EncoderArchitecture { width: 320, heads: 2, ffn: 100, layers: 2, ..odd() }
}

/// A text of `n` tokens; another `which`, other tokens.
fn text(n: usize, which: usize) -> Vec<u32> {
    (0..n).map(|i| ((i + 17 * which) as u32).wrapping_mul(2_654_435_761) % 131).collect()
}

/// Compares every instruction set, with one thread and with two, with the reference.
fn agree(model: RandomEncoder, texts: &[Vec<u32>]) -> Vec<Embedding> {
    let model = Arc::new(model);
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let want = ReferenceEncoder(model.clone()).encode(&texts).unwrap();
    for isa in Isa::available() {
        for threads in [1, 2] {
            let cpu = CpuEncoder::new(model.clone(), isa, threads).unwrap();
            // All together, then each alone, in what the others have left.
            let what = format!("{isa:?}, {threads} threads");
            assert!(cpu.encode(&texts).unwrap() == want, "{what}");
            for (text, want) in texts.iter().zip(&want) {
                assert!(
                    cpu.encode(&[text]).unwrap() == [want.clone()],
                    "{what}, alone, {} tokens",
                    text.len()
                );
            }
        }
    }
    want
}

/// Texts up to and across two block boundaries of attention, one after the other, so that they share steps and tiles.
#[test]
fn sizes_with_tails() {
    let texts: Vec<Vec<u32>> =
        [1, 127, 128, 129, 300, 2, 3, 1, 7].iter().enumerate().map(|(which, n)| text(*n, which)).collect();
    for embedding in agree(RandomEncoder::new(odd(), 1), &texts) {
        assert!(embedding.finite);
        let length: f32 = embedding.vector.iter().map(|x| x.to_f32() * x.to_f32()).sum();
        assert!((length - 1.0).abs() < 2e-3, "{length}");
    }
}

#[test]
fn proportions_of_a_real_model() {
    agree(RandomEncoder::new(plain(), 2), &[text(70, 0), text(5, 1), text(130, 2)]);
}

#[test]
fn heads_wider_than_a_block() {
    agree(RandomEncoder::new(wide_heads(), 3), &[text(40, 0), text(140, 1)]);
}

/// More texts than a step takes, most shorter than a tile.
#[test]
fn many_short_texts() {
    let texts: Vec<Vec<u32>> = (0..150).map(|which| text(1 + which % 9, which)).collect();
    let arch = EncoderArchitecture { layers: 1, width: 64, heads: 2, ffn: 64, ..odd() };
    agree(RandomEncoder::new(arch, 4), &texts);
}

/// A store that overflows marks its text alone, and changes no other bit.
#[test]
fn overflow_marks_its_text() {
    let mut model = RandomEncoder::new(odd(), 5);
    model.scale_value_row(5, 1e6);
    let texts: Vec<Vec<u32>> = (0..12).map(|which| text(1 + which, which)).collect();
    let finite = agree(model, &texts).iter().filter(|embedding| embedding.finite).count();
    assert!(finite > 0 && finite < texts.len(), "{finite} of {} texts are finite", texts.len());
}

/// Texts of several lengths and languages.
const TEXTS: [&str; 26] = [
    "Hi",
    "This is an example sentence.",
    "Each sentence is converted to a vector of 384 elements.",
    "The capital of France is Paris, and that of Italy is Rome.",
    "A man is eating a piece of bread while a woman plays the violin in the street below his window.",
    "fn main() { println!(\"{}\", (1..=10).map(|x| x * x).sum::<u32>()); }",
    "SELECT name, age FROM users WHERE age > 18 ORDER BY name LIMIT 10; -- all adults",
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987",
    "In quantum mechanics, the uncertainty principle limits how precisely position and momentum can both be known.",
    "Wie komme ich vom Bahnhof zum Flughafen, ohne zweimal umzusteigen?",
    "Les élèves ont passé l'été à la plage près de Saint-Étienne-du-Grès.",
    "El perro corre por el parque y el gato duerme en la casa de la abuela.",
    "Il gatto è sul tavolo; perché non lo fai scendere?",
    "Кошка сидит на окне и смотрит на улицу.",
    "我今天去图书馆借了三本关于历史的书。",
    "東京の天気は晴れですが、明日は雨が降るでしょう。",
    "오늘 점심은 무엇을 먹을까요?",
    "القطة تجلس على النافذة",
    "हिन्दी भारत की राजभाषा है।",
    "Η γάτα κάθεται στο παράθυρο.",
    "😀 emojis 🚀 and    white\tspace\nof all kinds",
    "ALL CAPITALS SHOULD NOT MATTER TO AN UNCASED MODEL",
    "pneumonoultramicroscopicsilicovolcanoconiosis is a word of many pieces, as is antidisestablishmentarianism",
    "[CLS] special tokens [SEP] in a text [MASK]",
    "!!! ??? ... --- ((( )))",
    "The contract may be terminated by either party with a notice of thirty days.",
];

/// The texts, and some that are as long as two and four blocks.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = TEXTS.map(str::to_string).to_vec();
    texts.push(TEXTS[..12].join(" "));
    texts.push(TEXTS[2..9].join(" ").repeat(3).chars().take(1900).collect());
    texts
}

fn cosine(a: &[f16], b: &[f32]) -> f64 {
    let dot = |f: &dyn Fn(usize) -> f64| (0..a.len()).map(f).sum::<f64>();
    let (x, y) = (|i: usize| a[i].to_f64(), |i: usize| f64::from(b[i]));
    dot(&|i| x(i) * y(i)) / (dot(&|i| x(i) * x(i)) * dot(&|i| y(i) * y(i))).sqrt()
}

/// What candle makes of the texts' tokens in f32: the mean of the positions.
fn candle(
    folder: &Path,
    arch: &EncoderArchitecture,
    texts: &[Vec<u32>],
) -> candle_core::Result<Vec<Vec<f32>>> {
    let device = candle_core::Device::Cpu;
    let config = Config {
        vocab_size: arch.vocab as usize,
        hidden_size: arch.width as usize,
        num_hidden_layers: arch.layers as usize,
        num_attention_heads: arch.heads as usize,
        intermediate_size: arch.ffn as usize,
        max_position_embeddings: arch.context as usize,
        type_vocab_size: arch.types as usize,
        layer_norm_eps: f64::from(arch.eps),
        hidden_act: HiddenAct::Gelu,
        ..Config::default()
    };
    let tensors = candle_core::safetensors::load(folder.join("model.safetensors"), &device)?;
    let bert = BertModel::load(VarBuilder::from_tensors(tensors, DType::F32, &device), &config)?;
    let vector = |tokens: &Vec<u32>| {
        let ids = candle_core::Tensor::new(&tokens[..], &device)?.unsqueeze(0)?;
        bert.forward(&ids, &ids.zeros_like()?, None)?.mean(1)?.squeeze(0)?.to_vec1()
    };
    texts.iter().map(vector).collect()
}

fn embed(model: &Arc<EncoderModel>, texts: &[Vec<u32>]) -> Vec<Embedding> {
    let embedder = Embedder::new(model.clone(), Options { threads: 2, ..Options::default() }).unwrap();
    embedder.embed(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
}

/// Against candle on the real weights; and the ids are those of the transformers' own tokenizer.
#[test]
fn minilm_is_close_to_candle() {
    let folder = models_folder().join(MINILM);
    let model = Arc::new(minilm());
    let mut theirs = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    theirs.with_truncation(None).unwrap().with_padding(None);
    let tokens: Vec<Vec<u32>> = texts()
        .iter()
        .map(|text| {
            let ids = model.tokenizer().encode(text).unwrap();
            assert_eq!(ids, theirs.encode(text.as_str(), true).unwrap().get_ids(), "{text}");
            ids
        })
        .collect();
    assert!(tokens.iter().any(|ids| (128..256).contains(&ids.len())), "one of two blocks");
    assert!(tokens.iter().any(|ids| ids.len() > 384), "one of four blocks");
    let want = candle(&folder, model.arch(), &tokens).unwrap();
    let mut least: f64 = 1.0;
    for ((embedding, want), text) in embed(&model, &tokens).iter().zip(&want).zip(texts()) {
        assert!(embedding.finite);
        let cosine = cosine(&embedding.vector, want);
        assert!(cosine > 0.9999, "{cosine}: {text}");
        least = least.min(cosine);
    }
    println!("least cosine of {} texts to candle's f32: 1 - {:.1e}", tokens.len(), 1.0 - least);
}

/// Against candle on generated weights.
#[test]
fn generated_weights_are_close_to_candle() {
    let arch =
        EncoderArchitecture { layers: 3, width: 192, heads: 6, ffn: 400, ..synthetic::small_encoder() };
    let folder = tempfile::tempdir().unwrap();
    synthetic::write_encoder(folder.path(), &arch, 3).unwrap();
    let imported = import(folder.path(), &folder.path().join("models"), &|_| {}).unwrap();
    let model = Arc::new(EncoderModel::open(&imported.path).unwrap());
    let tokens: Vec<Vec<u32>> = [1, 5, 64, 150].into_iter().enumerate().map(|(i, n)| text(n, i)).collect();
    let want = candle(folder.path(), &arch, &tokens).unwrap();
    for (embedding, want) in embed(&model, &tokens).iter().zip(&want) {
        assert!(cosine(&embedding.vector, want) > 0.9999);
    }
}

/// Model id and vector of the real encoder, by the reference and by every instruction set; and what vectors are for.
#[test]
fn minilm_is_pinned() {
    let model = Arc::new(minilm());
    assert_eq!(hex::encode(model.id()), "919b5a218a39cd8c97a6800e6134d7dbd5e74c96f3c85a861e6f1a8dcbe67bfd");
    let tokens: Vec<Vec<u32>> =
        ["A cat sits on the mat.", "A kitten is on the rug.", "The bank raised its interest rates."]
            .map(|text| model.tokenizer().encode(text).unwrap())
            .to_vec();
    let slices: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    let reference = ReferenceEncoder(model.clone()).encode(&slices[..1]).unwrap();
    for isa in Isa::available() {
        let cpu = CpuEncoder::new(model.clone(), isa, 2).unwrap();
        assert!(cpu.encode(&slices).unwrap()[..1] == reference, "{isa:?}");
    }
    assert_eq!(
        hex::encode(reference[0].trace_root()),
        "e7aea7c6a638f9095a4c3551c354dab73e2fa6c385cb997801c6ab14280f2aa4"
    );
    let vectors = embed(&model, &tokens);
    let like = |a: usize, b: usize| {
        let b: Vec<f32> = vectors[b].vector.iter().map(|x| x.to_f32()).collect();
        cosine(&vectors[a].vector, &b)
    };
    assert!(like(0, 1) > 0.6 && like(0, 2) < 0.2, "{} {}", like(0, 1), like(0, 2));
}

#[test]
fn what_an_embedder_refuses() {
    let model = Arc::new(RandomEncoder::new(odd(), 6));
    let embedder = Embedder::new(model.clone(), Options { threads: 1, ..Options::default() }).unwrap();
    let error = |tokens: &[u32]| embedder.embed(&[tokens]).unwrap_err().to_string();
    assert_eq!(error(&[]), "tokens of a text is 0, must be 1 to the context of 310");
    assert_eq!(error(&[1; 311]), "tokens of a text is 311, must be 1 to the context of 310");
    assert_eq!(error(&[1, 131]), "text is 131, must be token ids below the vocabulary of 131");
    assert!(Embedder::new(model, Options { threads: 0, ..Options::default() }).is_err());
}
