use super::*;
use crate::auth::AuthModule;
use deepnode_core::testing::TestState;
use deepnode_core::{authority, Any};
use deepnode_proto::cosmos::bank::v1beta1::*;
use deepnode_proto::cosmos::base::query::v1beta1::PageRequest;
use deepnode_proto::cosmos::base::v1beta1::Coin as ProtoCoin;
use deepnode_proto::{AnyExt, Name};
use proptest::prelude::*;
use prost::Message;

struct Chain {
    state: TestState,
    messages: Messages,
    queries: Queries,
}

impl Chain {
    fn new() -> Self {
        let mut chain =
            Chain { state: TestState::new(), messages: Messages::default(), queries: Queries::default() };
        BankModule.messages(chain.messages.begin("bank"));
        BankModule.queries(&mut chain.queries);
        chain
            .state
            .run(|cx| {
                AuthModule.init_genesis(cx, &AuthModule.default_genesis())?;
                BankModule.init_genesis(cx, &BankModule.default_genesis())
            })
            .unwrap();
        chain
    }

    /// With 1,000 udn and 50 abc for users 1 and 2.
    fn funded() -> Self {
        let mut chain = Self::new();
        let coins = coins(&[("abc", "50"), ("udn", "1000")]);
        let coins = Coins::from_proto("", &coins).unwrap();
        chain.state.run(|cx| mint(cx, &user(1), &coins).and_then(|_| mint(cx, &user(2), &coins))).unwrap();
        chain
    }

    fn deliver<M: Name>(&mut self, msg: &M) -> std::result::Result<(), String> {
        let any = Any::pack(msg);
        let messages = &self.messages;
        let run = |cx: &mut Ctx<'_>| messages.get(&any.type_url)?.run(cx, &any.value).map(drop);
        self.state.run(run).map_err(|e| e.to_string())
    }

    fn send(&mut self, from: u8, to: Address, coins: Vec<ProtoCoin>) -> std::result::Result<(), String> {
        let (from_address, to_address) = (user(from).to_string(), to.to_string());
        self.deliver(&MsgSend { from_address, to_address, amount: coins })
    }

    fn ask<Q: Message, R: Message + Default>(&self, method: &str, q: Q) -> std::result::Result<R, String> {
        let path = format!("/cosmos.bank.v1beta1.Query/{method}");
        let run = |cx: deepnode_core::QueryCtx<'_>| self.queries.run(&path, cx, &q.encode_to_vec());
        let bytes = self.state.query(run).map_err(|e| e.to_string())?;
        Ok(R::decode(bytes.as_slice()).unwrap())
    }

    fn held(&mut self, who: u8, denom: &str) -> u128 {
        self.state.run(|cx| balance(cx, &user(who), denom)).unwrap()
    }

    fn check(&self) {
        self.state.query(|q| BankModule.invariants(q.state)).unwrap();
    }
}

fn user(n: u8) -> Address {
    Address([n; 20])
}

fn coins(list: &[(&str, &str)]) -> Vec<ProtoCoin> {
    list.iter()
        .map(|(denom, amount)| ProtoCoin { denom: (*denom).into(), amount: (*amount).into() })
        .collect()
}

#[test]
fn a_send_moves_coins_opens_the_account_and_tells_explorers() {
    let mut chain = Chain::funded();
    chain.send(1, user(9), coins(&[("abc", "50"), ("udn", "400")])).unwrap();
    let (one, nine, amount) = (user(1).to_string(), user(9).to_string(), "50abc,400udn".to_string());
    let event = |kind, attributes: &[(&'static str, &String)]| deepnode_core::Event {
        kind,
        attributes: attributes.iter().map(|(k, v)| (*k, (*v).clone())).collect(),
    };
    assert_eq!(
        chain.state.events,
        [
            event("coin_spent", &[("spender", &one), ("amount", &amount)]),
            event("coin_received", &[("receiver", &nine), ("amount", &amount)]),
            event("transfer", &[("recipient", &nine), ("sender", &one), ("amount", &amount)]),
            event("message", &[("sender", &one)]),
        ]
    );
    assert_eq!([chain.held(1, "udn"), chain.held(9, "udn"), chain.held(1, "abc")], [600, 400, 0]);
    assert!(chain.state.run(|cx| auth::account(cx, &user(9))).unwrap().is_some());
    chain.check();
}

#[test]
fn bad_amounts_are_refused_with_their_reason() {
    let mut chain = Chain::funded();
    let before = chain.state.changes.clone();
    let mut refused = |amount: &[(&str, &str)]| chain.send(1, user(2), coins(amount)).unwrap_err();
    assert_eq!(refused(&[]), "amount is empty, at least one coin is required: invalid coins");
    assert_eq!(refused(&[("udn", "0")]), "amount: amount of udn must be positive: invalid coins");
    assert_eq!(
        refused(&[("udn", "-1")]),
        "amount.amount \"-1\": amount \"-1\": a sign is not allowed: invalid coins"
    );
    assert!(refused(&[("udn", "340282366920938463463374607431768211456")])
        .ends_with("exceeds the maximum 340282366920938463463374607431768211455: invalid coins"));
    assert!(refused(&[("udn", "1"), ("udn", "1")]).ends_with("denoms must ascend, \"udn\": invalid coins"));
    assert!(refused(&[("u", "1")]).contains("amount.denom \"u\" must be a letter"));
    assert_eq!(
        refused(&[("udn", "1001")]),
        "spendable balance 1000udn is smaller than 1001udn: insufficient funds"
    );
    assert_eq!(refused(&[("xyz", "1")]), "spendable balance 0xyz is smaller than 1xyz: insufficient funds");
    assert_eq!(chain.state.changes, before);
    let bad = MsgSend {
        from_address: user(1).to_string(),
        to_address: "dn1x".into(),
        amount: coins(&[("udn", "1")]),
    };
    assert!(chain.deliver(&bad).unwrap_err().starts_with("invalid to address: "));
}

#[test]
fn users_cannot_send_to_modules_but_modules_can() {
    let mut chain = Chain::funded();
    let pool = Address::module("fee_collector");
    assert_eq!(
        chain.send(1, pool, coins(&[("udn", "1")])).unwrap_err(),
        format!("{pool} is not allowed to receive funds: unauthorized")
    );
    let output = Output { address: pool.to_string(), coins: coins(&[("udn", "1")]) };
    let input = Input { address: user(1).to_string(), coins: coins(&[("udn", "1")]) };
    assert!(chain.deliver(&MsgMultiSend { inputs: vec![input], outputs: vec![output] }).is_err());
    chain.state.run(|cx| send_udn(cx, &user(1), &pool, 7)).unwrap();
    assert_eq!(chain.state.run(|cx| balance_udn(cx, &pool)).unwrap(), 7);
}

#[test]
fn multi_send_takes_one_input_whose_parts_add_up() {
    let mut chain = Chain::funded();
    let input = |n, amount| Input { address: user(n).to_string(), coins: coins(&[("udn", amount)]) };
    let output = |n, amount| Output { address: user(n).to_string(), coins: coins(&[("udn", amount)]) };
    let mut run = |inputs: Vec<Input>, outputs: Vec<Output>| chain.deliver(&MsgMultiSend { inputs, outputs });
    assert_eq!(run(vec![], vec![output(3, "1")]).unwrap_err(), "no inputs to send transaction");
    assert_eq!(
        run(vec![input(1, "1"), input(2, "1")], vec![output(3, "2")]).unwrap_err(),
        "multiple senders not allowed"
    );
    assert_eq!(run(vec![input(1, "1")], vec![]).unwrap_err(), "no outputs to send transaction");
    assert_eq!(
        run(vec![input(1, "5")], vec![output(3, "2"), output(4, "2")]).unwrap_err(),
        "inputs 5udn, outputs 4udn: sum inputs != sum outputs"
    );
    let most = u128::MAX.to_string();
    assert!(run(vec![input(1, "5")], vec![output(3, &most), output(4, &most)])
        .unwrap_err()
        .contains("out of range"));
    run(vec![input(1, "5")], vec![output(3, "2"), output(4, "3")]).unwrap();
    assert_eq!([chain.held(1, "udn"), chain.held(3, "udn"), chain.held(4, "udn")], [995, 2, 3]);
    chain.check();
}

#[test]
fn governance_stops_and_allows_sends_by_denomination() {
    let mut chain = Chain::funded();
    let set = |authority: Address, enabled: Option<bool>| MsgSetSendEnabled {
        authority: authority.to_string(),
        send_enabled: enabled
            .map(|enabled| SendEnabled { denom: "udn".into(), enabled })
            .into_iter()
            .collect(),
        use_default_for: if enabled.is_none() { vec!["udn".into()] } else { vec![] },
    };
    assert!(chain.deliver(&set(user(1), Some(false))).unwrap_err().ends_with(": unauthorized"));
    chain.deliver(&set(authority(), Some(false))).unwrap();
    assert_eq!(
        chain.send(1, user(2), coins(&[("udn", "1")])).unwrap_err(),
        "udn transfers are currently disabled: send transactions are disabled"
    );
    chain.send(1, user(2), coins(&[("abc", "1")])).unwrap();
    let answer: QuerySendEnabledResponse =
        chain.ask("SendEnabled", QuerySendEnabledRequest::default()).unwrap();
    assert_eq!(answer.send_enabled, [SendEnabled { denom: "udn".into(), enabled: false }]);

    #[allow(deprecated)]
    let params =
        deepnode_proto::cosmos::bank::v1beta1::Params { send_enabled: vec![], default_send_enabled: false };
    let update = MsgUpdateParams { authority: authority().to_string(), params: Some(params) };
    chain.deliver(&update).unwrap();
    assert!(chain.send(1, user(2), coins(&[("abc", "1")])).is_err());
    chain.deliver(&set(authority(), Some(true))).unwrap();
    chain.send(1, user(2), coins(&[("udn", "1")])).unwrap();
    chain.deliver(&set(authority(), None)).unwrap();
    assert!(chain.send(1, user(2), coins(&[("udn", "1")])).is_err());
}

#[test]
fn supply_cannot_leave_its_type_nor_burns_take_what_is_not_there() {
    let mut chain = Chain::new();
    chain.state.run(|cx| mint_udn(cx, &user(1), u128::MAX)).unwrap();
    let error = chain.state.run(|cx| mint_udn(cx, &user(2), 1)).unwrap_err().to_string();
    assert!(error.contains("exceeds the maximum"), "{error}");
    assert_eq!(chain.held(2, "udn"), 0);
    assert!(chain.state.run(|cx| burn_udn(cx, &user(2), 1)).is_err());
    chain.state.run(|cx| burn_udn(cx, &user(1), u128::MAX)).unwrap();
    assert_eq!(chain.state.run(|cx| supply(cx, UDN)).unwrap(), 0);
    chain.check();
    let before = chain.state.changes.clone();
    chain.state.run(|cx| send_udn(cx, &user(5), &user(6), 0)).unwrap();
    assert_eq!((&chain.state.changes, chain.state.events.len()), (&before, 0), "0 is nothing");
}

#[test]
fn queries_answer_as_wallets_and_explorers_ask() {
    let mut chain = Chain::funded();
    chain.send(1, user(3), coins(&[("udn", "10")])).unwrap();
    let address = user(1).to_string();
    let one: QueryBalanceResponse =
        chain.ask("Balance", QueryBalanceRequest { address: address.clone(), denom: "udn".into() }).unwrap();
    assert_eq!(one.balance.unwrap().amount, "990");
    let none: QueryBalanceResponse =
        chain.ask("Balance", QueryBalanceRequest { address: address.clone(), denom: "xyz".into() }).unwrap();
    assert_eq!(none.balance, coins(&[("xyz", "0")]).pop());
    let bad = chain.ask::<_, QueryBalanceResponse>(
        "Balance",
        QueryBalanceRequest { address: "x".into(), denom: "udn".into() },
    );
    assert!(bad.unwrap_err().starts_with("rpc error: code = InvalidArgument desc = invalid address: "));

    let page = |key: Vec<u8>| Some(PageRequest { key, limit: 1, ..Default::default() });
    let mut key = Vec::new();
    let mut seen = Vec::new();
    loop {
        let q =
            QueryAllBalancesRequest { address: address.clone(), pagination: page(key), resolve_denom: true };
        let answer: QueryAllBalancesResponse = chain.ask("AllBalances", q).unwrap();
        seen.extend(answer.balances);
        key = answer.pagination.unwrap().next_key;
        if key.is_empty() {
            break;
        }
    }
    assert_eq!(seen, coins(&[("abc", "50"), ("dn", "990")]));

    let q = QueryDenomOwnersRequest { denom: "udn".into(), pagination: None };
    let owners: QueryDenomOwnersResponse = chain.ask("DenomOwners", q).unwrap();
    let owners: Vec<_> =
        owners.denom_owners.into_iter().map(|o| (o.address, o.balance.unwrap().amount)).collect();
    let expected =
        [(1, "990"), (2, "1000"), (3, "10")].map(|(n, amount)| (user(n).to_string(), amount.to_string()));
    assert_eq!(owners, expected);

    let total: QueryTotalSupplyResponse =
        chain.ask("TotalSupply", QueryTotalSupplyRequest::default()).unwrap();
    assert_eq!(total.supply, coins(&[("abc", "100"), ("udn", "2000")]));
    let of: QuerySupplyOfResponse =
        chain.ask("SupplyOf", QuerySupplyOfRequest { denom: "abc".into() }).unwrap();
    assert_eq!(of.amount.unwrap().amount, "100");
    let metadata: QueryDenomMetadataResponse =
        chain.ask("DenomMetadata", QueryDenomMetadataRequest { denom: "udn".into() }).unwrap();
    assert_eq!(metadata.metadata.unwrap().symbol, "DN");
    let missing = chain.ask::<_, QueryDenomMetadataResponse>(
        "DenomMetadata",
        QueryDenomMetadataRequest { denom: "xyz".into() },
    );
    assert_eq!(missing.unwrap_err(), "rpc error: code = NotFound desc = client metadata for denom xyz");
}

#[test]
fn genesis_exports_what_it_read_and_checks_its_sums() {
    let mut chain = Chain::funded();
    chain.send(1, user(3), coins(&[("udn", "1000")])).unwrap();
    let exported = chain.state.query(|q| BankModule.export_genesis(q.state)).unwrap();
    let init = |genesis: &serde_json::Value| {
        let mut fresh = TestState::new();
        fresh
            .run(|cx| {
                AuthModule.init_genesis(cx, &AuthModule.default_genesis())?;
                BankModule.init_genesis(cx, genesis)
            })
            .map(|_| fresh.changes["bank"].clone())
            .map_err(|e| e.to_string())
    };
    let kept = |changes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>| -> Vec<_> {
        changes.iter().filter(|(_, v)| v.is_some()).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    assert_eq!(kept(&init(&exported).unwrap()), kept(&chain.state.changes["bank"]));

    let changed = |path: &str, value: serde_json::Value| {
        let mut genesis = exported.clone();
        *genesis.pointer_mut(path).unwrap() = value;
        init(&genesis).unwrap_err()
    };
    assert_eq!(
        changed("/supply/1/amount", "1999".into()),
        "genesis of bank: supply is 100abc,1999udn, the balances add up to 100abc,2000udn: invalid request"
    );
    assert!(changed("/balances/0/coins/0/amount", "0".into()).contains("amount of abc must be positive"));
    assert!(
        changed("/balances/1/address", exported["balances"][0]["address"].clone()).contains("appear twice")
    );
    assert!(changed("/denom_metadata/0/display", "x".into()).contains("display \"x\" is not among the units"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is sent, minted and burned: supply equals the sum of balances, refused messages change nothing, and
    /// balances are those of a plain map.
    #[test]
    fn any_sequence_keeps_the_supply(
        ops in proptest::collection::vec((0u8..4, 1u8..5, 1u8..5, 0u128..1_500, any::<bool>()), 1..30)
    ) {
        let mut chain = Chain::funded();
        let mut model: BTreeMap<(u8, &str), u128> =
            [1, 2].into_iter().flat_map(|n| [((n, "udn"), 1_000), ((n, "abc"), 50)]).collect();
        for (op, from, to, amount, other) in ops {
            let denom = if other { "abc" } else { "udn" };
            let coins = Coins::from(Coin::new(amount, denom));
            let held = model.get(&(from, denom)).copied().unwrap_or(0);
            let before = chain.state.changes.clone();
            let (result, expected) = match op {
                0 => (chain.state.run(|cx| mint(cx, &user(to), &coins)).is_ok(), true),
                1 => (chain.state.run(|cx| burn(cx, &user(from), &coins)).is_ok(), amount <= held),
                _ => (chain.send(from, user(to), coins.to_proto()).is_ok(), 0 < amount && amount <= held),
            };
            prop_assert_eq!(result, expected);
            if result {
                if op > 0 {
                    *model.entry((from, denom)).or_default() -= amount;
                }
                if op != 1 {
                    *model.entry((to, denom)).or_default() += amount;
                }
            } else {
                prop_assert_eq!(&chain.state.changes, &before);
            }
            chain.check();
        }
        for ((who, denom), amount) in model {
            prop_assert_eq!(chain.held(who, denom), amount);
        }
    }
}
