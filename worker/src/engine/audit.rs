//! Auditing: one teacher-forced prefill over prompt and output recomputes whatever a receipt claims.

use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;

use super::ending::Finish;
use super::error::EngineError;
use super::session::Request;
use super::{Engine, CHUNK};
use crate::canon::commit::{beacon_layer, trace_leaf, trace_root, Digest, LayerDigest};
use crate::canon::{Point, Run, Tap};

/// Rows of logits that are computed together.
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

impl Engine {
    /// Recomputes a claim. `beacon` names the layer of D, and with the receipt's digest its key. Fails only where the
    /// request itself is not valid or the machine lacks memory; a wrong output is a divergence.
    pub fn audit(
        &self,
        claim: &Claim<'_>,
        beacon: &Digest,
        receipt: &Digest,
        cancel: &AtomicBool,
    ) -> Result<Audit, EngineError> {
        let Request { prompt, params, .. } = claim.request;
        let mut ending = claim.request.check(self)?;
        let layer = beacon_layer(beacon, self.arch().layers);

        // Tokens that exist and that the request had room for.
        let room = claim.output.len().min(claim.request.max_output as usize);
        let known = claim.output[..room].iter().take_while(|t| **t < self.arch().vocab).count();
        let forced: Vec<u32> = prompt.iter().chain(&claim.output[..known]).copied().collect();
        let stream = prompt.len() + claim.output.len().min(known + 1) - 1;
        let mut pass =
            Forced::new(self, &forced, prompt.len(), LayerDigest::new(beacon, receipt), layer, cancel)?;
        pass.run(stream.max(prompt.len()), stream)?;

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
            if pass.numeric_step() == Some(i) {
                divergence = ends(Some(Finish::Numeric));
                break;
            }
            leaves.push(trace_leaf(step, *claimed, pass.x_final(i)));
            let canonical = params.sample(pass.logits(i)?, step);
            if canonical != *claimed {
                divergence = Some(Divergence::Token { step, claimed: *claimed, canonical });
                break;
            }
            if claim.leaves.is_some_and(|claimed| claimed.get(i) != Some(&leaves[i])) {
                divergence = Some(Divergence::Leaf { step });
                break;
            }
            finish = ending.push(*claimed);
        }
        let canonical_root = trace_root(&leaves);
        if divergence.is_none() {
            let step = claim.output.len();
            if finish.is_none() {
                // Only the position after the last token can tell whether the output ends here.
                pass.run(prompt.len() + step, 0)?;
                finish = (pass.numeric_step() == Some(step)).then_some(Finish::Numeric);
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
            layer,
            layer_digest: pass.digest.finish(),
            divergence,
        })
    }
}

/// A pass along given tokens that keeps what the output's steps need.
struct Forced<'a> {
    engine: &'a Engine,
    pages: Vec<u32>,
    tokens: &'a [u32],
    /// Positions computed so far.
    done: usize,
    /// Position that step 0 is chosen from: the prompt's last.
    first: usize,
    digest: LayerDigest,
    layer: u32,
    cancel: &'a AtomicBool,
    bad: Option<usize>,
    /// From the prompt's last position on.
    x_final: Vec<f16>,
    /// Logits of some steps, from `logits_from` on.
    logits: Vec<f32>,
    logits_from: usize,
}

impl<'a> Forced<'a> {
    fn new(
        engine: &'a Engine,
        tokens: &'a [u32],
        prompt: usize,
        digest: LayerDigest,
        layer: u32,
        cancel: &'a AtomicBool,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            engine,
            pages: engine.take_pages(tokens.len())?,
            tokens,
            done: 0,
            first: prompt - 1,
            digest,
            layer,
            cancel,
            bad: None,
            x_final: Vec::new(),
            logits: Vec::new(),
            logits_from: 0,
        })
    }

    fn check_cancel(&self) -> Result<(), EngineError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(EngineError::Cancelled);
        }
        Ok(())
    }

    /// Computes positions up to `end`, those below `stream` into the digest.
    fn run(&mut self, end: usize, stream: usize) -> Result<(), EngineError> {
        let width = self.engine.arch().width as usize;
        while self.done < end {
            self.check_cancel()?;
            let from = self.done;
            let chunk = &self.tokens[from..end.min(from + CHUNK)];
            let (layer, digest) = (self.layer, &mut self.digest);
            let wanted = stream.saturating_sub(from) * width;
            let mut sink = |_: u32, _: Point, rows: &[f32]| digest.update(&rows[..wanted.min(rows.len())]);
            let wants = move |of: u32, point: Point| of == layer && point == Point::Residual;
            let mut tap = Tap { wants: &wants, sink: &mut sink };
            let run = Run { tokens: chunk, first: from, pages: &self.pages };
            let step = self.engine.device.forward(&[run], Some(&mut tap))?;
            self.done += chunk.len();
            let output = self.first.saturating_sub(from).min(chunk.len());
            self.x_final.extend(&step.x_final[output * width..]);
            if let Some(bad) = step.finite.iter().position(|finite| !finite) {
                self.bad.get_or_insert(from + bad);
            }
        }
        Ok(())
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

    fn logits(&mut self, step: usize) -> Result<&[f32], EngineError> {
        let (width, vocab) = (self.engine.arch().width as usize, self.engine.arch().vocab as usize);
        if !(self.logits_from..self.logits_from + self.logits.len() / vocab).contains(&step) {
            self.check_cancel()?;
            let rows = HEAD_ROWS.min(self.x_final.len() / width - step);
            self.logits.resize(rows * vocab, 0.0);
            self.logits_from = step;
            let x = &self.x_final[step * width..(step + rows) * width];
            self.engine.device.logits(x, &mut self.logits)?;
        }
        let at = (step - self.logits_from) * vocab;
        Ok(&self.logits[at..at + vocab])
    }
}

impl Drop for Forced<'_> {
    fn drop(&mut self) {
        self.engine.pages.lock().give(self.pages.drain(..));
    }
}
