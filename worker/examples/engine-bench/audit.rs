//! What a whole audit costs beside producing the same tokens, and what committing to them costs.

use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::Instant;

use deepnode_worker::canon::commit::{trace_leaf, trace_root};
use deepnode_worker::canon::SamplingParams;
use deepnode_worker::cpu::{Isa, Resident};
use deepnode_worker::engine::{Claim, Engine, Generation, Options, Question, Request, Stop};
use deepnode_worker::model::Model;

use crate::aims::Aims;
use crate::llama::Result;

const PROMPT: u32 = 64;
const OUTPUT: u32 = 128;
/// Receipts that are audited together.
const TOGETHER: usize = 4;
/// What an audit may cost of producing the same tokens with f16 weights, and committing of decoding them.
const AUDIT: f64 = 1.0 / 3.0;
const COMMIT: f64 = 0.005;

/// Prints, for f16 and for packed weights, the medians of `rounds`. The aims are for the best rounds: what else the machine
/// does makes them slower only.
pub fn run(model: &Arc<Model>, isa: Isa, threads: usize, rounds: usize, aims: &mut Aims) -> Result<()> {
    println!(
        "\nprompt of {PROMPT} and {OUTPUT} tokens, {threads} threads, {isa:?}; ms, median of {rounds}\n"
    );
    println!("| weights | producing | auditing | of producing | {TOGETHER} audits together, each | committing | of decoding |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    let never = AtomicBool::new(false);
    let prompts: Vec<Vec<u32>> =
        (0..TOGETHER as u32).map(|i| (0..PROMPT).map(|j| 100 + i * 7 + j * 31).collect()).collect();
    for (name, expanded) in [("f16", true), ("packed, as in the file", false)] {
        let model = Arc::new(Resident::copy(model, expanded).ok_or("memory for the weights")?);
        let options = Options { isa, threads, huge_pages: false, ..Options::default() };
        let engine = Engine::new(model, options)?;
        let ask = |prompt| Request {
            prompt,
            params: &SamplingParams::GREEDY,
            max_output: OUTPUT,
            stop: Stop::NONE,
        };
        let mut session = engine.session((PROMPT + OUTPUT) as usize)?;
        let mut outputs: Vec<Generation> = Vec::new();
        let [mut producing, mut decoding, mut auditing, mut together, mut committing] =
            <[Vec<f64>; 5]>::default();
        for round in 0..rounds.max(TOGETHER) {
            let prompt = &prompts[round % TOGETHER];
            session.truncate(0);
            let begin = Instant::now();
            let mut first = None;
            let output =
                session.generate(&ask(prompt), &mut |_| first = first.or(Some(Instant::now())), &never)?;
            producing.push(begin.elapsed().as_secs_f64());
            decoding.push(first.ok_or("no token")?.elapsed().as_secs_f64());
            let x_final = session.x_final().to_vec();
            let begin = Instant::now();
            let leaves: Vec<_> =
                (0..).zip(&output.tokens).map(|(i, token)| trace_leaf(i, *token, &x_final)).collect();
            std::hint::black_box(trace_root(&leaves));
            committing.push(begin.elapsed().as_secs_f64());
            outputs.push(output);
        }
        let questions: Vec<Question<'_>> = prompts
            .iter()
            .zip(&outputs)
            .map(|(prompt, output)| Question {
                claim: Claim::of(ask(prompt), output),
                beacon: [3; 32],
                receipt: [4; 32],
            })
            .collect();
        for round in 0..rounds {
            let begin = Instant::now();
            assert!(engine.audit(&questions[round % TOGETHER], &never)?.agrees());
            auditing.push(begin.elapsed().as_secs_f64());
            let begin = Instant::now();
            for audit in engine.audits(&questions, &never)? {
                assert!(audit?.agrees());
            }
            together.push(begin.elapsed().as_secs_f64() / TOGETHER as f64);
        }
        let best = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
        let (audit, commit) = (best(&auditing) / best(&producing), best(&committing) / best(&decoding));
        let median = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2] * 1e3
        };
        let [producing, decoding, auditing, together, committing] =
            [&mut producing, &mut decoding, &mut auditing, &mut together, &mut committing].map(median);
        println!(
            "| {name} | {producing:.0} | {auditing:.0} | 1/{:.1} | {together:.0} | {committing:.3} | {:.3}% |",
            producing / auditing,
            100.0 * committing / decoding
        );
        // An audit is measured by decoding with halves: what packed weights save there, a prefill has no use for.
        let audit_limit = if expanded { AUDIT } else { 1.0 };
        aims.at_most(&format!("an audit of producing, {name},"), audit, audit_limit);
        aims.at_most(&format!("committing of decoding, {name},"), commit, COMMIT);
    }
    Ok(())
}
