use super::state::NONCES;
use super::*;
use deepnode_core::testing::TestState;
use deepnode_core::{authority, Any};
use deepnode_proto::cosmos::auth::v1beta1::{
    AddressBytesToStringRequest, AddressBytesToStringResponse, AddressStringToBytesRequest,
    AddressStringToBytesResponse, BaseAccount, ModuleAccount, QueryAccountAddressByIdRequest,
    QueryAccountAddressByIdResponse, QueryAccountInfoRequest, QueryAccountInfoResponse, QueryAccountRequest,
    QueryAccountResponse, QueryAccountsRequest, QueryAccountsResponse, QueryModuleAccountByNameRequest,
    QueryModuleAccountByNameResponse, QueryModuleAccountsRequest, QueryModuleAccountsResponse,
};
use deepnode_proto::AnyExt;
use deepnode_tx::SigningKey;
use prost::Message;

fn chain() -> TestState {
    let mut chain = TestState::new();
    chain.run(|cx| AuthModule.init_genesis(cx, &AuthModule.default_genesis())).unwrap();
    chain
}

fn ask<Q: Message, R: Message + Default>(chain: &TestState, method: &str, request: Q) -> QueryAnswer<R> {
    let mut queries = Queries::default();
    AuthModule.queries(&mut queries);
    let path = format!("/cosmos.auth.v1beta1.Query/{method}");
    let bytes =
        chain.query(|cx| queries.run(&path, cx, &request.encode_to_vec())).map_err(|e| e.to_string())?;
    Ok(R::decode(bytes.as_slice()).unwrap())
}

type QueryAnswer<R> = std::result::Result<R, String>;

fn user(n: u8) -> Address {
    Address([n; 20])
}

#[test]
fn numbers_are_given_once_and_found_again() {
    let mut chain = chain();
    // fee_collector has number 0.
    for n in 1..=3u8 {
        assert_eq!(chain.run(|cx| ensure_account(cx, &user(n))).unwrap().number, u64::from(n));
        assert_eq!(chain.run(|cx| ensure_account(cx, &user(n))).unwrap().number, u64::from(n));
    }
    let by_id = |id| {
        ask(
            &chain,
            "AccountAddressByID",
            QueryAccountAddressByIdRequest { account_id: id, ..Default::default() },
        )
    };
    let found: QueryAccountAddressByIdResponse = by_id(2).unwrap();
    assert_eq!(found.account_address, user(2).to_string());
    let missing: QueryAnswer<QueryAccountAddressByIdResponse> = by_id(9);
    assert!(missing
        .unwrap_err()
        .contains("code = NotFound desc = account address not found with account number 9"));
}

#[test]
fn a_missing_account_is_told_in_the_words_that_wallets_match() {
    let answer: QueryAnswer<QueryAccountResponse> =
        ask(&chain(), "Account", QueryAccountRequest { address: user(1).to_string() });
    assert_eq!(
        answer.unwrap_err(),
        format!("rpc error: code = NotFound desc = account {} not found", user(1))
    );
    let answer: QueryAnswer<QueryAccountResponse> = ask(&chain(), "Account", QueryAccountRequest::default());
    assert!(answer.unwrap_err().starts_with("rpc error: code = InvalidArgument desc = address is empty"));
}

#[test]
fn accounts_come_as_any_of_their_kind() {
    let mut chain = chain();
    let key = SigningKey::new(&[7; 32]).unwrap();
    let address = key.address();
    chain
        .run(|cx| {
            ensure_account(cx, &address)?;
            set_key(cx, &address, Key::from(&key.public_key()))?;
            increment_sequence(cx, &address)
        })
        .unwrap();
    let answer: QueryAccountResponse =
        ask(&chain, "Account", QueryAccountRequest { address: address.to_string() }).unwrap();
    let base: BaseAccount = answer.account.unwrap().unpack().unwrap();
    let expected = BaseAccount {
        address: address.to_string(),
        pub_key: Some(key.public_key().to_any()),
        account_number: 1,
        sequence: 1,
    };
    assert_eq!(base, expected);
    let info: QueryAccountInfoResponse =
        ask(&chain, "AccountInfo", QueryAccountInfoRequest { address: address.to_string() }).unwrap();
    assert_eq!(info.info, Some(expected));

    let answer: QueryModuleAccountByNameResponse =
        ask(&chain, "ModuleAccountByName", QueryModuleAccountByNameRequest { name: "fee_collector".into() })
            .unwrap();
    let module: ModuleAccount = answer.account.unwrap().unpack().unwrap();
    assert_eq!(module.base_account.unwrap().address, Address::module("fee_collector").to_string());
    let all: QueryAccountsResponse = ask(&chain, "Accounts", QueryAccountsRequest::default()).unwrap();
    assert_eq!((all.accounts.len(), all.pagination.unwrap().total), (2, 2));
    chain.query(|q| AuthModule.invariants(q.state)).unwrap();
}

#[test]
fn an_account_becomes_a_modules_and_keeps_its_number() {
    let mut chain = chain();
    let gov = Address::module("gov");
    chain.run(|cx| ensure_account(cx, &gov)).unwrap();
    assert!(!chain.run(|cx| is_module_account(cx, &gov)).unwrap());
    chain.run(|cx| ensure_module_account(cx, "gov", &["burner"])).unwrap();
    let account = chain.run(|cx| account(cx, &gov)).unwrap().unwrap();
    assert_eq!((account.number, account.module.unwrap().permissions), (1, vec!["burner".to_string()]));
    let all: QueryModuleAccountsResponse =
        ask(&chain, "ModuleAccounts", QueryModuleAccountsRequest {}).unwrap();
    assert_eq!(all.accounts.len(), 2);
}

#[test]
fn addresses_convert_both_ways() {
    let text: AddressBytesToStringResponse =
        ask(&chain(), "AddressBytesToString", AddressBytesToStringRequest { address_bytes: vec![5; 20] })
            .unwrap();
    let bytes: AddressStringToBytesResponse = ask(
        &chain(),
        "AddressStringToBytes",
        AddressStringToBytesRequest { address_string: text.address_string },
    )
    .unwrap();
    assert_eq!(bytes.address_bytes, vec![5; 20]);
    let short: QueryAnswer<AddressBytesToStringResponse> =
        ask(&chain(), "AddressBytesToString", AddressBytesToStringRequest { address_bytes: vec![5; 3] });
    assert!(short.unwrap_err().contains("has 3 bytes, expected 20"));
}

#[test]
fn governance_alone_changes_parameters_within_bounds() {
    let mut chain = chain();
    let mut messages = Messages::default();
    AuthModule.messages(messages.begin("auth"));
    let mut update = |authority: Address, params: Params| {
        let msg = MsgUpdateParams { authority: authority.to_string(), params: Some(params.to_proto()) };
        let any = Any::pack(&msg);
        chain
            .run(|cx| messages.get(&any.type_url)?.run(cx, &any.value).and_then(|_| super::params(cx)))
            .map_err(|e| e.to_string())
    };
    let changed = Params { tx_sig_limit: 9, ..Params::default() };
    assert!(update(user(1), changed.clone()).unwrap_err().ends_with(": unauthorized"));
    assert_eq!(update(authority(), changed.clone()), Ok(changed.clone()));
    let zero = Params { tx_size_cost_per_byte: 0, ..Params::default() };
    assert_eq!(
        update(authority(), zero).unwrap_err(),
        "params.tx_size_cost_per_byte is 0, allowed are 1 to 1000: invalid request"
    );
}

#[test]
fn nonces_expire_once_the_block_time_is_past_them_a_thousand_a_block() {
    let mut chain = chain();
    chain.run(|cx| (0..2_500).try_for_each(|n| use_nonce(cx, Time(1_000 + n), &user(1)))).unwrap();
    let mut left = |time| {
        chain.block.time = Time(time);
        chain.run(|cx| AuthModule.pre_block(cx)).unwrap();
        chain.run(|cx| Ok(NONCES.iter(cx, Walk::FORWARD).count())).unwrap()
    };
    assert_eq!(left(1_000), 2_500, "a timeout equal to the block time is still good");
    assert_eq!(left(1_001), 2_499);
    assert_eq!(left(9_999), 1_499);
    assert_eq!(left(9_999), 499);
    assert_eq!(left(9_999), 0);
}

#[test]
fn genesis_exports_what_it_read() {
    let key = SigningKey::new(&[9; 32]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&format!(
        r#"{{"params": {{"max_memo_characters": "100", "tx_sig_limit": "7", "tx_size_cost_per_byte": "10",
                "sig_verify_cost_ed25519": "590", "sig_verify_cost_secp256k1": "1000"}},
            "accounts": [
              {{"@type": "/cosmos.auth.v1beta1.ModuleAccount", "name": "gov", "permissions": ["burner"],
                "base_account": {{"address": "{gov}", "pub_key": null, "account_number": "4", "sequence": "0"}}}},
              {{"@type": "/cosmos.auth.v1beta1.BaseAccount", "address": "{user}", "account_number": "2", "sequence": "8",
                "pub_key": {{"@type": "/cosmos.crypto.secp256k1.PubKey", "key": "{key}"}}}}],
            "unordered_nonces": [{{"timeout": "77", "signer": "{user}"}}]}}"#,
        gov = Address::module("gov"),
        user = key.address(),
        key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, match Key::from(&key.public_key()) {
            Key::Secp256k1(bytes) => bytes,
        }),
    ))
    .unwrap();
    let mut chain = TestState::new();
    chain.run(|cx| AuthModule.init_genesis(cx, &json)).unwrap();
    let account = chain.run(|cx| account(cx, &key.address())).unwrap().unwrap();
    assert_eq!((account.number, account.sequence), (2, 8));
    assert!(chain.run(|cx| nonce_used(cx, Time(77), &key.address())).unwrap());
    let exported = chain.query(|q| AuthModule.export_genesis(q.state)).unwrap();
    let mut again = TestState::new();
    again.run(|cx| AuthModule.init_genesis(cx, &exported)).unwrap();
    assert_eq!(again.changes, chain.changes);
    again.query(|q| AuthModule.invariants(q.state)).unwrap();

    let mut foreign = json.clone();
    foreign["accounts"][1]["address"] = user(3).to_string().into();
    let error = TestState::new().run(|cx| AuthModule.init_genesis(cx, &foreign)).unwrap_err().to_string();
    assert!(error.contains(&format!("key of {}: it is that of {}", user(3), key.address())), "{error}");
    let mut number = json;
    number["params"]["tx_sig_limit"] = 7.into();
    let error = TestState::new().run(|cx| AuthModule.init_genesis(cx, &number)).unwrap_err().to_string();
    assert!(error.contains("invalid type: integer `7`"), "{error}");
}
