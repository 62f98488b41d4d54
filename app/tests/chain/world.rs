//! Who there is, and what the chain starts with: an economy whose epochs, windows and votes take seconds.

use deepnode_core::merkle;
use deepnode_modules::models::Architecture;
use deepnode_tx::{Address, SigningKey};
use serde_json::{json, Value};

use crate::chain::DN;

/// Validators of genesis; the other operators may create theirs later.
pub const VALIDATORS: usize = 4;
pub const CLASS: &str = "llm-300m";

/// The key of a name.
pub fn key(name: &str) -> SigningKey {
    SigningKey::new(blake3::hash(name.as_bytes()).as_bytes()).unwrap()
}

/// Numbered keys: `user3`.
fn keys(name: &str, count: usize) -> Vec<SigningKey> {
    (0..count).map(|n| key(&format!("{name}{n}"))).collect()
}

/// The ed25519 key of an operator's validator. Nobody signs blocks here, so any 32 bytes do.
pub fn consensus_key(operator: &Address) -> [u8; 32] {
    *blake3::hash(operator.as_bytes()).as_bytes()
}

/// Everybody.
pub struct World {
    pub operators: Vec<SigningKey>,
    /// Of the operators, in their order.
    pub auditors: Vec<SigningKey>,
    pub workers: Vec<SigningKey>,
    pub users: Vec<SigningKey>,
    pub owner: SigningKey,
}

impl World {
    pub fn new() -> Self {
        World {
            operators: keys("operator", VALIDATORS + 2),
            auditors: keys("auditor", VALIDATORS + 2),
            workers: keys("worker", 5),
            users: keys("user", 8),
            owner: key("owner"),
        }
    }

    /// All of them, to find the key of an address.
    pub fn all(&self) -> impl Iterator<Item = &SigningKey> {
        let lists = [&self.operators, &self.auditors, &self.workers, &self.users];
        lists.into_iter().flatten().chain([&self.owner])
    }

    /// Genesis with the first `validators` operators as validators, each with a tenth of its coins as stake.
    pub fn genesis(&self, validators: usize) -> Value {
        let mut state = deepnode_app::default_genesis();
        merge(&mut state, parameters());
        for class in state["models"]["classes"].as_array_mut().unwrap() {
            merge(
                class,
                json!({ "speed": "20000", "cu_ref": "10000", "ref_price": "14000.0", "price": "14000.0" }),
            );
        }
        state["models"]["models"] = json!([{
            "id": hex::encode(Manifest::new(0).id()),
            "owner": self.owner.address().to_string(),
            "name": "genesis-model",
            "licence": "Apache-2.0",
            "architecture": hex::encode(architecture().encode()),
            "royalty_ppm": 100_000,
            "status": "MODEL_STATUS_ACTIVE",
            "scored": true,
        }]);
        let balance = |key: &SigningKey| {
            let coins = [json!({ "denom": "udn", "amount": (100_000 * DN).to_string() })];
            json!({ "address": key.address().to_string(), "coins": coins })
        };
        state["bank"]["balances"] = self.all().map(balance).collect();
        let validator = |(n, key): (usize, &SigningKey)| {
            use base64::Engine;
            let consensus = base64::prelude::BASE64_STANDARD.encode(consensus_key(&key.address()));
            json!({
                "moniker": format!("validator{n}"),
                "operator": key.address().to_string(),
                "consensus_pubkey": consensus,
                "self_delegation": ((10_000 + n as u128) * DN).to_string(),
            })
        };
        state["staking"]["genesis_validators"] =
            self.operators.iter().enumerate().take(validators).map(validator).collect();
        state
    }
}

/// What takes days on a public network takes some blocks here.
fn parameters() -> Value {
    json!({
        "staking": { "params": { "unbonding_time": "120s", "max_validators": 5 } },
        "beacon": { "params": { "epoch_blocks": "5", "max_epoch_seconds": "60" } },
        "reputation": { "params": { "kappa": "2", "half_life": "10", "ramp": "2" } },
        "workers": { "params": { "unbonding_blocks": "6", "max_idle_epochs": "4" } },
        "tasks": { "params": { "accept_blocks": "3", "window_blocks": "4", "min_deadline": "4", "reassignments": 1 } },
        "audits": { "params": {
            "phase_blocks": "4", "missing_blocks": "4", "retention_blocks": "5", "min_chance_ppm": 300_000,
            "max_draws": 2,
        } },
        "powr": { "params": {
            "tau": "4", "rho_step_ppm": 100_000, "target_cu": "10000",
            "full_credit_workers": 3, "full_credit_validators": 2,
        } },
        "gov": { "params": {
            "min_deposit": [{ "denom": "udn", "amount": "10000000" }],
            "expedited_min_deposit": [{ "denom": "udn", "amount": "50000000" }],
            "voting_period": "20s", "expedited_voting_period": "10s", "max_deposit_period": "30s",
        } },
    })
}

/// Sets what `changes` names; a name that is not there is misspelt.
fn merge(state: &mut Value, changes: Value) {
    let Value::Object(changes) = changes else {
        *state = changes;
        return;
    };
    for (name, change) in changes {
        merge(state.get_mut(&name).unwrap_or_else(|| panic!("genesis has no {name:?}")), change);
    }
}

/// SmolLM2-135M.
pub fn architecture() -> Architecture {
    Architecture {
        layers: 30,
        width: 576,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        ffn: 1536,
        vocab: 49_152,
        context: 8_192,
        eps: 0x3727_c5ac,
        rope_base: 0x47c3_5000,
        tied: true,
        qkv_bias: false,
        eos: vec![2],
        ..Architecture::default()
    }
}

/// A model's manifest: the architecture, and leaves that nobody here opens.
pub struct Manifest(Vec<Vec<u8>>);

impl Manifest {
    pub fn new(tag: u8) -> Self {
        let count = architecture().manifest_leaves();
        Manifest(
            (0..count).map(|n| if n == 0 { architecture().encode() } else { vec![tag, n as u8] }).collect(),
        )
    }

    pub fn id(&self) -> [u8; 32] {
        merkle::root(&self.0)
    }

    pub fn leaves(&self) -> u32 {
        self.0.len() as u32
    }

    /// The siblings of the architecture, nearest first.
    pub fn path(&self) -> Vec<Vec<u8>> {
        merkle::path(&self.0, 0).iter().map(|sibling| sibling.to_vec()).collect()
    }
}
