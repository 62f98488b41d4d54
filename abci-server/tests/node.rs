//! `deepnoded` as its users have it: the real program with the real CometBFT behind it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use deepnode_client::keyring::{Backend, Passphrase};
use deepnode_client::{Client, ClientError, Gas, Keyring, Options};
use deepnode_proto::cosmos::bank::v1beta1::MsgSend;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::{Any, AnyExt};
use deepnode_tx::Address;
use serde_json::Value;

const KEYS: [&str; 2] = ["--keyring-backend", "test"];

/// A node in a folder of its own, on ports of its own.
struct Node {
    home: tempfile::TempDir,
    grpc: u16,
    rest: u16,
    child: Option<Child>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn cometbft() -> PathBuf {
    match std::env::var_os("COMETBFT") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/cometbft"),
    }
}

impl Node {
    fn new() -> Self {
        let node =
            Node { home: tempfile::tempdir().unwrap(), grpc: free_port(), rest: free_port(), child: None };
        node.ok(&["init", "alone", "--chain-id", "test-1"]);
        let config = node.home.path().join("config/config.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let text = text
            .replace("127.0.0.1:26657", &format!("127.0.0.1:{}", free_port()))
            .replace("127.0.0.1:26656", &format!("127.0.0.1:{}", free_port()))
            .replace("timeout_commit = \"1s\"", "timeout_commit = \"200ms\"");
        std::fs::write(&config, text).unwrap();
        for key in ["me", "you"] {
            node.ok(&[&["keys", "add", key], &KEYS[..]].concat());
        }
        node.ok(&[&["genesis", "account", "me", "1000000000udn"], &KEYS[..]].concat());
        node.ok(&[&["genesis", "validator", "me", "100000000udn"], &KEYS[..]].concat());
        node
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deepnoded"));
        command.arg("--home").arg(self.home.path()).args(args);
        command.env("COMETBFT", cometbft()).env("DEEPNODE_NODE", format!("127.0.0.1:{}", self.grpc));
        command
    }

    /// Runs a command that must succeed, and returns what it printed.
    fn ok(&self, args: &[&str]) -> String {
        let out = self.command(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Runs a command that must fail, and returns its error.
    fn fails(&self, args: &[&str]) -> String {
        let out = self.command(args).output().unwrap();
        assert!(!out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stdout));
        String::from_utf8(out.stderr).unwrap()
    }

    fn start(&mut self) {
        let log = std::fs::File::create(self.home.path().join("node.log")).unwrap();
        let (grpc, rest) = (format!("127.0.0.1:{}", self.grpc), format!("127.0.0.1:{}", self.rest));
        let args = ["start", "--with-cometbft", "--grpc", &grpc, "--rest", &rest, "--cache-mb", "16"];
        self.child = Some(self.command(&args).stderr(log).stdin(Stdio::null()).spawn().unwrap());
    }

    async fn client(&self) -> Client {
        let begin = Instant::now();
        loop {
            match Client::connect(&format!("127.0.0.1:{}", self.grpc)).await {
                Ok(client) => return client,
                Err(e) if begin.elapsed() > Duration::from_secs(40) => {
                    let log = std::fs::read_to_string(self.home.path().join("node.log")).unwrap_or_default();
                    panic!("{e}\n{log}");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ctrl-C, as a user would; true if the exit code is 0.
    fn stop(&mut self) -> bool {
        let mut child = self.child.take().unwrap();
        // SAFETY: the child is ours and not reaped.
        unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
        child.wait().unwrap().success()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    fn balance(&self, address: &Address) -> u128 {
        let answer = self.json(&["query", "bank", "balance", &address.to_string(), "udn", "-o", "json"]);
        answer["balance"]["amount"].as_str().unwrap().parse().unwrap()
    }

    async fn rest(&self, path: &str) -> (u16, Value) {
        let answer = reqwest::get(format!("http://127.0.0.1:{}{path}", self.rest)).await.unwrap();
        (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

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
    let before = node.json(&["status", "-o", "json"])["height"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(node.stop(), "a stopped node ends with code 0");

    // A stopped node can be taken back by a block, and says why it does not answer.
    let text = node.ok(&["rollback"]);
    assert!(text.contains("rolled back"), "{text}");
    let error = node.fails(&["status"]);
    assert!(error.contains("deepnoded start"), "{error}");
    node.start();
    node.client().await;
    let begin = Instant::now();
    loop {
        let height = node.json(&["status", "-o", "json"])["height"].as_str().unwrap().parse::<u64>().unwrap();
        if height > before {
            break;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "no block after a rollback: height {height}, was {before}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(node.balance(&you), 13);
}

/// Clients match on this.
#[test]
fn unreachable_nodes_are_named() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let port = free_port();
    let error = runtime.block_on(Client::connect(&format!("127.0.0.1:{port}"))).unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}
