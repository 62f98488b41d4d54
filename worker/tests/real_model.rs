//! SmolLM2-135M: the reference and the fast path agree on a real model, and one generation is pinned, so that no later
//! change of code, compiler or library can change the arithmetic unseen.

use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use deepnode_worker::canon::SamplingParams;
use deepnode_worker::cpu::Isa;
use deepnode_worker::engine::*;
use deepnode_worker::model::testing::smollm2;

const TRACE_ROOT: &str = "b15ec9d4e609f028935a5f387f2aa924eb027daf17e25aa6772ddd937a2dbda3";

#[test]
fn a_pinned_generation() {
    let model = Arc::new(smollm2());
    let prompt = model.tokenizer().encode("The capital of France is").unwrap();
    let params =
        SamplingParams { temperature_micros: 700_000, top_p_micros: 900_000, top_k: 50, seed: [42; 32] };
    let strings = ["\n\n".to_string()];
    let stop = Stop { strings: &strings, pieces: model.tokenizer() };
    let never = AtomicBool::new(false);
    let run = |engine: &Engine, max_output| {
        let request = Request { prompt: &prompt, params: &params, max_output, stop };
        let mut session = engine.session(64).unwrap();
        let generation = session.generate(&request, &mut |_| (), &never).unwrap();
        let claim = Claim {
            request,
            output: &generation.tokens,
            finish: generation.finish,
            trace_root: generation.trace_root,
            leaves: Some(&generation.leaves),
        };
        let audit = engine.audit(&Question { claim, beacon: [1; 32], receipt: [2; 32] }, &never).unwrap();
        assert!(audit.agrees(), "{audit:?}");
        (generation, audit)
    };

    let reference = run(&Engine::reference(model.clone()).unwrap(), 2);
    for isa in Isa::available() {
        for threads in [1, 2] {
            let engine = Engine::new(
                model.clone(),
                Options {
                    isa,
                    threads,
                    huge_pages: threads == 2 && isa == Isa::detect(),
                    ..Options::default()
                },
            )
            .unwrap();
            assert_eq!(run(&engine, 2), reference, "{isa:?}, {threads} threads");
        }
    }

    let (generation, _) = run(&Engine::new(model.clone(), Options::default()).unwrap(), 24);
    println!("{:?} {:?}", model.tokenizer().decode(&generation.tokens), generation.finish);
    assert_eq!(generation.tokens[..2], reference.0.tokens);
    assert_eq!(hex::encode(generation.trace_root), TRACE_ROOT);
}
