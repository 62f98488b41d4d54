//! `tx`: any message of the table, or any message as JSON, signed and sent.

use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use clap::Args;
use deepnode_client::{Gas, GasPrice, Options};
use deepnode_proto::cosmos::base::abci::v1beta1::TxResponse;
use deepnode_proto::Any;
use deepnode_tx::Address;
use serde_json::{json, Value};

use super::commands;
use super::query::arguments_of;
use super::{KeyringArgs, NodeArgs};
use crate::json;

/// `tx MODULE COMMAND FROM ARGUMENTS`, or `tx raw FROM --json MESSAGE`.
#[derive(Args)]
pub struct TxArgs {
    /// Module, command and arguments; the first argument is the sender, a key's name. Without them the commands are listed.
    words: Vec<String>,
    /// Further fields of the message, or (with `raw`) all of it with its `@type`; `@FILE` reads a file.
    #[arg(long)]
    json: Option<String>,
    /// Fee instead of --gas-prices, such as 5000udn.
    #[arg(long)]
    fees: Option<String>,
    #[command(flatten)]
    pub sending: SendingArgs,
}

/// How a transaction is signed and sent.
#[derive(Args, Clone)]
pub struct SendingArgs {
    /// Gas limit, or `auto`: what a simulation used and a margin.
    #[arg(long, default_value = "auto")]
    pub gas: Gas,
    /// Price of a unit of gas.
    #[arg(long, default_value = "0.025udn")]
    pub gas_prices: GasPrice,
    /// Text beside the messages, public.
    #[arg(long, default_value = "")]
    pub memo: String,
    /// Return when the mempool has the transaction, without waiting for a block.
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub keyring: KeyringArgs,
    #[command(flatten)]
    pub node: NodeArgs,
}

impl SendingArgs {
    pub fn options(&self) -> Options {
        Options {
            gas: self.gas,
            gas_price: Some(self.gas_prices.clone()),
            memo: self.memo.clone(),
            wait: (!self.no_wait).then(|| Duration::from_secs(60)),
            ..Options::default()
        }
    }
}

impl TxArgs {
    pub async fn run(self, home: &Path) -> Result<()> {
        let words: Vec<_> = self.words.iter().map(String::as_str).collect();
        let spec = match words.as_slice() {
            ["raw", _] => None,
            [module, name, _, ..] => Some(commands::find(commands::TXS, Some(module), Some(name))?),
            rest => {
                commands::find(commands::TXS, rest.first().copied(), rest.get(1).copied())?;
                bail!("who sends it? Name a key after the command");
            }
        };
        // Before any address is read or written: the node knows its chain's prefix.
        let client = self.sending.node.connect().await?;
        let keyring = self.sending.keyring.open(home)?;
        let (from, message) = match spec {
            None => (words[1], self.extra()?.context("tx raw needs --json MESSAGE")?),
            Some(spec) => {
                let (from, rest) = (words[2], &words[3..]);
                let kind = json::message(&spec.target[1..]).context("no such message")?;
                let sender = keyring.show(from)?.address;
                let mut arguments = vec![sender.to_string()];
                arguments.extend(rest.iter().map(|text| resolve(&keyring, text)));
                let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
                let mut message = arguments_of(spec, &kind, &arguments)?;
                if let Some(Value::Object(extra)) = self.extra()? {
                    message.as_object_mut().context("not an object")?.extend(extra);
                }
                message["@type"] = spec.target.into();
                (from, message)
            }
        };
        let signer = keyring.signer(from)?;
        let mut options = self.sending.options();
        if let Some(fees) = &self.fees {
            let Gas::Limit(gas) = self.sending.gas else {
                bail!("--fees needs --gas LIMIT; with --gas auto use --gas-prices");
            };
            options.gas_price = Some(price_of(fees, gas)?);
        }
        let response = client.send(&signer, vec![to_any(message)?], options).await?;
        self.sending.node.output.print(&summary(&response));
        Ok(())
    }

    fn extra(&self) -> Result<Option<Value>> {
        let Some(text) = &self.json else { return Ok(None) };
        let text = match text.strip_prefix('@') {
            Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?,
            None => text.clone(),
        };
        Ok(Some(serde_json::from_str(&text).context("--json is not JSON")?))
    }
}

/// A key's name becomes its address; everything else stays.
fn resolve(keyring: &deepnode_client::Keyring, text: &str) -> String {
    let name = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if name && text.parse::<Address>().is_err() && !text.starts_with(|c: char| c.is_ascii_digit()) {
        if let Ok(info) = keyring.show(text) {
            return info.address.to_string();
        }
    }
    text.to_owned()
}

/// The price that makes `gas` cost at least `fees`.
fn price_of(fees: &str, gas: u64) -> Result<GasPrice> {
    let split = fees.find(|c: char| !c.is_ascii_digit()).filter(|i| *i > 0);
    let split =
        split.with_context(|| format!("--fees {fees:?} must be an amount and its denom, such as 5000udn"))?;
    let amount: u128 = fees[..split].parse()?;
    let atto = amount
        .checked_mul(1_000_000_000_000_000_000)
        .map(|a| a / u128::from(gas))
        .with_context(|| format!("--fees {fees:?} is too much"))?;
    let (whole, part) = (atto / 1_000_000_000_000_000_000, atto % 1_000_000_000_000_000_000);
    Ok(format!("{whole}.{part:018}{}", &fees[split..]).parse()?)
}

/// A message from JSON with its `@type`.
pub fn to_any(mut message: Value) -> Result<Any> {
    let fields = message.as_object_mut().context("the message is not a JSON object")?;
    let type_url = fields.remove("@type").context("the message has no @type")?;
    let type_url = type_url.as_str().context("@type is not text")?.to_owned();
    let kind = json::message(type_url.trim_start_matches('/'));
    let kind = kind.with_context(|| format!("this chain has no message {type_url:?}"))?;
    Ok(Any { value: json::from_json(kind, message)?, type_url })
}

/// What a user wants to know of a transaction.
pub fn summary(response: &TxResponse) -> Value {
    json!({
        "txhash": response.txhash,
        "height": response.height.to_string(),
        "code": response.code,
        "raw_log": response.raw_log,
        "gas_wanted": response.gas_wanted.to_string(),
        "gas_used": response.gas_used.to_string(),
    })
}
