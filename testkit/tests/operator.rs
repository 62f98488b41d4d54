//! What an operator's commands say of a real chain, and what is deployed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use deepnode_abci_server::node::metrics::Metrics as NodeMetrics;
use deepnode_client::keyring::Passphrase;
use deepnode_client::Client;
use deepnode_proto::deepnode::tasks::v1::{QueryEstimateTaskRequest, QueryEstimateTaskResponse};
use deepnode_testkit::network::{Network, Setup, CHAIN_ID};
use deepnode_worker::cli::{cu, examine, Cli, Config, Device, Home, State, WorkerConfig};
use deepnode_worker::gateway::{Gateway, Ledger, Settings, Terms};
use deepnode_worker::metrics::Metrics;
use deepnode_worker::model::model_path;

/// The estimate of `bench` is the chain's.
#[test]
fn cu_are_counted_as_the_chain_counts_them() {
    let network = Network::start(Setup::default());
    let model = network.model();
    for (input_tokens, max_output) in [(1, 1), (1, 200), (40, 12), (255, 1), (100, 100)] {
        let request =
            QueryEstimateTaskRequest { model_id: hex::encode(model.id()), input_tokens, max_output };
        let estimate: QueryEstimateTaskResponse = network.ask("estimate", 0, &request).unwrap();
        assert_eq!(cu(model.arch(), input_tokens, max_output), estimate.cu);
    }
}

fn free_port() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_finds_a_worker_in_order_and_a_poor_one() {
    let network = Network::start(Setup::default());
    let _blocks = network.blocks(Duration::from_millis(20));
    let node = network.node().await;
    let home_of = |name: &str, chain_id: &str, bond: u64| {
        let config = Config {
            chain_id: chain_id.into(),
            node: node.address.to_string(),
            comet: String::new(),
            key: "worker".into(),
            keyring_backend: "test".into(),
            gas_price: String::new(),
            models: Vec::new(),
            device: Device::Cpu,
            threads: 1,
            huge_pages: false,
            nice: 0,
            worker: WorkerConfig {
                listen: free_port(),
                metrics: free_port().to_string(),
                bond,
                ..Default::default()
            },
        };
        let home = Home::create(&network.folder(name).join("home"), config).unwrap();
        home.keyring(Passphrase::Prompt).unwrap().store("worker", &network.workers()[0]).unwrap();
        std::fs::create_dir_all(home.models_folder()).unwrap();
        let model = network.model();
        std::fs::copy(model.path(), model_path(&home.models_folder(), &model.id())).unwrap();
        home.dir
    };
    let checks = examine(&home_of("good", CHAIN_ID, 1_000_000), true).await;
    let bad: Vec<_> = checks.iter().filter(|check| check.state == State::Mend).collect();
    assert!(bad.is_empty(), "{bad:?}");
    for name in ["node", "account", "worker", "on chain", "model", "port"] {
        assert!(
            checks.iter().any(|check| check.name == name && check.state == State::Ok),
            "{name}: {checks:?}"
        );
    }
    let mended = |checks: &[deepnode_worker::cli::Check]| -> Vec<&'static str> {
        checks.iter().filter(|check| check.state == State::Mend).map(|check| check.name).collect()
    };
    let poor = examine(&home_of("poor", CHAIN_ID, 1 << 62), false).await;
    assert_eq!(mended(&poor), ["account"]);
    let lost = examine(&home_of("lost", "another-chain", 1), false).await;
    assert_eq!(mended(&lost), ["node"]);
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Names of metrics in a text: a dashboard's queries, or what a process tells.
fn names(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !word(c)).filter(|word| word.starts_with("deepnode_"));
    // A histogram's parts are told without being named.
    let plain = |word: &str| {
        ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|part| word.strip_suffix(part))
            .unwrap_or(word)
            .to_owned()
    };
    words.map(plain).collect()
}

/// Every metric that the dashboard asks for is told by somebody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_shows_what_there_is() {
    let network = Network::start(Setup::default());
    let node = network.node().await;
    let terms = Terms {
        client: Client::connect(&node.address.to_string()).await.unwrap(),
        signer: network.users()[0].clone(),
        gas_price: None,
        default_output: 16,
        inclusion: Duration::from_secs(60),
    };
    let ledger = Ledger::open(&network.folder("gateway").join("gateway.journal"), 1, None).unwrap();
    let gateway =
        Gateway::to_chain(Arc::clone(network.model()), Settings::default(), terms, ledger).await.unwrap();
    let told = names(&[gateway.metrics(), Metrics::default().text(), NodeMetrics::default().text()].concat());
    let dashboard = std::fs::read_to_string(deploy().join("grafana/deepnode.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let asked: BTreeSet<String> =
        targets.flat_map(|target| names(target["expr"].as_str().unwrap())).collect();
    assert!(asked.len() > 15, "{asked:?}");
    let missing: Vec<_> = asked.difference(&told).collect();
    assert!(missing.is_empty(), "the dashboard asks for {missing:?}");
    for prefix in ["deepnode_block_", "deepnode_worker_tasks_", "deepnode_worker_gateway_"] {
        assert!(asked.iter().any(|name| name.starts_with(prefix)), "nothing of {prefix}");
    }
}

/// The units start programs with arguments that these know.
#[test]
fn the_units_start_what_there_is() {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(deploy().join("systemd")).unwrap() {
        let path = entry.unwrap().path();
        let Some("service") = path.extension().and_then(|e| e.to_str()) else { continue };
        let text = std::fs::read_to_string(&path).unwrap().replace("\\\n", " ");
        let value = |key: &str| {
            text.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).map(str::to_owned)
        };
        let command = value("ExecStart").unwrap_or_else(|| panic!("{}", path.display()));
        let words: Vec<&str> = command.split_whitespace().collect();
        let program = Path::new(words[0]).file_name().unwrap().to_str().unwrap().to_owned();
        let parsed = match program.as_str() {
            "deepnoded" => deepnode_abci_server::cli::Cli::try_parse_from(&words).map(drop),
            "deepnode-worker" => Cli::try_parse_from(&words).map(drop),
            other => panic!("{other}"),
        };
        parsed.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        // The programs drain at SIGTERM, which takes a while.
        let seconds: u64 = value("TimeoutStopSec").unwrap().parse().unwrap();
        assert!(seconds > WorkerConfig::default().drain_seconds, "{}", path.display());
        assert!(value("Restart").is_some() && value("User").is_some() && value("StateDirectory").is_some());
        found.insert((
            program,
            words
                .into_iter()
                .find(|word| ["start", "run", "verify", "gateway"].contains(word))
                .map(str::to_owned),
        ));
    }
    assert_eq!(found.len(), 4, "{found:?}");
}
