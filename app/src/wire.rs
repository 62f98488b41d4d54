//! Between the application's types and ABCI's.

use deepnode_core::{Address, Any, Error, Event, Result, Time};
use deepnode_modules::powr::ValidatorUpdate;
use deepnode_proto::cosmos::base::abci::v1beta1::TxMsgData;
use deepnode_proto::tendermint_proto::google::protobuf::Timestamp;
use deepnode_proto::tendermint_proto::v0_38::abci;
use deepnode_proto::tendermint_proto::v0_38::crypto::{public_key::Sum, PublicKey};
use prost::Message;

use crate::TxResult;

pub fn height(height: u64) -> Result<i64> {
    i64::try_from(height).map_err(|_| Error::fault(format!("height {height} is out of range")))
}

pub fn gas(gas: u64) -> i64 {
    i64::try_from(gas).unwrap_or(i64::MAX)
}

/// The time of a block; none before 1970.
pub fn time(t: &Timestamp) -> Option<Time> {
    Time::from_proto(&deepnode_proto::Timestamp { seconds: t.seconds, nanos: t.nanos })
}

/// A consensus address; all zero if it is not one.
pub fn address(bytes: &[u8]) -> Address {
    Address(bytes.try_into().unwrap_or_default())
}

pub fn event(event: &Event) -> abci::Event {
    let attribute = |(key, value): &(&str, String)| abci::EventAttribute {
        key: (*key).into(),
        value: value.clone(),
        index: true,
    };
    abci::Event { r#type: event.kind.into(), attributes: event.attributes.iter().map(attribute).collect() }
}

pub fn tx_result(r: &TxResult) -> Result<abci::ExecTxResult> {
    Ok(abci::ExecTxResult {
        code: r.code,
        data: r.data.clone().into(),
        log: r.log.clone(),
        gas_wanted: gas(r.gas_wanted),
        gas_used: gas(r.gas_used),
        events: r.events.iter().map(event).collect(),
        codespace: r.codespace.into(),
        ..abci::ExecTxResult::default()
    })
}

pub fn check_tx(r: &TxResult) -> abci::ResponseCheckTx {
    abci::ResponseCheckTx {
        code: r.code,
        log: r.log.clone(),
        gas_wanted: gas(r.gas_wanted),
        gas_used: gas(r.gas_used),
        events: r.events.iter().map(event).collect(),
        codespace: r.codespace.into(),
        ..abci::ResponseCheckTx::default()
    }
}

pub fn validator_update(update: &ValidatorUpdate) -> Result<abci::ValidatorUpdate> {
    let power = i64::try_from(update.power).map_err(|_| Error::fault("a power is out of range"))?;
    let pub_key = PublicKey { sum: Some(Sum::Ed25519(update.consensus_key.to_vec())) };
    Ok(abci::ValidatorUpdate { pub_key: Some(pub_key), power })
}

/// The messages' answers inside a transaction's `data`.
pub fn msg_responses(data: &[u8]) -> Vec<Any> {
    TxMsgData::decode(data).map(|d| d.msg_responses).unwrap_or_default()
}
