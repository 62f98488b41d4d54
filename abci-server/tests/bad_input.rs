//! What a stranger may send to a node, without CometBFT in between: every refusal has its code and names field, value and
//! bound, and leaves the state as it was.

mod world;

use deepnode_proto::cosmos::bank::v1beta1::MsgSend;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::cosmos::gov::v1::MsgSubmitProposal;
use deepnode_proto::cosmos::tx::v1beta1::{AuthInfo, TxBody, TxRaw};
use deepnode_proto::tendermint_proto::v0_38::abci::RequestQuery;
use deepnode_proto::{Any, AnyExt, Message};
use deepnode_tx::{Address, SignerData, SigningKey, TxBuilder, MAX_TX_BYTES};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use world::{key, user, World, CHAIN_ID, RICH};

fn send(amount: &str) -> MsgSend {
    MsgSend {
        from_address: user(1).to_string(),
        to_address: user(2).to_string(),
        amount: vec![Coin { denom: "udn".into(), amount: amount.into() }],
    }
}

fn good() -> TxBuilder {
    TxBuilder::new().message(&send("1")).fee(500, "udn").gas(200_000)
}

fn signed(world: &World, tx: &TxBuilder) -> Vec<u8> {
    tx.sign(&key(1), &world.signer(1))
}

/// The bytes with a change to the envelope; the signatures stay.
fn changed(bytes: &[u8], change: impl FnOnce(&mut TxRaw)) -> Vec<u8> {
    let mut raw = TxRaw::decode(bytes).unwrap();
    change(&mut raw);
    raw.encode_to_vec()
}

/// Field `number` holding 1, behind `message`.
fn with_field(mut message: Vec<u8>, number: u32) -> Vec<u8> {
    prost::encoding::uint64::encode(number, &1, &mut message);
    message
}

#[test]
fn transactions_that_are_none_or_nobodys() {
    let mut world = World::new();
    let bytes = signed(&world, &good());
    let me = world.signer(1);
    let elsewhere = SignerData { chain_id: "other-1".into(), ..me.clone() };
    let poor = TxBuilder::new().message(&send("1")).fee(RICH + 1, "udn").gas(200_000);
    let no_gas = TxBuilder::new().message(&send("1")).fee(500, "udn");
    let cases: Vec<(&str, Vec<u8>, u32, &str)> = vec![
        ("nothing", vec![], 2, "empty"),
        ("noise", b"not a transaction".to_vec(), 2, ""),
        ("cut short", bytes[..bytes.len() - 1].to_vec(), 2, ""),
        ("too long", vec![0x0a; MAX_TX_BYTES + 1], 21, "1048577"),
        ("unsigned", changed(&bytes, |raw| raw.signatures.clear()), 15, "no signatures supplied"),
        ("an empty signature", changed(&bytes, |raw| raw.signatures = vec![vec![]]), 4, "signature"),
        ("signed twice", changed(&bytes, |raw| raw.signatures.push(vec![1; 64])), 4, "expected 1, got 2"),
        ("a flipped bit", changed(&bytes, |raw| raw.signatures[0][7] ^= 1), 4, "signature"),
        ("another's key", good().sign(&key(2), &me), 8, "pubKey"),
        ("another chain", good().sign(&key(1), &elsewhere), 4, CHAIN_ID),
        (
            "another account",
            good().sign(&key(1), &SignerData { account_number: 77, ..me.clone() }),
            4,
            "account",
        ),
        (
            "a later sequence",
            good().sign(&key(1), &SignerData { sequence: 5, ..me.clone() }),
            32,
            "expected 0, got 5",
        ),
        ("no gas", signed(&world, &no_gas), 41, "gas"),
        ("more gas than a block", signed(&world, &no_gas.clone().gas(u64::MAX)), 41, "18446744073709551615"),
        ("a fee beyond the balance", signed(&world, &poor), 5, "insufficient funds"),
        ("a fee of nothing known", signed(&world, &TxBuilder { fee: fee("-5"), ..good() }), 10, "-5"),
        ("a late transaction", signed(&world, &good().timeout_height(1)), 30, "1"),
        ("no messages", TxBuilder::new().gas(1).sign(&key(1), &me), 18, "message"),
        ("a stranger", good().sign(&SigningKey::new(&[77; 32]).unwrap(), &me), 8, ""),
    ];
    for (what, bytes, code, text) in cases {
        world.refused_before_execution(what, &bytes, code, text);
    }
    // The transaction itself is good, once.
    assert_eq!(world.deliver(&bytes), (0, String::new()));
    world.refused_before_execution("replayed", &bytes, 32, "account sequence mismatch, expected 1, got 0");
    assert_eq!(world.balance(&user(2)), RICH + 1);
}

fn fee(amount: &str) -> deepnode_proto::cosmos::tx::v1beta1::Fee {
    let mut fee = good().fee;
    fee.amount[0].amount = amount.into();
    fee
}

#[test]
fn what_is_not_known_is_refused_wherever_it_stands() {
    let mut world = World::new();
    let bytes = signed(&world, &good());
    let body = |change: &dyn Fn(&mut TxBody)| {
        changed(&bytes, |raw| {
            let mut body = TxBody::decode(raw.body_bytes.as_slice()).unwrap();
            change(&mut body);
            raw.body_bytes = body.encode_to_vec();
        })
    };
    let auth_info = |change: &dyn Fn(&mut AuthInfo)| {
        changed(&bytes, |raw| {
            let mut info = AuthInfo::decode(raw.auth_info_bytes.as_slice()).unwrap();
            change(&mut info);
            raw.auth_info_bytes = info.encode_to_vec();
        })
    };
    let nothing = Any { type_url: "/cosmos.nothing.v1.MsgNothing".into(), value: vec![] };
    let proposal = |message: Any| {
        let proposal = MsgSubmitProposal {
            messages: vec![message],
            proposer: user(1).to_string(),
            title: "t".into(),
            summary: "s".into(),
            ..MsgSubmitProposal::default()
        };
        body(&|body| body.messages = vec![Any::pack(&proposal)])
    };
    let extended = |any: Any| Any { value: with_field(any.value, 2048), ..any };
    // Known to the descriptors, and yet no message that anybody handles.
    let unhandled = deepnode_proto::cosmos::feegrant::v1beta1::MsgRevokeAllowance {
        granter: user(1).to_string(),
        grantee: user(2).to_string(),
    };
    let cases: Vec<(&str, Vec<u8>, u32, &str)> = vec![
        ("a message", body(&|b| b.messages = vec![nothing.clone()]), 2, "/cosmos.nothing.v1.MsgNothing"),
        (
            "an unhandled message",
            body(&|b| b.messages = vec![Any::pack(&unhandled)]),
            6,
            "MsgRevokeAllowance",
        ),
        ("a message in a message", proposal(nothing.clone()), 2, "/cosmos.nothing.v1.MsgNothing"),
        ("a key", auth_info(&|i| i.signer_infos[0].public_key = Some(nothing.clone())), 2, "MsgNothing"),
        ("an extension", body(&|b| b.extension_options = vec![Any::pack(&send("1"))]), 31, "MsgSend"),
        (
            "a field of the body",
            changed(&bytes, |r| r.body_bytes = with_field(r.body_bytes.clone(), 200)),
            2,
            "field 200 in cosmos.tx.v1beta1.TxBody",
        ),
        (
            "a field of the auth info",
            changed(&bytes, |r| r.auth_info_bytes = with_field(r.auth_info_bytes.clone(), 1024)),
            2,
            "field 1024 in cosmos.tx.v1beta1.AuthInfo",
        ),
        (
            "a field of a message",
            body(&|b| b.messages = vec![extended(Any::pack(&send("1")))]),
            2,
            "field 2048 in cosmos.bank.v1beta1.MsgSend",
        ),
        (
            "a field of a message in a message",
            proposal(extended(Any::pack(&send("1")))),
            2,
            "field 2048 in cosmos.bank.v1beta1.MsgSend",
        ),
        (
            "a sign mode",
            auth_info(&|i| {
                use deepnode_proto::cosmos::tx::v1beta1::{
                    mode_info::{Single, Sum},
                    ModeInfo,
                };
                i.signer_infos[0].mode_info = Some(ModeInfo { sum: Some(Sum::Single(Single { mode: 99 })) });
            }),
            37,
            "99",
        ),
    ];
    for (what, bytes, code, text) in cases {
        world.refused_before_execution(what, &bytes, code, text);
    }
}

#[test]
fn amounts_and_addresses_out_of_bounds() {
    let mut world = World::new();
    let amounts = [
        ("0", "amount"),
        ("-1", "-1"),
        ("340282366920938463463374607431768211456", "340282366920938463463374607431768211456"),
        ("115792089237316195423570985008687907853269984665640564039457584007913129639936", "amount"),
        ("1.5", "1.5"),
        ("1e3", "1e3"),
        ("+1", "+1"),
        ("01", "01"),
        (" 1", " 1"),
        ("", "amount"),
        ("1000000001", "insufficient funds"),
    ];
    for (amount, text) in amounts {
        let log = world.refused_in_execution(&send(amount));
        assert!(log.contains(text), "{amount:?}: {log}");
    }
    let operator = user(2).to_operator();
    let upper = user(2).to_string().to_uppercase();
    let mut typo = user(2).to_string();
    let last = if typo.ends_with('q') { 'p' } else { 'q' };
    typo.replace_range(typo.len() - 1.., &last.to_string());
    for (to, text) in [
        ("", "to address"),
        ("nobody", "nobody"),
        (operator.as_str(), "dnvaloper"),
        (upper.as_str(), upper.as_str()),
        (typo.as_str(), "checksum"),
        ("cosmos1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqnrql8a", "\"cosmos\""),
        (&"x".repeat(50_000), "xxx"),
    ] {
        let log = world.refused_in_execution(&MsgSend { to_address: to.into(), ..send("1") });
        assert!(log.contains(text) && log.len() < 1_000, "{to:.80}: {log:.2000}");
    }
    for (coins, text) in [
        (vec![("udn", "1"), ("udn", "1")], "udn"),
        (vec![("udn", "1"), ("aaa", "1")], "aaa"),
        (vec![("u", "1")], "\"u\""),
        (vec![("not a denom", "1")], "not a denom"),
        (vec![], "amount"),
    ] {
        let coin = |(denom, amount): &(&str, &str)| Coin { denom: (*denom).into(), amount: (*amount).into() };
        let amount = coins.iter().map(coin).collect();
        let log = world.refused_in_execution(&MsgSend { amount, ..send("1") });
        assert!(log.contains(text), "{coins:?}: {log}");
    }
    assert_eq!(world.balance(&user(2)), RICH);
}

/// What fills every field of a hostile message.
struct Filling {
    text: String,
    number: u64,
    bytes: Vec<u8>,
    repeat: usize,
}

fn fillings() -> [Filling; 6] {
    let long = "9".repeat(60_000);
    let filling = |text: &str, number, bytes, repeat| Filling { text: text.into(), number, bytes, repeat };
    [
        filling("", 0, vec![], 0),
        filling("0", 1, vec![0; 32], 1),
        filling("-1", u64::MAX, vec![0xff; 32], 2),
        filling("340282366920938463463374607431768211455", 1 << 63, vec![1; 33], 40),
        filling(&user(1).to_string(), u64::from(u32::MAX), vec![7; 1], 3),
        filling(&long, 1 << 32, vec![9; 60_000], 1),
    ]
}

impl Filling {
    /// A message that `user(1)` may sign, and everything else in it as the filling says.
    fn message(&self, kind: &MessageDescriptor, signers: &[String], depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(kind.clone());
        for field in kind.fields() {
            let signs = signers.iter().any(|name| name == field.name());
            if signs || depth < 3 {
                if let Some(value) = self.field(&field, signs, depth) {
                    message.set_field(&field, value);
                }
            }
        }
        message
    }

    fn field(&self, field: &FieldDescriptor, signs: bool, depth: usize) -> Option<Value> {
        let one = match field.kind() {
            Kind::Message(inner) if inner.full_name() == "google.protobuf.Any" => return None,
            Kind::Message(inner) => {
                let signers = if signs { signer_fields(&inner) } else { Vec::new() };
                Value::Message(self.message(&inner, &signers, depth + 1))
            }
            Kind::String if signs => {
                let scalar = deepnode_proto::pool().get_extension_by_name("cosmos_proto.scalar").unwrap();
                let options = field.options();
                let operator =
                    options.get_extension(&scalar).as_str() == Some("cosmos.ValidatorAddressString");
                Value::String(if operator { user(1).to_operator() } else { user(1).to_string() })
            }
            Kind::String if field.name() == "denom" => Value::String("udn".into()),
            Kind::String => Value::String(self.text.clone()),
            Kind::Bytes => Value::Bytes(self.bytes.clone().into()),
            Kind::Bool => Value::Bool(self.number != 0),
            Kind::Enum(_) => Value::EnumNumber(self.number as i32),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(self.number as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(self.number as i64),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(self.number as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.number),
            Kind::Float | Kind::Double => return None,
        };
        if field.is_map() {
            return None;
        }
        let times = if signs { 1 } else { self.repeat };
        Some(if field.is_list() { Value::List(vec![one; times]) } else { one })
    }
}

fn signer_fields(kind: &MessageDescriptor) -> Vec<String> {
    let option = deepnode_proto::pool().get_extension_by_name("cosmos.msg.v1.signer").unwrap();
    let options = kind.options();
    let names = options.get_extension(&option);
    names.as_list().unwrap_or_default().iter().filter_map(|v| Some(v.as_str()?.to_owned())).collect()
}

/// No message can stop a node or make it write without end, whatever stands in its fields.
#[test]
fn every_message_survives_hostile_fields() {
    let mut world = World::new();
    let urls: Vec<String> = world.app.modules().messages.type_urls().map(str::to_owned).collect();
    assert!(urls.len() > 40, "{}", urls.len());
    let mut passed = Vec::new();
    for url in urls {
        let kind = deepnode_proto::pool().get_message_by_name(&url[1..]).unwrap();
        let signers = signer_fields(&kind);
        for (index, filling) in fillings().iter().enumerate() {
            let value = filling.message(&kind, &signers, 0).encode_to_vec();
            let any = Any { type_url: url.clone(), value };
            let tx = TxBuilder::new().any(any).fee(500, "udn").gas(100_000_000);
            let bytes = signed(&world, &tx);
            world.app.check_tx(&bytes, false).unwrap();
            let (code, log) = world.deliver(&bytes);
            assert!(log.len() < 4_000, "{url} filling {index}: a log of {} bytes: {log:.300}", log.len());
            assert_eq!(code == 0, log.is_empty(), "{url} filling {index}: code {code}: {log}");
            if code == 0 {
                passed.push(format!("{url} {index}"));
            }
        }
    }
    world.app.invariants().unwrap();
    // Few hostile messages are good ones; what they are shows in the list.
    assert!(passed.len() < 12, "{passed:#?}");
}

#[test]
fn every_query_survives_hostile_requests() {
    let world = World::new();
    let mut asked = 0;
    for path in world.app.modules().queries.paths() {
        let (service, method) = path[1..].split_once('/').unwrap();
        let service = deepnode_proto::pool().get_service_by_name(service).unwrap();
        let kind = service.methods().find(|m| m.name() == method).unwrap().input();
        let requests = fillings().map(|f| f.message(&kind, &[], 0).encode_to_vec());
        for data in requests.into_iter().chain([vec![0xff; 20], vec![0x0a, 0x7f]]) {
            for (height, prove) in [(0, false), (1, false), (i64::MAX, false), (-1, false), (0, true)] {
                let request = RequestQuery { data: data.clone().into(), path: path.into(), height, prove };
                let answer = world.app.abci_query(&request);
                assert!(answer.log.len() < 4_000, "{path}: a log of {} bytes", answer.log.len());
                assert_eq!(answer.code == 0, answer.log.is_empty(), "{path}: {answer:?}");
                assert!(answer.code != 6, "{path}: {}", answer.log);
                asked += 1;
            }
        }
    }
    assert!(asked > 2_000, "{asked}");
    for path in
        ["", "/", "//", "bank", "/cosmos.bank.v1beta1.Query/", "/store", "/store/bank", "/app", "/\u{1F600}"]
    {
        let answer = world.app.abci_query(&RequestQuery { path: path.into(), ..RequestQuery::default() });
        assert_eq!((answer.code, answer.codespace.as_str()), (6, "sdk"), "{path:?}");
        assert!(answer.height > 0 && !answer.log.is_empty(), "{path:?}");
    }
}

#[test]
fn addresses_of_modules_receive_nothing() {
    let mut world = World::new();
    let to_address = Address::module("tasks").to_string();
    let log = world.refused_in_execution(&MsgSend { to_address: to_address.clone(), ..send("1") });
    assert!(log.contains(&to_address), "{log}");
}
