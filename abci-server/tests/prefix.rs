//! A chain whose addresses begin otherwise: chosen once, at `init`, and known to all that talk to the node.
//!
//! A program of its own, because one process speaks of one chain.

mod harness;

use deepnode_tx::address::{prefix, set_prefix};
use harness::{Node, KEYS};

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_chooses_its_prefix_at_genesis() {
    let mut node = Node::with_init(&["--bech32-prefix", "cosmos"]);
    let shown = |node: &Node, key, form| {
        node.ok(&[&["keys", "show", key, "--address", form], &KEYS[..]].concat()).trim().to_owned()
    };
    let you = shown(&node, "you", "acc");
    assert!(you.starts_with("cosmos1"), "{you}");
    assert!(shown(&node, "me", "val").starts_with("cosmosvaloper1"));
    node.start();
    node.client().await;
    assert_eq!(prefix(), "cosmos", "a client learns it from the node");
    let error = set_prefix("dn").unwrap_err().to_string();
    assert!(error.contains("\"dn\"") && error.contains("\"cosmos\""), "{error}");

    node.json(&[&["tx", "bank", "send", "me", &you, "5udn", "-o", "json"], &KEYS[..]].concat());
    let (status, body) = node.rest("/cosmos/auth/v1beta1/bech32").await;
    assert_eq!((status, body["bech32_prefix"].as_str()), (200, Some("cosmos")));
    let (status, body) = node.rest("/cosmos/staking/v1beta1/validators").await;
    let operator = body["validators"][0]["operator_address"].as_str().unwrap();
    assert_eq!((status, operator), (200, shown(&node, "me", "val").as_str()));

    // Another chain's address is named as such.
    let other = "dn1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqjq52a0";
    let (status, body) = node.rest(&format!("/cosmos/bank/v1beta1/balances/{other}")).await;
    let message = body["message"].as_str().unwrap();
    assert!(status == 400 && message.contains("\"dn\", expected \"cosmos\""), "{body}");

    // Somebody with keys and no genesis file asks the node, and is told if they insist on something else.
    let home = tempfile::tempdir().unwrap();
    std::fs::rename(node.home.path().join("config/genesis.json"), home.path().join("genesis.json")).unwrap();
    let sent = node.json(&[&["tx", "bank", "send", "me", "you", "7udn", "-o", "json"], &KEYS[..]].concat());
    assert_eq!(sent["code"], 0);
    let error = node.fails(&["--bech32-prefix", "dn", "status"]);
    assert!(error.contains("\"cosmos\"") && error.contains("--bech32-prefix"), "{error}");
    let error = node.fails(&["--bech32-prefix", "Dn-", "status"]);
    assert!(error.contains("letters a to z"), "{error}");
    std::fs::rename(home.path().join("genesis.json"), node.home.path().join("config/genesis.json")).unwrap();

    // The state remembers.
    assert!(node.stop());
    node.start();
    node.client().await;
    let balance = node.json(&["query", "bank", "balance", &you, "udn", "-o", "json"]);
    assert_eq!(balance["balance"]["amount"], "12");
}
