//! Running one transaction, and the router that runs messages.

use deepnode_core::gas::GasMeter;
use deepnode_core::{errors, Address, Any, Ctx, Error, Event, Messages, Result, Router};
use deepnode_proto::cosmos::base::abci::v1beta1::TxMsgData;
use deepnode_tx::Tx;
use prost::Message;

use crate::ante::{self, Ante, Mode};

/// What became of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxResult {
    pub code: u32,
    pub codespace: &'static str,
    pub log: String,
    pub data: Vec<u8>,
    pub gas_wanted: u64,
    pub gas_used: u64,
    pub events: Vec<Event>,
}

impl TxResult {
    fn refused(error: Error, gas_wanted: u64, gas_used: u64, events: Vec<Event>) -> Result<Self> {
        match error {
            Error::Tx(e) => Ok(TxResult {
                code: e.code,
                codespace: e.codespace,
                log: e.log,
                data: Vec::new(),
                gas_wanted,
                gas_used,
                events,
            }),
            fault => Err(fault),
        }
    }
}

/// Runs messages by type URL.
pub struct MessageRouter<'a>(pub &'a Messages);

impl Router for MessageRouter<'_> {
    fn check(&self, signer: &Address, msg: &Any) -> Result<()> {
        self.0.get(&msg.type_url)?;
        let signers = deepnode_tx::signers(msg).map_err(errors::refused)?;
        if signers != [*signer] {
            let found: Vec<_> = signers.iter().map(Address::to_string).collect();
            return Err(errors::unauthorized(format!(
                "{}: signers {found:?}, expected only {signer}",
                msg.type_url
            )));
        }
        Ok(())
    }

    fn run(&self, cx: &mut Ctx<'_>, signer: &Address, msg: &Any) -> Result<Any> {
        self.check(signer, msg)?;
        run_message(self.0, cx, signer, msg)
    }
}

fn run_message(messages: &Messages, cx: &mut Ctx<'_>, sender: &Address, msg: &Any) -> Result<Any> {
    let handler = messages.get(&msg.type_url)?;
    cx.emit(
        Event::new("message")
            .with("action", &msg.type_url)
            .with("sender", sender)
            .with("module", handler.module()),
    );
    handler.run(cx, &msg.value)
}

/// Runs a whole transaction on `cx`: ante, then its messages, all or none of them. Only a fault is an error.
///
/// After a refusal by ante nothing of the transaction stays. After a refused message what ante did stays: the fee is
/// paid and the sequence is used.
pub fn transaction(cx: &mut Ctx<'_>, ante: Ante<'_>, tx: &Tx, mode: Mode) -> Result<TxResult> {
    let outer = cx.swap_gas(GasMeter::unlimited());
    let result = metered(cx, ante, tx, mode);
    cx.swap_gas(outer);
    result
}

fn metered(cx: &mut Ctx<'_>, ante: Ante<'_>, tx: &Tx, mode: Mode) -> Result<TxResult> {
    let wanted = tx.auth_info.fee.as_ref().map_or(0, |fee| fee.gas_limit);
    cx.take_events();
    if let Err(e) = ante::run(ante, cx, tx, mode) {
        return TxResult::refused(e, wanted, cx.gas().used(), Vec::new());
    }
    let mut events = cx.take_events();
    if matches!(mode, Mode::Check | Mode::Recheck | Mode::Propose) {
        return Ok(TxResult { gas_wanted: wanted, gas_used: cx.gas().used(), events, ..TxResult::default() });
    }
    let run = cx.fork(|cx| {
        let mut data = TxMsgData::default();
        let mut all = Vec::new();
        for (index, msg) in tx.body.messages.iter().enumerate() {
            let sender =
                deepnode_tx::signers(msg).map_err(errors::refused)?.first().copied().unwrap_or_default();
            data.msg_responses.push(run_message(ante.messages, cx, &sender, msg)?);
            all.extend(cx.take_events().into_iter().map(|event| event.with("msg_index", index)));
        }
        Ok((data.encode_to_vec(), all))
    });
    cx.take_events();
    let used = cx.gas().used();
    match run {
        Ok((data, of_messages)) => {
            events.extend(of_messages);
            Ok(TxResult { data, gas_wanted: wanted, gas_used: used, events, ..TxResult::default() })
        }
        Err(Error::Tx(mut e)) => {
            e.log = format!("failed to execute message: {}", e.log);
            TxResult::refused(Error::Tx(e), wanted, used, events)
        }
        Err(fault) => Err(fault),
    }
}
