//! The genesis section. Models listed here may be active and scored from the start.

use deepnode_core::{errors, json, Address, Ctx, Dec, KvRead, Result, Walk};
use deepnode_proto::deepnode::models::v1::ModelStatus;
use serde::{Deserialize, Serialize};

use super::architecture::Architecture;
use super::state::*;
use super::{msgs, params, Params, KIND};
use crate::fields;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Genesis {
    pub params: ParamsJson,
    pub classes: Vec<ClassJson>,
    /// Parents before their children.
    pub models: Vec<ModelJson>,
    pub commitments: Vec<CommitmentJson>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamsJson {
    #[serde(with = "json::text")]
    pub deposit: u128,
    pub max_royalty_ppm: u32,
    #[serde(with = "json::text")]
    pub commit_blocks: u64,
    pub max_depth: u32,
    pub vector_auditors: u32,
    pub vector_draws: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassJson {
    pub name: String,
    pub kind: String,
    #[serde(with = "json::text")]
    pub max_weights: u64,
    #[serde(with = "json::text")]
    pub speed: u64,
    #[serde(with = "json::text")]
    pub cu_ref: u64,
    #[serde(with = "json::text")]
    pub ref_price: Dec,
    #[serde(with = "json::text")]
    pub price: Dec,
}

/// A model; what is left out is zero or empty. Its class follows from the architecture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelJson {
    /// Hex.
    pub id: String,
    #[serde(with = "json::text")]
    pub owner: Address,
    pub name: String,
    pub licence: String,
    /// The manifest's architecture leaf, hex.
    pub architecture: String,
    /// Empty for the one that the architecture leads to.
    pub class: String,
    pub royalty_ppm: u32,
    /// Hex; empty for none.
    pub parent: String,
    pub parent_part_ppm: u32,
    /// Such as MODEL_STATUS_ACTIVE.
    pub status: String,
    pub scored: bool,
    #[serde(with = "json::text")]
    pub registered_height: u64,
    pub failed_draws: u32,
    /// Hex; empty for none.
    pub vector_root: String,
    #[serde(with = "json::text")]
    pub deposit: u128,
    #[serde(with = "json::text")]
    pub tasks: u64,
    #[serde(with = "json::text")]
    pub cu: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitmentJson {
    #[serde(with = "json::text")]
    pub owner: Address,
    /// Hex.
    pub commitment: String,
    #[serde(with = "json::text")]
    pub height: u64,
}

impl Default for Genesis {
    fn default() -> Self {
        Genesis::new(&Params::default(), Class::defaults())
    }
}

impl Genesis {
    /// No models, with these parameters and classes.
    pub fn new(p: &Params, classes: Vec<Class>) -> Self {
        let class = |c: Class| ClassJson {
            name: c.name,
            kind: c.kind,
            max_weights: c.max_weights,
            speed: c.speed,
            cu_ref: c.cu_ref,
            ref_price: c.ref_price,
            price: c.price,
        };
        Genesis {
            params: ParamsJson {
                deposit: p.deposit,
                max_royalty_ppm: p.max_royalty_ppm,
                commit_blocks: p.commit_blocks,
                max_depth: p.max_depth,
                vector_auditors: p.vector_auditors,
                vector_draws: p.vector_draws,
            },
            classes: classes.into_iter().map(class).collect(),
            models: Vec::new(),
            commitments: Vec::new(),
        }
    }
}

pub(super) fn init(cx: &mut Ctx<'_>, genesis: Genesis) -> Result<()> {
    let p = genesis.params;
    let params = Params {
        deposit: p.deposit,
        max_royalty_ppm: p.max_royalty_ppm,
        commit_blocks: p.commit_blocks,
        max_depth: p.max_depth,
        vector_auditors: p.vector_auditors,
        vector_draws: p.vector_draws,
    };
    params.check()?;
    PARAMS.set(cx, &params)?;
    let class = |c: ClassJson| Class {
        name: c.name,
        kind: c.kind,
        max_weights: c.max_weights,
        speed: c.speed,
        cu_ref: c.cu_ref,
        ref_price: c.ref_price,
        price: c.price,
    };
    let classes: Vec<Class> = genesis.classes.into_iter().map(class).collect();
    params::check_classes(&classes)?;
    super::set_classes(cx, &classes)?;
    for model in genesis.models {
        add(cx, model)?;
    }
    for c in genesis.commitments {
        let commitment = fields::hex_digest("genesis models.commitments.commitment", &c.commitment)?;
        COMMITMENTS.set(cx, &(c.owner, commitment), &c.height)?;
        COMMITMENT_QUEUE.insert(cx, &(c.height, c.owner, commitment))?;
    }
    Ok(())
}

fn add(cx: &mut Ctx<'_>, json: ModelJson) -> Result<()> {
    let refuse = |text: String| errors::invalid_request(format!("genesis models {:?}: {text}", json.name));
    let id = fields::hex_digest("genesis models.id", &json.id)?;
    if MODELS.has(cx, &id)? {
        return Err(refuse(format!("id {} appears twice", json.id)));
    }
    msgs::check_name(&json.name)?;
    let leaf = hex::decode(&json.architecture).map_err(|e| refuse(format!("architecture: {e}")))?;
    let architecture = Architecture::decode(&leaf)?;
    let weights = architecture.weights()?;
    let class = match json.class.as_str() {
        "" => super::class_for(cx, KIND, weights)?,
        name => super::class(cx, name)?.ok_or_else(|| refuse(format!("there is no class {name:?}")))?,
    };
    let parent = optional("genesis models.parent", &json.parent)?;
    let depth = match &parent {
        Some(parent) => super::existing(cx, parent)?.depth.saturating_add(1),
        None => 0,
    };
    let status = ModelStatus::from_str_name(&json.status)
        .ok_or_else(|| refuse(format!("status {:?} is none of MODEL_STATUS_*", json.status)))?;
    let model = Model {
        owner: json.owner,
        name: json.name,
        licence: json.licence,
        kind: class.kind,
        class: class.name,
        architecture,
        weights,
        royalty_ppm: json.royalty_ppm,
        parent,
        parent_part_ppm: json.parent_part_ppm,
        depth,
        status: Status::from_proto(status.into())?,
        scored: json.scored,
        registered_height: json.registered_height,
        failed_draws: json.failed_draws,
        vector_root: optional("genesis models.vector_root", &json.vector_root)?,
        deposit: json.deposit,
    };
    match model.status {
        Status::Active => NAMES.insert(cx, &(model.name.clone(), id))?,
        // Whoever was drawn for it is forgotten: it is drawn anew.
        Status::Pending => PENDING.insert(cx, &(super::waiting_since(&model), id))?,
        _ => {}
    }
    if json.tasks > 0 {
        USAGE.set(cx, &id, &Usage { tasks: json.tasks, cu: json.cu })?;
    }
    MODELS.set(cx, &id, &model)
}

fn optional(field: &str, text: &str) -> Result<Option<[u8; 32]>> {
    if text.is_empty() {
        return Ok(None);
    }
    fields::hex_digest(field, text).map(Some)
}

pub(super) fn export(kv: &dyn KvRead) -> Result<Genesis> {
    let mut genesis = Genesis::new(&PARAMS.load(kv)?, super::classes(kv)?);
    let mut models: Vec<(ModelId, Model)> = MODELS.iter(kv, Walk::FORWARD).collect::<Result<_>>()?;
    models.sort_by_key(|(id, model)| (model.depth, *id));
    for (id, m) in models {
        let usage = super::usage(kv, &id)?;
        genesis.models.push(ModelJson {
            id: hex::encode(id),
            owner: m.owner,
            name: m.name,
            licence: m.licence,
            architecture: hex::encode(m.architecture.encode()),
            class: m.class,
            royalty_ppm: m.royalty_ppm,
            parent: m.parent.map(hex::encode).unwrap_or_default(),
            parent_part_ppm: m.parent_part_ppm,
            status: m.status.name().into(),
            scored: m.scored,
            registered_height: m.registered_height,
            failed_draws: m.failed_draws,
            vector_root: m.vector_root.map(hex::encode).unwrap_or_default(),
            deposit: m.deposit,
            tasks: usage.tasks,
            cu: usage.cu,
        });
    }
    for entry in COMMITMENTS.iter(kv, Walk::FORWARD) {
        let ((owner, commitment), height) = entry?;
        genesis.commitments.push(CommitmentJson { owner, commitment: hex::encode(commitment), height });
    }
    Ok(genesis)
}
