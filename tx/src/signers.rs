//! Who must sign a message, read from its `cosmos.msg.v1.signer` option.

use crate::address::Address;
use crate::error::TxError;
use crate::wire::Fields;
use deepnode_proto::Any;
use prost_reflect::{DescriptorPool, ExtensionDescriptor, Kind, MessageDescriptor};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// The field numbers that lead from a message to a signer's address; every element of a repeated field is followed.
struct Path {
    numbers: Vec<u32>,
    /// The text is a validator's operator address, and its account signs.
    operator: bool,
}

/// The accounts that must sign `message`, each once, in the order in which they first stand in it.
pub fn signers(message: &Any) -> Result<Vec<Address>, TxError> {
    let paths = message.type_url.strip_prefix('/').and_then(|name| paths().get(name)).ok_or_else(|| {
        TxError::Unauthorized(format!("{:?} is not a message that can be signed", message.type_url))
    })?;
    let mut signers = Signers { message, found: Vec::new(), seen: BTreeSet::new() };
    for path in paths {
        signers.collect(&message.value, &path.numbers, path.operator)?;
    }
    Ok(signers.found)
}

struct Signers<'a> {
    message: &'a Any,
    found: Vec<Address>,
    seen: BTreeSet<Address>,
}

impl Signers<'_> {
    fn collect(&mut self, bytes: &[u8], path: &[u32], operator: bool) -> Result<(), TxError> {
        let [number, rest @ ..] = path else {
            return self.add(bytes, operator);
        };
        let mut missing = true;
        for field in Fields(bytes) {
            let field = field.map_err(|e| TxError::Decode(format!("{}: {e}", self.message.type_url)))?;
            if field.number == *number {
                missing = false;
                self.collect(field.bytes, rest, operator)?;
            }
        }
        if missing {
            // An unset field is an empty address.
            self.add(&[], operator)?;
        }
        Ok(())
    }

    fn add(&mut self, text: &[u8], operator: bool) -> Result<(), TxError> {
        let parse = if operator { Address::parse_operator } else { Address::parse };
        let address = parse(&String::from_utf8_lossy(text))
            .map_err(|source| TxError::Address { message: self.message.type_url.clone(), source })?;
        if self.seen.insert(address) {
            self.found.push(address);
        }
        Ok(())
    }
}

fn paths() -> &'static BTreeMap<String, Vec<Path>> {
    static PATHS: OnceLock<BTreeMap<String, Vec<Path>>> = OnceLock::new();
    PATHS.get_or_init(|| {
        let pool = deepnode_proto::pool();
        let options = Options {
            signer: extension(pool, "cosmos.msg.v1.signer"),
            scalar: extension(pool, "cosmos_proto.scalar"),
        };
        let messages = pool.all_messages().map(|m| (m.full_name().to_owned(), options.paths(&m)));
        messages.filter(|(_, paths)| !paths.is_empty()).collect()
    })
}

fn extension(pool: &DescriptorPool, name: &str) -> ExtensionDescriptor {
    pool.get_extension_by_name(name).expect("proto/ defines the options that its messages use")
}

struct Options {
    signer: ExtensionDescriptor,
    scalar: ExtensionDescriptor,
}

impl Options {
    fn paths(&self, message: &MessageDescriptor) -> Vec<Path> {
        let options = message.options();
        let names = options.get_extension(&self.signer);
        let names = names.as_list().unwrap_or_default();
        names.iter().flat_map(|name| self.follow(message, name.as_str().unwrap_or_default())).collect()
    }

    /// A signer field is an address, or a message that names its own signers.
    fn follow(&self, message: &MessageDescriptor, name: &str) -> Vec<Path> {
        let field = message
            .get_field_by_name(name)
            .unwrap_or_else(|| panic!("{} names the signer {name:?}, which it lacks", message.full_name()));
        match field.kind() {
            Kind::Message(inner) => {
                let mut paths = self.paths(&inner);
                paths.iter_mut().for_each(|path| path.numbers.insert(0, field.number()));
                paths
            }
            _ => {
                let scalar = field.options();
                let scalar = scalar.get_extension(&self.scalar);
                let operator = scalar.as_str() == Some("cosmos.ValidatorAddressString");
                vec![Path { numbers: vec![field.number()], operator }]
            }
        }
    }
}
