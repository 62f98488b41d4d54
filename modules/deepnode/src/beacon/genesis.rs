//! The genesis section.

use deepnode_core::{json, Ctx, KvRead, Result, Time, Walk};
use serde::{Deserialize, Serialize};

use super::state::{Clock, Epoch, CLOCK, LAST, PARAMS, VALUES};
use super::{params, Params};
use crate::fields;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Genesis {
    pub params: ParamsJson,
    /// What the first value is chained to, hex; the digest of the chain id if empty.
    pub seed: String,
    /// Values of earlier heights that modules may still ask for.
    pub values: Vec<ValueJson>,
    /// The epoch that the chain goes on with; the first block begins epoch 1 if it is 0.
    pub epoch: EpochJson,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamsJson {
    #[serde(with = "json::text")]
    pub epoch_blocks: u64,
    #[serde(with = "json::text")]
    pub max_epoch_seconds: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueJson {
    #[serde(with = "json::text")]
    pub height: u64,
    /// Hex.
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochJson {
    #[serde(with = "json::text")]
    pub number: u64,
    #[serde(with = "json::text")]
    pub start_height: u64,
    /// Nanoseconds since 1970.
    #[serde(with = "json::text")]
    pub start_time: u64,
    /// Whether the next block begins another epoch.
    pub ended: bool,
}

impl Default for Genesis {
    fn default() -> Self {
        Genesis::new(&Params::default())
    }
}

impl Genesis {
    /// A chain that starts with these parameters.
    pub fn new(params: &Params) -> Self {
        Genesis {
            params: ParamsJson { epoch_blocks: params.blocks, max_epoch_seconds: params.max_duration },
            seed: String::new(),
            values: Vec::new(),
            epoch: EpochJson::default(),
        }
    }
}

pub(super) fn init(cx: &mut Ctx<'_>, genesis: Genesis) -> Result<()> {
    let params =
        Params { blocks: genesis.params.epoch_blocks, max_duration: genesis.params.max_epoch_seconds };
    params.check()?;
    params::set(cx, &params)?;
    let seed = match genesis.seed.as_str() {
        "" => *blake3::hash(cx.block().chain_id.as_bytes()).as_bytes(),
        seed => fields::hex_digest("genesis beacon.seed", seed)?,
    };
    LAST.set(cx, &seed)?;
    for value in &genesis.values {
        VALUES.set(cx, &value.height, &fields::hex_digest("genesis beacon.values.value", &value.value)?)?;
    }
    let EpochJson { number, start_height, start_time, ended } = genesis.epoch;
    let epoch = Epoch { number, start_height, start_time: Time(start_time) };
    CLOCK.set(cx, &Clock { epoch, ends: ended || number == 0 })
}

pub(super) fn export(kv: &dyn KvRead) -> Result<Genesis> {
    let values = VALUES.iter(kv, Walk::FORWARD).map(|entry| {
        let (height, value) = entry?;
        Ok(ValueJson { height, value: hex::encode(value) })
    });
    let Clock { epoch, ends } = CLOCK.load(kv)?;
    Ok(Genesis {
        seed: hex::encode(LAST.load(kv)?),
        values: values.collect::<Result<_>>()?,
        epoch: EpochJson {
            number: epoch.number,
            start_height: epoch.start_height,
            start_time: epoch.start_time.0,
            ended: ends,
        },
        ..Genesis::new(&PARAMS.load(kv)?)
    })
}
