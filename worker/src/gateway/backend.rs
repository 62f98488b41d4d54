//! Who answers: the engine of this process, or the workers of a chain. Both take jobs from the same requests and tell
//! what happens to them in the same way.

use std::sync::Arc;

use serde_json::Value;

use super::chain::{self, Proof, Tasks};
use super::errors::Result;
use super::keys::Caller;
use super::options::Options;
use super::scheduler::{self, Event, Job, Scheduler};

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

    /// Further metrics, in Prometheus' format.
    pub fn metrics(&self) -> String {
        match self {
            Self::Local(_) => String::new(),
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
    /// Begins a job. On a chain this returns when the task is in a block, or was refused.
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
    /// The next event; none after the last one.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        match self {
            Self::Local(events) => events.next().await.map(|event| Ok(event?)),
            Self::Chain(events) => events.next().await,
        }
    }

    /// What a chain says of the answer: its task from the beginning, the rest when the answer has ended.
    fn proof(&self) -> Option<&Proof> {
        match self {
            Self::Local(_) => None,
            Self::Chain(events) => Some(events.proof()),
        }
    }

    pub fn headers(&self) -> Vec<(&'static str, String)> {
        self.proof().map(Proof::headers).unwrap_or_default()
    }

    /// The same as a member of an answer.
    pub fn extension(&self) -> Option<Value> {
        self.proof().map(Proof::to_json)
    }
}
