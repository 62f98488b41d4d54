//! Models: what the chain knows of a model and what running it costs. See README.md.

mod architecture;
pub mod genesis;
pub mod math;
mod msgs;
mod params;
pub mod query;
mod state;
#[cfg(test)]
mod tests;

use deepnode_core::{
    errors, json, Address, Ctx, Dec, Error, Event, KvRead, Messages, Module, Queries, Result, Walk,
};
use deepnode_cosmos::{auth, bank};

#[cfg(test)]
pub(crate) use architecture::tests::small;
pub use architecture::{Architecture, MAX_LEAF};
pub use msgs::commitment;
pub use params::Params;
pub use state::{Class, Model, ModelId, Status, Usage};
use state::{CLASSES, COMMITMENTS, COMMITMENT_QUEUE, MODELS, NAMES, PARAMS, PENDING, PRICES, USAGE};

/// For how many blocks a commitment is kept.
pub const COMMITMENT_BLOCKS: u64 = 1_000;
/// Commitments that one block drops at most.
const DROPPED_A_BLOCK: usize = 100;
/// Kind of the one architecture that there is, a decoder.
const KIND: &str = "llm";

/// The module `models`.
pub struct ModelsModule;

impl Module for ModelsModule {
    fn name(&self) -> &'static str {
        state::STORE
    }

    fn messages(&self, messages: &mut Messages) {
        msgs::register(messages.begin(self.name()));
    }

    fn queries(&self, queries: &mut Queries) {
        query::register(queries);
    }

    fn default_genesis(&self) -> serde_json::Value {
        serde_json::json!(genesis::Genesis::default())
    }

    fn init_genesis(&self, cx: &mut Ctx<'_>, genesis: &serde_json::Value) -> Result<()> {
        auth::ensure_module_account(cx, self.name(), &[])?;
        genesis::init(cx, json::parse(self.name(), genesis)?)
    }

    fn export_genesis(&self, state: &dyn KvRead) -> Result<serde_json::Value> {
        json::to_value(&genesis::export(state)?)
    }

    fn end_block(&self, cx: &mut Ctx<'_>) -> Result<()> {
        drop_commitments(cx)
    }

    fn invariants(&self, state: &dyn KvRead) -> Result<()> {
        invariants(state)
    }
}

/// The account that holds deposits.
pub fn account() -> Address {
    Address::module(state::STORE)
}

/// The parameters besides the class table.
pub fn params(kv: &(impl KvRead + ?Sized)) -> Result<Params> {
    PARAMS.load(kv)
}

/// A model.
pub fn get(kv: &(impl KvRead + ?Sized), id: &ModelId) -> Result<Option<Model>> {
    MODELS.get(kv, id)
}

/// A model that must exist.
pub fn existing(kv: &(impl KvRead + ?Sized), id: &ModelId) -> Result<Model> {
    get(kv, id)?.ok_or_else(|| errors::not_found(format!("model {}", hex::encode(id))))
}

/// What a model was used for.
pub fn usage(kv: &(impl KvRead + ?Sized), id: &ModelId) -> Result<Usage> {
    Ok(USAGE.get(kv, id)?.unwrap_or_default())
}

/// A class with its price as it stands.
pub fn class(kv: &(impl KvRead + ?Sized), name: &str) -> Result<Option<Class>> {
    let row = CLASSES.load(kv)?.into_iter().find(|class| class.name == name);
    row.map(|class| priced(kv, class)).transpose()
}

/// All classes in the order of their table.
pub fn classes(kv: &(impl KvRead + ?Sized)) -> Result<Vec<Class>> {
    CLASSES.load(kv)?.into_iter().map(|class| priced(kv, class)).collect()
}

/// Sets what a million CU of a class cost, in udn.
pub fn set_price(cx: &mut Ctx<'_>, class: &str, price: Dec) -> Result<()> {
    PRICES.set(cx, &class.to_owned(), &price)
}

fn priced(kv: &(impl KvRead + ?Sized), class: Class) -> Result<Class> {
    let price = PRICES.get(kv, &class.name)?.unwrap_or(class.price);
    Ok(Class { price, ..class })
}

/// The first class of a kind that holds this many weights.
fn class_for(kv: &(impl KvRead + ?Sized), kind: &str, weights: u64) -> Result<Class> {
    let row = CLASSES.load(kv)?.into_iter().find(|class| class.holds(kind, weights));
    let row = row.ok_or_else(|| {
        errors::tx(state::STORE, 9, format!("no class of kind {kind:?} holds {weights} weights"))
    })?;
    priced(kv, row)
}

/// Stores the table; new rows start at their price.
fn set_classes(cx: &mut Ctx<'_>, classes: &[Class]) -> Result<()> {
    for class in classes {
        if !PRICES.has(cx, &class.name)? {
            PRICES.set(cx, &class.name, &class.price)?;
        }
    }
    CLASSES.set(cx, &classes.to_vec())
}

/// CU of `input` tokens read and `output` tokens made. Refused beyond the model's context.
pub fn cu(architecture: &Architecture, input: u32, output: u32) -> Result<u64> {
    let positions = u64::from(input).saturating_add(output.into()).saturating_sub(1);
    if input == 0 || positions > u64::from(architecture.context) {
        return Err(errors::invalid_request(format!(
            "{input} tokens in and {output} out take {positions} positions, allowed are 1 to {} with 1 token in or more",
            architecture.context
        )));
    }
    let cu = architecture.cost()?.cu(input.into(), output.into())?;
    u64::try_from(cu).map_err(|_| errors::overflow("CU"))
}

/// Up to `max` models that wait for the draw of a test vector, the longest waiting first.
pub fn pending(kv: &(impl KvRead + ?Sized), max: usize) -> Result<Vec<ModelId>> {
    PENDING.iter(kv, Walk::FORWARD).take(max).map(|entry| Ok(entry?.1)).collect()
}

/// A test vector of the model was drawn: it waits no more.
pub fn vector_drawn(cx: &mut Ctx<'_>, id: &ModelId) -> Result<()> {
    let model = undecided(cx, id)?;
    PENDING.remove(cx, &(waiting_since(&model), *id))
}

/// A draw ended without agreement: the model waits for the next one, or is rejected. Whether it is rejected.
pub fn vector_failed(cx: &mut Ctx<'_>, id: &ModelId) -> Result<bool> {
    let mut model = undecided(cx, id)?;
    PENDING.remove(cx, &(waiting_since(&model), *id))?;
    model.failed_draws = model.failed_draws.saturating_add(1);
    MODELS.set(cx, id, &model)?;
    if model.failed_draws >= PARAMS.load(cx)?.vector_draws {
        reject(cx, id)?;
        return Ok(true);
    }
    PENDING.insert(cx, &(waiting_since(&model), *id))?;
    Ok(false)
}

/// Auditors agreed on the model's test vector. The deposit, which is returned, goes to the account of `audits`.
pub fn activate(cx: &mut Ctx<'_>, id: &ModelId, root: [u8; 32]) -> Result<u128> {
    let model = undecided(cx, id)?;
    decide(cx, id, Model { vector_root: Some(root), ..model }, Status::Active)
}

/// No auditors agreed. The deposit, which is returned, goes to the account of `audits`.
pub fn reject(cx: &mut Ctx<'_>, id: &ModelId) -> Result<u128> {
    let model = undecided(cx, id)?;
    decide(cx, id, model, Status::Rejected)
}

/// A task or a settlement of this many CU was paid.
pub fn record_usage(cx: &mut Ctx<'_>, id: &ModelId, cu: u64) -> Result<()> {
    let Usage { tasks, cu: before } = usage(cx, id)?;
    USAGE.set(cx, id, &Usage { tasks: tasks.saturating_add(1), cu: before.saturating_add(cu) })
}

fn undecided(kv: &(impl KvRead + ?Sized), id: &ModelId) -> Result<Model> {
    let model = existing(kv, id)?;
    match model.status {
        Status::Pending => Ok(model),
        status => {
            Err(Error::fault(format!("models: the vector of {} is decided: {status:?}", hex::encode(id))))
        }
    }
}

/// Its place in the queue of pending models: each failed draw moves it back by a block.
fn waiting_since(model: &Model) -> u64 {
    model.registered_height.saturating_add(model.failed_draws.into())
}

fn decide(cx: &mut Ctx<'_>, id: &ModelId, model: Model, status: Status) -> Result<u128> {
    PENDING.remove(cx, &(waiting_since(&model), *id))?;
    let deposit = model.deposit;
    bank::send_udn(cx, &account(), &Address::module("audits"), deposit)?;
    change_status(cx, id, Model { deposit: 0, ..model }, status)?;
    Ok(deposit)
}

/// Stores the model with its new status; active models are found by name, others earn no credit.
fn change_status(cx: &mut Ctx<'_>, id: &ModelId, mut model: Model, status: Status) -> Result<()> {
    model.status = status;
    if model.is_active() {
        NAMES.insert(cx, &(model.name.clone(), *id))?;
    } else {
        NAMES.remove(cx, &(model.name.clone(), *id))?;
        model.scored = false;
    }
    MODELS.set(cx, id, &model)?;
    cx.emit(Event::new("model_status").with("model", hex::encode(id)).with("status", status.name()));
    Ok(())
}

/// Drops commitments that can no longer be used, a bounded number a block.
fn drop_commitments(cx: &mut Ctx<'_>) -> Result<()> {
    let end = cx.height().saturating_sub(COMMITMENT_BLOCKS);
    let old: Vec<_> = COMMITMENT_QUEUE.iter_below(cx, &end).take(DROPPED_A_BLOCK).collect::<Result<_>>()?;
    for (height, owner, commitment) in old {
        COMMITMENT_QUEUE.remove(cx, &(height, owner, commitment))?;
        COMMITMENTS.remove(cx, &(owner, commitment))?;
    }
    Ok(())
}

/// Deposits are held, queues and names match the models, parents stand before their children.
fn invariants(kv: &dyn KvRead) -> Result<()> {
    let fault = |text: String| Err(Error::fault(format!("models: {text}")));
    let mut deposits = 0u128;
    let (mut active, mut pending) = (0usize, 0usize);
    for entry in MODELS.iter(kv, Walk::FORWARD) {
        let (id, model) = entry?;
        deposits = deposits.saturating_add(model.deposit);
        active = active.saturating_add(usize::from(model.is_active()));
        if PENDING.has(kv, &(waiting_since(&model), id))? {
            pending = pending.saturating_add(1);
            if model.status != Status::Pending {
                return fault(format!("{} is {:?} and waits for a draw", hex::encode(id), model.status));
            }
        }
        if NAMES.has(kv, &(model.name.clone(), id))? != model.is_active() {
            return fault(format!("name {:?} of {} does not match its status", model.name, hex::encode(id)));
        }
        if model.deposit > 0 && model.status != Status::Pending {
            return fault(format!("{} is {:?} with a deposit", hex::encode(id), model.status));
        }
        let depth = match &model.parent {
            Some(parent) => existing(kv, parent)?.depth.saturating_add(1),
            None => 0,
        };
        if depth != model.depth {
            return fault(format!("{} has depth {}, should have {depth}", hex::encode(id), model.depth));
        }
        if class(kv, &model.class)?.is_none() {
            return fault(format!("{} has no class {:?}", hex::encode(id), model.class));
        }
    }
    let held = bank::balance_udn(kv, &account())?;
    if held != deposits {
        return fault(format!("{held} udn held for deposits of {deposits} udn"));
    }
    let names = NAMES.iter(kv, Walk::FORWARD).count();
    let queued = PENDING.iter(kv, Walk::FORWARD).count();
    if (names, queued) != (active, pending) {
        return fault(format!(
            "{names} names for {active} active, {queued} in the queue for {pending} pending"
        ));
    }
    let commitments = COMMITMENTS.iter(kv, Walk::FORWARD).count();
    let queued = COMMITMENT_QUEUE.iter(kv, Walk::FORWARD).count();
    if commitments != queued {
        return fault(format!("{commitments} commitments, {queued} in their queue"));
    }
    Ok(())
}
