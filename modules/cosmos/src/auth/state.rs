//! What the store `auth` holds.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{Address, Any, Error, Item, Map, Result, Set, Time};
use deepnode_proto::cosmos::auth::v1beta1::{BaseAccount, ModuleAccount};
use deepnode_proto::AnyExt;
use deepnode_tx::PublicKey;

use super::Params;

pub const STORE: &str = "auth";
pub const PARAMS: Item<Params> = Item::new(STORE, 0x00);
pub const ACCOUNTS: Map<Address, Account> = Map::new(STORE, 0x01);
/// The greatest number given; numbers count from 0.
pub const LAST_NUMBER: Item<u64> = Item::new(STORE, 0x02);
pub const BY_NUMBER: Map<u64, Address> = Map::new(STORE, 0x03);
/// Module accounts by name: as many as there are modules.
pub const MODULES: Map<String, Address> = Map::new(STORE, 0x04);
/// Used nonces of unordered transactions by their timeout.
pub const NONCES: Set<(Time, Address)> = Set::new(STORE, 0x05);
/// How this chain writes addresses; chosen at genesis, for good.
pub const BECH32_PREFIX: Item<String> = Item::new(STORE, 0x06);

/// An account. Its address is its key in the state.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Account {
    /// Given once and for all; part of what is signed, so that a signature is good for one account.
    pub number: u64,
    /// Ordered transactions signed so far.
    pub sequence: u64,
    /// Known since the first transaction.
    pub key: Option<Key>,
    /// Set if the account is a module's.
    pub module: Option<ModuleInfo>,
}

/// What a module account has besides.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ModuleInfo {
    pub name: String,
    pub permissions: Vec<String>,
}

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Key {
    /// Compressed.
    Secp256k1([u8; 33]),
}

impl Key {
    /// The key as signatures are verified with it.
    pub fn public_key(&self) -> Result<PublicKey> {
        let Key::Secp256k1(bytes) = self;
        // What is stored was checked.
        PublicKey::secp256k1(bytes).map_err(Error::fault)
    }
}

impl From<&PublicKey> for Key {
    fn from(key: &PublicKey) -> Self {
        let PublicKey::Secp256k1(key) = key;
        Key::Secp256k1(key.serialize())
    }
}

impl Account {
    /// A fresh account.
    pub fn new(number: u64) -> Self {
        Account { number, ..Account::default() }
    }

    /// The part that all kinds of account have.
    pub fn to_base(&self, address: &Address) -> Result<BaseAccount> {
        let key = self.key.map(|key| Ok::<_, Error>(key.public_key()?.to_any())).transpose()?;
        Ok(BaseAccount {
            address: address.to_string(),
            pub_key: key,
            account_number: self.number,
            sequence: self.sequence,
        })
    }

    /// As clients see it: a BaseAccount or a ModuleAccount.
    pub fn to_any(&self, address: &Address) -> Result<Any> {
        let base = self.to_base(address)?;
        Ok(match &self.module {
            None => Any::pack(&base),
            Some(module) => Any::pack(&ModuleAccount {
                base_account: Some(base),
                name: module.name.clone(),
                permissions: module.permissions.clone(),
            }),
        })
    }
}
