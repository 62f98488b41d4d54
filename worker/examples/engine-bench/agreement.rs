//! How close the engine is to llama.cpp on the same f16 weights: both are forced along the same texts, and the logits of
//! every position are compared. The same against candle in f32 says whose the distance is.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use candle_core::{DType, Device as CandleDevice, Tensor};
use candle_transformers::models::llama::Cache;
use deepnode_worker::canon::sample::argmax;
use deepnode_worker::canon::{Device, Run, PAGE};
use deepnode_worker::cpu::{Cpu, Isa};
use deepnode_worker::model::Model;

use crate::aims::Aims;
use crate::candle;
use crate::llama::{Llama, Result};

/// Tokens of each text.
const LENGTH: usize = 180;
/// What is accepted: the share of positions with the same greatest logit at the least, and the RMS of the logits'
/// differences over the RMS of the logits at the most. `tests/accuracy.rs` asks the same of candle.
const AGREEMENT: f64 = 0.99;
const ERROR: f64 = 2e-2;

const TEXTS: [&str; 6] = [
    "The lighthouse at the end of the island had not been lit for thirty years when Clara moved in. She brought two \
     suitcases, a radio that no longer worked, and a box of letters which her grandfather had written to somebody whose \
     name she did not know. On the first evening the wind came from the north and shook the windows, and she sat on the \
     stairs with a candle and read the letters one after another until it was light again. They spoke of ships, of fog, \
     of a dog called Pepper, and of a debt that could not be paid with money. In the morning she walked down to the \
     harbour, where an old woman was mending nets, and asked whether anyone remembered the man who used to keep the \
     light. The woman looked at her for a long time before she answered. \"He was a good man,\" she said, \"but he was \
     never on time.\" Then she laughed and went back to her work as if nothing at all had been said.",
    "A database index is a data structure that makes finding rows faster at the cost of additional writes and storage. \
     The most common kind is the B-tree, in which every node holds many keys in order and points to children whose keys \
     lie between them. Because the tree is wide, a table of a billion rows needs only four or five levels, so that a \
     lookup touches a handful of pages. A hash index answers questions of equality only, but does so in constant time. \
     When a query filters by several columns, a composite index can serve it if the columns of the filter are a prefix \
     of those of the index. Each insert, update and delete must change all indexes of the table, which is why a table \
     with twenty indexes is slow to write. The query planner chooses between an index and a full scan by estimating how \
     many rows will match: if most of them do, reading the whole table in order is cheaper than jumping around in it.",
    "use std::collections::HashMap;\n\n/// Counts how often each word occurs in a text.\nfn count_words(text: &str) -> \
     HashMap<String, usize> {\n    let mut counts = HashMap::new();\n    for word in text.split_whitespace() {\n        \
     let word = word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();\n        if !word.is_empty() {\n      \
           *counts.entry(word).or_insert(0) += 1;\n        }\n    }\n    counts\n}\n\nfn main() {\n    let text = \"the \
     quick brown fox jumps over the lazy dog\";\n    let counts = count_words(text);\n    let mut words: Vec<_> = \
     counts.iter().collect();\n    words.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));\n    for (word, count) in \
     words.iter().take(10) {\n        println!(\"{word}: {count}\");\n    }\n}\n\n#[cfg(test)]\nmod tests {\n    use \
     super::*;\n\n    #[test]\n    fn empty_text() {\n        assert!(count_words(\"\").is_empty());\n    }\n}\n",
    "<|im_start|>user\nI have two eggs, some flour, milk and a little butter. What can I make for breakfast?<|im_end|>\n\
     <|im_start|>assistant\nYou can make pancakes! Here is a simple recipe:\n\n1. Melt a tablespoon of butter and let it \
     cool.\n2. Whisk the two eggs with one and a half cups of milk, then stir in the butter.\n3. Add one and a half cups \
     of flour and a pinch of salt, and mix until there are only a few small lumps left.\n4. Heat a pan over medium heat, \
     add a little butter, and pour in a quarter of a cup of batter for each pancake.\n5. Turn them when bubbles appear \
     on the surface, and cook the other side for about a minute.\n\nServe them warm with honey, jam or fresh fruit.\
     <|im_end|>\n<|im_start|>user\nHow many pancakes is that?<|im_end|>\n<|im_start|>assistant\nWith a quarter of a cup \
     for each, the batter is enough for about ten to twelve pancakes, which is breakfast for three or four people.\
     <|im_end|>\n",
    "La biblioteca municipal abre sus puertas a las nueve de la manana y las cierra a las ocho de la tarde, excepto los \
     domingos. En la planta baja hay una sala para los ninos, con libros de cuentos, juegos y una mesa grande donde se \
     puede dibujar. En el primer piso se encuentran las novelas, la poesia y los libros de historia, y en el segundo los \
     periodicos y las revistas. Para llevarse un libro a casa es necesario tener un carnet, que se puede pedir en la \
     entrada con el documento de identidad. Los libros se prestan durante tres semanas y el plazo se puede prolongar una \
     vez, si nadie mas los ha pedido. Quien devuelve un libro tarde no paga nada, pero no puede llevarse otro durante \
     unos dias. Todos los jueves por la tarde hay una reunion de lectores, en la que se habla de un libro que todos han \
     leido.",
    "The heart is a muscular organ that pumps blood through the body. It has four chambers: the right atrium and the \
     right ventricle, which send blood to the lungs, and the left atrium and the left ventricle, which send it to all \
     other organs. Valves between the chambers make sure that blood flows in one direction only. In a healthy adult at \
     rest the heart beats between 60 and 100 times a minute and moves about 5 litres of blood in that time. The rhythm \
     is set by a group of cells in the wall of the right atrium, the sinoatrial node, whose electrical signal spreads \
     through the muscle and makes it contract. During exercise the nervous system and hormones such as adrenaline make \
     the heart beat faster and harder, so that more oxygen reaches the muscles. If one of the coronary arteries, which \
     supply the heart itself, is blocked, a part of the muscle dies: this is called a heart attack.",
];

/// How far the logits of two engines are from each other.
#[derive(Default)]
struct Distance {
    positions: usize,
    agreed: usize,
    /// Sums of squares: of the differences, of the logits.
    squares: f64,
    norm: f64,
    /// Absolute differences after each position's mean is taken away, which no probability depends on.
    sum: f64,
    most: f64,
}

impl Distance {
    fn of(ours: &[f32], theirs: &[f32], vocab: usize) -> Self {
        let mut distance = Self::default();
        let mean = |row: &[f32]| row.iter().map(|x| f64::from(*x)).sum::<f64>() / vocab as f64;
        for (a, b) in ours.chunks_exact(vocab).zip(theirs.chunks_exact(vocab)) {
            distance.positions += 1;
            distance.agreed += usize::from(argmax(a) == argmax(b));
            let shift = mean(a) - mean(b);
            for (a, b) in a.iter().zip(b) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                distance.squares += (a - b).powi(2);
                distance.norm += b.powi(2);
                let centred = (a - b - shift).abs();
                distance.sum += centred;
                distance.most = distance.most.max(centred);
            }
        }
        distance.sum /= vocab as f64;
        distance
    }

    fn agreement(&self) -> f64 {
        self.agreed as f64 / self.positions as f64
    }

    fn error(&self) -> f64 {
        (self.squares / self.norm).sqrt()
    }

    fn print(&self, name: &str) {
        println!(
            "| {name} | {} of {} ({:.2}%) | {:.2e} | {:.4} | {:.3} |",
            self.agreed,
            self.positions,
            100.0 * self.agreement(),
            self.error(),
            self.sum / self.positions as f64,
            self.most
        );
    }
}

/// Prints the distances; that of ours to llama.cpp has an aim.
pub fn run(llama: &Llama, model: &Arc<Model>, isa: Isa, threads: usize, aims: &mut Aims) -> Result<()> {
    let vocab = model.arch().vocab as usize;
    let mut texts = Vec::new();
    for text in TEXTS {
        let mut tokens = model.tokenizer().encode(text)?;
        if tokens.len() < LENGTH {
            return Err(format!("a text has {} tokens, must have {LENGTH}: {text}", tokens.len()).into());
        }
        tokens.truncate(LENGTH);
        texts.push(tokens);
    }
    let ours = ours(model, isa, threads, &texts)?;
    let theirs = llama_logits(llama, threads, &texts, vocab)?;
    let plain = candle_logits(llama, model, &texts)?;
    println!("\n{} texts of {LENGTH} tokens, f16 weights, {isa:?}; peer: llama.cpp; candle 0.9.2 computes in f32\n", texts.len());
    println!("| | same greatest logit | relative RMS error | mean absolute difference | greatest |");
    println!("|---|--:|--:|--:|--:|");
    let distance = Distance::of(&ours, &theirs, vocab);
    distance.print("ours to llama.cpp");
    Distance::of(&ours, &plain, vocab).print("ours to candle");
    Distance::of(&theirs, &plain, vocab).print("llama.cpp to candle");
    let (agreement, error) = (distance.agreement(), distance.error());
    if agreement < AGREEMENT || error >= ERROR {
        aims.miss(format!(
            "agreement with llama.cpp is {agreement:.4}, must be at least {AGREEMENT}; its error {error:.2e}, must be below {ERROR:e}"
        ));
    }
    Ok(())
}

/// The logits of every position of every text, one after the other; so do the others.
fn ours(model: &Arc<Model>, isa: Isa, threads: usize, texts: &[Vec<u32>]) -> Result<Vec<f32>> {
    let pages: Vec<u32> = (0..LENGTH.div_ceil(PAGE) as u32).collect();
    let cpu = Cpu::new(model.clone(), isa, threads, pages.len())?;
    let mut all = Vec::new();
    for tokens in texts {
        let forward = cpu.forward(&[Run { tokens, first: 0, pages: &pages }], None)?;
        let mut logits = vec![0.0; tokens.len() * cpu.arch().vocab as usize];
        cpu.logits(&forward.x_final, &mut logits)?;
        all.extend(logits);
    }
    Ok(all)
}

fn llama_logits(llama: &Llama, threads: usize, texts: &[Vec<u32>], vocab: usize) -> Result<Vec<f32>> {
    let mut command = Command::new(llama.tool("llama-logits"));
    command.arg(llama.model()).arg(threads.to_string());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().ok_or("no input")?;
    for tokens in texts {
        writeln!(input, "{}", tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" "))?;
    }
    drop(input);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let (found, expected) = (output.stdout.len(), texts.iter().map(Vec::len).sum::<usize>() * vocab * 4);
    if found != expected {
        return Err(format!("{command:?} wrote {found} bytes, must be {expected}").into());
    }
    Ok(output.stdout.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// Candle answers the last position's logits only: so all texts go together, a token at a time.
fn candle_logits(llama: &Llama, model: &Model, texts: &[Vec<u32>]) -> Result<Vec<f32>> {
    let (plain, config) = candle::load(llama.model(), model.arch())?;
    let mut cache = Cache::new(true, DType::F32, &config, &CandleDevice::Cpu)?;
    let mut by_text = vec![Vec::new(); texts.len()];
    for position in 0..LENGTH {
        let tokens: Vec<Vec<u32>> = texts.iter().map(|text| vec![text[position]]).collect();
        let logits = plain.forward(&Tensor::new(tokens, &CandleDevice::Cpu)?, position, &mut cache)?;
        for (all, row) in by_text.iter_mut().zip(logits.to_vec2::<f32>()?) {
            all.extend(row);
        }
    }
    Ok(by_text.concat())
}
