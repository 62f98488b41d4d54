//! Who computes: the engines of the loaded models.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deepnode_proto::deepnode::tasks::v1::Task;

use crate::canon::{Digest, SamplingParams};
use crate::engine::{self, Engine, EngineError, Event, Failure, Generation, Limits, Runner};
use crate::model::{model_path, Model, ModelError, Sandbox};
use crate::request;

/// How often a generation looks whether it is cancelled, where no token comes.
const LOOK: Duration = Duration::from_millis(50);

/// Answers tasks. A worker's own is [`Engines`].
pub trait Executor: Send + Sync + 'static {
    /// The models that it can run.
    fn models(&self) -> Vec<Digest>;

    /// A model, for its tokenizer and its bounds.
    fn model(&self, id: &Digest) -> Option<Arc<Model>>;

    /// Whether a device failed, and a spare one computes.
    fn fell_over(&self) -> bool {
        false
    }

    /// Answers a prompt. `on_token` sees each token as it comes; setting `cancel` ends the call with an error. Calls of
    /// several threads may be computed together.
    fn generate(
        &self,
        task: &Task,
        prompt: &[u32],
        params: &SamplingParams,
        on_token: &mut dyn FnMut(u32),
        cancel: &AtomicBool,
    ) -> Result<Generation, EngineError>;
}

struct Loaded {
    model: Arc<Model>,
    engine: Arc<Engine>,
    /// Computes the tasks, from the first one on.
    runner: OnceLock<Runner>,
}

impl Loaded {
    fn new(model: Arc<Model>, engine: Engine) -> Self {
        Self { model, engine: Arc::new(engine), runner: OnceLock::new() }
    }

    fn runner(&self) -> Result<&Runner, EngineError> {
        if self.runner.get().is_none() {
            let (engine, model) = (self.engine.clone(), self.model.clone());
            // Of two that begin at once, one stays.
            let _ = self.runner.set(Runner::start(engine, model, Limits::default(), |_| ())?);
        }
        self.runner.get().ok_or(EngineError::Cancelled)
    }
}

/// Models ready to compute, by id.
#[derive(Default)]
pub struct Engines {
    loaded: BTreeMap<Digest, Loaded>,
}

impl Engines {
    /// Loads models of a folder: their weights are mapped, and every one is checked against the id. Their chat templates
    /// run in `sandbox`; `engine` makes what computes each of them.
    pub fn load(
        folder: &Path,
        ids: &[Digest],
        sandbox: &Sandbox,
        engine: &dyn Fn(&Arc<Model>) -> Result<Engine, EngineError>,
    ) -> Result<Self, EngineError> {
        let mut engines = Self::default();
        for id in ids {
            let path = model_path(folder, id);
            let model = Model::open_verified(&path)?;
            if model.id() != *id {
                return Err(EngineError::Model(ModelError::Digest {
                    what: path.display().to_string(),
                    found: hex::encode(model.id()),
                    expected: hex::encode(id),
                }));
            }
            let model = Arc::new(model.with_sandbox(sandbox.clone()));
            model.warn_of_template();
            let engine = engine(&model)?;
            engines.loaded.insert(*id, Loaded::new(model, engine));
        }
        Ok(engines)
    }

    /// Adds a model that is open already.
    pub fn add(&mut self, model: Arc<Model>, options: engine::Options) -> Result<(), EngineError> {
        let engine = Engine::new(model.clone(), options)?;
        self.loaded.insert(model.id(), Loaded::new(model, engine));
        Ok(())
    }

    /// Every model.
    pub fn all(&self) -> Vec<Arc<Model>> {
        self.loaded.values().map(|l| l.model.clone()).collect()
    }

    /// A model with its engine.
    pub fn get(&self, id: &Digest) -> Option<(&Arc<Model>, &Engine)> {
        self.loaded.get(id).map(|l| (&l.model, &*l.engine))
    }
}

impl Executor for Engines {
    fn models(&self) -> Vec<Digest> {
        self.loaded.keys().copied().collect()
    }

    fn model(&self, id: &Digest) -> Option<Arc<Model>> {
        self.get(id).map(|(model, _)| model.clone())
    }

    fn fell_over(&self) -> bool {
        self.loaded.values().any(|loaded| loaded.engine.fell_over())
    }

    fn generate(
        &self,
        task: &Task,
        prompt: &[u32],
        params: &SamplingParams,
        on_token: &mut dyn FnMut(u32),
        cancel: &AtomicBool,
    ) -> Result<Generation, EngineError> {
        let invalid =
            |field, value: String, bound: &str| EngineError::Invalid { field, value, bound: bound.into() };
        let ask = task.request.as_ref().ok_or_else(|| invalid("request", "missing".into(), "there"))?;
        let loaded = request::digest(&ask.model_id)
            .and_then(|id| self.loaded.get(&id))
            .ok_or_else(|| invalid("model_id", hex::encode(&ask.model_id), "a loaded model"))?;
        let job = engine::Job {
            prompt: prompt.to_vec(),
            params: *params,
            max_output: ask.max_output,
            stop: ask.stop.clone(),
            logprobs: None,
        };
        let (sender, events) = channel();
        let _ticket = loaded.runner()?.submit(job, move |event| {
            let _ = sender.send(event);
        });
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            match events.recv_timeout(LOOK) {
                Ok(Ok(Event::Token { token, .. })) => on_token(token),
                Ok(Ok(Event::Finished(generation))) => return Ok(generation),
                Ok(Err(Failure::Engine(error))) => return Err(error),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Err(Failure::Crashed)) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(EngineError::Crashed);
                }
            }
        }
    }
}
