//! Any message of the chain as JSON, the way Cosmos' REST has it: names in snake_case, every field present, 64-bit
//! integers as text, `Any` as `@type`, decimals with a point.

use deepnode_core::query::Status;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, ExtensionDescriptor, Kind, MessageDescriptor, SerializeOptions,
};
use serde_json::Value;

/// Decodes `bytes` as `kind` and prints them.
pub fn to_json(kind: MessageDescriptor, bytes: &[u8]) -> Result<Value, Status> {
    let message = DynamicMessage::decode(kind.clone(), bytes).map_err(Status::invalid)?;
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(true)
        .use_proto_field_name(true)
        .skip_default_fields(false);
    let mut value =
        message.serialize_with_options(serde_json::value::Serializer, &options).map_err(Status::invalid)?;
    decimals(&mut value, &kind, Point::Insert);
    Ok(value)
}

/// Reads JSON as `kind` and encodes it. Names may be in camelCase or snake_case; unknown ones are an error.
pub fn from_json(kind: MessageDescriptor, mut value: Value) -> Result<Vec<u8>, Status> {
    use prost::Message;
    decimals(&mut value, &kind, Point::Remove);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(kind.clone(), value, &options)
        .map_err(|e| Status::invalid(format!("{}: {e}", kind.full_name())))?;
    Ok(message.encode_to_vec())
}

/// A message of the chain by its full name.
pub fn message(name: &str) -> Option<MessageDescriptor> {
    deepnode_proto::pool().get_message_by_name(name)
}

#[derive(Clone, Copy)]
enum Point {
    Insert,
    Remove,
}

/// Fields marked `cosmos.Dec` are integers of 10^-18 on the wire and decimals in JSON.
fn decimals(value: &mut Value, kind: &MessageDescriptor, point: Point) {
    let Value::Object(fields) = value else { return };
    if kind.full_name() == "google.protobuf.Any" {
        let inner =
            fields.get("@type").and_then(Value::as_str).and_then(|t| message(t.trim_start_matches('/')));
        if let Some(inner) = inner {
            decimals(value, &inner, point);
        }
        return;
    }
    let scalar = deepnode_proto::pool().get_extension_by_name("cosmos_proto.scalar");
    for (name, value) in fields {
        let Some(field) = kind.get_field_by_name(name).or_else(|| kind.get_field_by_json_name(name)) else {
            continue;
        };
        let each = |value: &mut Value, f: &dyn Fn(&mut Value)| match value {
            Value::Array(items) => items.iter_mut().for_each(f),
            one => f(one),
        };
        match field.kind() {
            Kind::Message(inner) => each(value, &|v| decimals(v, &inner, point)),
            Kind::String if scalar.as_ref().is_some_and(|s| is_decimal(&field, s)) => {
                each(value, &|v| convert(v, point))
            }
            _ => {}
        }
    }
}

fn is_decimal(field: &prost_reflect::FieldDescriptor, scalar: &ExtensionDescriptor) -> bool {
    field.options().get_extension(scalar).as_str() == Some("cosmos.Dec")
}

fn convert(value: &mut Value, point: Point) {
    let Value::String(text) = value else { return };
    let converted = match point {
        Point::Insert => deepnode_core::Dec::from_wire(text).map(|d| d.to_string()),
        Point::Remove => text.parse::<deepnode_core::Dec>().map(|d| d.to_wire()),
    };
    if let Ok(converted) = converted {
        *text = converted;
    }
}
