//! Who answers: the engine of this process, or the workers of a chain. Both take jobs from the same requests and tell
//! what happens to them in the same way.

use std::sync::Arc;

use serde_json::Value;

use super::chain::{self, Proof, Tasks};
use super::errors::{ApiError, Result};
use super::keys::Caller;
use super::options::Options;
use super::scheduler::{self, Job, Scheduler};
use crate::engine::{self, Finish, Logprobs, PageUse};
use crate::metrics::{Exposition, DEVICE_FAILED};

/// What happens to one choice of a job.
#[derive(Debug)]
pub enum Event {
    Token {
        token: u32,
        logprobs: Option<Logprobs>,
    },
    /// The last one.
    Finished(Finish),
    /// The last one: of this choice alone.
    Failed(ApiError),
}

pub enum Backend {
    Local(Scheduler),
    Chain(Tasks),
}

impl Backend {
    /// Refuses what cannot be had here, and says how much is generated where a request does not.
    pub fn admit(&self, options: &mut Options) -> Result<()> {
        match self {
            Self::Local(_) => Ok(()),
            Self::Chain(tasks) => tasks.admit(options),
        }
    }

    /// Positions of a prompt and its answer, of the model's `context`.
    pub fn context(&self, context: u32) -> u32 {
        match self {
            Self::Local(scheduler) => {
                context.min(u32::try_from(scheduler.engine().positions()).unwrap_or(u32::MAX))
            }
            Self::Chain(_) => context,
        }
    }

    /// A place for one request, taken before anything costly is done for it.
    pub fn reserve(&self, caller: &Arc<Caller>) -> Result<Place> {
        Ok(match self {
            Self::Local(scheduler) => Place::Local(scheduler.reserve()?),
            Self::Chain(tasks) => Place::Chain(tasks.reserve(caller)?),
        })
    }

    pub fn is_open(&self) -> bool {
        match self {
            Self::Local(scheduler) => scheduler.is_open(),
            Self::Chain(tasks) => tasks.is_open(),
        }
    }

    /// Gives no more places; what has one is answered.
    pub fn close(&self) {
        match self {
            Self::Local(scheduler) => scheduler.close(),
            Self::Chain(tasks) => tasks.close(),
        }
    }

    /// Ends all jobs with an error.
    pub fn abort(&self) {
        match self {
            Self::Local(scheduler) => scheduler.abort(),
            Self::Chain(tasks) => tasks.abort(),
        }
    }

    /// When nothing is under way any more: what is left to be written down.
    pub async fn settle(&self) {
        match self {
            Self::Local(_) => {}
            Self::Chain(tasks) => tasks.settle().await,
        }
    }

    /// Further metrics, in Prometheus' format.
    pub fn metrics(&self) -> String {
        match self {
            Self::Local(scheduler) => {
                let (mut text, engine) = (Exposition::default(), scheduler.engine());
                let fell_over = f64::from(u8::from(engine.fell_over()));
                text.put("gateway_device_failed", "gauge", DEVICE_FAILED, &[("", fell_over)]);
                let PageUse { total, available, found, evicted } = engine.page_use();
                let used = total - available;
                let help = "Pages of keys and values by whether a sequence holds them.";
                let pages = [("{use=\"held\"}", used as f64), ("{use=\"available\"}", available as f64)];
                text.put("gateway_kv_pages", "gauge", help, &pages);
                let help = "Whole pages of prompts that were found computed.";
                text.put("gateway_prefix_pages_found_total", "counter", help, &[("", found as f64)]);
                let help = "Pages of earlier prompts and answers that made room for others.";
                text.put("gateway_prefix_pages_evicted_total", "counter", help, &[("", evicted as f64)]);
                text.0
            }
            Self::Chain(tasks) => tasks.metrics(),
        }
    }
}

/// A place; free again when dropped.
pub enum Place {
    Local(scheduler::Place),
    Chain(chain::Place),
}

impl Place {
    /// Begins a job. On a chain this returns when its tasks are in a block, or none of them was taken.
    pub async fn submit(self, job: Job) -> Result<Events> {
        Ok(match self {
            Self::Local(place) => Events::Local(place.submit(job)),
            Self::Chain(place) => Events::Chain(place.submit(job).await?),
        })
    }
}

/// What happens to a job. Dropping this cancels it, as far as that is possible.
pub enum Events {
    Local(scheduler::Events),
    Chain(chain::Events),
}

impl Events {
    /// The next event with its choice; none after the last one. An error is of all choices.
    pub async fn next(&mut self) -> Option<Result<(u32, Event)>> {
        let (choice, event) = match self {
            Self::Chain(events) => return events.next().await,
            Self::Local(events) => match events.next().await? {
                Ok(told) => told,
                Err(failure) => return Some(Err(failure.into())),
            },
        };
        let event = match event {
            engine::Event::Token { token, logprobs } => Event::Token { token, logprobs },
            engine::Event::Finished(generation) => Event::Finished(generation.finish),
        };
        Some(Ok((choice, event)))
    }

    /// What a chain says of the answers: their tasks from the beginning, the rest of each when it has ended.
    fn proofs(&self) -> &[Option<Proof>] {
        match self {
            Self::Local(_) => &[],
            Self::Chain(events) => events.proofs(),
        }
    }

    pub fn headers(&self) -> Vec<(&'static str, String)> {
        Proof::headers(self.proofs())
    }

    /// The same as a member of an answer.
    pub fn extension(&self, choice: u32) -> Option<Value> {
        self.proofs().get(choice as usize)?.as_ref().map(Proof::to_json)
    }
}
