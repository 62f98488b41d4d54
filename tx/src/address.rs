//! Account, validator and consensus addresses: 20 bytes, written in bech32 under three prefixes that the chain chooses.

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use borsh::{BorshDeserialize, BorshSerialize};
use ripemd::Ripemd160;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// Prefix of account addresses, as in `dn1...`, unless the chain's genesis names another.
pub const DEFAULT_PREFIX: &str = "dn";

/// Letters of a prefix at most, so that every form of an address stays within bech32's 90.
const MAX_PREFIX: usize = 16;

/// The prefixes of the three forms of an address. One process speaks of one chain, which chose them at its genesis.
struct Prefixes {
    account: String,
    operator: String,
    consensus: String,
}

static PREFIXES: OnceLock<Prefixes> = OnceLock::new();

/// Why a prefix cannot be that of this process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    #[error("bech32 prefix {0:?} must be 1 to {MAX_PREFIX} letters a to z")]
    Letters(String),
    #[error("the chain's bech32 prefix is {wanted:?}, but this process already reads and writes addresses with {set:?}")]
    Set { set: &'static str, wanted: String },
}

/// Chooses the account prefix of this process; those of operators and consensus keys follow from it. Must come before
/// the first address is read or written: after that the prefix, [`DEFAULT_PREFIX`] if none was chosen, stays.
pub fn set_prefix(prefix: &str) -> Result<(), PrefixError> {
    if prefix.is_empty() || prefix.len() > MAX_PREFIX || !prefix.bytes().all(|b| b.is_ascii_lowercase()) {
        return Err(PrefixError::Letters(prefix.chars().take(100).collect()));
    }
    let set = PREFIXES.get_or_init(|| Prefixes::new(prefix)).account.as_str();
    match set == prefix {
        true => Ok(()),
        false => Err(PrefixError::Set { set, wanted: prefix.into() }),
    }
}

/// The account prefix of this process.
pub fn prefix() -> &'static str {
    &prefixes().account
}

fn prefixes() -> &'static Prefixes {
    PREFIXES.get_or_init(|| Prefixes::new(DEFAULT_PREFIX))
}

impl Prefixes {
    fn new(account: &str) -> Self {
        Prefixes {
            account: account.into(),
            operator: format!("{account}valoper"),
            consensus: format!("{account}valcons"),
        }
    }
}

/// Twenty bytes that name an account, an operator or a consensus key. `Display` and `FromStr` use the account form.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Address(pub [u8; Address::LEN]);

/// Why a text or a byte string is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("address is empty, expected one that begins with {expected}1")]
    Empty { expected: &'static str },
    #[error("address {value:?} is not bech32: {reason}")]
    Bech32 { value: String, reason: String },
    #[error("address {value:?} has the prefix {got:?}, expected {expected:?}")]
    Prefix { value: String, got: String, expected: &'static str },
    #[error("address {value:?} has {got} bytes, expected {}", Address::LEN)]
    Length { value: String, got: usize },
    #[error("address {value:?} is not in its canonical lower-case form")]
    Case { value: String },
}

impl Address {
    /// Bytes in an address.
    pub const LEN: usize = 20;

    /// The account of a module, which no key controls: the first 20 bytes of sha256(name).
    pub fn module(name: &str) -> Self {
        Self::truncated_sha256(name.as_bytes())
    }

    /// ripemd160(sha256(key)) of a compressed secp256k1 key.
    pub fn from_secp256k1(key: &[u8; 33]) -> Self {
        Self(Ripemd160::digest(Sha256::digest(key)).into())
    }

    /// The first 20 bytes of sha256(key), as CometBFT derives a validator's address.
    pub fn from_ed25519(key: &[u8; 32]) -> Self {
        Self::truncated_sha256(key)
    }

    fn truncated_sha256(bytes: &[u8]) -> Self {
        let mut address = [0; Self::LEN];
        address.copy_from_slice(&Sha256::digest(bytes)[..Self::LEN]);
        Self(address)
    }

    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// `dnvaloper1...`
    pub fn to_operator(&self) -> String {
        self.encode(&prefixes().operator)
    }

    /// `dnvalcons1...`
    pub fn to_consensus(&self) -> String {
        self.encode(&prefixes().consensus)
    }

    /// Reads `dn1...`; the same as `FromStr`.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Self::decode(text, prefix())
    }

    /// Reads `dnvaloper1...`.
    pub fn parse_operator(text: &str) -> Result<Self, AddressError> {
        Self::decode(text, &prefixes().operator)
    }

    /// Reads `dnvalcons1...`.
    pub fn parse_consensus(text: &str) -> Result<Self, AddressError> {
        Self::decode(text, &prefixes().consensus)
    }

    /// Reads the account form under whatever prefix it has, for files that may be older than the choice of one.
    pub fn parse_any_prefix(text: &str) -> Option<Self> {
        let parsed = CheckedHrpstring::new::<Bech32>(text).ok()?;
        parsed.byte_iter().collect::<Vec<_>>().try_into().ok().map(Self)
    }

    fn encode(&self, prefix: &'static str) -> String {
        let hrp = Hrp::parse(prefix).expect("the prefixes are valid");
        bech32::encode::<Bech32>(hrp, &self.0).expect("20 bytes are within bech32's length")
    }

    fn decode(text: &str, expected: &'static str) -> Result<Self, AddressError> {
        // Error texts reach logs and clients: an endless "address" does not.
        let value = || text.chars().take(100).collect::<String>();
        if text.is_empty() {
            return Err(AddressError::Empty { expected });
        }
        let parsed = CheckedHrpstring::new::<Bech32>(text)
            .map_err(|e| AddressError::Bech32 { value: value(), reason: e.to_string() })?;
        if parsed.hrp().as_str() != expected {
            let got = parsed.hrp().to_string();
            return Err(AddressError::Prefix { value: value(), got, expected });
        }
        let bytes: Vec<u8> = parsed.byte_iter().collect();
        let address = Self(
            bytes
                .as_slice()
                .try_into()
                .map_err(|_| AddressError::Length { value: value(), got: bytes.len() })?,
        );
        // One address has one spelling, so that texts in messages and state compare as addresses do.
        if address.encode(expected) != text {
            return Err(AddressError::Case { value: value() });
        }
        Ok(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.encode(prefix()))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl AsRef<[u8]> for Address {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<[u8; Address::LEN]> for Address {
    fn from(bytes: [u8; Address::LEN]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<&[u8]> for Address {
    type Error = AddressError;

    fn try_from(bytes: &[u8]) -> Result<Self, AddressError> {
        bytes.try_into().map(Self).map_err(|_| AddressError::Length {
            value: bytes.iter().take(64).map(|b| format!("{b:02x}")).collect(),
            got: bytes.len(),
        })
    }
}

#[cfg(feature = "state")]
impl deepnode_store::Key for Address {
    fn encode(&self, out: &mut Vec<u8>) {
        deepnode_store::Key::encode(&self.0, out);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        deepnode_store::Key::decode(bytes).map(Address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The Hub's accounts are public, and only the prefix differs from ours.
    fn hub(address: Address) -> String {
        bech32::encode::<Bech32>(Hrp::parse("cosmos").unwrap(), &address.0).unwrap()
    }

    #[test]
    fn addresses_are_those_of_the_cosmos_sdk() {
        assert_eq!(hub(Address::module("gov")), "cosmos10d07y265gmmuvt4z0w9aw880jnsr700j6zn9kn");
        assert_eq!(hub(Address::module("distribution")), "cosmos1jv65s3grqf6v6jl3dp4t6c9t9rk99cd88lyufl");
        assert_eq!(Address::module("gov").to_string(), "dn10d07y265gmmuvt4z0w9aw880jnsr700jmp8svp");
        // The generator point, private key 1; ripemd160(sha256(G)) is Bitcoin's best known key hash.
        let g = hex::decode("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798").unwrap();
        let address = Address::from_secp256k1(g.as_slice().try_into().unwrap());
        assert_eq!(hex::encode(address.0), "751e76e8199196d454941c45d1b3a323f1433bd6");
    }

    #[test]
    fn errors_name_the_value_and_what_was_expected() {
        let address = Address::module("gov");
        let error = |text: &str| Address::parse(text).unwrap_err().to_string();
        assert_eq!(error(""), "address is empty, expected one that begins with dn1");
        let operator = address.to_operator();
        assert_eq!(
            error(&operator),
            format!("address {operator:?} has the prefix \"dnvaloper\", expected \"dn\"")
        );
        assert!(error("dn1qqqq").contains("\"dn1qqqq\" is not bech32"));
        assert!(error(&address.to_string().replace("700j", "700k")).contains("is not bech32"));
        assert!(Address::parse(&address.to_string().to_uppercase()).is_err());
        let long = bech32::encode::<Bech32>(Hrp::parse("dn").unwrap(), &[7; 32]).unwrap();
        assert!(error(&long).ends_with("has 32 bytes, expected 20"));
    }

    proptest! {
        #[test]
        fn every_form_reads_back_and_only_as_itself(bytes: [u8; 20], place in 0usize..39, other in 0u8..32) {
            let address = Address(bytes);
            prop_assert_eq!(address.to_string().parse(), Ok(address));
            prop_assert_eq!(Address::parse_operator(&address.to_operator()), Ok(address));
            prop_assert_eq!(Address::parse_consensus(&address.to_consensus()), Ok(address));
            prop_assert!(Address::parse_operator(&address.to_consensus()).is_err());
            // Any one wrong letter is noticed.
            let mut text = address.to_string().into_bytes();
            let letter = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l"[other as usize];
            if text[3 + place.min(37)] != letter {
                text[3 + place.min(37)] = letter;
                prop_assert!(Address::parse(std::str::from_utf8(&text).unwrap()).is_err());
            }
        }
    }
}
