//! What generations that are computed together are compared with: each by itself, of a small model.

use std::sync::atomic::AtomicBool;

use deepnode_worker::canon::Architecture;
use deepnode_worker::engine::{Engine, Generation, Job, Pieces, Request, Stop};
use deepnode_worker::model::synthetic::small;

/// A model whose sequences have so many positions at the most.
pub fn arch(context: u32) -> Architecture {
    Architecture {
        layers: 2,
        width: 64,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        ffn: 96,
        vocab: 200,
        context,
        eos: vec![199],
        tied: true,
        qkv_bias: false,
        ..small()
    }
}

/// The pieces of its tokens: `<7>` is token 7.
pub fn pieces() -> Vec<String> {
    (0..200).map(|id| format!("<{id}>")).collect()
}

/// What a job gives alone.
pub fn alone(engine: &Engine, job: &Job, pieces: &dyn Pieces) -> Generation {
    let mut session = engine.session(job.prompt.len() + job.max_output as usize).unwrap();
    let stop = Stop { strings: &job.stop, pieces };
    let request = Request { prompt: &job.prompt, params: &job.params, max_output: job.max_output, stop };
    session.generate(&request, &mut |_| (), &AtomicBool::new(false)).unwrap()
}
