//! Making transactions, for clients and tests.

use crate::address::Address;
use crate::key::{PublicKey, SigningKey};
use crate::sign::{direct, SignerData};
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::cosmos::tx::signing::v1beta1::SignMode;
use deepnode_proto::cosmos::tx::v1beta1::mode_info::{Single, Sum};
use deepnode_proto::cosmos::tx::v1beta1::{AuthInfo, Fee, ModeInfo, SignerInfo, TxBody, TxRaw};
use deepnode_proto::{Any, AnyExt, Message, Name, Timestamp};

/// A transaction in the making; [`sign`](Self::sign) encodes it in SIGN_MODE_DIRECT.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TxBuilder {
    pub body: TxBody,
    pub fee: Fee,
}

impl TxBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn message<M: Name>(self, message: &M) -> Self {
        self.any(Any::pack(message))
    }

    pub fn any(mut self, message: Any) -> Self {
        self.body.messages.push(message);
        self
    }

    pub fn memo(mut self, memo: impl Into<String>) -> Self {
        self.body.memo = memo.into();
        self
    }

    /// Adds a coin to the fee.
    pub fn fee(mut self, amount: u128, denom: &str) -> Self {
        self.fee.amount.push(Coin { denom: denom.into(), amount: amount.to_string() });
        self
    }

    pub fn gas(mut self, limit: u64) -> Self {
        self.fee.gas_limit = limit;
        self
    }

    /// Another account that pays; it must sign too.
    pub fn fee_payer(mut self, payer: Address) -> Self {
        self.fee.payer = payer.to_string();
        self
    }

    /// An account that granted the payer an allowance.
    pub fn fee_granter(mut self, granter: Address) -> Self {
        self.fee.granter = granter.to_string();
        self
    }

    /// The last height at which the transaction is good.
    pub fn timeout_height(mut self, height: u64) -> Self {
        self.body.timeout_height = height;
        self
    }

    /// Good until this block time, without regard to the account's sequence: sign with sequence 0, and never two
    /// transactions of one account with the same time.
    pub fn unordered(mut self, until: Timestamp) -> Self {
        self.body.unordered = true;
        self.body.timeout_timestamp = Some(until);
        self
    }

    /// The encoded transaction of one signer.
    pub fn sign(&self, key: &SigningKey, signer: &SignerData) -> Vec<u8> {
        self.sign_all(&[(key, signer.clone())])
    }

    /// The encoded transaction of several signers, in the order in which the messages name them.
    pub fn sign_all(&self, signers: &[(&SigningKey, SignerData)]) -> Vec<u8> {
        let keys: Vec<_> = signers.iter().map(|(key, data)| (key.public_key(), data.sequence)).collect();
        let mut raw = self.unsigned(&keys);
        raw.signatures = signers
            .iter()
            .map(|(key, data)| {
                let bytes =
                    direct(&raw.body_bytes, &raw.auth_info_bytes, &data.chain_id, data.account_number);
                key.sign(&bytes).to_vec()
            })
            .collect();
        raw.encode_to_vec()
    }

    /// An encoded transaction for Simulate: signed by no one.
    pub fn simulation(&self, key: &PublicKey, sequence: u64) -> Vec<u8> {
        let mut raw = self.unsigned(&[(*key, sequence)]);
        raw.signatures = vec![Vec::new()];
        raw.encode_to_vec()
    }

    fn unsigned(&self, keys: &[(PublicKey, u64)]) -> TxRaw {
        let mode = ModeInfo { sum: Some(Sum::Single(Single { mode: SignMode::Direct.into() })) };
        let info = |(key, sequence): &(PublicKey, u64)| SignerInfo {
            public_key: Some(key.to_any()),
            mode_info: Some(mode.clone()),
            sequence: *sequence,
        };
        let auth_info = AuthInfo {
            signer_infos: keys.iter().map(info).collect(),
            fee: Some(self.fee.clone()),
            ..Default::default()
        };
        TxRaw {
            body_bytes: self.body.encode_to_vec(),
            auth_info_bytes: auth_info.encode_to_vec(),
            signatures: Vec::new(),
        }
    }
}
