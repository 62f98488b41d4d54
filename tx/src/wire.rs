//! Protobuf's wire format, read field by field without building messages.

use prost::bytes::Buf;
use prost::encoding::{decode_key, decode_varint, WireType};
use prost::DecodeError;

/// One field as it stands in the bytes.
pub(crate) struct Field<'a> {
    pub number: u32,
    pub wire_type: WireType,
    /// The payload of a length-delimited field; empty for numbers.
    pub bytes: &'a [u8],
}

/// The fields of an encoded message in their order. After an error it ends.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<Field<'a>, DecodeError> {
        let (number, wire_type) = decode_key(&mut self.0)?;
        let bytes = self.value(wire_type)?;
        Ok(Field { number, wire_type, bytes })
    }

    /// Skips a value and returns its payload if it is length-delimited.
    fn value(&mut self, wire_type: WireType) -> Result<&'a [u8], DecodeError> {
        let fixed = match wire_type {
            WireType::Varint => {
                decode_varint(&mut self.0)?;
                0
            }
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            WireType::LengthDelimited => {
                let length = decode_varint(&mut self.0)?;
                let length = usize::try_from(length).ok().filter(|n| *n <= self.0.len());
                let (payload, rest) = self.0.split_at(length.ok_or_else(truncated)?);
                self.0 = rest;
                return Ok(payload);
            }
            WireType::StartGroup | WireType::EndGroup => {
                #[allow(deprecated)]
                return Err(DecodeError::new("groups are not allowed"));
            }
        };
        if self.0.len() < fixed {
            return Err(truncated());
        }
        self.0.advance(fixed);
        Ok(&[])
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Checks that a packed payload is a run of whole values.
pub(crate) fn check_packed(payload: &[u8], wire_type: WireType) -> Result<(), DecodeError> {
    let mut values = Fields(payload);
    while !values.0.is_empty() {
        values.value(wire_type)?;
    }
    Ok(())
}

fn truncated() -> DecodeError {
    #[allow(deprecated)]
    DecodeError::new("buffer underflow")
}
