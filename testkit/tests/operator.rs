//! What an operator's commands say of a real chain, and what is deployed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use deepnode_abci_server::node::metrics::Metrics as NodeMetrics;
use deepnode_client::keyring::Passphrase;
use deepnode_client::Client;
use deepnode_proto::deepnode::tasks::v1::{QueryEstimateTaskRequest, QueryEstimateTaskResponse};
use deepnode_proto::deepnode::workers::v1::query_client::QueryClient as Workers;
use deepnode_proto::deepnode::workers::v1::QueryWorkerRequest;
use deepnode_testkit::network::{engine_options, Network, Setup, BOND, CHAIN_ID};
use deepnode_worker::cli::{
    cu, earnings, examine, status, Check, Cli, Config, Device, Home, Role, State, WorkerConfig,
};
use deepnode_worker::engine::Engine;
use deepnode_worker::gateway::{Gateway, Ledger, Settings, Terms};
use deepnode_worker::metrics::Metrics;
use deepnode_worker::model::model_path;
use serde_json::json;

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

/// A machine that does one task an hour earns that task's price an hour, and the worker gets what no levy or burn takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn earnings_are_what_the_chain_asks_of_users() {
    let network = Network::start(Setup::default());
    let node = network.node().await;
    let address = node.address.to_string();
    let model_id = hex::encode(network.model().id());
    let request = QueryEstimateTaskRequest { model_id: model_id.clone(), input_tokens: 100, max_output: 100 };
    let estimate: QueryEstimateTaskResponse = network.ask("estimate", 0, &request).unwrap();
    let price: f64 = estimate.compute.parse().unwrap();
    assert!(price > 100.0, "too little to tell rounding from a mistake: {price}");

    let found = earnings(&address, &model_id, estimate.cu as f64 / 3600.0).await.unwrap();
    assert!((found.udn_an_hour / price - 1.0).abs() < 0.01, "{found:?}, the task costs {price}");
    let params = deepnode_client::task::params(&Client::connect(&address).await.unwrap()).await.unwrap();
    let [least, most] = [params.levy_max_ppm, params.levy_min_ppm].map(|levy| {
        let taken = params.burn_ppm + params.community_ppm + levy;
        assert!((1..1_000_000).contains(&taken), "{params:?}");
        price * f64::from(1_000_000 - taken) / 1e6
    });
    for (found, expected) in found.worker_udn_an_hour.into_iter().zip([least, most]) {
        assert!((found / expected - 1.0).abs() < 0.01, "{found} an hour, must be {expected}");
    }
    let error = earnings(&address, &"00".repeat(32), 1.0).await.unwrap_err();
    assert!(format!("{error:#}").contains("not found"), "{error:#}");
}

fn free_port() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A home of the first worker, with the network's model.
fn home_of(network: &Network, node: &str, name: &str, chain_id: &str, bond: u64) -> Home {
    let listen = free_port();
    let config = Config {
        chain_id: chain_id.into(),
        node: node.into(),
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
            listen,
            endpoint: format!("http://{listen}"),
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
    home
}

fn mended(checks: &[Check]) -> Vec<&'static str> {
    checks.iter().filter(|check| check.state == State::Mend).map(|check| check.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_finds_a_worker_in_order_and_a_poor_one() {
    let network = Network::start(Setup::default());
    let _blocks = network.blocks(Duration::from_millis(20));
    let node = network.node().await;
    let address = node.address.to_string();
    let home_of =
        |name: &str, chain_id: &str, bond: u64| home_of(&network, &address, name, chain_id, bond).dir;
    let checks = examine(&home_of("good", CHAIN_ID, 1_000_000), Role::Run, true).await;
    let bad: Vec<_> = checks.iter().filter(|check| check.state == State::Mend).collect();
    assert!(bad.is_empty(), "{bad:?}");
    for name in ["node", "account", "worker", "on chain", "model", "port"] {
        assert!(
            checks.iter().any(|check| check.name == name && check.state == State::Ok),
            "{name}: {checks:?}"
        );
    }
    let poor = examine(&home_of("poor", CHAIN_ID, 1 << 62), Role::Run, false).await;
    assert_eq!(mended(&poor), ["account"]);
    let endpoint = poor.iter().find(|check| check.name == "endpoint").unwrap();
    assert!(endpoint.state == State::Ok && endpoint.found.contains("not checked"), "{endpoint}");
    let lost = examine(&home_of("lost", "another-chain", 1), Role::Run, false).await;
    assert_eq!(mended(&lost), ["node"]);
}

/// What a worker needs, and its auditor or a gateway does not, is no fault of theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_asks_of_each_role_what_it_needs() {
    let network = Network::start(Setup::default());
    let _blocks = network.blocks(Duration::from_millis(20));
    let node = network.node().await;
    // No coins would do for this bond, and the port is taken.
    let home = home_of(&network, &node.address.to_string(), "roles", CHAIN_ID, 1 << 62);
    let _taken = std::net::TcpListener::bind(home.config.worker.listen).unwrap();
    let found = async |role| examine(&home.dir, role, false).await;
    assert_eq!(mended(&found(Role::Run).await), ["port", "account"]);
    assert_eq!(mended(&found(Role::Gateway).await), [""; 0]);
    // A worker's key audits for nobody.
    let stranger = found(Role::Verify).await;
    assert_eq!(mended(&stranger), ["auditor"]);
    let remedy = stranger.iter().find(|check| check.name == "auditor").unwrap().remedy.as_deref().unwrap();
    let address = network.workers()[0].address().to_string();
    assert!(remedy.contains("tx audits register") && remedy.contains(&address), "{remedy}");

    let validator = &network.validators()[0];
    let keyring = home.keyring(Passphrase::Prompt).unwrap();
    keyring.store("auditor", &validator.auditor).unwrap();
    let config = Config { key: "auditor".into(), ..home.config.clone() };
    std::fs::remove_file(home.dir.join("worker.toml")).unwrap();
    Home::create(&home.dir, config).unwrap();
    let checks = found(Role::Verify).await;
    assert_eq!(mended(&checks), [""; 0]);
    let auditors: Vec<_> = checks.iter().filter(|check| check.name == "auditor").collect();
    let for_whom = format!("for {}", validator.operator.address());
    assert!(matches!(auditors[..], [check] if check.found.contains(&for_whom)), "{auditors:?}");

    // What it may be drawn for and has not got.
    std::fs::remove_file(model_path(&home.models_folder(), &network.model().id())).unwrap();
    let checks = found(Role::Verify).await;
    let id = hex::encode(network.model().id());
    let told = |check: &Check| check.state == State::Warning && check.found.contains(&id);
    assert!(checks.iter().any(|check| check.name == "auditor" && told(check)), "{checks:?}");
}

/// A copy of a worker's home, on another machine: it starts where the first worker is gone, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_home_starts_no_second_worker() {
    let network = Network::start(Setup::default());
    let _blocks = network.blocks(Duration::from_millis(20));
    let node = network.node().await;
    let first = network.work(0, 0, network.engines()).await;
    let address = first.address;
    let endpoint = || network.worker(&address, 0).endpoint;
    let registered = endpoint();
    let copy = home_of(&network, &node.address.to_string(), "copy", CHAIN_ID, 1);
    // `deepnode-worker run`, as far as this test sees.
    let run = || {
        let mut program = Command::new(env!("CARGO_BIN_EXE_dishonest-worker"));
        program.arg("--home").arg(&copy.dir).args(["run", "--cheat", "token", "--honest-epochs", "1000000"]);
        program.stdin(Stdio::null()).stderr(Stdio::piped());
        program
    };
    let mut second = run();
    let refused = tokio::task::spawn_blocking(move || second.output().unwrap()).await.unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{error}");
    let told = format!("worker {address} runs already, at {registered}: stop that process first");
    assert!(error.contains(&told), "{error}");
    assert_eq!(endpoint(), registered);

    drop(first);
    let mut second = run().stderr(Stdio::null()).spawn().unwrap();
    let moved = || async { (endpoint() == copy.config.worker.endpoint).then_some(()) };
    network.until("the copy has registered its endpoint", moved).await;
    second.kill().unwrap();
    second.wait().unwrap();
}

/// `status` and `doctor` beside a worker that runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_a_running_worker() {
    let network = Network::start(Setup::default());
    let _blocks = network.blocks(Duration::from_millis(20));
    let node = network.node().await;
    let _agents = [network.work(0, 0, network.engines()).await, network.work(1, 0, network.engines()).await];
    let client = Client::connect(&node.address.to_string()).await.unwrap();
    let record = async |worker: usize| {
        let request = QueryWorkerRequest { address: network.workers()[worker].address().to_string() };
        let answer = Workers::new(client.channel()).worker(request).await.unwrap();
        answer.into_inner().worker.unwrap()
    };
    let (mine, other) = (record(0).await, record(1).await);
    let listen = mine.endpoint.strip_prefix("http://").unwrap().parse().unwrap();
    let mut home = home_of(&network, &node.address.to_string(), "running", CHAIN_ID, 1);
    home.config.worker = WorkerConfig { listen, endpoint: mine.endpoint.clone(), ..home.config.worker };

    let found = status(&home).await.unwrap();
    let id = hex::encode(network.model().id());
    assert_eq!(found["address"], mine.address.as_str());
    assert_eq!(found["chain_id"], CHAIN_ID);
    assert_eq!(
        found["local"],
        json!({ "version": env!("CARGO_PKG_VERSION"), "models": [id], "running": 0, "queued": 0, "stopping": null })
    );
    let said = &found["worker"];
    assert_eq!(said["status"], "active");
    assert_eq!(said["bond_udn"], BOND.to_string());
    assert_eq!(said["endpoint"], mine.endpoint.as_str());
    assert_eq!(said["models"], json!([id]));
    // The validator's consent counts from the next epoch on.
    let operator = network.validators()[0].operator.address().to_operator();
    assert!([&said["validator"], &said["next_validator"]].contains(&&json!(operator)), "{said}");

    let reached = async |home: &Home| {
        std::fs::remove_file(home.dir.join("worker.toml")).unwrap();
        Home::create(&home.dir, home.config.clone()).unwrap();
        let checks = examine(&home.dir, Role::Run, false).await;
        let check = checks.into_iter().find(|check| check.name == "endpoint").unwrap();
        (check.state, check.found)
    };
    let good = reached(&home).await;
    assert_eq!(good, (State::Ok, format!("{} answers as this worker", mine.endpoint)));
    home.config.worker.endpoint = other.endpoint.clone();
    let (state, found) = reached(&home).await;
    assert!(state == State::Mend && found.contains(&other.address), "{found}");
    home.config.worker.endpoint = "http://127.0.0.1:1".into();
    assert_eq!(reached(&home).await.0, State::Warning);
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

/// Every metric that the dashboard asks for is told by somebody, and it asks for all that a worker tells.
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
    let gateway = Gateway::to_chain(Arc::clone(network.model()), Settings::default(), terms, ledger, None)
        .await
        .unwrap();
    let engine = Engine::new(Arc::clone(network.model()), engine_options()).unwrap();
    let local = Gateway::new(Arc::clone(network.model()), engine, Settings::default()).unwrap();
    let all = [gateway.metrics(), local.metrics(), Metrics::default().text(), NodeMetrics::default().text()];
    let told = names(&all.concat());
    let dashboard = std::fs::read_to_string(deploy().join("grafana/deepnode.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let asked: BTreeSet<String> =
        targets.flat_map(|target| names(target["expr"].as_str().unwrap())).collect();
    assert!(asked.len() > 15, "{asked:?}");
    let missing: Vec<_> = asked.difference(&told).collect();
    assert!(missing.is_empty(), "the dashboard asks for {missing:?}");
    let worker = names(&Metrics::default().text());
    let unseen: Vec<_> = worker.difference(&asked).collect();
    assert!(unseen.is_empty(), "the dashboard shows nothing of {unseen:?}");
    for prefix in ["deepnode_block_", "deepnode_worker_gateway_"] {
        assert!(asked.iter().any(|name| name.starts_with(prefix)), "nothing of {prefix}");
    }
}

/// What a shell makes of a word with one pair of braces at most.
fn spelled_out(word: &str) -> Vec<String> {
    let braces = word.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    match braces {
        Some((before, (parts, after))) => {
            parts.split(',').map(|part| format!("{before}{part}{after}")).collect()
        }
        None => vec![word.into()],
    }
}

/// The units start programs with arguments that these know; and the instructions put there what they start, and make what
/// they read.
#[test]
fn the_units_start_what_there_is() {
    let guide = std::fs::read_to_string(deploy().join("../docs/operating.md")).unwrap();
    let guide = guide.split("\n## ").find(|part| part.starts_with("systemd")).unwrap();
    // Whether a line that begins so has a word, with every brace written out as a shell does.
    let says = |command: &str, wanted: &str| {
        let words = guide.lines().filter(|line| line.starts_with(command)).flat_map(str::split_whitespace);
        words.flat_map(spelled_out).any(|word| word == wanted)
    };
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
        for installed in words.iter().filter_map(|word| word.strip_prefix("/usr/local/bin/")) {
            let built = ["target/debug/", ".tools/bin/"].map(|folder| format!("{folder}{installed}"));
            assert!(built.iter().any(|file| says("install -m 0755", file)), "nothing installs {installed}");
        }
        let home = format!("/var/lib/{}", value("StateDirectory").unwrap());
        assert!(
            command.contains(&home) && says("install -d -o deepnode -g deepnode -m 0700", &home),
            "{home}"
        );
        let reads = text.lines().filter_map(|line| line.split_once("=").filter(|_| !line.starts_with('#')));
        for file in reads.filter_map(|(_, v)| v.find("/etc/deepnode/").map(|at| &v[at..])) {
            assert!(guide.contains(file), "nothing says how {file} is made");
        }
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
