//! What the network starts with: a few validators, a model of generated weights, and parameters with which an epoch
//! takes a fraction of a second.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base64::Engine;
use deepnode_app::{App, Options, APP_VERSION};
use deepnode_core::{Time, UDN};
use deepnode_cosmos::consensus;
use deepnode_proto::tendermint_proto::google::protobuf::Timestamp;
use deepnode_proto::tendermint_proto::v0_38::abci::RequestInitChain;
use deepnode_tx::{Address, SigningKey};
use deepnode_worker::model::{
    dequant::Encoding, import, manifest::encode_architecture, synthetic, Model, Sandbox,
};
use serde_json::{json, Value};

use super::{Consensus, Inner, Validator, CHAIN_ID};

/// 10^6 udn.
pub const DN: u128 = 1_000_000;
/// 2026-01-01.
const TIME: Time = Time(1_767_225_600_000_000_000);
pub const CLASS: &str = "llm-300m";
/// What reputation of this class of models is kept under.
pub const CAPABILITY: &str = "llm/llm-300m";
/// Reference price, udn a million CU: a task of the small model costs some hundredths of a DN.
pub const UNIT_PRICE: u128 = 10_000_000_000;
/// udn of every account.
pub const FUNDS: u128 = 100_000 * DN;
const STAKE: u128 = 10_000 * DN;
const USERS: u8 = 3;
const WORKERS: u8 = 8;

/// What may differ between tests.
#[derive(Clone, Debug)]
pub struct Setup {
    pub validators: u8,
    /// Least chance of an audit, millionths.
    pub audit_chance_ppm: u32,
    /// The model's chat template; that of synthetic models by default.
    pub template: Option<&'static str>,
    /// Changes of the application's genesis sections.
    pub changes: Value,
}

impl Default for Setup {
    /// Four validators, every receipt audited.
    fn default() -> Self {
        Self { validators: 4, audit_chance_ppm: 1_000_000, template: None, changes: json!({}) }
    }
}

/// Short epochs; long phases, which end as soon as all have spoken, so that a busy machine makes nobody late.
fn parameters(setup: &Setup) -> Value {
    json!({
        "beacon": { "params": { "epoch_blocks": "80", "max_epoch_seconds": "600" } },
        "reputation": { "params": { "kappa": "2", "half_life": "100", "ramp": "2" } },
        "tasks": { "params": { "accept_blocks": "1000", "min_deadline": "1000", "window_blocks": "10" } },
        "audits": { "params": {
            "phase_blocks": "1000", "missing_blocks": "40", "retention_blocks": "20",
            "min_chance_ppm": setup.audit_chance_ppm
        } },
        "powr": { "params": {
            "tau": "4", "rho_step_ppm": 100_000, "target_cu": "20",
            "full_credit_workers": 1, "full_credit_validators": 1
        } },
    })
}

fn key(kind: u8, index: u8) -> SigningKey {
    let mut secret = [7; 32];
    (secret[0], secret[1]) = (kind, index);
    SigningKey::new(&secret).expect("a valid secret")
}

/// Runs InitChain on an empty database.
pub(super) fn init(setup: Setup) -> Inner {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let app = App::open(&dir.path().join("state"), Options::default(), &mut |_| ()).expect("a new database");
    let model = model(dir.path(), setup.template);
    let mut validators = Vec::new();
    let mut staked = Vec::new();
    for index in 0..setup.validators {
        let consensus_key = *blake3::hash(&[index]).as_bytes();
        let validator = Validator {
            operator: key(1, index),
            auditor: key(2, index),
            consensus: Address::from_ed25519(&consensus_key),
        };
        staked.push(json!({
            "moniker": format!("validator{index}"),
            "operator": validator.operator.address().to_string(),
            "consensus_pubkey": base64::prelude::BASE64_STANDARD.encode(consensus_key),
            "self_delegation": STAKE.to_string(),
        }));
        validators.push(validator);
    }
    let users: Vec<_> = (0..USERS).map(|index| key(3, index)).collect();
    let workers: Vec<_> = (0..WORKERS).map(|index| key(4, index)).collect();
    let keys = validators.iter().flat_map(|v| [&v.operator, &v.auditor]).chain(&users).chain(&workers);
    let balances = keys.map(|key| {
        let coins = json!([{ "denom": UDN, "amount": FUNDS.to_string() }]);
        json!({ "address": key.address().to_string(), "coins": coins })
    });

    let mut state = deepnode_app::default_genesis();
    state["bank"]["balances"] = balances.collect();
    state["staking"]["genesis_validators"] = staked.into();
    state["models"]["models"] = json!([{
        "id": hex::encode(model.id()),
        "owner": Address::module("models").to_string(),
        "name": "small",
        "licence": "Apache-2.0",
        "architecture": hex::encode(encode_architecture(model.arch())),
        "status": "MODEL_STATUS_ACTIVE",
        "scored": true,
    }]);
    for class in state["models"]["classes"].as_array_mut().expect("genesis has classes") {
        let price = format!("{UNIT_PRICE}.0");
        merge(class, json!({ "speed": "100", "cu_ref": "4", "ref_price": price, "price": price }));
    }
    merge(&mut state, parameters(&setup));
    merge(&mut state, setup.changes);
    let answer = app
        .init_chain(RequestInitChain {
            time: Some(Timestamp { seconds: (TIME.0 / 1_000_000_000) as i64, nanos: 0 }),
            chain_id: CHAIN_ID.into(),
            consensus_params: Some(consensus::Params::default().to_proto(APP_VERSION)),
            app_state_bytes: state.to_string().into_bytes().into(),
            initial_height: 1,
            ..Default::default()
        })
        .expect("InitChain");
    let mut consensus = Consensus { height: 0, time: TIME, sets: VecDeque::from([BTreeMap::new()]) };
    consensus.apply(&answer.validators);
    let set = consensus.sets.pop_back().expect("the validators of genesis");
    consensus.sets = VecDeque::from([BTreeMap::new(), set.clone(), set]);
    Inner {
        app,
        validators,
        users,
        workers,
        model,
        consensus: consensus.into(),
        mempool: Default::default(),
        broadcasts: Default::default(),
        nonce: Default::default(),
        dir,
    }
}

/// A small model of generated weights, imported into a folder.
fn model(dir: &std::path::Path, template: Option<&str>) -> Arc<Model> {
    let gguf = dir.join("small.gguf");
    let file = match template {
        Some(template) => synthetic::with_template(template),
        None => synthetic::gguf(&synthetic::small(), Encoding::F16, 7),
    };
    std::fs::write(&gguf, file).expect("it can be written");
    let imported = import(&gguf, dir, &|_| {}).expect("the model can be imported");
    let model = Model::open(&imported.path).expect("the model can be opened");
    Arc::new(model.with_sandbox(sandbox()))
}

/// Chat templates run in a program of this package, which cargo builds with each of its tests: two folders above them.
fn sandbox() -> Sandbox {
    let test = std::env::current_exe().expect("this program has a path");
    let target = test
        .parent()
        .and_then(std::path::Path::parent)
        .expect("tests are built into a folder of the target's");
    Sandbox::new(target.join("dishonest-worker"))
}

/// Sets what `changes` names; a name that is not there is misspelt.
fn merge(state: &mut Value, changes: Value) {
    let Value::Object(changes) = changes else {
        *state = changes;
        return;
    };
    for (name, change) in changes {
        let entry = state.get_mut(&name).unwrap_or_else(|| panic!("genesis has no {name:?}"));
        merge(entry, change);
    }
}
