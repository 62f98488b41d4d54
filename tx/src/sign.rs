//! The bytes that a signature covers.

use crate::decode::Tx;
use crate::error::TxError;
use deepnode_proto::cosmos::tx::signing::v1beta1::SignMode;
use deepnode_proto::cosmos::tx::v1beta1::mode_info::Sum;
use deepnode_proto::cosmos::tx::v1beta1::{ModeInfo, SignDoc};
use deepnode_proto::Message;

/// What a signature covers beside the transaction: it is good on one chain, for one account, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerData {
    pub chain_id: String,
    pub account_number: u64,
    /// Zero in an unordered transaction.
    pub sequence: u64,
}

/// The bytes that the signer with this mode signs. SIGN_MODE_DIRECT covers the body and the auth info as received; the
/// sequence stands in the auth info, and whoever verifies compares it with the account's.
pub fn sign_bytes(tx: &Tx, mode: &ModeInfo, signer: &SignerData) -> Result<Vec<u8>, TxError> {
    match &mode.sum {
        Some(Sum::Single(single)) => match SignMode::try_from(single.mode) {
            Ok(SignMode::Direct) => {
                Ok(direct(&tx.body_bytes, &tx.auth_info_bytes, &signer.chain_id, signer.account_number))
            }
            Ok(mode) => Err(TxError::NotSupported(format!("sign mode {}", mode.as_str_name()))),
            Err(_) => Err(TxError::NotSupported(format!("sign mode {}", single.mode))),
        },
        Some(Sum::Multi(_)) => Err(TxError::NotSupported("sign mode of several keys".into())),
        None => Err(TxError::Unauthorized("signer info has no sign mode".into())),
    }
}

/// The sign bytes of SIGN_MODE_DIRECT.
pub fn direct(body_bytes: &[u8], auth_info_bytes: &[u8], chain_id: &str, account_number: u64) -> Vec<u8> {
    SignDoc {
        body_bytes: body_bytes.to_vec(),
        auth_info_bytes: auth_info_bytes.to_vec(),
        chain_id: chain_id.to_owned(),
        account_number,
    }
    .encode_to_vec()
}
