//! Strict decoding: a byte string is one transaction or an error, and nothing in it goes unread.

use crate::error::TxError;
use crate::wire::{check_packed, Fields};
use deepnode_proto::cosmos::tx::v1beta1::{AuthInfo, TxBody, TxRaw};
use deepnode_proto::{Any, Message, Name};
use prost::encoding::WireType;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use sha2::{Digest, Sha256};

/// Largest encoded transaction, in bytes: CometBFT's default `mempool.max_tx_bytes`.
pub const MAX_TX_BYTES: usize = 1 << 20;

/// Deepest nesting of messages, an `Any` and what it holds counting as two.
pub const MAX_DEPTH: usize = 32;

/// ADR-020: a TxBody field whose number has this bit may be ignored by who does not know it.
const NON_CRITICAL: u32 = 0x400;

/// A decoded transaction beside the bytes that were signed.
#[derive(Debug, Clone, PartialEq)]
pub struct Tx {
    /// As received; signatures cover these bytes and not a re-encoding.
    pub body_bytes: Vec<u8>,
    /// As received.
    pub auth_info_bytes: Vec<u8>,
    pub body: TxBody,
    pub auth_info: AuthInfo,
    pub signatures: Vec<Vec<u8>>,
    /// sha256 of the encoded transaction.
    pub hash: [u8; 32],
    /// Length of the encoded transaction in bytes.
    pub size: usize,
    /// The body has fields that this version does not know and may ignore; amino JSON cannot cover them.
    pub unknown_non_critical: bool,
}

impl Tx {
    /// Decodes a `TxRaw` in its one encoding (ADR-027). An unknown field is an error, in every nested message and
    /// `Any` too, except in TxBody itself if its number has the bit 0x400. Every `Any` is of a type of this chain and
    /// decodes as that type.
    pub fn decode(bytes: &[u8]) -> Result<Self, TxError> {
        if bytes.len() > MAX_TX_BYTES {
            return Err(TxError::TooLarge { size: bytes.len(), max: MAX_TX_BYTES });
        }
        if bytes.is_empty() {
            return Err(TxError::Decode("tx bytes are empty".into()));
        }
        let raw = TxRaw::decode(bytes).map_err(|e| TxError::Decode(format!("TxRaw: {e}")))?;
        // Ascending fields, shortest varints, no defaults, nothing unknown: all that differs does not come out again.
        if raw.encode_to_vec() != bytes {
            return Err(TxError::Decode("TxRaw is not in its canonical encoding (ADR-027)".into()));
        }
        let unknown_non_critical = check::<TxBody>(&raw.body_bytes, NON_CRITICAL)?;
        check::<AuthInfo>(&raw.auth_info_bytes, 0)?;
        Ok(Self {
            body: parse(&raw.body_bytes)?,
            auth_info: parse(&raw.auth_info_bytes)?,
            body_bytes: raw.body_bytes,
            auth_info_bytes: raw.auth_info_bytes,
            signatures: raw.signatures,
            hash: hash(bytes),
            size: bytes.len(),
            unknown_non_critical,
        })
    }
}

/// The hash by which CometBFT and explorers know a transaction.
pub fn hash(tx: &[u8]) -> [u8; 32] {
    Sha256::digest(tx).into()
}

fn parse<M: Message + Name + Default>(bytes: &[u8]) -> Result<M, TxError> {
    M::decode(bytes).map_err(|e| TxError::Decode(format!("{}: {e}", M::full_name())))
}

/// Checks that every field of `bytes` is one of `M`; returns whether there are others that `ignorable` allows.
fn check<M: Name>(bytes: &[u8], ignorable: u32) -> Result<bool, TxError> {
    let message = message(&M::full_name()).expect("the descriptor set holds what was generated from it");
    check_message(bytes, &message, MAX_DEPTH, ignorable)
}

fn message(name: &str) -> Option<MessageDescriptor> {
    deepnode_proto::pool().get_message_by_name(name)
}

fn check_message(
    bytes: &[u8],
    message: &MessageDescriptor,
    depth: usize,
    ignorable: u32,
) -> Result<bool, TxError> {
    let mut ignored = false;
    for field in Fields(bytes) {
        let field = field.map_err(|e| TxError::Decode(format!("{}: {e}", message.full_name())))?;
        match message.get_field(field.number) {
            Some(known) => check_value(&known, field.wire_type, field.bytes, depth)?,
            None if field.number & ignorable != 0 => ignored = true,
            None => {
                let error = format!("unknown field {} in {}", field.number, message.full_name());
                return Err(TxError::Decode(error));
            }
        }
    }
    Ok(ignored)
}

fn check_value(
    field: &FieldDescriptor,
    wire_type: WireType,
    bytes: &[u8],
    depth: usize,
) -> Result<(), TxError> {
    let error = |e: &dyn std::fmt::Display| TxError::Decode(format!("{}: {e}", field.full_name()));
    let kind = field.kind();
    if wire_type != kind.wire_type() {
        let packable = field.is_list() && kind.wire_type() != WireType::LengthDelimited;
        if packable && wire_type == WireType::LengthDelimited {
            return check_packed(bytes, kind.wire_type()).map_err(|e| error(&e));
        }
        return Err(error(&format!("wire type {wire_type:?}, expected {:?}", kind.wire_type())));
    }
    match kind {
        Kind::String => std::str::from_utf8(bytes).map(drop).map_err(|e| error(&e)),
        Kind::Message(inner) => {
            let deeper = depth.checked_sub(1).filter(|d| *d > 0);
            let depth = deeper.ok_or_else(|| error(&format!("nested deeper than {MAX_DEPTH} messages")))?;
            check_message(bytes, &inner, depth, 0)?;
            if inner.full_name() == "google.protobuf.Any" {
                check_any(bytes, depth)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn check_any(bytes: &[u8], depth: usize) -> Result<(), TxError> {
    let any: Any = parse(bytes)?;
    let held = any.type_url.strip_prefix('/').and_then(message).ok_or_else(|| {
        let url: String = any.type_url.chars().take(200).collect();
        TxError::Decode(format!("unable to resolve type URL {url:?}"))
    })?;
    let Some(depth) = depth.checked_sub(1).filter(|d| *d > 0) else {
        return Err(TxError::Decode(format!("{}: nested deeper than {MAX_DEPTH} messages", any.type_url)));
    };
    check_message(&any.value, &held, depth, 0).map(drop)
}
