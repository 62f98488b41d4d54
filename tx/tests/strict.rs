//! A byte string is one transaction or an error: every other spelling of a transaction is refused.

use deepnode_proto::cosmos::authz::v1beta1::MsgExec;
use deepnode_proto::cosmos::bank::v1beta1::{Input, MsgMultiSend, MsgSend, Output};
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::cosmos::crypto::secp256k1::PubKey;
use deepnode_proto::cosmos::gov::v1::MsgVote;
use deepnode_proto::cosmos::staking::v1beta1::{Description, MsgCreateValidator};
use deepnode_proto::cosmos::tx::signing::v1beta1::SignMode;
use deepnode_proto::cosmos::tx::v1beta1::mode_info::{Single, Sum};
use deepnode_proto::cosmos::tx::v1beta1::{ModeInfo, TxRaw};
use deepnode_proto::{Any, AnyExt, Message, Timestamp};
use deepnode_tx::{sign_bytes, signers, Address, PublicKey, SignerData, SigningKey, Tx, TxBuilder, TxError};
use proptest::prelude::*;

fn key() -> SigningKey {
    SigningKey::new(&[3; 32]).unwrap()
}

fn signer() -> SignerData {
    SignerData { chain_id: "deepnode-1".into(), account_number: 4, sequence: 5 }
}

fn send() -> MsgSend {
    MsgSend {
        from_address: key().address().to_string(),
        to_address: Address::module("gov").to_string(),
        amount: vec![Coin { denom: "udn".into(), amount: "10".into() }],
    }
}

fn raw(tx: &TxBuilder) -> TxRaw {
    TxRaw::decode(&*tx.sign(&key(), &signer())).unwrap()
}

fn refused(bytes: &[u8]) -> String {
    let error = Tx::decode(bytes).expect_err("it was accepted");
    assert_eq!(error.code(), 2, "{error}");
    error.to_string()
}

/// `message` with a field appended: number, then a varint.
fn with_field(mut message: Vec<u8>, number: u32) -> Vec<u8> {
    prost::encoding::uint64::encode(number, &1, &mut message);
    message
}

#[test]
fn golden_transaction() {
    let tx = TxBuilder::new()
        .message(&send())
        .memo("note")
        .fee(300, "udn")
        .gas(70_000)
        .unordered(Timestamp { seconds: 1_800_000_000, nanos: 5 })
        .sign(&key(), &SignerData { sequence: 0, ..signer() });
    assert_eq!(hex::encode(&tx), include_str!("data/unordered_send.hex").trim());
    let tx = Tx::decode(&tx).unwrap();
    assert!(tx.body.unordered);
    assert_eq!(tx.body.timeout_timestamp, Some(Timestamp { seconds: 1_800_000_000, nanos: 5 }));
}

#[test]
fn other_encodings_of_the_envelope_are_refused() {
    let raw = raw(&TxBuilder::new().message(&send()).gas(1));
    let good = raw.encode_to_vec();
    assert!(Tx::decode(&good).is_ok());
    let field = |number: u8, bytes: &[u8]| {
        let mut out = vec![number << 3 | 2];
        prost::encoding::encode_varint(bytes.len() as u64, &mut out);
        out.extend_from_slice(bytes);
        out
    };
    let (body, auth) = (field(1, &raw.body_bytes), field(2, &raw.auth_info_bytes));
    let signature = field(3, &raw.signatures[0]);
    assert_eq!([body.clone(), auth.clone(), signature.clone()].concat(), good);

    let swapped = [auth.clone(), body.clone(), signature.clone()].concat();
    let late = [body.clone(), signature.clone(), auth.clone()].concat();
    let twice = [body.clone(), body.clone(), auth.clone(), signature.clone()].concat();
    let long_length = [&body[..], &auth[..], &[26, 0xc0, 0x00], &raw.signatures[0]].concat();
    let long_tag = [&body[..], &auth[..], &[0x9a, 0x00, 64], &raw.signatures[0]].concat();
    let empty_body = [field(1, &[]), auth.clone()].concat();
    let unknown = with_field(good.clone(), 4);
    let non_critical = with_field(good.clone(), 1024);
    for bad in [swapped, late, twice, long_length, long_tag, empty_body, unknown, non_critical] {
        assert!(refused(&bad).contains("ADR-027"), "{}", hex::encode(&bad));
    }
    refused(&good[..good.len() - 1]);
}

#[test]
fn unknown_fields_are_refused_at_every_depth() {
    let body = TxBuilder::new().message(&send()).gas(1);
    let change = |change: &dyn Fn(&mut TxRaw)| {
        let mut raw = raw(&body);
        change(&mut raw);
        raw.encode_to_vec()
    };
    let append = |number| change(&|raw| raw.body_bytes = with_field(raw.body_bytes.clone(), number));
    assert!(refused(&append(6)).contains("unknown field 6 in cosmos.tx.v1beta1.TxBody"));
    assert!(refused(&append(2048)).contains("unknown field 2048"));
    // Bit 0x400 says that the field may be ignored.
    assert!(Tx::decode(&append(1024)).unwrap().unknown_non_critical);
    assert!(!Tx::decode(&append(3)).unwrap().unknown_non_critical);
    refused(&change(&|raw| raw.auth_info_bytes = with_field(raw.auth_info_bytes.clone(), 1024)));

    let holding = |any: Any| TxBuilder::new().any(any).sign(&key(), &signer());
    let extended = |any: Any| Any { value: with_field(any.value, 1024), ..any };
    assert!(refused(&holding(extended(Any::pack(&send())))).contains("cosmos.bank.v1beta1.MsgSend"));
    let exec = MsgExec { grantee: String::new(), msgs: vec![extended(Any::pack(&send()))] };
    assert!(refused(&holding(Any::pack(&exec))).contains("unknown field 1024 in cosmos.bank.v1beta1.MsgSend"));
    assert!(refused(&holding(Any { type_url: "/cosmos.bank.MsgSend".into(), value: vec![] }))
        .contains("unable to resolve"));
    assert!(refused(&holding(Any { type_url: send_url().replacen('/', "", 1), value: vec![] }))
        .contains("unable to resolve"));
    // The right field with the wrong wire type, and a text that is not UTF-8.
    assert!(refused(&holding(Any { type_url: send_url(), value: vec![8, 1] })).contains("wire type"));
    assert!(refused(&holding(Any { type_url: send_url(), value: vec![10, 1, 0xff] })).contains("utf-8"));
}

fn send_url() -> String {
    Any::pack(&send()).type_url
}

#[test]
fn depth_and_size_are_bounded() {
    let nest = |depth| {
        let mut any = Any::pack(&send());
        for _ in 0..depth {
            any = Any::pack(&MsgExec { grantee: String::new(), msgs: vec![any] });
        }
        TxBuilder::new().any(any).sign(&key(), &signer())
    };
    assert!(Tx::decode(&nest(13)).is_ok());
    assert!(refused(&nest(16)).contains("nested deeper than 32 messages"));
    assert!(refused(&nest(2_000)).contains("nested deeper than 32 messages"));
    let large = TxBuilder::new().memo("x".repeat(1 << 20)).sign(&key(), &signer());
    assert!(matches!(Tx::decode(&large), Err(TxError::TooLarge { max: 1_048_576, .. })));
}

#[test]
fn signatures_have_one_form() {
    let tx = Tx::decode(&TxBuilder::new().message(&send()).gas(1).sign(&key(), &signer())).unwrap();
    let bytes = sign_bytes(&tx, tx.auth_info.signer_infos[0].mode_info.as_ref().unwrap(), &signer()).unwrap();
    let good = &tx.signatures[0];
    let public = key().public_key();
    public.verify(&bytes, good).unwrap();

    // n - s is the other solution of the same equation.
    let s = secp256k1::SecretKey::from_byte_array(good[32..].try_into().unwrap()).unwrap().negate();
    let high = [&good[..32], &s.secret_bytes()].concat();
    assert_eq!(public.verify(&bytes, &high).unwrap_err().code(), 4);
    assert_eq!(public.verify(&bytes, &good[..63]).unwrap_err().code(), 4);
    assert_eq!(public.verify(&bytes, &[&good[..], &[0]].concat()).unwrap_err().code(), 4);
    assert_eq!(public.verify(&bytes, &[0; 64]).unwrap_err().code(), 4);

    let error =
        |mode| sign_bytes(&tx, &ModeInfo { sum: Some(Sum::Single(Single { mode })) }, &signer()).unwrap_err();
    assert_eq!(error(SignMode::Textual.into()).code(), 37);
    assert!(error(SignMode::DirectAux.into()).to_string().contains("SIGN_MODE_DIRECT_AUX"));
    assert_eq!(error(4711).code(), 37);
}

#[test]
fn keys_that_are_none_are_refused() {
    let secp = |key: Vec<u8>| PublicKey::from_any(&Any::pack(&PubKey { key })).unwrap_err();
    assert_eq!(secp(vec![2; 32]).code(), 8);
    assert_eq!(secp([&[4][..], &[1; 64]].concat()).code(), 8);
    assert_eq!(secp([&[2][..], &[0xff; 32]].concat()).code(), 8);
    let ed = deepnode_proto::cosmos::crypto::ed25519::PubKey { key: vec![1; 32] };
    assert_eq!(PublicKey::from_any(&Any::pack(&ed)).unwrap_err().code(), 8);
    assert_eq!(PublicKey::from_any(&key().public_key().to_any()), Ok(key().public_key()));
}

#[test]
fn signers_follow_the_option() {
    let a = |n| Address([n; 20]);
    assert_eq!(signers(&Any::pack(&send())).unwrap(), [key().address()]);
    let vote = MsgVote { voter: a(1).to_string(), ..Default::default() };
    assert_eq!(signers(&Any::pack(&vote)).unwrap(), [a(1)]);
    // An operator signs with its account; deprecated fields name no one.
    let create = MsgCreateValidator {
        description: Some(Description::default()),
        validator_address: a(2).to_operator(),
        ..Default::default()
    };
    assert_eq!(signers(&Any::pack(&create)).unwrap(), [a(2)]);
    let input = |n| Input { address: a(n).to_string(), coins: vec![] };
    let many = |inputs| MsgMultiSend { inputs, outputs: vec![Output::default()] };
    assert_eq!(signers(&Any::pack(&many(vec![input(5), input(4), input(5)]))).unwrap(), [a(5), a(4)]);

    let code = |any: Any| signers(&any).unwrap_err().code();
    assert_eq!(code(Any::pack(&many(vec![input(5), Input::default()]))), 7);
    assert_eq!(code(Any::pack(&many(vec![]))), 7);
    assert_eq!(code(Any::pack(&MsgVote { voter: a(1).to_operator(), ..Default::default() })), 7);
    assert_eq!(code(Any::pack(&Coin::default())), 4);
}

proptest! {
    #[test]
    fn what_is_built_decodes_to_itself(
        memo in ".{0,40}", gas: u64, amount: u128, height: u64, seconds in 0i64..1 << 40, sequence: u64, unordered: bool,
        messages in 0usize..4,
    ) {
        let mut tx = TxBuilder::new().memo(memo).gas(gas).fee(amount, "udn").timeout_height(height);
        for _ in 0..messages {
            tx = tx.message(&send());
        }
        if unordered {
            tx = tx.unordered(Timestamp { seconds, nanos: 1 });
        }
        let data = SignerData { sequence, ..signer() };
        let decoded = Tx::decode(&tx.sign(&key(), &data)).unwrap();
        prop_assert_eq!(&decoded.body, &tx.body);
        prop_assert_eq!(decoded.auth_info.fee.as_ref(), Some(&tx.fee));
        prop_assert_eq!(decoded.auth_info.signer_infos[0].sequence, sequence);
        let bytes = sign_bytes(&decoded, decoded.auth_info.signer_infos[0].mode_info.as_ref().unwrap(), &data).unwrap();
        prop_assert!(key().public_key().verify(&bytes, &decoded.signatures[0]).is_ok());
    }

    /// Whatever decodes re-encodes to the same bytes, and its messages decode as what they say they are.
    #[test]
    fn damaged_bytes_never_panic(place in 0usize..400, byte: u8, cut in 0usize..400, insert: bool) {
        let exec = MsgExec { grantee: key().address().to_string(), msgs: vec![Any::pack(&send())] };
        let mut bytes = TxBuilder::new().message(&exec).memo("m").gas(9).sign(&key(), &signer());
        let place = place % bytes.len();
        if insert { bytes.insert(place, byte) } else { bytes[place] = byte }
        bytes.truncate(bytes.len() - cut.saturating_sub(300));
        if let Ok(tx) = Tx::decode(&bytes) {
            let raw = TxRaw {
                body_bytes: tx.body_bytes,
                auth_info_bytes: tx.auth_info_bytes,
                signatures: tx.signatures,
            };
            prop_assert_eq!(raw.encode_to_vec(), bytes);
            for message in &tx.body.messages {
                let _ = signers(message);
                if message.is::<MsgExec>() {
                    prop_assert!(message.unpack::<MsgExec>().is_ok());
                }
            }
        }
    }
}
