//! Consensus parameters under CometBFT's own rules, which it does not forgive: a node that is told others stops.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{errors, Error, NumError, Result};
use deepnode_proto::tendermint_proto::google::protobuf::Duration;
use deepnode_proto::tendermint_proto::v0_38::types::{
    AbciParams, BlockParams, ConsensusParams, EvidenceParams, ValidatorParams, VersionParams,
};

/// Greatest block, in bytes: CometBFT's `MaxBlockSizeBytes`.
pub const MAX_BLOCK_BYTES: u64 = 100 << 20;
/// The one type of key that validators sign blocks with here.
pub const KEY_TYPE: &str = "ed25519";

const NANOS: u64 = 1_000_000_000;

/// All parameters except the version, which the application keeps by itself.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Params {
    pub block: Block,
    pub evidence: Evidence,
    /// Height from which votes carry extensions; 0 is never.
    pub vote_extensions_enable_height: u64,
}

/// Limits of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Block {
    pub max_bytes: u64,
    /// Bound of the sum of its transactions' gas limits.
    pub max_gas: u64,
}

/// Limits of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Evidence {
    pub max_age_num_blocks: u64,
    /// Nanoseconds.
    pub max_age_duration: u64,
    /// Bytes of all evidence in a block.
    pub max_bytes: u64,
}

impl Evidence {
    /// `max_age_duration` in whole seconds.
    pub fn max_age_seconds(&self) -> u64 {
        self.max_age_duration / NANOS
    }
}

/// CometBFT's defaults, with a gas limit: blocks of 4 MiB and 100,000,000 gas, evidence of two days.
impl Default for Params {
    fn default() -> Self {
        Params {
            block: Block { max_bytes: 4 << 20, max_gas: 100_000_000 },
            evidence: Evidence {
                max_age_num_blocks: 100_000,
                max_age_duration: 48 * 3_600 * NANOS,
                max_bytes: 1 << 20,
            },
            vote_extensions_enable_height: 0,
        }
    }
}

fn missing(field: &str) -> Error {
    errors::invalid_request(format!("{field} is missing"))
}

/// A number that protobuf signs and CometBFT does not let be negative.
fn unsigned(field: &'static str, value: i64) -> Result<u64> {
    u64::try_from(value)
        .map_err(|_| errors::invalid_request(format!("{field} is {value}, it must not be negative")))
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Block {
    pub fn from_proto(p: &BlockParams) -> Result<Self> {
        Ok(Block {
            max_bytes: unsigned("block.max_bytes", p.max_bytes)?,
            max_gas: unsigned("block.max_gas", p.max_gas)?,
        })
    }

    fn to_proto(self) -> BlockParams {
        BlockParams { max_bytes: signed(self.max_bytes), max_gas: signed(self.max_gas) }
    }
}

impl Evidence {
    /// Refuses evidence that can be older than `most` seconds: the stake that answers for it would have left.
    pub fn check_age(&self, most: u64) -> Result<()> {
        if self.max_age_duration <= most.saturating_mul(NANOS) {
            return Ok(());
        }
        Err(errors::invalid_request(format!(
            "evidence.max_age_duration is {} ns, at most {most} s are allowed: staking's unbonding_time less the \
             longest epoch",
            self.max_age_duration
        )))
    }

    pub fn from_proto(p: &EvidenceParams) -> Result<Self> {
        let age = p.max_age_duration.as_ref().ok_or_else(|| missing("evidence.max_age_duration"))?;
        let seconds = unsigned("evidence.max_age_duration", age.seconds)?;
        let nanos = unsigned("evidence.max_age_duration.nanos", age.nanos.into())?;
        NumError::in_range("evidence.max_age_duration.nanos", nanos, 0, NANOS.saturating_sub(1))?;
        let age = seconds.checked_mul(NANOS).and_then(|age| age.checked_add(nanos));
        Ok(Evidence {
            max_age_num_blocks: unsigned("evidence.max_age_num_blocks", p.max_age_num_blocks)?,
            max_age_duration: age.ok_or_else(|| errors::overflow("evidence.max_age_duration"))?,
            max_bytes: unsigned("evidence.max_bytes", p.max_bytes)?,
        })
    }

    fn to_proto(self) -> EvidenceParams {
        let nanos = self.max_age_duration % NANOS;
        EvidenceParams {
            max_age_num_blocks: signed(self.max_age_num_blocks),
            max_age_duration: Some(Duration {
                seconds: signed(self.max_age_seconds()),
                nanos: i32::try_from(nanos).unwrap_or(0),
            }),
            max_bytes: signed(self.max_bytes),
        }
    }
}

/// Refuses any list of key types but the one.
pub fn check_key_types(validator: &ValidatorParams) -> Result<()> {
    if validator.pub_key_types == [KEY_TYPE] {
        return Ok(());
    }
    let got: String = validator.pub_key_types.join(",").chars().take(100).collect();
    Err(errors::invalid_request(format!("validator.pub_key_types is [{got}], it must be [{KEY_TYPE}]")))
}

impl Params {
    /// From what InitChain brings, unchecked but for key types; every part must be there except `version` and `abci`.
    pub fn from_proto(p: &ConsensusParams) -> Result<Self> {
        check_key_types(p.validator.as_ref().ok_or_else(|| missing("validator"))?)?;
        let abci = p.abci.map_or(0, |abci| abci.vote_extensions_enable_height);
        Ok(Params {
            block: Block::from_proto(p.block.as_ref().ok_or_else(|| missing("block"))?)?,
            evidence: Evidence::from_proto(p.evidence.as_ref().ok_or_else(|| missing("evidence"))?)?,
            vote_extensions_enable_height: unsigned("abci.vote_extensions_enable_height", abci)?,
        })
    }

    /// As protobuf has it, with the application's version.
    pub fn to_proto(&self, app_version: u64) -> ConsensusParams {
        ConsensusParams {
            block: Some(self.block.to_proto()),
            evidence: Some(self.evidence.to_proto()),
            validator: Some(ValidatorParams { pub_key_types: vec![KEY_TYPE.into()] }),
            version: Some(VersionParams { app: app_version }),
            abci: Some(AbciParams {
                vote_extensions_enable_height: signed(self.vote_extensions_enable_height),
            }),
        }
    }

    /// CometBFT's `ValidateBasic`, stricter where it allows what has no bound: sizes and gas are always limited.
    pub fn check(&self) -> Result<()> {
        let most = signed(u64::MAX).unsigned_abs();
        let (block, evidence) = (self.block, self.evidence);
        NumError::in_range("block.max_bytes", block.max_bytes, 1, MAX_BLOCK_BYTES)?;
        NumError::in_range("block.max_gas", block.max_gas, 1, most)?;
        NumError::in_range("evidence.max_age_num_blocks", evidence.max_age_num_blocks, 1, most)?;
        NumError::in_range("evidence.max_age_duration", evidence.max_age_duration, 1, most)?;
        NumError::in_range("evidence.max_bytes", evidence.max_bytes, 0, block.max_bytes)?;
        Ok(())
    }

    /// CometBFT's `ValidateUpdate`: extensions are switched on once, at a height to come, and never off.
    pub fn check_update(&self, old: &Params, height: u64) -> Result<()> {
        let (from, to) = (old.vote_extensions_enable_height, self.vote_extensions_enable_height);
        if from == to {
            return Ok(());
        }
        let field = "abci.vote_extensions_enable_height";
        if to == 0 {
            return Err(errors::invalid_request(format!("{field} is {from} and cannot be unset")));
        }
        if to <= height {
            return Err(errors::invalid_request(format!(
                "{field} is {to}, it must be above the height {height}"
            )));
        }
        if from != 0 && from <= height {
            return Err(errors::invalid_request(format!("{field} is {from}, extensions are already on")));
        }
        Ok(())
    }

    /// What to tell CometBFT when these parameters become `new`: only the parts that changed.
    pub fn changes(&self, new: &Params) -> Option<ConsensusParams> {
        if self == new {
            return None;
        }
        let full = new.to_proto(0);
        Some(ConsensusParams {
            block: full.block.filter(|_| self.block != new.block),
            evidence: full.evidence.filter(|_| self.evidence != new.evidence),
            validator: None,
            version: None,
            abci: full
                .abci
                .filter(|_| self.vote_extensions_enable_height != new.vote_extensions_enable_height),
        })
    }
}
