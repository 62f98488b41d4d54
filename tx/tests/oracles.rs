//! Other people's signatures verify here, and ours verify there.

use cosmrs::crypto::secp256k1::SigningKey as TheirKey;
use cosmrs::tx::{Body, Fee, SignDoc, SignerInfo};
use deepnode_proto::cosmos::bank::v1beta1::MsgSend;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::AnyExt;
use deepnode_tx::{sign_bytes, Address, PublicKey, SignerData, SigningKey, Tx, TxBuilder};

/// The first signing vector of CosmJS's own tests (proto-signing), made with its faucet key.
const COSMJS: &str = "0a93010a90010a1c2f636f736d6f732e62616e6b2e763162657461312e4d736753656e6412700a2d636f736d6f7331706b707472653766646b6c366766727a6c65736a6a766878686c63337234676d6d6b38727336122d636f736d6f7331717970717870713971637273737a673270767871367273307a716733797963356c7a763778751a100a0575636f736d12073132333435363712650a4e0a460a1f2f636f736d6f732e63727970746f2e736563703235366b312e5075624b657912230a21034f04181eeba35391b858633a765c4a0c189697b40d216354d50890d350c7029012040a02080112130a0d0a0575636f736d12043230303010c09a0c1a40c9dd20e07464d3a688ff4b710b1fbc027e495e797cfa0b4804da2ed117959227772de059808f765aa29b8f92edf30f4c2c5a438e30d3fe6897daa7141e3ce6f9";

fn verify(tx: &Tx, data: &SignerData) -> Result<(), deepnode_tx::TxError> {
    let info = &tx.auth_info.signer_infos[0];
    let key = PublicKey::from_any(info.public_key.as_ref().unwrap())?;
    key.verify(&sign_bytes(tx, info.mode_info.as_ref().unwrap(), data)?, &tx.signatures[0])
}

fn data(chain_id: &str, account_number: u64) -> SignerData {
    SignerData { chain_id: chain_id.into(), account_number, sequence: 0 }
}

#[test]
fn a_transaction_of_cosmjs_verifies() {
    let bytes = hex::decode(COSMJS).unwrap();
    let tx = Tx::decode(&bytes).unwrap();
    assert_eq!(tx.body.messages[0].unpack::<MsgSend>().unwrap().amount[0].amount, "1234567");
    // CosmJS gives these sign bytes beside the transaction: what precedes the signature, chain id, account number.
    let signed = hex::encode(sign_bytes(&tx, mode(&tx), &data("simd-testing", 1)).unwrap());
    assert_eq!(signed, COSMJS[..COSMJS.len() - 132].to_owned() + "1a0c73696d642d74657374696e672001");
    verify(&tx, &data("simd-testing", 1)).unwrap();
    for wrong in [data("simd-testing", 2), data("simd", 1)] {
        assert_eq!(verify(&tx, &wrong).unwrap_err().code(), 4);
    }
}

fn mode(tx: &Tx) -> &deepnode_proto::cosmos::tx::v1beta1::ModeInfo {
    tx.auth_info.signer_infos[0].mode_info.as_ref().unwrap()
}

#[test]
fn cosmrs_signs_and_we_verify() {
    let secret = [7; 32];
    let key = TheirKey::from_slice(&secret).unwrap();
    let account = key.public_key().account_id("dn").unwrap();
    assert_eq!(account.to_string(), SigningKey::new(&secret).unwrap().address().to_string());
    let coin = cosmrs::Coin::new(25, "udn").unwrap();
    let send = cosmrs::bank::MsgSend {
        from_address: account.clone(),
        to_address: account,
        amount: vec![coin.clone()],
    };
    let body = Body::new(vec![cosmrs::tx::Msg::to_any(&send).unwrap()], "a memo", 9u32);
    let auth = SignerInfo::single_direct(Some(key.public_key()), 3)
        .auth_info(Fee::from_amount_and_gas(coin, 90_000u64));
    let doc = SignDoc::new(&body, &auth, &"deepnode-1".parse().unwrap(), 11).unwrap();
    let tx = Tx::decode(&doc.sign(&key).unwrap().to_bytes().unwrap()).unwrap();
    verify(&tx, &data("deepnode-1", 11)).unwrap();
    assert_eq!((tx.body.memo.as_str(), tx.body.timeout_height), ("a memo", 9));
    assert_eq!(
        deepnode_tx::signers(&tx.body.messages[0]).unwrap(),
        [SigningKey::new(&secret).unwrap().address()]
    );
}

#[test]
fn we_sign_and_cosmrs_verifies() {
    let key = SigningKey::new(&[9; 32]).unwrap();
    let send = MsgSend {
        from_address: key.address().to_string(),
        to_address: Address::module("gov").to_string(),
        amount: vec![Coin { denom: "udn".into(), amount: "3".into() }],
    };
    let signer = SignerData { chain_id: "deepnode-1".into(), account_number: 5, sequence: 6 };
    let bytes = TxBuilder::new().message(&send).memo("hi").fee(7, "udn").gas(80_000).sign(&key, &signer);

    let raw = cosmrs::tx::Raw::from_bytes(&bytes).unwrap();
    let proto: cosmrs::proto::cosmos::tx::v1beta1::TxRaw = raw.into();
    let tx = cosmrs::Tx::from_bytes(&bytes).unwrap();
    assert_eq!(tx.auth_info.signer_infos[0].sequence, 6);
    let doc = SignDoc {
        body_bytes: proto.body_bytes,
        auth_info_bytes: proto.auth_info_bytes,
        chain_id: "deepnode-1".into(),
        account_number: 5,
    };
    let theirs = TheirKey::from_slice(&[9; 32]).unwrap();
    // Both sign deterministically (RFC 6979, low s): equal signatures say more than a verification would.
    assert_eq!(doc.sign(&theirs).unwrap().to_bytes().unwrap(), bytes);
}
