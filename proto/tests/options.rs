//! The custom options that reflection, REST and amino JSON are driven by survive in the descriptor set.

use prost_reflect::{DescriptorPool, Kind, MessageDescriptor, Value};

fn pool() -> DescriptorPool {
    DescriptorPool::decode(deepnode_proto::FILE_DESCRIPTOR_SET).unwrap()
}

fn text(options: &prost_reflect::DynamicMessage, pool: &DescriptorPool, extension: &str) -> Option<String> {
    let extension = pool.get_extension_by_name(extension).unwrap();
    options.has_extension(&extension).then(|| match options.get_extension(&extension).as_ref() {
        Value::String(s) => s.clone(),
        Value::List(l) => l.iter().map(|v| v.as_str().unwrap()).collect::<Vec<_>>().join(","),
        other => panic!("{} is {other:?}", extension.full_name()),
    })
}

/// Requests of every service marked `cosmos.msg.v1.service`.
fn messages(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    let marked = pool.get_extension_by_name("cosmos.msg.v1.service").unwrap();
    let requests = pool
        .services()
        .filter(|s| s.options().get_extension(&marked).as_bool() == Some(true))
        .flat_map(|s| s.methods().map(|m| m.input()).collect::<Vec<_>>());
    requests.collect()
}

#[test]
fn every_message_names_its_signers_and_its_amino_name() {
    let pool = pool();
    let all = messages(&pool);
    assert!(all.len() >= 46, "{}", all.len());
    let mut nameless = Vec::new();
    for message in &all {
        let signers = text(&message.options(), &pool, "cosmos.msg.v1.signer")
            .unwrap_or_else(|| panic!("{} has no signer", message.full_name()));
        for signer in signers.split(',') {
            assert!(message.get_field_by_name(signer).is_some(), "{} lacks {signer}", message.full_name());
        }
        if text(&message.options(), &pool, "amino.name").is_none() {
            nameless.push(message.full_name().to_string());
        }
    }
    // As in the SDK.
    assert_eq!(nameless, ["cosmos.feegrant.v1beta1.MsgPruneAllowances", "cosmos.gov.v1.MsgCancelProposal"]);
    let send = all.iter().find(|m| m.full_name() == "cosmos.bank.v1beta1.MsgSend").unwrap();
    assert_eq!(text(&send.options(), &pool, "amino.name").unwrap(), "cosmos-sdk/MsgSend");
    assert_eq!(text(&send.options(), &pool, "cosmos.msg.v1.signer").unwrap(), "from_address");
}

/// Ledger signs amino JSON, whose form for these is settled and the same in every client.
#[test]
fn our_messages_stay_within_what_every_signer_can_show() {
    let pool = pool();
    for message in messages(&pool).iter().filter(|m| m.package_name().starts_with("deepnode.")) {
        let name = text(&message.options(), &pool, "amino.name").unwrap_or_default();
        assert!((1..40).contains(&name.len()), "{}: amino.name {name:?}", message.full_name());
        plain(message, message.full_name());
    }
}

fn plain(message: &MessageDescriptor, of: &str) {
    assert_eq!(message.oneofs().len(), 0, "{of} has a oneof");
    for field in message.fields() {
        assert!(!field.is_map(), "{of}: {} is a map", field.full_name());
        match field.kind() {
            Kind::Float | Kind::Double => panic!("{of}: {} is a float", field.full_name()),
            Kind::Message(m) => {
                assert_ne!(m.full_name(), "google.protobuf.Any", "{of}: {} is an Any", field.full_name());
                plain(&m, of);
            }
            _ => {}
        }
    }
}

#[test]
fn queries_carry_their_http_paths() {
    let pool = pool();
    let http = pool.get_extension_by_name("google.api.http").unwrap();
    let path = |service: &str, method: &str| {
        let service = pool.get_service_by_name(service).unwrap();
        let method = service.methods().find(|m| m.name() == method).unwrap();
        let options = method.options();
        let rule = options.get_extension(&http).into_owned();
        let rule = rule.as_message().unwrap();
        let verb = ["get", "post"].into_iter().find(|v| rule.has_field_by_name(v)).unwrap();
        format!("{verb} {}", rule.get_field_by_name(verb).unwrap().as_str().unwrap())
    };
    assert_eq!(
        path("cosmos.bank.v1beta1.Query", "AllBalances"),
        "get /cosmos/bank/v1beta1/balances/{address}"
    );
    assert_eq!(path("cosmos.tx.v1beta1.Service", "BroadcastTx"), "post /cosmos/tx/v1beta1/txs");
    assert_eq!(path("cosmos.gov.v1.Query", "Constitution"), "get /cosmos/gov/v1/constitution");
}
