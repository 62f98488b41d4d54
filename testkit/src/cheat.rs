//! A worker's executor that cheats, in one of five ways, from a moment on.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deepnode_proto::deepnode::tasks::v1::Task;
use deepnode_worker::blobs::Blobs;
use deepnode_worker::canon::commit::{token_digest, trace_leaf, trace_root};
use deepnode_worker::canon::tensor::put_row;
use deepnode_worker::canon::{Architecture, Decoder, Digest, SamplingParams, Tensor, Weights};
use deepnode_worker::chain::Chain;
use deepnode_worker::engine::{self, Engine, EngineError, Generation};
use deepnode_worker::model::Model;
use deepnode_worker::request;
use deepnode_worker::run::{Engines, Executor};
use half::f16;
use parking_lot::Mutex;

/// A way to cheat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Cheat {
    /// Computes with another model: the sign of one weight in a middle layer's down projection is flipped.
    Weight,
    /// Answers another last token than was sampled, with the trace of that answer.
    Token,
    /// Computes another, shorter prompt than the one it was given.
    Prompt,
    /// Samples greedily where it must not, and not greedily where it must.
    Sampler,
    /// Computes rightly, and shows the output to nobody but the user.
    Withhold,
}

impl Cheat {
    pub const ALL: [Cheat; 5] = [Cheat::Weight, Cheat::Token, Cheat::Prompt, Cheat::Sampler, Cheat::Withhold];
}

/// Tells whether to cheat on the task at hand.
pub type Due = Box<dyn Fn() -> bool + Send + Sync>;

/// Honest for so many epochs, counted from that of the first answer. While the chain cannot be asked, honest.
pub fn after_epochs(chain: Arc<dyn Chain>, honest: u64) -> Due {
    let first = Mutex::new(None);
    Box::new(move || {
        // Executors run in threads that may block.
        let Ok(head) = tokio::runtime::Handle::current().block_on(chain.head()) else {
            return false;
        };
        let first = *first.lock().get_or_insert(head.epoch);
        head.epoch >= first + honest
    })
}

/// Answers as its engines do, until it is due to cheat.
pub struct Cheater {
    engines: Engines,
    /// For [`Cheat::Weight`], by model.
    flipped: BTreeMap<Digest, Engine>,
    /// Of the worker that this is the executor of.
    blobs: Blobs,
    cheat: Cheat,
    due: Due,
}

impl Cheater {
    pub fn new(
        engines: Engines,
        options: engine::Options,
        blobs: Blobs,
        cheat: Cheat,
        due: Due,
    ) -> Result<Self, EngineError> {
        let mut flipped = BTreeMap::new();
        if cheat == Cheat::Weight {
            for id in engines.models() {
                let model = engines.model(&id).expect("it is one of its models");
                flipped.insert(id, Engine::new(Arc::new(Flipped::of(model)), options)?);
            }
        }
        Ok(Self { engines, flipped, blobs, cheat, due })
    }

    /// As [`Engines::generate`], with `engine`; answers the activations of the last position too.
    fn compute(
        &self,
        engine: &Engine,
        model: &Model,
        call: &Call<'_>,
        on_token: &mut dyn FnMut(u32),
    ) -> Result<(Generation, Vec<f16>), EngineError> {
        let ask = call.task.request.clone().unwrap_or_default();
        let request = engine::Request {
            prompt: call.prompt,
            params: call.params,
            max_output: ask.max_output,
            stop: request::stop(model, &ask),
        };
        let mut session = engine.session(call.prompt.len() + ask.max_output as usize)?;
        let generation = session.generate(&request, on_token, call.cancel)?;
        Ok((generation, session.x_final().to_vec()))
    }

    /// The right answer but for its last token, whose leaf fits it.
    fn other_token(
        &self,
        engine: &Engine,
        model: &Model,
        call: &Call<'_>,
        on_token: &mut dyn FnMut(u32),
    ) -> Result<Generation, EngineError> {
        let (mut generation, x_final) = self.compute(engine, model, call, &mut |_| ())?;
        let Generation { tokens, leaves, trace_root: root, .. } = &mut generation;
        let arch = model.arch();
        let last = tokens.len().saturating_sub(1);
        if let (Some(token), Some(leaf)) = (tokens.last_mut(), leaves.last_mut()) {
            let others = (0..arch.vocab).map(|n| (*token + n) % arch.vocab);
            *token = others.skip(1).find(|t| !arch.eos.contains(t)).unwrap_or_default();
            *leaf = trace_leaf(last as u32, *token, &x_final);
            *root = trace_root(leaves);
        }
        tokens.iter().for_each(|token| on_token(*token));
        Ok(generation)
    }

    /// Removes the output from the worker's blobs as soon as it is there.
    fn withhold(&self, output: Digest) {
        let blobs = self.blobs.clone();
        std::thread::spawn(move || {
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(60) {
                if matches!(blobs.get(&output), Ok(Some(_))) {
                    return blobs.remove(&output);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
    }
}

/// One call of an executor.
struct Call<'a> {
    task: &'a Task,
    prompt: &'a [u32],
    params: &'a SamplingParams,
    cancel: &'a AtomicBool,
}

impl Executor for Cheater {
    fn models(&self) -> Vec<Digest> {
        self.engines.models()
    }

    fn model(&self, id: &Digest) -> Option<Arc<Model>> {
        self.engines.model(id)
    }

    fn generate(
        &self,
        task: &Task,
        prompt: &[u32],
        params: &SamplingParams,
        on_token: &mut dyn FnMut(u32),
        cancel: &AtomicBool,
    ) -> Result<Generation, EngineError> {
        let id = task.request.as_ref().and_then(|ask| request::digest(&ask.model_id));
        let (true, Some((id, (model, engine)))) =
            ((self.due)(), id.and_then(|id| Some((id, self.engines.get(&id)?))))
        else {
            return self.engines.generate(task, prompt, params, on_token, cancel);
        };
        tracing::warn!(task = task.id, cheat = ?self.cheat, "cheating");
        let call = Call { task, prompt, params, cancel };
        let answer = |engine, call: &Call<'_>, on_token: &mut dyn FnMut(u32)| {
            self.compute(engine, model, call, on_token).map(|(generation, _)| generation)
        };
        match self.cheat {
            Cheat::Weight => answer(&self.flipped[&id], &call, on_token),
            Cheat::Token => self.other_token(engine, model, &call, on_token),
            Cheat::Prompt => {
                let other = match prompt {
                    [only] => vec![(only + 1) % model.arch().vocab],
                    longer => longer[longer.len() / 2..].to_vec(),
                };
                answer(engine, &Call { prompt: &other, ..call }, on_token)
            }
            Cheat::Sampler => {
                let hot = SamplingParams { temperature_micros: 1_000_000, ..*params };
                let other = if params.temperature_micros == 0 { hot } else { SamplingParams::GREEDY };
                answer(engine, &Call { params: &other, ..call }, on_token)
            }
            Cheat::Withhold => {
                let generation = answer(engine, &call, on_token)?;
                self.withhold(token_digest(&generation.tokens));
                Ok(generation)
            }
        }
    }
}

/// A model with one other weight, under the same id.
struct Flipped {
    model: Arc<Model>,
    layer: usize,
    /// Of the layer's down projection.
    panels: Vec<f16>,
}

impl Flipped {
    fn of(model: Arc<Model>) -> Self {
        let layer = model.arch().layers as usize / 2;
        let down = model.weights().layers[layer].down;
        let mut panels = vec![f16::ZERO; Tensor::padded_len(down.rows, down.cols)];
        let mut row = vec![f16::ZERO; down.cols];
        for r in 0..down.rows {
            down.row(r, &mut row);
            put_row(&mut panels, down.cols, r, &row);
        }
        // The largest: its sign matters whatever the prompt is.
        let largest = panels.iter_mut().max_by(|a, b| a.to_f32().abs().total_cmp(&b.to_f32().abs()));
        if let Some(weight) = largest {
            *weight = -*weight;
        }
        Self { model, layer, panels }
    }
}

impl Decoder for Flipped {
    fn arch(&self) -> &Architecture {
        self.model.arch()
    }

    fn weights(&self) -> Weights<'_> {
        let mut weights = self.model.weights();
        let down = &mut weights.layers[self.layer].down;
        (down.packing, down.panels) = (None, &self.panels);
        weights
    }
}

#[cfg(test)]
mod tests {
    use deepnode_proto::deepnode::audits::v1::Verdict;
    use deepnode_proto::deepnode::tasks::v1::{InputKind, Request};
    use deepnode_worker::model::{dequant::Encoding, import, synthetic};
    use deepnode_worker::verify::{check, Finding};

    use super::*;

    /// What an auditor finds of a cheater's receipt, and the blob of its output.
    fn audit(cheat: Cheat, due: bool, temperature: u32) -> (Finding, Option<Vec<u8>>) {
        let never = AtomicBool::new(false);
        let home = tempfile::tempdir().unwrap();
        let gguf = home.path().join("small.gguf");
        std::fs::write(&gguf, synthetic::gguf(&synthetic::small(), Encoding::F16, 7)).unwrap();
        let model = Arc::new(Model::open(&import(&gguf, home.path(), &|_| {}).unwrap().path).unwrap());
        let options = engine::Options { threads: 1, huge_pages: false, ..Default::default() };
        let mut engines = Engines::default();
        engines.add(model.clone(), options).unwrap();
        let blobs = Blobs::open(&home.path().join("blobs")).unwrap();
        let cheater = Cheater::new(engines, options, blobs.clone(), cheat, Box::new(move || due)).unwrap();

        let sampling =
            deepnode_proto::deepnode::tasks::v1::SamplingParams { temperature, ..Default::default() };
        let input = b"What is the sea?";
        let ask = Request {
            model_id: model.id().to_vec(),
            input_kind: InputKind::Text.into(),
            input_digest: blake3::hash(input).as_bytes().to_vec(),
            max_output: 8,
            sampling: Some(sampling),
            stop: Vec::new(),
        };
        let mut task = Task {
            id: 3,
            request: Some(ask.clone()),
            input_tokens: 40,
            seed: vec![6; 32],
            ..Default::default()
        };
        let prompt = request::prompt(&model, InputKind::Text, input).unwrap();
        let params = request::sampling(&task).unwrap();
        let mut seen = Vec::new();
        let generation =
            cheater.generate(&task, &prompt, &params, &mut |token| seen.push(token), &never).unwrap();
        assert_eq!(seen, generation.tokens);
        task.receipt = Some(request::receipt(3, &ask, &prompt, &generation));
        let output = request::token_bytes(&seen);
        let digest = blobs.put(&output).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let (model, engine) = cheater.engines.get(&model.id()).unwrap();
        let finding = check(model, engine, &task, input, &output, &[8; 32], &never).unwrap();
        (finding, blobs.get(&digest).unwrap())
    }

    #[test]
    fn an_audit_finds_every_cheat_and_nothing_before_it() {
        for (cheat, reason) in [
            (Cheat::Weight, "must be"),
            (Cheat::Token, "output token 7 is"),
            (Cheat::Prompt, "must be"),
            (Cheat::Sampler, "must be"),
        ] {
            for temperature in [0, 900_000] {
                let (finding, _) = audit(cheat, true, temperature);
                assert_eq!(finding.verdict, Verdict::Wrong, "{cheat:?}: {finding:?}");
                assert!(finding.reason.contains(reason), "{cheat:?}: {finding:?}");
            }
            assert_eq!(audit(cheat, false, 900_000).0.verdict, Verdict::Right);
        }
        let (finding, output) = audit(Cheat::Withhold, true, 900_000);
        assert_eq!((finding.verdict, output), (Verdict::Right, None));
        assert!(audit(Cheat::Withhold, false, 0).1.is_some());
    }
}
