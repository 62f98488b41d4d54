//! The genesis section. Tasks are exported as they are kept: hex of their borsh encoding.

use deepnode_core::{errors, json, Ctx, KvRead, Result, Walk};
use serde::{Deserialize, Serialize};

use super::state::{self, Status, Task};
use super::Params;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Genesis {
    pub params: Params,
    /// The last id given.
    #[serde(with = "json::text")]
    pub last_id: u64,
    pub tasks: Vec<String>,
}

impl Genesis {
    /// A chain without tasks.
    pub fn new(params: Params) -> Self {
        Genesis { params, ..Genesis::default() }
    }
}

pub(super) fn init(cx: &mut Ctx<'_>, genesis: Genesis) -> Result<()> {
    genesis.params.check()?;
    state::PARAMS.set(cx, &genesis.params)?;
    state::LAST_ID.set(cx, genesis.last_id)?;
    for text in &genesis.tasks {
        let task = read(text)?;
        if task.id == 0 || task.id > genesis.last_id {
            return Err(errors::invalid_request(format!(
                "genesis tasks.tasks: id {} must be 1 to last_id {}",
                task.id, genesis.last_id
            )));
        }
        index(cx, &task)?;
        task.save(cx)?;
    }
    super::invariants::check(cx).map_err(|e| errors::invalid_request(format!("genesis tasks: {e}")))
}

fn read(text: &str) -> Result<Task> {
    let bad = |e: String| errors::invalid_request(format!("genesis tasks.tasks: {e}"));
    borsh::from_slice(&hex::decode(text).map_err(|e| bad(e.to_string()))?).map_err(|e| bad(e.to_string()))
}

/// Puts a task into the queues and indices that its state names.
fn index(cx: &mut Ctx<'_>, task: &Task) -> Result<()> {
    state::BY_CREATOR.insert(cx, &(task.creator, task.id))?;
    if !task.status.is_open() {
        return Ok(());
    }
    if let Some(worker) = task.worker {
        state::BY_WORKER.insert(cx, &(worker, task.id))?;
    }
    if task.due > 0 {
        state::DUE.insert(cx, &(task.due, task.id))?;
    }
    if task.status == Status::Submitted && !task.decided {
        let due = task.receipt_height.saturating_add(state::BEACON_DELAY);
        state::RECEIPTS_DUE.insert(cx, &(due, task.id))?;
    }
    Ok(())
}

pub(super) fn export(kv: &dyn KvRead) -> Result<Genesis> {
    let tasks = state::TASKS.iter(kv, Walk::FORWARD).map(|entry| {
        let (_, task) = entry?;
        Ok(hex::encode(borsh::to_vec(&task).map_err(deepnode_core::Error::fault)?))
    });
    Ok(Genesis {
        params: super::params(kv)?,
        last_id: state::LAST_ID.current(kv)?,
        tasks: tasks.collect::<Result<_>>()?,
    })
}
