//! The genesis section: cosmos.auth's JSON, and besides it the nonces that unordered transactions used up.

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine;
use deepnode_core::{errors, json, Address, Ctx, KvRead, Result, Time, Walk};
use deepnode_proto::cosmos::crypto::secp256k1::PubKey;
use deepnode_proto::Name;
use deepnode_tx::{address, PublicKey};
use serde::{Deserialize, Serialize};

use super::state::{
    Account, Key, ModuleInfo, ACCOUNTS, BECH32_PREFIX, BY_NUMBER, LAST_NUMBER, MODULES, NONCES, PARAMS,
};
use super::Params;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Genesis {
    /// Prefix of account addresses. The program must have chosen it before it reads any address.
    pub bech32_prefix: String,
    pub params: Params,
    /// Those whose number is not above all before it get the next one, in this order.
    pub accounts: Vec<AccountJson>,
    pub unordered_nonces: Vec<NonceJson>,
}

impl Default for Genesis {
    fn default() -> Self {
        Genesis {
            bech32_prefix: address::prefix().into(),
            params: Params::default(),
            accounts: Vec::new(),
            unordered_nonces: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "@type")]
pub enum AccountJson {
    #[serde(rename = "/cosmos.auth.v1beta1.BaseAccount")]
    Base(BaseJson),
    #[serde(rename = "/cosmos.auth.v1beta1.ModuleAccount")]
    Module(ModuleJson),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseJson {
    #[serde(with = "json::text")]
    pub address: Address,
    #[serde(default)]
    pub pub_key: Option<KeyJson>,
    #[serde(with = "json::text")]
    pub account_number: u64,
    #[serde(with = "json::text")]
    pub sequence: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleJson {
    pub base_account: BaseJson,
    pub name: String,
    pub permissions: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyJson {
    #[serde(rename = "@type")]
    pub kind: String,
    /// Base64.
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonceJson {
    /// Nanoseconds since 1970.
    #[serde(with = "json::text")]
    pub timeout: u64,
    #[serde(with = "json::text")]
    pub signer: Address,
}

/// Makes the prefix of the section that of this process. A genesis file without one means the default, whatever the
/// process was started with, so that all nodes agree.
pub fn choose_prefix(section: &serde_json::Value) -> Result<()> {
    let prefix = section.get("bech32_prefix").and_then(serde_json::Value::as_str);
    address::set_prefix(prefix.unwrap_or(address::DEFAULT_PREFIX))
        .map_err(|e| errors::invalid_request(format!("genesis of auth: bech32_prefix: {e}")))
}

pub fn init(cx: &mut Ctx<'_>, genesis: Genesis) -> Result<()> {
    BECH32_PREFIX.set(cx, &genesis.bech32_prefix)?;
    genesis.params.check()?;
    PARAMS.set(cx, &genesis.params)?;
    let mut accounts = genesis.accounts;
    accounts.sort_by_key(|account| account.base().account_number);
    for account in &accounts {
        add(cx, account)?;
    }
    super::ensure_module_account(cx, super::FEE_COLLECTOR, &[])?;
    for nonce in &genesis.unordered_nonces {
        super::use_nonce(cx, Time(nonce.timeout), &nonce.signer)?;
    }
    Ok(())
}

fn add(cx: &mut Ctx<'_>, json: &AccountJson) -> Result<()> {
    let refuse = |text: String| Err(errors::invalid_request(format!("genesis of auth: {text}")));
    let base = json.base();
    let address = base.address;
    if ACCOUNTS.has(cx, &address)? {
        return refuse(format!("account {address} appears twice"));
    }
    let key = base.pub_key.as_ref().map(|key| key.parse(&address)).transpose()?;
    let module = match json {
        AccountJson::Base(_) => None,
        AccountJson::Module(module) if Address::module(&module.name) == address => {
            MODULES.set(cx, &module.name, &address)?;
            Some(ModuleInfo { name: module.name.clone(), permissions: module.permissions.clone() })
        }
        AccountJson::Module(module) => {
            return refuse(format!("{address} is not the account of module {:?}", module.name))
        }
    };
    let Some(next) = LAST_NUMBER.get(cx)?.map_or(Some(0), |last| last.checked_add(1)) else {
        return refuse(format!("no account number is left for {address}"));
    };
    let number = base.account_number.max(next);
    super::add_account(cx, &address, &Account { number, sequence: base.sequence, key, module })
}

pub fn export(kv: &dyn KvRead) -> Result<Genesis> {
    let mut accounts = Vec::new();
    for entry in BY_NUMBER.iter(kv, Walk::FORWARD) {
        let address = entry?.1;
        accounts.push(AccountJson::new(address, super::existing_account(kv, &address)?));
    }
    let nonces = NONCES.iter(kv, Walk::FORWARD);
    let nonces = nonces.map(|nonce| nonce.map(|(time, signer)| NonceJson { timeout: time.0, signer }));
    Ok(Genesis {
        bech32_prefix: super::bech32_prefix(kv)?,
        params: PARAMS.load(kv)?,
        accounts,
        unordered_nonces: nonces.collect::<Result<_>>()?,
    })
}

impl AccountJson {
    fn base(&self) -> &BaseJson {
        match self {
            AccountJson::Base(base) => base,
            AccountJson::Module(module) => &module.base_account,
        }
    }

    fn new(address: Address, account: Account) -> Self {
        let base_account = BaseJson {
            address,
            pub_key: account.key.as_ref().map(KeyJson::new),
            account_number: account.number,
            sequence: account.sequence,
        };
        match account.module {
            None => AccountJson::Base(base_account),
            Some(ModuleInfo { name, permissions }) => {
                AccountJson::Module(ModuleJson { base_account, name, permissions })
            }
        }
    }
}

impl KeyJson {
    fn new(key: &Key) -> Self {
        let Key::Secp256k1(bytes) = key;
        KeyJson { kind: PubKey::type_url(), key: BASE64.encode(bytes) }
    }

    fn parse(&self, address: &Address) -> Result<Key> {
        let refuse =
            |text: String| errors::invalid_pub_key(format!("genesis of auth: key of {address}: {text}"));
        if self.kind != PubKey::type_url() {
            return Err(refuse(format!("@type {:?} must be {:?}", self.kind, PubKey::type_url())));
        }
        let bytes = BASE64.decode(&self.key).map_err(|e| refuse(e.to_string()))?;
        let key = PublicKey::secp256k1(&bytes).map_err(|e| refuse(e.to_string()))?;
        if key.address() != *address {
            return Err(refuse(format!("it is that of {}", key.address())));
        }
        Ok(Key::from(&key))
    }
}
