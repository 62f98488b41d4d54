//! The genesis file's `app_state`: one JSON section a module.

use deepnode_core::{Ctx, Error, Item, KvRead, Result};
use deepnode_cosmos::consensus;
use deepnode_proto::tendermint_proto::v0_38::abci::RequestInitChain;
use serde_json::{Map, Value};

use crate::{Modules, APP_VERSION};

/// Prefix of the entry that holds its module's version: nothing can be proved absent from an empty tree.
const VERSION: u8 = 0xff;

/// Writes the state that the genesis file describes.
pub fn init(
    modules: &Modules,
    cx: &mut Ctx<'_>,
    request: &RequestInitChain,
    initial_height: u64,
) -> Result<()> {
    let mut sections = sections(&request.app_state_bytes)?;
    for module in modules.all() {
        Item::<u32>::new(module.name(), VERSION).set(cx, &module.version())?;
        if module.name() == "consensus" {
            let params = request.consensus_params.clone().unwrap_or_default();
            let params = consensus::Params::from_proto(&params)
                .map_err(|e| Error::fault(format!("genesis consensus_params: {e}")))?;
            consensus::init_chain(cx, initial_height, APP_VERSION, &params)?;
        }
        let section = sections.remove(module.name()).unwrap_or_else(|| module.default_genesis());
        module
            .init_genesis(cx, &section)
            .map_err(|e| Error::fault(format!("genesis section {}: {e}", module.name())))?;
        cx.take_events();
    }
    match sections.keys().next() {
        Some(unknown) => Err(Error::fault(format!("genesis section {unknown:?} belongs to no module"))),
        None => Ok(()),
    }
}

fn sections(bytes: &[u8]) -> Result<Map<String, Value>> {
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(sections)) => Ok(sections),
        Ok(_) => Err(Error::fault("genesis app_state is not an object")),
        Err(e) => Err(Error::fault(format!("genesis app_state is not JSON: {e}"))),
    }
}

/// The sections that describe `state`.
pub fn export(modules: &Modules, state: &dyn KvRead) -> Result<Value> {
    let mut sections = Map::new();
    for module in modules.all() {
        sections.insert(module.name().into(), module.export_genesis(state)?);
    }
    Ok(Value::Object(sections))
}

/// The sections of a chain without anything.
pub fn default(modules: &Modules) -> Value {
    Value::Object(modules.all().map(|m| (m.name().to_owned(), m.default_genesis())).collect())
}
