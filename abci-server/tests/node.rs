//! `deepnoded` as its users have it: the real program with the real CometBFT behind it.

mod harness;

use deepnode_client::keyring::{Backend, Passphrase};
use deepnode_client::{Client, ClientError, Gas, Keyring, Options};
use deepnode_proto::cosmos::bank::v1beta1::MsgSend;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::{Any, AnyExt};
use deepnode_tx::Address;
use harness::{free_port, Node, KEYS};

fn send(from: &Address, to: &Address, amount: &str) -> Any {
    Any::pack(&MsgSend {
        from_address: from.to_string(),
        to_address: to.to_string(),
        amount: vec![Coin { denom: "udn".into(), amount: amount.into() }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_from_init_to_restart() {
    let mut node = Node::new();
    node.start();
    let client = node.client().await;
    assert_eq!(client.chain_id(), "test-1");
    let keys = Keyring::open(node.home.path(), Backend::Test, Passphrase::Prompt).unwrap();
    let (me, you) = (keys.signer("me").unwrap(), keys.show("you").unwrap().address);

    // A transfer by the command line, one by the library, and what the chain says of both.
    let sent = node
        .json(&[&["tx", "bank", "send", "me", &you.to_string(), "5udn", "-o", "json"], &KEYS[..]].concat());
    assert_eq!(sent["code"], 0);
    let options = Options { gas_price: "0.025udn".parse().ok(), ..Options::default() };
    let response = client.send(&me, vec![send(&me.address(), &you, "7")], options.clone()).await.unwrap();
    assert!(response.gas_used < 80_000, "a transfer used {} gas", response.gas_used);
    assert_eq!(node.balance(&you), 12);

    // gRPC, REST and ABCI answer alike; errors name what is wrong.
    let (status, body) = node.rest(&format!("/cosmos/bank/v1beta1/balances/{you}")).await;
    assert_eq!((status, body["balances"][0]["amount"].as_str()), (200, Some("12")));
    assert_eq!(node.rest("/cosmos/bank/v1beta1/balances/nobody").await.0, 400);
    assert_eq!(node.rest("/cosmos/nothing").await.0, 501);
    let (status, body) = node.rest("/deepnode/powr/v1/params").await;
    assert_eq!((status, body["params"]["collateral"].as_u64()), (200, Some(2)));
    let (status, body) = node.rest("/cosmos/staking/v1beta1/validators").await;
    assert_eq!((status, body["validators"][0]["tokens"].as_str()), (200, Some("100000000")));

    // Refusals: code, field and bound, and nothing changes.
    let bad = [
        (send(&me.address(), &you, "0"), "amount"),
        (send(&me.address(), &you, "-1"), "-1"),
        (send(&me.address(), &you, "340282366920938463463374607431768211456"), "amount"),
        (send(&me.address(), &you, "99999999999999"), "insufficient funds"),
        (send(&you, &me.address(), "1"), ""),
    ];
    for (message, text) in bad {
        let gas = Options { gas: Gas::Limit(200_000), ..options.clone() };
        let error = client.send(&me, vec![message.clone()], gas).await.unwrap_err();
        assert!(error.to_string().contains(text), "{message:?}: {error}");
    }
    assert_eq!(node.balance(&you), 12);
    let error =
        node.fails(&[&["tx", "bank", "send", "nobody", &you.to_string(), "5udn"], &KEYS[..]].concat());
    assert!(error.contains("nobody"), "{error}");
    let error = node.fails(&["query", "bank", "nonsense"]);
    assert!(error.contains("bank balances ADDRESS"), "{error}");

    // kill -9 of the application while blocks are made: it comes back with the same state and goes on.
    node.kill();
    node.start();
    let client = node.client().await;
    assert_eq!(node.balance(&you), 12);
    client.send(&me, vec![send(&me.address(), &you, "1")], options).await.unwrap();
    assert_eq!(node.balance(&you), 13);
    let before = node.height();
    assert!(node.stop(), "a stopped node ends with code 0");

    // A stopped node can be taken back by a block, and says why it does not answer.
    let text = node.ok(&["rollback"]);
    assert!(text.contains("rolled back"), "{text}");
    let error = node.fails(&["status"]);
    assert!(error.contains("deepnoded start"), "{error}");
    node.start();
    node.client().await;
    node.wait_for_height(before + 1).await;
    assert_eq!(node.balance(&you), 13);

    // A database whose log is gone is not taken for an empty one; the error says what to do, and that works.
    assert!(node.stop());
    let log = node.home.path().join("data/deepnode/sled/db");
    std::fs::OpenOptions::new().write(true).open(log).unwrap().set_len(0).unwrap();
    let error = node.fails(&["start", "--cache-mb", "16"]);
    assert!(error.contains("damaged") && error.contains("deepnoded reset"), "{error}");
    node.ok(&["reset", "--yes"]);
    node.start();
    node.client().await;
    assert_eq!(node.balance(&you), 0, "a new chain from the same genesis");
}

/// Clients match on this.
#[test]
fn unreachable_nodes_are_named() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let port = free_port();
    let error = runtime.block_on(Client::connect(&format!("127.0.0.1:{port}"))).unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}
