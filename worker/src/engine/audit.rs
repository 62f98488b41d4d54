//! Auditing: one teacher-forced prefill over prompt and output recomputes whatever a receipt claims.

use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;

use super::ending::{Ending, Finish};
use super::error::EngineError;
use super::session::{Generation, Request};
use super::{Engine, Own, CHUNK};
use crate::canon::commit::{beacon_layer, trace_leaf, trace_root, Digest, LayerDigest};
use crate::canon::{DeviceError, Point, Run, Tap};

/// Steps whose tokens are recomputed together.
const HEAD_ROWS: usize = 48;

/// What a worker says that a request gave.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    pub request: Request<'a>,
    pub output: &'a [u32],
    pub finish: Finish,
    pub trace_root: Digest,
    /// The trace's leaves, where the auditor has them: they name the step at which activations differ first.
    pub leaves: Option<&'a [Digest]>,
}

impl<'a> Claim<'a> {
    /// What a worker says that generated this, without the leaves.
    pub fn of(request: Request<'a>, generation: &'a Generation) -> Self {
        let Generation { tokens, finish, trace_root, .. } = generation;
        Self { request, output: tokens, finish: *finish, trace_root: *trace_root, leaves: None }
    }
}

/// What an audit recomputed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Leaves of the claimed tokens, up to the first that the model would not have chosen and including it.
    pub leaves: Vec<Digest>,
    pub trace_root: Digest,
    /// The layer that the beacon asked about.
    pub layer: u32,
    /// D: over the residual stream of the claimed tokens after that layer, whether they are right or wrong. A token
    /// beyond the vocabulary or the greatest output, and what follows it, is left out.
    pub layer_digest: Digest,
    /// Where the claim first differs from the truth, if it does.
    pub divergence: Option<Divergence>,
}

impl Audit {
    /// Whether the claim is right in every part.
    pub fn agrees(&self) -> bool {
        self.divergence.is_none()
    }
}

/// The first difference between a claim and the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// Another token follows at this step.
    Token { step: u32, claimed: u32, canonical: u32 },
    /// The token is right, the activations that it was chosen from are not.
    Leaf { step: u32 },
    /// The output ends otherwise: after `step` tokens, for the canonical reason, or not there at all.
    Finish { step: u32, claimed: Finish, canonical: Option<Finish> },
    /// Tokens and finish are right, the trace root is not; without the claim's leaves no step can be named.
    Root { claimed: Digest, canonical: Digest },
}

/// A claim under audit.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub claim: Claim<'a>,
    /// Names the layer of D, and with the receipt's digest its key.
    pub beacon: Digest,
    pub receipt: Digest,
}

impl Engine {
    /// Recomputes a claim. Fails only where the request itself is not valid or the machine lacks memory; a wrong output
    /// is a divergence.
    pub fn audit(&self, question: &Question<'_>, cancel: &AtomicBool) -> Result<Audit, EngineError> {
        let one = self.audits(std::slice::from_ref(question), cancel)?.pop();
        one.unwrap_or_else(|| unreachable!("an answer to each question"))
    }

    /// Recomputes several claims together, which reads the weights less often. An answer to each, as it would be alone;
    /// an error beside them is of all.
    #[allow(clippy::type_complexity)]
    pub fn audits(
        &self,
        questions: &[Question<'_>],
        cancel: &AtomicBool,
    ) -> Result<Vec<Result<Audit, EngineError>>, EngineError> {
        self.with_fall_over(|engine| {
            let answers = engine.recompute(questions, cancel)?;
            // One whose end had to be looked for after the pass.
            match answers.iter().find_map(device_error) {
                Some(failed) => Err(failed.into()),
                None => Ok(answers),
            }
        })
    }

    #[allow(clippy::type_complexity)]
    fn recompute(
        &self,
        questions: &[Question<'_>],
        cancel: &AtomicBool,
    ) -> Result<Vec<Result<Audit, EngineError>>, EngineError> {
        let mut answers = Vec::new();
        while let Some(rest) = questions.get(answers.len()..).filter(|rest| !rest.is_empty()) {
            // As many as have room; the first must.
            let mut passes: Vec<Result<Forced<'_>, EngineError>> = Vec::new();
            let mut positions = 0;
            for question in rest {
                let pass = Forced::new(self, question, cancel);
                positions += pass.as_ref().map_or(0, |pass| pass.tokens.len());
                let full = matches!(pass, Err(EngineError::NoPages { .. })) || positions > TOGETHER;
                if full && !passes.is_empty() {
                    break;
                }
                passes.push(pass);
            }
            let mut open: Vec<&mut Forced<'_>> = passes.iter_mut().flatten().collect();
            run(self, &mut open, cancel)?;
            answers.extend(passes.into_iter().map(|pass| pass?.judge()));
        }
        Ok(answers)
    }
}

fn device_error(answer: &Result<Audit, EngineError>) -> Option<DeviceError> {
    match answer {
        Err(EngineError::Device(failed)) => Some(failed.clone()),
        _ => None,
    }
}

/// Positions of claims that are recomputed together; a longer one is alone.
const TOGETHER: usize = 8 * CHUNK;

/// Computes what each pass has yet to compute.
fn run(engine: &Engine, passes: &mut [&mut Forced<'_>], cancel: &AtomicBool) -> Result<(), EngineError> {
    let width = engine.arch().width as usize;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(EngineError::Cancelled);
        }
        let mut room = CHUNK;
        let mut now = Vec::new();
        for (i, pass) in passes.iter().enumerate() {
            let share = (pass.end - pass.done).min(room);
            if share > 0 {
                room -= share;
                now.push((i, share));
            }
        }
        if now.is_empty() {
            return Ok(());
        }
        let mut heard: Vec<(u32, Vec<f32>)> = Vec::new();
        let step = {
            let passes = &*passes;
            let runs: Vec<Run<'_>> = now
                .iter()
                .map(|(i, share)| {
                    let pass = &passes[*i];
                    let tokens = &pass.tokens[pass.done..pass.done + share];
                    Run { tokens, first: pass.done, pages: &pass.pages }
                })
                .collect();
            let layers: Vec<u32> = now.iter().map(|(i, _)| passes[*i].layer).collect();
            let wants = |layer: u32, point: Point| point == Point::Residual && layers.contains(&layer);
            let mut sink = |layer: u32, _: Point, rows: &[f32]| heard.push((layer, rows.to_vec()));
            engine.device.forward(&runs, Some(&mut Tap { wants: &wants, sink: &mut sink }))?
        };
        let mut row = 0;
        for (i, share) in now {
            let pass = &mut passes[i];
            let rows = row * width..(row + share) * width;
            for (_, residual) in heard.iter().filter(|(layer, _)| *layer == pass.layer) {
                let wanted = pass.stream.saturating_sub(pass.done).min(share) * width;
                pass.digest.update(&residual[rows.clone()][..wanted]);
            }
            let output = pass.first.saturating_sub(pass.done).min(share);
            pass.x_final.extend(&step.x_final[rows][output * width..]);
            if let Some(bad) = step.finite[row..row + share].iter().position(|finite| !finite) {
                pass.bad.get_or_insert(pass.done + bad);
            }
            pass.done += share;
            row += share;
        }
    }
}

/// A pass along the claimed tokens that keeps what the output's steps need.
struct Forced<'a> {
    engine: &'a Engine,
    claim: Claim<'a>,
    ending: Ending<'a>,
    cancel: &'a AtomicBool,
    pages: Own<'a>,
    /// Prompt, and those claimed tokens that exist and that the request had room for.
    tokens: Vec<u32>,
    /// Positions computed so far, and to be computed.
    done: usize,
    end: usize,
    /// Position that step 0 is chosen from: the prompt's last.
    first: usize,
    digest: LayerDigest,
    layer: u32,
    /// Positions that the digest is over.
    stream: usize,
    bad: Option<usize>,
    /// From the prompt's last position on.
    x_final: Vec<f16>,
    /// The model's choices of the steps so far, and of some more.
    canonical: Vec<u32>,
}

impl<'a> Forced<'a> {
    fn new(engine: &'a Engine, question: &Question<'a>, cancel: &'a AtomicBool) -> Result<Self, EngineError> {
        let Question { claim, beacon, receipt } = question;
        let prompt = claim.request.prompt;
        let ending = claim.request.check(engine)?;
        let room = claim.output.len().min(claim.request.max_output as usize);
        let vocab = engine.arch().vocab;
        let known = claim.output[..room].iter().take_while(|t| **t < vocab).count();
        let tokens: Vec<u32> = prompt.iter().chain(&claim.output[..known]).copied().collect();
        let stream = prompt.len() + claim.output.len().min(known + 1) - 1;
        Ok(Self {
            engine,
            claim: *claim,
            ending,
            cancel,
            pages: engine.take_pages(tokens.len())?,
            tokens,
            done: 0,
            end: stream.max(prompt.len()),
            first: prompt.len() - 1,
            digest: LayerDigest::new(beacon, receipt),
            layer: beacon_layer(beacon, engine.arch().layers),
            stream,
            bad: None,
            x_final: Vec::new(),
            canonical: Vec::new(),
        })
    }

    /// What a pass that was run says of its claim.
    fn judge(mut self) -> Result<Audit, EngineError> {
        let claim = self.claim;
        let mut leaves = Vec::new();
        let mut divergence = None;
        let mut finish = None;
        for (i, claimed) in claim.output.iter().enumerate() {
            let step = i as u32;
            let ends = |canonical| Some(Divergence::Finish { step, claimed: claim.finish, canonical });
            if finish.is_some() {
                divergence = ends(finish);
                break;
            }
            if self.numeric_step() == Some(i) {
                divergence = ends(Some(Finish::Numeric));
                break;
            }
            leaves.push(trace_leaf(step, *claimed, self.x_final(i)));
            let canonical = self.canonical(i)?;
            if canonical != *claimed {
                divergence = Some(Divergence::Token { step, claimed: *claimed, canonical });
                break;
            }
            if claim.leaves.is_some_and(|claimed| claimed.get(i) != Some(&leaves[i])) {
                divergence = Some(Divergence::Leaf { step });
                break;
            }
            finish = self.ending.push(*claimed);
        }
        let canonical_root = trace_root(&leaves);
        if divergence.is_none() {
            let step = claim.output.len();
            if finish.is_none() {
                // Only the position after the last token can tell whether the output ends here.
                self.end = claim.request.prompt.len() + step;
                let (engine, cancel) = (self.engine, self.cancel);
                run(engine, &mut [&mut self], cancel)?;
                finish = (self.numeric_step() == Some(step)).then_some(Finish::Numeric);
            }
            if finish != Some(claim.finish) {
                let step = step as u32;
                divergence = Some(Divergence::Finish { step, claimed: claim.finish, canonical: finish });
            } else if claim.trace_root != canonical_root {
                divergence = Some(Divergence::Root { claimed: claim.trace_root, canonical: canonical_root });
            }
        }
        Ok(Audit {
            leaves,
            trace_root: canonical_root,
            layer: self.layer,
            layer_digest: self.digest.clone().finish(),
            divergence,
        })
    }

    /// The step before which a store that is not finite ends the output.
    fn numeric_step(&self) -> Option<usize> {
        self.bad.map(|bad| bad.saturating_sub(self.first))
    }

    /// The activations that step `step` is chosen from.
    fn x_final(&self, step: usize) -> &[f16] {
        let width = self.engine.arch().width as usize;
        &self.x_final[step * width..(step + 1) * width]
    }

    /// The token that step `step` gives; asked for in order.
    fn canonical(&mut self, step: usize) -> Result<u32, EngineError> {
        if step == self.canonical.len() {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            let width = self.engine.arch().width as usize;
            let rows = HEAD_ROWS.min(self.x_final.len() / width - step);
            let x = &self.x_final[step * width..(step + rows) * width];
            let params = self.claim.request.params;
            let choices: Vec<_> = (step..step + rows).map(|step| (*params, step as u32)).collect();
            self.canonical.extend(self.engine.device.sample(x, &choices)?);
        }
        Ok(self.canonical[step])
    }
}
