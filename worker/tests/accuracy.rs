//! How close canonical arithmetic is to plain f32, measured against an independent engine: candle, which reads the
//! same GGUF file, dequantises it itself and computes in f32. Both are forced along candle's greedy tokens.

mod candle;

use std::sync::Arc;

use candle_core::{DType, Device as CandleDevice, Tensor, D};
use candle_transformers::models::llama::Cache;
use deepnode_worker::canon::sample::argmax;
use deepnode_worker::canon::{Architecture, Device, Run};
use deepnode_worker::cpu::{Cpu, Isa};
use deepnode_worker::model::testing::{models_folder, smollm2, SMOLLM2_GGUF};

/// Tokens of a prompt, and steps taken from each.
const PROMPT: usize = 14;
const STEPS: usize = 42;

const PROMPTS: [&str; 24] = [
    "The capital of France is Paris. The capital of Germany is Berlin. The capital of Italy is",
    "Once upon a time, in a small village at the foot of a mountain, there lived a",
    "Water boils at one hundred degrees Celsius at sea level, but at high altitude it",
    "fn main() {\n    let numbers = vec![1, 2, 3, 4];\n    for n in numbers.iter() {\n",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n    if n < 2:\n",
    "To make a simple tomato sauce you need olive oil, garlic, ripe tomatoes and",
    "The three branches of government in the United States are the legislative branch, the",
    "Photosynthesis is the process by which green plants use sunlight to turn carbon dioxide and",
    "<|im_start|>user\nWhat is the largest planet in the solar system?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite a short poem about the sea in autumn.<|im_end|>\n<|im_start|>assistant\n",
    "Dear Sir or Madam, I am writing to apply for the position of software engineer that",
    "In mathematics, a prime number is a natural number greater than one that is not",
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233",
    "SELECT name, age FROM users WHERE age > 18 ORDER BY name LIMIT 10; -- This query",
    "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the",
    "The Second World War ended in 1945, after six years of fighting across Europe, Asia and",
    "\"I have no idea what you mean,\" said the old man, looking at the strange device that",
    "A healthy diet includes plenty of vegetables, fruit, whole grains and a moderate amount of",
    "El perro corre por el parque y el gato duerme en la casa de la",
    "Newton's second law of motion states that the force acting on an object is equal to",
    "The patient was admitted to the hospital with a high fever, a persistent cough and",
    "Question: What is 12 plus 30? Answer: 42. Question: What is 7 times 8? Answer:",
    "In this lesson we will learn about the water cycle. The water cycle describes how",
    "The company announced on Monday that its quarterly revenue had risen by twelve percent, driven by",
];

/// What candle chose, and why.
struct Step {
    /// The greedy token of each prompt.
    tokens: Vec<u32>,
    /// `[prompt][vocab]`.
    logits: Vec<Vec<f32>>,
}

/// Candle's greedy steps, all prompts as one batch.
fn run_candle(prompts: &[Vec<u32>], arch: &Architecture) -> candle_core::Result<Vec<Step>> {
    let (llama, config) = candle::load(&models_folder().join(SMOLLM2_GGUF), arch)?;
    let mut cache = Cache::new(true, DType::F32, &config, &CandleDevice::Cpu)?;
    let mut input = Tensor::new(prompts.to_vec(), &CandleDevice::Cpu)?;
    let (mut steps, mut position) = (Vec::new(), 0);
    for _ in 0..STEPS {
        let out = llama.forward(&input, position, &mut cache)?;
        position += input.dim(1)?;
        let next = out.argmax(D::Minus1)?;
        steps.push(Step { tokens: next.to_vec1()?, logits: out.to_vec2()? });
        input = next.unsqueeze(1)?;
    }
    Ok(steps)
}

#[test]
fn close_to_an_independent_f32_engine() {
    let model = Arc::new(smollm2());
    let arch = model.arch().clone();
    let prompts: Vec<Vec<u32>> = PROMPTS
        .iter()
        .map(|text| {
            let mut tokens = model.tokenizer().encode(text).unwrap();
            assert!(tokens.len() >= PROMPT, "{text:?} has only {} tokens", tokens.len());
            tokens.truncate(PROMPT);
            tokens
        })
        .collect();
    let theirs = run_candle(&prompts, &arch).unwrap();

    let cpu = Cpu::new(model.clone(), Isa::detect(), 2, 1).unwrap();
    let (mut agreed, mut error, mut norm) = (0, 0.0f64, 0.0f64);
    for (p, prompt) in prompts.iter().enumerate() {
        let forced: Vec<u32> =
            prompt.iter().copied().chain(theirs[..STEPS - 1].iter().map(|step| step.tokens[p])).collect();
        let forward = cpu.forward(&[Run { tokens: &forced, first: 0, pages: &[0] }], None).unwrap();
        assert!(forward.finite.iter().all(|finite| *finite));
        let mut ours = vec![0.0; STEPS * arch.vocab as usize];
        cpu.logits(&forward.x_final[(PROMPT - 1) * arch.width as usize..], &mut ours).unwrap();
        for (ours, theirs) in ours.chunks(arch.vocab as usize).zip(&theirs) {
            agreed += usize::from(argmax(ours) == theirs.tokens[p]);
            for (a, b) in ours.iter().zip(&theirs.logits[p]) {
                error += f64::from(a - b).powi(2);
                norm += f64::from(*b).powi(2);
            }
        }
    }
    let steps = STEPS * prompts.len();
    let relative = (error / norm).sqrt();
    println!("{agreed} of {steps} greedy tokens agree, relative RMS error of the logits {relative:.2e}");
    assert!(steps >= 1000);
    assert!(agreed * 100 >= steps * 99, "{agreed} of {steps} tokens agree");
    assert!(relative < 2e-2, "relative error {relative}");
}
