//! Files for import, mutated along their structure: nothing panics, hangs or takes memory beyond a bound.
//!
//! `DEEPNODE_FUZZ_INPUTS` is how many of each format (`make fuzz-import`: ten million), `DEEPNODE_FUZZ_SEED` where the
//! random numbers begin. A failure names the seed of its input; `DEEPNODE_FUZZ_ONE` runs that one alone.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deepnode_worker::canon::{Architecture, EncoderArchitecture, RopeScaling};
use deepnode_worker::model::dequant::Encoding;
use deepnode_worker::model::gguf::{Gguf, GgufWriter};
use deepnode_worker::model::source::{gguf, hf, AnySource, Part, Source};
use deepnode_worker::model::tokenizer::TokenizerFiles;
use deepnode_worker::model::{export, import, synthetic, Kind, Model, ModelFile, Tokenizer, WordPiece};
use half::f16;
use serde_json::{json, Value};

/// Memory that one input may take at any time: all inputs have less than 250 KB.
const MAX_BYTES: isize = 48 << 20;
/// One input in how many of those that are read without an error is imported as a whole.
const WHOLE: usize = 20;
/// Time that one input may take; most take a ten-thousandth.
const MAX_TIME: Duration = Duration::from_secs(10);

/// Counts what this thread has allocated.
struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    let now = NOW.get() + change;
    NOW.set(now);
    PEAK.set(PEAK.get().max(now));
}

// SAFETY: every call is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sebastiano Vigna's SplitMix64.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Numbers where it hurts: small counts, signs, the ends of the ranges.
    fn extreme(&mut self) -> u64 {
        let bit = self.below(64);
        match self.below(5) {
            0 => self.next() % 20,
            1 => 1 << bit,
            2 => (1u64 << bit).wrapping_sub(1),
            3 => u64::MAX - self.next() % 64,
            _ => self.next(),
        }
    }

    /// Bytes changed in place, cut off, put in or taken out, within the first `head`.
    fn damage(&mut self, bytes: &mut Vec<u8>, head: usize) {
        let at = self.below(head.min(bytes.len()));
        let put = |bytes: &mut Vec<u8>, new: &[u8]| {
            let len = new.len().min(bytes.len() - at);
            bytes[at..at + len].copy_from_slice(&new[..len]);
        };
        let end = (at + 1 + self.below(64)).min(bytes.len());
        match self.below(7) {
            0 => put(bytes, &[self.next() as u8]),
            1 => put(bytes, &(self.extreme() as u32).to_le_bytes()),
            2 => put(bytes, &self.extreme().to_le_bytes()),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => bytes.extend(vec![self.next() as u8; self.below(100)]),
        }
    }
}

fn arch() -> Architecture {
    Architecture { layers: 1, width: 32, heads: 1, kv_heads: 1, ffn: 32, ..synthetic::small() }
}

/// Small models of every kind that an import treats differently, as GGUF files.
fn seeds() -> Vec<GgufWriter> {
    let small = arch();
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64 };
    let mut seeds: Vec<GgufWriter> = [
        (Encoding::Q8_0, small.clone()),
        (Encoding::Q4_0, Architecture { qkv_bias: true, tied: false, ..small.clone() }),
        (Encoding::Q5_1, Architecture { qk_norm: true, ..small.clone() }),
        (Encoding::Q4_1, Architecture { rope_scaling: llama3, ..small.clone() }),
        (Encoding::Bf16, Architecture { rope_scaling: RopeScaling::Linear { factor: 2.0 }, ..small.clone() }),
        (Encoding::F32, Architecture { window: Some(24), tied: false, ..small.clone() }),
        (Encoding::Q3K, Architecture { width: 256, ffn: 256, ..small.clone() }),
        (Encoding::Q6K, Architecture { width: 256, heads: 2, ..small.clone() }),
    ]
    .into_iter()
    .map(|(encoding, arch)| synthetic::writer(&arch, encoding, 3))
    .collect();
    let mut pieces = synthetic::writer(&Architecture { vocab: 320, eos: vec![2], ..small }, Encoding::F16, 3);
    pieces.remove("tokenizer.ggml.merges");
    synthetic::sentence_piece(320).write_gguf(&mut pieces);
    seeds.push(pieces);
    seeds
}

/// The whole import of files that were read without an error: packings, layout, rope table. What it writes can be opened,
/// and is what its id says.
fn import_whole<A: Kind>(files: &[(&str, &[u8])], entry: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let imported = import(&folder.path().join(entry), &folder.path().join("models"), &|_| {});
    let model = ModelFile::<A>::open(&imported.map_err(|e| e.to_string())?.path).unwrap();
    model.verify().unwrap();
    Ok(())
}

/// Everything that an import does but write: each weight decoded and, for some, the tokenizer built.
fn use_source(source: Source<'_>, random: &mut Random) -> Result<(), String> {
    decode(&source.parts)?;
    source.tokenizer.check().map_err(|e| e.to_string())?;
    if random.one_in(50) {
        Tokenizer::new(source.tokenizer).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Decodes every weight.
fn decode(parts: &[Part<'_>]) -> Result<(), String> {
    let mut row = Vec::new();
    for part in parts {
        let (data, len) = (part.data, part.data.row_bytes());
        assert_eq!(data.bytes.len(), data.rows * len);
        row.resize(data.cols, f16::ZERO);
        for row_of_file in
            (0..part.slot.rows).map(|row| if part.slot.is_vector() { 0 } else { part.source_row(row) })
        {
            let bytes = &data.bytes[row_of_file * len..(row_of_file + 1) * len];
            if let Err(at) = data.encoding.decode(bytes, &mut row) {
                assert!(at.index < data.cols);
                return Err(format!("{at:?}"));
            }
        }
    }
    Ok(())
}

/// Runs `inputs` mutations in as many threads as there are processors.
fn fuzz(what: &str, input: impl Fn(&mut Random) -> Result<(), String> + Sync) {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    let seed = number("DEEPNODE_FUZZ_SEED").unwrap_or(0);
    let inputs = number("DEEPNODE_FUZZ_INPUTS").unwrap_or(15_000);
    let run = |seed: u64| {
        let mut random = Random(seed);
        NOW.set(0);
        PEAK.set(0);
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| input(&mut random)));
        let (peak, time) = (PEAK.get(), start.elapsed());
        assert!(result.is_ok(), "{what}: panicked, DEEPNODE_FUZZ_ONE={seed}");
        assert!(peak < MAX_BYTES, "{what}: took {peak} bytes, DEEPNODE_FUZZ_ONE={seed}");
        assert!(time < MAX_TIME, "{what}: took {time:?}, DEEPNODE_FUZZ_ONE={seed}");
        result.is_ok_and(|accepted| accepted.is_ok())
    };
    if let Some(one) = number("DEEPNODE_FUZZ_ONE") {
        run(one);
        return;
    }
    let (next, accepted) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= inputs {
                    break;
                }
                if run(Random(seed ^ n.wrapping_mul(0x9e37_79b9)).next()) {
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let accepted = accepted.into_inner();
    println!("{what}: {inputs} inputs, {accepted} of them accepted");
    // Mutations that never reach the end, or change nothing, would find nothing.
    assert!(accepted > inputs / 200 && accepted < inputs / 2, "{accepted} of {inputs} accepted");
}

#[test]
fn gguf_inputs() {
    let seeds = seeds();
    fuzz("GGUF", |random| {
        let mut writer = seeds[random.below(seeds.len())].clone();
        for _ in 0..1 + random.below(3) {
            mutate_gguf(&mut writer, random);
        }
        let mut file = writer.finish();
        if random.one_in(3) {
            let data: usize = writer.tensors.iter().map(|t| t.3.len()).sum();
            let head = file.len().saturating_sub(data) + 64;
            random.damage(&mut file, head);
        }
        let gguf = Gguf::parse(&file).map_err(|e| e.to_string())?;
        for tensor in gguf.tensors.values() {
            assert!(file.as_ptr_range().contains(&tensor.bytes.as_ptr()));
        }
        use_source(gguf::read(&gguf).map_err(|e| e.to_string())?, random)?;
        if random.one_in(WHOLE) {
            import_whole::<Architecture>(&[("m.gguf", &file)], "m.gguf")?;
        }
        Ok(())
    });
}

/// Imported models, which `models pull` takes from strangers too.
#[test]
fn model_file_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("m.gguf");
    fs::write(&source, synthetic::gguf(&arch(), Encoding::Q4_0, 3)).unwrap();
    let whole = fs::read(import(&source, folder.path(), &|_| {}).unwrap().path).unwrap();
    let tensors = |header: usize| (64 + header).next_multiple_of(4096);
    let len = u64::from_le_bytes(whole[16..24].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&whole[64..64 + len]).unwrap();
    fuzz("model files", |random| {
        let mut header = header.clone();
        for _ in 0..random.below(3) {
            mutate_json(&mut header, random);
        }
        // The digest of the header is right, so that more than it is tried.
        let text = header.to_string().into_bytes();
        let mut file = whole[..64].to_vec();
        file[16..24].copy_from_slice(&(text.len() as u64).to_le_bytes());
        file[32..64].copy_from_slice(blake3::hash(&text).as_bytes());
        file.extend(&text);
        file.resize(tensors(text.len()), 0);
        file.extend(&whole[tensors(len)..]);
        let length = file.len() as u64;
        file[24..32].copy_from_slice(&length.to_le_bytes());
        if random.one_in(3) {
            random.damage(&mut file, length as usize);
        }
        let path = folder.path().join(format!("{:?}.dnm", std::thread::current().id()));
        fs::write(&path, &file).unwrap();
        let model = Model::open(&path).map_err(|e| e.to_string())?;
        model.verify().map_err(|e| e.to_string())
    });
}

/// The longest context of a model of 60 KB would have a rope table of 128 MB.
#[test]
fn long_contexts_take_no_memory() {
    let file = synthetic::gguf(&Architecture { context: 1 << 20, ..arch() }, Encoding::F16, 3);
    NOW.set(0);
    PEAK.set(0);
    import_whole::<Architecture>(&[("m.gguf", &file)], "m.gguf").unwrap();
    assert!(PEAK.get() < MAX_BYTES, "took {} bytes", PEAK.get());
}

fn mutate_gguf(writer: &mut GgufWriter, random: &mut Random) {
    let (pair, other) = (random.below(writer.pairs.len()), random.below(writer.pairs.len()));
    let (at, from) = (random.below(writer.tensors.len()), random.below(writer.tensors.len()));
    match random.below(12) {
        0 => random.damage(&mut writer.pairs[pair].1, 64),
        1 => {
            let head = writer.pairs[pair].1.len();
            random.damage(&mut writer.pairs[pair].1, head);
        }
        2 => writer.pairs[pair].1 = writer.pairs[other].1.clone(),
        3 => drop(writer.pairs.remove(pair)),
        4 => writer.pairs.push(writer.pairs[pair].clone()),
        5 => writer.pairs[pair].0 = writer.pairs[other].0.replace('.', "_"),
        6 => {
            let key = writer.pairs[pair].0.clone();
            match random.below(3) {
                0 => writer.u32(&key, random.extreme() as u32),
                1 => writer.f32(&key, f32::from_bits(random.next() as u32)),
                _ => writer.string(&key, &"é".repeat(random.below(400))),
            }
        }
        7 => {
            let dimensions = &mut writer.tensors[at].1;
            let n = random.below(dimensions.len());
            dimensions[n] = random.extreme();
        }
        8 => writer.tensors[at].2 = random.below(40) as u32,
        9 => {
            let bytes = &mut writer.tensors[at].3;
            let head = bytes.len();
            random.damage(bytes, head);
        }
        10 => writer.tensors[at].0 = writer.tensors[from].0.clone(),
        _ => writer.tensors.swap(at, from),
    }
}

const WEIGHTS: &str = "w.safetensors";

/// The documents of a checkpoint, and the data of its weights.
#[derive(Clone)]
struct Checkpoint {
    documents: [Value; 6],
    data: Vec<u8>,
}

const CONFIG: usize = 0;
const GENERATION: usize = 1;
const TOKENIZER: usize = 2;
const TOKENIZER_CONFIG: usize = 3;
const HEADER: usize = 4;
const INDEX: usize = 5;

/// The checkpoint of a model in a GGUF file.
fn checkpoint(gguf: &[u8]) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, gguf).unwrap();
    let model = Model::open(&import(&path, folder.path(), &|_| {}).unwrap().path).unwrap();
    let to = folder.path().join("hf");
    export::to_safetensors(&model, &to).unwrap();
    let document = |name: &str| serde_json::from_slice(&fs::read(to.join(name)).unwrap()).unwrap();
    let weights = fs::read(to.join("model.safetensors")).unwrap();
    let len = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&weights[8..len]).unwrap();
    let names = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__");
    let map: serde_json::Map<_, _> = names.map(|name| (name.clone(), WEIGHTS.into())).collect();
    Checkpoint {
        documents: [
            document("config.json"),
            document("generation_config.json"),
            document("tokenizer.json"),
            document("tokenizer_config.json"),
            header,
            json!({ "weight_map": map }),
        ],
        data: weights[len..].to_vec(),
    }
}

#[test]
fn safetensors_inputs() {
    let seeds: Vec<Checkpoint> = seeds().iter().map(|gguf| checkpoint(&gguf.finish())).collect();
    fuzz("safetensors", |random| {
        let mut checkpoint = seeds[random.below(seeds.len())].clone();
        for _ in 0..1 + random.below(3) {
            let which = [CONFIG, CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG, HEADER, HEADER, INDEX]
                [random.below(8)];
            mutate_json(&mut checkpoint.documents[which], random);
        }
        let mut texts = checkpoint.documents.map(|document| document.to_string().into_bytes());
        if random.one_in(4) {
            let which = random.below(texts.len());
            let head = texts[which].len();
            random.damage(&mut texts[which], head);
        }
        let header = &texts[HEADER];
        let mut weights = [&(header.len() as u64).to_le_bytes()[..], header, &checkpoint.data].concat();
        if random.one_in(4) {
            let head = if random.one_in(2) { 16 } else { weights.len() };
            random.damage(&mut weights, head);
        }
        let folder = hf::Folder {
            name: "fuzz",
            config: &texts[CONFIG],
            generation: random.one_in(2).then_some(&texts[GENERATION]),
            tokenizer: TokenizerFiles {
                tokenizer: &texts[TOKENIZER],
                config: random.one_in(2).then_some(&texts[TOKENIZER_CONFIG]),
                template: random.one_in(8).then_some(&texts[CONFIG]),
            },
            modules: None,
            pooling: None,
            index: random.one_in(2).then_some(&texts[INDEX]),
            weights: vec![(WEIGHTS, &weights)],
        };
        let named = [
            ("config.json", Some(folder.config)),
            ("generation_config.json", folder.generation),
            ("tokenizer.json", Some(folder.tokenizer.tokenizer)),
            ("tokenizer_config.json", folder.tokenizer.config),
            ("chat_template.jinja", folder.tokenizer.template),
            ("model.safetensors.index.json", folder.index),
            (WEIGHTS, Some(&weights)),
        ];
        use_source(hf::read(&folder).map_err(|e| e.to_string())?, random)?;
        if random.one_in(WHOLE) {
            let files: Vec<_> = named.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))).collect();
            // Without an index only the one file of weights is read.
            import_whole::<Architecture>(&files, if folder.index.is_some() { "" } else { WEIGHTS })?;
        }
        Ok(())
    });
}

/// The same for encoders: config.json, modules.json, the pooling's, tokenizer.json and the header of the weights.
#[test]
fn encoder_inputs() {
    let arch =
        EncoderArchitecture { layers: 1, width: 32, ffn: 32, context: 40, ..synthetic::small_encoder() };
    let files: BTreeMap<String, Vec<u8>> = synthetic::encoder_files(&arch, 5).into_iter().collect();
    let weights = &files["model.safetensors"];
    let len = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let document = |name: &str| serde_json::from_slice(&files[name]).unwrap();
    let good: [Value; 5] = [
        document("config.json"),
        document("modules.json"),
        document("1_Pooling/config.json"),
        document("tokenizer.json"),
        serde_json::from_slice(&weights[8..len]).unwrap(),
    ];
    fuzz("encoders", |random| {
        let mut documents = good.clone();
        for _ in 0..1 + random.below(3) {
            mutate_json(&mut documents[random.below(5)], random);
        }
        let mut texts = documents.map(|document| document.to_string().into_bytes());
        if random.one_in(4) {
            let which = random.below(texts.len());
            let head = texts[which].len();
            random.damage(&mut texts[which], head);
        }
        let [config, modules, pooling, tokenizer, header] = &texts;
        let weights = [&(header.len() as u64).to_le_bytes()[..], header, &weights[len..]].concat();
        let folder = hf::Folder {
            name: "fuzz",
            config,
            generation: None,
            tokenizer: TokenizerFiles { tokenizer, config: None, template: None },
            modules: Some(modules),
            pooling: Some(pooling),
            index: None,
            weights: vec![("w.safetensors", &weights)],
        };
        match hf::read_any(&folder).map_err(|e| e.to_string())? {
            AnySource::Decoder(_) => return Err("a language model".to_string()),
            AnySource::Encoder(source) => {
                decode(&source.parts)?;
                WordPiece::new(source.tokenizer).map_err(|e| e.to_string())?;
            }
        }
        if random.one_in(WHOLE) {
            let names = ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json", WEIGHTS];
            let contents = [config, modules, pooling, tokenizer, &weights];
            let files: Vec<_> = names.into_iter().zip(contents.map(Vec::as_slice)).collect();
            import_whole::<EncoderArchitecture>(&files, WEIGHTS)?;
        }
        Ok(())
    });
}

/// Changes one value somewhere in the document.
fn mutate_json(document: &mut Value, random: &mut Random) {
    let mut at = document;
    loop {
        // Down, or here.
        let len = match at {
            Value::Array(items) => items.len(),
            Value::Object(fields) => fields.len(),
            _ => 0,
        };
        if len == 0 || random.one_in(6) {
            break;
        }
        let n = random.below(len);
        at = match at {
            Value::Array(items) => &mut items[n],
            Value::Object(fields) => fields.values_mut().nth(n).unwrap(),
            _ => return,
        };
    }
    let key = random.next();
    match at {
        Value::Object(fields) if random.one_in(2) => {
            let name = fields.keys().nth(key as usize % fields.len().max(1)).cloned();
            match (name, random.below(3)) {
                (Some(name), 0) => drop(fields.remove(&name)),
                (Some(name), 1) => {
                    let value = fields[&name].clone();
                    fields.insert(format!("{name}2"), value);
                }
                _ => drop(fields.insert(format!("key{}", key % 7), leaf(random))),
            }
        }
        Value::Array(items) if random.one_in(2) => match random.below(2) {
            0 => items.truncate(key as usize % (items.len() + 1)),
            _ => items.push(leaf(random)),
        },
        other => *other = leaf(random),
    }
}

fn leaf(random: &mut Random) -> Value {
    match random.below(9) {
        0 => Value::Null,
        1 => random.one_in(2).into(),
        2 => random.extreme().into(),
        3 => (random.extreme() as i64).into(),
        4 => json!(f64::from_bits(random.next())),
        5 => "x".repeat(random.below(300)).into(),
        6 => (0..random.below(120)).fold(Value::Null, |inner, _| json!([inner])),
        7 => json!([]),
        _ => json!({}),
    }
}
