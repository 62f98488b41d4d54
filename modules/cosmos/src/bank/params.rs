//! Parameters.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{errors, Result};
use deepnode_proto::cosmos::bank::v1beta1 as proto;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Whether users may send denominations that have no setting of their own.
    pub default_send_enabled: bool,
}

impl Default for Params {
    fn default() -> Self {
        Params { default_send_enabled: true }
    }
}

impl Params {
    /// From protobuf; the deprecated list must be empty.
    pub fn from_proto(p: &proto::Params) -> Result<Self> {
        #[allow(deprecated)]
        if !p.send_enabled.is_empty() {
            return Err(errors::invalid_request("params.send_enabled must be empty: use MsgSetSendEnabled"));
        }
        Ok(Params { default_send_enabled: p.default_send_enabled })
    }

    /// As protobuf has it.
    pub fn to_proto(&self) -> proto::Params {
        #[allow(deprecated)]
        proto::Params { send_enabled: Vec::new(), default_send_enabled: self.default_send_enabled }
    }
}
