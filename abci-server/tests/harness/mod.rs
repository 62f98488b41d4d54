//! A real `deepnoded` with the real CometBFT behind it, in a folder of its own, on ports of its own.
#![allow(dead_code)] // each test uses its part

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use deepnode_client::Client;
use deepnode_tx::Address;
use serde_json::Value;

pub const KEYS: [&str; 2] = ["--keyring-backend", "test"];

/// The node; it ends with its value.
pub struct Node {
    pub home: tempfile::TempDir,
    pub grpc: u16,
    pub rest: u16,
    /// Of CometBFT.
    pub rpc: u16,
    pub metrics: u16,
    child: Option<Child>,
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn cometbft() -> PathBuf {
    match std::env::var_os("COMETBFT") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/cometbft"),
    }
}

impl Node {
    pub fn new() -> Self {
        Self::with_init(&[])
    }

    /// `init` with further arguments.
    pub fn with_init(args: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let [grpc, rest, rpc, metrics] = [(); 4].map(|()| free_port());
        let node = Node { home, grpc, rest, rpc, metrics, child: None };
        node.ok(&[&["init", "alone", "--chain-id", "test-1"], args].concat());
        let config = node.home.path().join("config/config.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let text = text
            .replace("127.0.0.1:26657", &format!("127.0.0.1:{rpc}"))
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

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deepnoded"));
        command.arg("--home").arg(self.home.path()).args(args);
        command.env("COMETBFT", cometbft()).env("DEEPNODE_NODE", format!("127.0.0.1:{}", self.grpc));
        command
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.command(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Runs a command that must fail, and returns its error.
    pub fn fails(&self, args: &[&str]) -> String {
        let out = self.command(args).output().unwrap();
        assert!(!out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stdout));
        String::from_utf8(out.stderr).unwrap()
    }

    pub fn start(&mut self) {
        let log = std::fs::File::create(self.home.path().join("node.log")).unwrap();
        let (grpc, rest) = (format!("127.0.0.1:{}", self.grpc), format!("127.0.0.1:{}", self.rest));
        let metrics = format!("127.0.0.1:{}", self.metrics);
        let args = ["start", "--with-cometbft", "--grpc", &grpc, "--rest", &rest, "--cache-mb", "16"];
        let args = [&args[..], &["--metrics", &metrics]].concat();
        self.child = Some(self.command(&args).stderr(log).stdin(Stdio::null()).spawn().unwrap());
    }

    pub async fn client(&self) -> Client {
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

    pub fn height(&self) -> u64 {
        self.json(&["status", "-o", "json"])["height"].as_str().unwrap().parse().unwrap()
    }

    pub async fn wait_for_height(&self, wanted: u64) {
        let begin = Instant::now();
        while self.height() < wanted {
            assert!(begin.elapsed() < Duration::from_secs(30), "height {}, not {wanted}", self.height());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ctrl-C, as a user would; true if the exit code is 0.
    pub fn stop(&mut self) -> bool {
        let mut child = self.child.take().unwrap();
        // SAFETY: the child is ours and not reaped.
        unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
        child.wait().unwrap().success()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    pub fn balance(&self, address: &Address) -> u128 {
        let answer = self.json(&["query", "bank", "balance", &address.to_string(), "udn", "-o", "json"]);
        answer["balance"]["amount"].as_str().unwrap().parse().unwrap()
    }

    pub async fn rest(&self, path: &str) -> (u16, Value) {
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
