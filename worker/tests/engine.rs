//! Generating and auditing, as a worker and an auditor do it.

use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use deepnode_worker::canon::commit::{beacon_layer, trace_root, LayerDigest};
use deepnode_worker::canon::random::RandomDecoder;
use deepnode_worker::canon::reference::Reference;
use deepnode_worker::canon::{Architecture, Device, Point, Run, SamplingParams, Tap};
use deepnode_worker::cpu::Isa;
use deepnode_worker::engine::*;
use deepnode_worker::model::synthetic::small;

const BEACON: [u8; 32] = [9; 32];
const RECEIPT: [u8; 32] = [7; 32];
/// A call that nobody cancels.
static GO: AtomicBool = AtomicBool::new(false);

fn arch() -> Architecture {
    Architecture {
        layers: 3,
        width: 96,
        heads: 6,
        kv_heads: 2,
        head_dim: 16,
        ffn: 160,
        vocab: 300,
        context: 700,
        eos: vec![299],
        tied: true,
        qkv_bias: false,
        ..small()
    }
}

fn model(seed: u64) -> Arc<RandomDecoder> {
    Arc::new(RandomDecoder::new(arch(), seed))
}

fn engine(seed: u64) -> Engine {
    Engine::new(model(seed), Options { threads: 2, ..Options::default() }).unwrap()
}

fn prompt(n: u32) -> Vec<u32> {
    (0..n).map(|i| i * 37 % 290).collect()
}

fn warm(seed: u8) -> SamplingParams {
    SamplingParams { temperature_micros: 900_000, top_p_micros: 950_000, top_k: 40, seed: [seed; 32] }
}

fn request<'a>(prompt: &'a [u32], params: &'a SamplingParams, max_output: u32) -> Request<'a> {
    Request { prompt, params, max_output, stop: Stop::NONE }
}

fn generate(engine: &Engine, request: &Request<'_>) -> Generation {
    let mut session = engine.session(request.prompt.len() + request.max_output as usize).unwrap();
    let mut streamed = Vec::new();
    let generation = session.generate(request, &mut |token| streamed.push(token), &GO).unwrap();
    assert_eq!(streamed, generation.tokens);
    generation
}

fn question(claim: Claim<'_>, receipt: [u8; 32]) -> Question<'_> {
    Question { claim, beacon: BEACON, receipt }
}

fn audit(engine: &Engine, claim: &Claim<'_>) -> Audit {
    engine.audit(&question(*claim, RECEIPT), &GO).unwrap()
}

/// Reference and fast path generate the same, and an auditor with either finds it right, with the same D.
#[test]
fn everyone_agrees() {
    let prompt = prompt(130);
    for params in [SamplingParams::GREEDY, warm(3)] {
        let request = request(&prompt, &params, 20);
        let engines: Vec<Engine> = Isa::available()
            .into_iter()
            .flat_map(|isa| {
                [1, 2].map(|threads| {
                    Engine::new(
                        model(1),
                        Options {
                            isa,
                            threads,
                            huge_pages: threads == 2 && isa == Isa::detect(),
                            ..Options::default()
                        },
                    )
                    .unwrap()
                })
            })
            .chain([Engine::reference(model(1)).unwrap()])
            .collect();
        let first = generate(&engines[0], &request);
        assert_eq!((first.tokens.len(), first.finish), (20, Finish::Length));
        assert_eq!(first.trace_root, trace_root(&first.leaves));
        let right = audit(&engines[0], &Claim::of(request, &first));
        assert!(right.agrees(), "{right:?}");
        assert_eq!((&right.leaves, right.trace_root), (&first.leaves, first.trace_root));
        for engine in &engines[1..] {
            assert_eq!(generate(engine, &request), first);
            assert_eq!(audit(engine, &Claim::of(request, &first)), right);
        }
    }
}

/// D spelled out: keyed, over positions 0 to in + out - 2, after the layer that the beacon names.
#[test]
fn layer_digest_spelled_out() {
    let (prompt, params, engine) = (prompt(9), warm(1), engine(1));
    let request = request(&prompt, &params, 5);
    let generation = generate(&engine, &request);
    let audit = audit(&engine, &Claim::of(request, &generation));
    assert_eq!(audit.layer, beacon_layer(&BEACON, 3));

    let reference = Reference::new(model(1));
    let mut stream = Vec::new();
    let mut sink = |_: u32, _: Point, rows: &[f32]| stream.extend_from_slice(rows);
    let wants = |layer, point| (layer, point) == (audit.layer, Point::Residual);
    let forced = [&prompt[..], &generation.tokens[..4]].concat();
    let run = Run { tokens: &forced, first: 0, pages: &[0] };
    reference.forward(&[run], Some(&mut Tap { wants: &wants, sink: &mut sink })).unwrap();
    assert_eq!(stream.len(), 13 * 96);
    let mut digest = LayerDigest::new(&BEACON, &RECEIPT);
    digest.update(&stream);
    assert_eq!(audit.layer_digest, digest.finish());

    let other = engine.audit(&question(Claim::of(request, &generation), [8; 32]), &GO).unwrap();
    assert_ne!(other.layer_digest, audit.layer_digest);
}

/// Whatever a dishonest worker changes, the audit names the first step that is wrong.
#[test]
fn the_first_divergence_is_found() {
    let (prompt, params, engine) = (prompt(40), warm(5), engine(1));
    let request = request(&prompt, &params, 60);
    let truth = generate(&engine, &request);
    let canonical = &truth.tokens;

    let mut tokens = truth.clone();
    (tokens.tokens[23], tokens.tokens[40]) = ((canonical[23] + 1) % 290, 0);
    let found = audit(&engine, &Claim::of(request, &tokens)).divergence;
    let (claimed, canonical_token) = (tokens.tokens[23], canonical[23]);
    assert_eq!(found, Some(Divergence::Token { step: 23, claimed, canonical: canonical_token }));

    let mut beyond = truth.clone();
    beyond.tokens[50] = 5_000;
    let found = audit(&engine, &Claim::of(request, &beyond)).divergence;
    assert_eq!(found, Some(Divergence::Token { step: 50, claimed: 5_000, canonical: canonical[50] }));

    let mut short = truth.clone();
    short.tokens.truncate(31);
    short.trace_root = trace_root(&short.leaves[..31]);
    let found = audit(&engine, &Claim::of(request, &short)).divergence;
    assert_eq!(found, Some(Divergence::Finish { step: 31, claimed: Finish::Length, canonical: None }));

    let mut long = truth.clone();
    long.tokens.extend([1, 2, 3]);
    let found = audit(&engine, &Claim::of(request, &long)).divergence;
    let canonical = Some(Finish::Length);
    assert_eq!(found, Some(Divergence::Finish { step: 60, claimed: Finish::Length, canonical }));

    for lie in [Finish::Eos, Finish::Stop, Finish::Numeric] {
        let lied = Claim { finish: lie, ..Claim::of(request, &truth) };
        let found = audit(&engine, &lied).divergence;
        assert_eq!(found, Some(Divergence::Finish { step: 60, claimed: lie, canonical }));
    }

    let mut leaves = truth.leaves.clone();
    leaves[17][0] ^= 1;
    let root = trace_root(&leaves);
    let blind = Claim { trace_root: root, ..Claim::of(request, &truth) };
    let found = audit(&engine, &blind).divergence;
    assert_eq!(found, Some(Divergence::Root { claimed: root, canonical: truth.trace_root }));
    let found = audit(&engine, &Claim { leaves: Some(&leaves), ..blind }).divergence;
    assert_eq!(found, Some(Divergence::Leaf { step: 17 }));

    // another prompt, another seed, other weights
    let mut other_prompt = prompt.clone();
    other_prompt[0] += 1;
    assert!(!audit(&engine, &Claim::of(Request { prompt: &other_prompt, ..request }, &truth)).agrees());
    assert!(!audit(&engine, &Claim::of(Request { params: &warm(6), ..request }, &truth)).agrees());
    assert!(!audit(&self::engine(2), &Claim::of(request, &truth)).agrees());
}

/// Claims that are audited together, right and wrong, of several lengths and beacons, beside a request that is not valid:
/// each gets the answer that it gets alone, also where there is no room for all of them at once.
#[test]
fn audits_together_are_audits_alone() {
    let generating = engine(1);
    let prompts: Vec<Vec<u32>> = [3, 130, 40, 260, 1, 77, 500].map(prompt).to_vec();
    let params: Vec<SamplingParams> = (0..7).map(warm).collect();
    let mut generations: Vec<Generation> =
        (0..7).map(|i| generate(&generating, &request(&prompts[i], &params[i], 10 + 9 * i as u32))).collect();
    generations[1].tokens[5] ^= 1;
    generations[3].finish = Finish::Eos;
    let invalid = SamplingParams { top_k: 65, ..params[0] };
    let mut questions: Vec<Question<'_>> = (0..7)
        .map(|i| Question {
            claim: Claim::of(request(&prompts[i], &params[i], 10 + 9 * i as u32), &generations[i]),
            beacon: [i as u8; 32],
            receipt: [7 * i as u8; 32],
        })
        .collect();
    questions.insert(
        4,
        Question { claim: Claim::of(request(&prompts[0], &invalid, 5), &generations[0]), ..questions[0] },
    );
    for positions in [4096, 800] {
        let options = Options { threads: 2, positions: Some(positions), ..Options::default() };
        let engine = Engine::new(model(1), options).unwrap();
        let together = engine.audits(&questions, &GO).unwrap();
        assert_eq!(together.len(), 8);
        for (i, (together, question)) in together.iter().zip(&questions).enumerate() {
            match together {
                Ok(audit) => assert_eq!(*audit, engine.audit(question, &GO).unwrap(), "{i}"),
                Err(error) => assert!(i == 4 && error.to_string().contains("top_k"), "{i}: {error}"),
            }
        }
        let agree: Vec<bool> = together.iter().flatten().map(Audit::agrees).collect();
        assert_eq!(agree, [true, false, true, false, true, true, true]);
    }
}

#[test]
fn endings() {
    let (prompt, params) = (prompt(20), warm(2));
    let engine = engine(1);
    let free = generate(&engine, &request(&prompt, &params, 40));

    let word = format!("<{}><{}", free.tokens[10], free.tokens[11]);
    let pieces: Vec<String> = (0..300).map(|id| format!("<{id}>")).collect();
    let strings = ["never".to_string(), word];
    let stopping =
        Request { stop: Stop { strings: &strings, pieces: &pieces }, ..request(&prompt, &params, 40) };
    let stopped = generate(&engine, &stopping);
    assert_eq!((&stopped.tokens[..], stopped.finish), (&free.tokens[..12], Finish::Stop));
    assert!(audit(&engine, &Claim::of(stopping, &stopped)).agrees());
    let found = audit(&engine, &Claim::of(stopping, &free)).divergence;
    let canonical = Some(Finish::Stop);
    assert_eq!(found, Some(Divergence::Finish { step: 12, claimed: Finish::Length, canonical }));

    let eos = Architecture { eos: vec![free.tokens[6]], ..arch() };
    let ending = Engine::new(Arc::new(RandomDecoder::new(eos, 1)), Options::default()).unwrap();
    let ended = generate(&ending, &request(&prompt, &params, 40));
    let first = free.tokens.iter().position(|t| *t == free.tokens[6]).unwrap();
    assert_eq!((&ended.tokens[..], ended.finish), (&free.tokens[..=first], Finish::Eos));
    assert!(audit(&ending, &Claim::of(request(&prompt, &params, 40), &ended)).agrees());
}

/// A store that overflows ends the sequence before its step, in the output or in the prompt.
#[test]
fn numeric_endings() {
    let (prompt, params) = (prompt(20), SamplingParams::GREEDY);
    let mut seen = [false; 2];
    for factor in [2e3, 4e3, 8e3, 3e4, 1e6] {
        let mut model = RandomDecoder::new(arch(), 1);
        model.scale_value_row(2, 3, factor);
        let engine = Engine::new(Arc::new(model), Options { threads: 2, ..Options::default() }).unwrap();
        let request = request(&prompt, &params, 200);
        let generation = generate(&engine, &request);
        if generation.finish != Finish::Numeric {
            continue;
        }
        seen[usize::from(generation.tokens.is_empty())] = true;
        assert!(audit(&engine, &Claim::of(request, &generation)).agrees());
        let lied = Claim { finish: Finish::Length, ..Claim::of(request, &generation) };
        let step = generation.tokens.len() as u32;
        let canonical = Some(Finish::Numeric);
        let found = audit(&engine, &lied).divergence;
        assert_eq!(found, Some(Divergence::Finish { step, claimed: Finish::Length, canonical }));
        let mut on = generation.clone();
        on.tokens.push(1);
        let lied = Claim { finish: Finish::Length, ..Claim::of(request, &on) };
        let found = audit(&engine, &lied).divergence;
        assert_eq!(found, Some(Divergence::Finish { step, claimed: Finish::Length, canonical }));
    }
    assert_eq!(seen, [true, true], "an overflow in the output, and one in the prompt");
}

/// A session that already holds a conversation answers as a fresh one does.
#[test]
fn a_session_is_used_again() {
    let (engine, params) = (engine(1), warm(4));
    let mut session = engine.session(700).unwrap();
    let mut conversation = prompt(30);
    for turn in 0..4u32 {
        let request = request(&conversation, &params, 15);
        let answer = session.generate(&request, &mut |_| (), &GO).unwrap();
        assert_eq!(answer, generate(&engine, &request));
        conversation.extend(&answer.tokens);
        conversation.extend(prompt(5 + turn));
    }
    // the same prompt again, and one that leaves the conversation early
    for prompt in [conversation.clone(), [&conversation[..50], &[1, 2, 3]].concat()] {
        let request = request(&prompt, &params, 10);
        let answer = session.generate(&request, &mut |_| (), &GO).unwrap();
        assert_eq!(answer, generate(&engine, &request));
    }
}

#[test]
fn bad_requests_are_named() {
    let engine = engine(1);
    let params = SamplingParams::GREEDY;
    let mut session = engine.session(50).unwrap();
    let mut refused = |prompt: &[u32], params: &SamplingParams, max_output| {
        let request = request(prompt, params, max_output);
        session.generate(&request, &mut |_| (), &GO).unwrap_err().to_string()
    };
    assert_eq!(refused(&[], &params, 5), "prompt is empty, must be at least one token");
    assert_eq!(refused(&[300], &params, 5), "prompt is 300, must be token ids below the vocabulary of 300");
    assert_eq!(refused(&[1], &params, 0), "max_output is 0, must be at least 1");
    let text = refused(&[1], &params, 700);
    assert_eq!(text, "prompt and max_output together is 701, must be at most the context of 700");
    let text = refused(&[1], &params, 50);
    assert_eq!(text, "prompt and max_output together is 51, must be at most the session's 50");
    let text = refused(&[1], &SamplingParams { top_k: 65, ..params }, 5);
    assert_eq!(text, "top_k is 65, must be at most 64");
    assert!(engine.session(701).is_err());

    let stop = AtomicBool::new(true);
    let cancelled = session.generate(&request(&[1], &params, 5), &mut |_| (), &stop);
    assert!(matches!(cancelled, Err(EngineError::Cancelled)));
    assert!(Engine::new(model(1), Options { threads: 0, ..Options::default() }).is_err());
}
