//! Accounts: numbers, sequences, public keys, and the nonces of unordered transactions. See README.md.

pub mod genesis;
pub mod msgs;
pub mod params;
pub mod query;
pub mod state;
#[cfg(test)]
mod tests;

use deepnode_core::{
    errors, json, Address, Ctx, Error, KvRead, Messages, Module, Queries, Result, Time, Walk,
};
use deepnode_proto::cosmos::auth::v1beta1::MsgUpdateParams;

pub use params::Params;
pub use state::{Account, Key, ModuleInfo};
use state::{ACCOUNTS, BECH32_PREFIX, BY_NUMBER, LAST_NUMBER, MODULES, NONCES, PARAMS};

/// Account that fees are paid to.
pub const FEE_COLLECTOR: &str = "fee_collector";

/// Expired nonces that one block removes at most.
const EXPIRED_A_BLOCK: usize = 1_000;

/// The module.
pub struct AuthModule;

impl Module for AuthModule {
    fn name(&self) -> &'static str {
        state::STORE
    }

    fn messages(&self, messages: &mut Messages) {
        messages.on::<MsgUpdateParams, _>(msgs::update_params);
    }

    fn queries(&self, queries: &mut Queries) {
        query::register(queries);
    }

    fn default_genesis(&self) -> serde_json::Value {
        serde_json::json!(genesis::Genesis::default())
    }

    fn init_genesis(&self, cx: &mut Ctx<'_>, genesis: &serde_json::Value) -> Result<()> {
        // Before the first address of the genesis file is read.
        genesis::choose_prefix(genesis)?;
        genesis::init(cx, json::parse(self.name(), genesis)?)
    }

    fn export_genesis(&self, state: &dyn KvRead) -> Result<serde_json::Value> {
        json::to_value(&genesis::export(state)?)
    }

    fn pre_block(&self, cx: &mut Ctx<'_>) -> Result<()> {
        expire_nonces(cx)
    }

    fn invariants(&self, state: &dyn KvRead) -> Result<()> {
        invariants(state)
    }
}

/// The parameters.
pub fn params(kv: &(impl KvRead + ?Sized)) -> Result<Params> {
    PARAMS.load(kv)
}

/// The prefix of the chain's account addresses; before genesis the process's.
pub fn bech32_prefix(kv: &(impl KvRead + ?Sized)) -> Result<String> {
    Ok(BECH32_PREFIX.get(kv)?.unwrap_or_else(|| deepnode_tx::address::prefix().into()))
}

/// The account of an address, if it has one.
pub fn account(kv: &(impl KvRead + ?Sized), address: &Address) -> Result<Option<Account>> {
    ACCOUNTS.get(kv, address)
}

/// The account of an address that must have one: code 9 otherwise.
pub fn existing_account(kv: &(impl KvRead + ?Sized), address: &Address) -> Result<Account> {
    account(kv, address)?.ok_or_else(|| errors::unknown_address(format!("account {address} does not exist")))
}

/// The account of an address; it is opened with the next number if there is none.
pub fn ensure_account(cx: &mut Ctx<'_>, address: &Address) -> Result<Account> {
    if let Some(account) = account(cx, address)? {
        return Ok(account);
    }
    let last = LAST_NUMBER.get(cx)?;
    let number = last.map_or(Some(0), |n| n.checked_add(1));
    let account = Account::new(number.ok_or_else(|| Error::fault("account numbers are used up"))?);
    add_account(cx, address, &account)?;
    Ok(account)
}

/// Opens an account whose number is above all others.
fn add_account(cx: &mut Ctx<'_>, address: &Address, account: &Account) -> Result<()> {
    LAST_NUMBER.set(cx, &account.number)?;
    BY_NUMBER.set(cx, &account.number, address)?;
    ACCOUNTS.set(cx, address, account)
}

/// The account of a module, which is opened if there is none. No key signs for it and users cannot send to it.
/// Permissions tell explorers what the module does with coins (`minter`, `burner`, `staking`).
pub fn ensure_module_account(cx: &mut Ctx<'_>, name: &str, permissions: &[&str]) -> Result<Address> {
    let address = Address::module(name);
    let info =
        ModuleInfo { name: name.into(), permissions: permissions.iter().map(|p| (*p).into()).collect() };
    let mut account = ensure_account(cx, &address)?;
    if account.module.as_ref() != Some(&info) {
        account.module = Some(info);
        ACCOUNTS.set(cx, &address, &account)?;
        MODULES.set(cx, &name.to_owned(), &address)?;
    }
    Ok(address)
}

/// Whether the address is a module's account.
pub fn is_module_account(kv: &(impl KvRead + ?Sized), address: &Address) -> Result<bool> {
    Ok(account(kv, address)?.is_some_and(|account| account.module.is_some()))
}

/// Stores the key that signs for an account; it is set once.
pub fn set_key(cx: &mut Ctx<'_>, address: &Address, key: Key) -> Result<()> {
    let mut account = existing_account(cx, address)?;
    account.key = Some(key);
    ACCOUNTS.set(cx, address, &account)
}

/// Moves an account's sequence on by one.
pub fn increment_sequence(cx: &mut Ctx<'_>, address: &Address) -> Result<()> {
    let mut account = existing_account(cx, address)?;
    account.sequence = account
        .sequence
        .checked_add(1)
        .ok_or_else(|| errors::wrong_sequence(format!("the sequence of {address} is used up")))?;
    ACCOUNTS.set(cx, address, &account)
}

/// Whether `signer` used up the nonce `timeout` of an unordered transaction.
pub fn nonce_used(kv: &(impl KvRead + ?Sized), timeout: Time, signer: &Address) -> Result<bool> {
    NONCES.has(kv, &(timeout, *signer))
}

/// Uses up a nonce; it is kept until the block time is past `timeout`.
pub fn use_nonce(cx: &mut Ctx<'_>, timeout: Time, signer: &Address) -> Result<()> {
    NONCES.insert(cx, &(timeout, *signer))
}

/// Drops nonces that no transaction can use any more, a bounded number a block.
fn expire_nonces(cx: &mut Ctx<'_>) -> Result<()> {
    let expired: Vec<_> = NONCES.iter_below(cx, &cx.time()).take(EXPIRED_A_BLOCK).collect::<Result<_>>()?;
    expired.iter().try_for_each(|nonce| NONCES.remove(cx, nonce))
}

/// Numbers and accounts match one to one, the last number is the greatest, a key is that of its address.
fn invariants(kv: &dyn KvRead) -> Result<()> {
    let last = LAST_NUMBER.get(kv)?;
    let mut accounts = 0u64;
    for entry in ACCOUNTS.iter(kv, Walk::FORWARD) {
        let (address, account) = entry?;
        accounts = accounts.saturating_add(1);
        if BY_NUMBER.get(kv, &account.number)? != Some(address) || Some(account.number) > last {
            return Err(Error::fault(format!("auth: number {} of {address} is not its own", account.number)));
        }
        if let Some(key) = &account.key {
            if key.public_key()?.address() != address {
                return Err(Error::fault(format!("auth: the key of {address} is another account's")));
            }
        }
    }
    let numbers = BY_NUMBER.iter(kv, Walk::FORWARD).try_fold(0u64, |n, e| e.map(|_| n.saturating_add(1)))?;
    if numbers != accounts {
        return Err(Error::fault(format!("auth: {numbers} numbers for {accounts} accounts")));
    }
    Ok(())
}
