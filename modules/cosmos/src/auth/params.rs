//! Parameters: what transactions may hold and what checking them costs.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{json, NumError, Result};
use deepnode_proto::cosmos::auth::v1beta1 as proto;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Bytes of a memo.
    #[serde(with = "json::text")]
    pub max_memo_characters: u64,
    /// Signatures of one transaction.
    #[serde(with = "json::text")]
    pub tx_sig_limit: u64,
    /// Gas a byte of the encoded transaction.
    #[serde(with = "json::text")]
    pub tx_size_cost_per_byte: u64,
    /// Gas a signature.
    #[serde(with = "json::text")]
    pub sig_verify_cost_ed25519: u64,
    /// Gas a signature.
    #[serde(with = "json::text")]
    pub sig_verify_cost_secp256k1: u64,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            max_memo_characters: 256,
            tx_sig_limit: 7,
            tx_size_cost_per_byte: 10,
            sig_verify_cost_ed25519: 590,
            sig_verify_cost_secp256k1: 1_000,
        }
    }
}

impl Params {
    /// Every parameter is positive, and none so large that no transaction could pass any more.
    pub fn check(&self) -> Result<()> {
        NumError::in_range("params.max_memo_characters", self.max_memo_characters, 1, 65_536)?;
        NumError::in_range("params.tx_sig_limit", self.tx_sig_limit, 1, 100)?;
        NumError::in_range("params.tx_size_cost_per_byte", self.tx_size_cost_per_byte, 1, 1_000)?;
        NumError::in_range("params.sig_verify_cost_ed25519", self.sig_verify_cost_ed25519, 1, 1_000_000)?;
        NumError::in_range("params.sig_verify_cost_secp256k1", self.sig_verify_cost_secp256k1, 1, 1_000_000)?;
        Ok(())
    }

    /// From protobuf, unchecked.
    pub fn from_proto(p: &proto::Params) -> Self {
        Params {
            max_memo_characters: p.max_memo_characters,
            tx_sig_limit: p.tx_sig_limit,
            tx_size_cost_per_byte: p.tx_size_cost_per_byte,
            sig_verify_cost_ed25519: p.sig_verify_cost_ed25519,
            sig_verify_cost_secp256k1: p.sig_verify_cost_secp256k1,
        }
    }

    /// As protobuf has it.
    pub fn to_proto(&self) -> proto::Params {
        proto::Params {
            max_memo_characters: self.max_memo_characters,
            tx_sig_limit: self.tx_sig_limit,
            tx_size_cost_per_byte: self.tx_size_cost_per_byte,
            sig_verify_cost_ed25519: self.sig_verify_cost_ed25519,
            sig_verify_cost_secp256k1: self.sig_verify_cost_secp256k1,
        }
    }
}
