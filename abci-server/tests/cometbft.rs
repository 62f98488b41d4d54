//! Against the real CometBFT, which `make cometbft` installs.

mod kv;

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use deepnode_abci_server::abci::{Address, Fault, Listener, Server};
use deepnode_abci_server::comet::{Binary, Config, Home, Options, Rpc, RpcError, Supervisor, Timeouts};
use kv::Kv;
use tendermint_rpc::Order;

const PATIENCE: Duration = Duration::from_secs(40);

/// A port that nobody uses, below those that the kernel gives to clients.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id().wrapping_mul(37) as u16;
    loop {
        let n = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + n % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited too long: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn kill_9(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

fn alive(pid: u32) -> bool {
    // A process that ended and waits for its parent is still listed, as a zombie.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// A validator and its application, in one folder.
struct Node {
    supervisor: Supervisor,
    app: Kv,
    server: Option<Server>,
    faults: Receiver<Fault>,
    home: Home,
    dir: PathBuf,
}

impl Node {
    fn start(dir: &Path) -> Self {
        let binary = Binary::find(None).unwrap();
        let home = Home::open(dir.join("comet")).unwrap_or_else(|_| init(dir, &binary));
        let (app, server, faults) = serve(dir);
        let supervisor = Supervisor::start(Options::new(binary, home.clone(), &server)).unwrap();
        Self { supervisor, app, server: Some(server), faults, home, dir: dir.into() }
    }

    /// Ends the application and starts one that knows only what this one wrote.
    fn restart_app(&mut self) {
        self.server.take().unwrap().stop(Duration::from_secs(5)).unwrap();
        let (app, server, faults) = serve(&self.dir);
        (self.app, self.server, self.faults) = (app, Some(server), faults);
    }

    fn rpc(&self) -> Rpc {
        Rpc::new(&self.home.rpc_url().unwrap()).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.dir().join("cometbft.log")).unwrap()
    }

    fn pid(&self) -> u32 {
        wait("a running CometBFT", || self.supervisor.status().pid.is_some());
        self.supervisor.status().pid.unwrap()
    }

    /// Waits until both sides have made `blocks` more blocks.
    fn advance(&self, blocks: u64) {
        let target = self.supervisor.status().height.max(self.app.height()) + blocks;
        self.supervisor.wait_height(target, PATIENCE).unwrap();
        wait("the application", || self.app.height() >= target);
    }

    /// Whether the application was given every transaction of the chain once, in the chain's order.
    async fn agrees(&self) -> usize {
        let (rpc, height, txs) = (self.rpc(), self.app.height(), self.app.txs());
        let mut chain = Vec::new();
        for h in 1..=height {
            chain.extend(rpc.block(Some((h as u32).into())).await.unwrap().block.data);
        }
        assert!(
            txs.starts_with(&chain),
            "{} transactions in {height} blocks, {} given",
            chain.len(),
            txs.len()
        );
        chain.len()
    }
}

fn init(dir: &Path, binary: &Binary) -> Home {
    let home = Home::init(binary, dir.join("comet")).unwrap();
    let config = Config {
        rpc_laddr: ([127, 0, 0, 1], free_port()).into(),
        p2p_laddr: ([127, 0, 0, 1], free_port()).into(),
        timeouts: Timeouts { commit: Duration::from_millis(100), ..Timeouts::default() },
        ..Config::default()
    };
    home.configure(&config).unwrap();
    home
}

fn serve(dir: &Path) -> (Kv, Server, Receiver<Fault>) {
    let app = Kv::load(dir.join("state.json"));
    let address: Address = format!("unix://{}", dir.join("abci.sock").display()).parse().unwrap();
    let (report, faults) = channel();
    let on_fault = move |fault| report.send(fault).unwrap();
    let server = Server::start(Listener::bind(&address).unwrap(), app.clone(), on_fault).unwrap();
    (app, server, faults)
}

/// Offers transactions until told to stop; returns how many were taken. Errors are expected: the node is being killed.
fn load(rpc: Rpc, name: &'static str) -> (Arc<AtomicBool>, thread::JoinHandle<usize>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let sender = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut taken = 0;
            for round in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let txs = (0..16).map(|i| rpc.broadcast_tx_sync(format!("{name}-{round}-{i}").into_bytes()));
                let answers = futures::future::join_all(txs).await;
                match answers.into_iter().filter(|a| a.is_ok()).count() {
                    0 => tokio::time::sleep(Duration::from_millis(20)).await,
                    n => taken += n,
                }
            }
            taken
        })
    });
    (stop, sender)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_makes_blocks_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let rpc = node.rpc();
    let early = rpc.status().await;
    assert!(matches!(early, Err(RpcError::Unavailable { .. }) | Ok(_)), "{early:?}");
    node.advance(2);
    assert!(node.supervisor.health().unwrap() >= 2);

    let sent = rpc.broadcast_tx_sync(b"colour=blue".to_vec()).await.unwrap();
    assert!(sent.code.is_ok());
    assert!(rpc.broadcast_tx_sync(b"bad".to_vec()).await.unwrap().code.is_err());
    let again = rpc.broadcast_tx_sync(b"colour=blue".to_vec()).await.unwrap_err();
    assert!(matches!(&again, RpcError::Rejected(why) if why.contains("already exists")), "{again}");

    node.advance(3);
    let tx = rpc.tx(sent.hash).await.unwrap();
    assert_eq!((&tx.tx[..], &tx.tx_result.data[..]), (&b"colour=blue"[..], &b"colour=blue"[..]));
    let query = "kv.tx='colour=blue'".parse().unwrap();
    let found = rpc.tx_search(query, 1, 10, Order::Ascending).await.unwrap();
    assert_eq!((found.total_count, &found.txs[0].tx_result.data[..]), (1, &b"colour=blue"[..]));
    assert_eq!(rpc.block(Some(tx.height)).await.unwrap().block.data, [b"colour=blue"]);
    let results = rpc.block_results(tx.height).await.unwrap();
    assert_eq!(results.txs_results.unwrap()[0].data, "colour=blue");
    let validators = rpc.validators(None).await.unwrap();
    assert_eq!(validators.len(), 1);
    assert_eq!(validators[0].pub_key, node.home.validator_key().unwrap());
    assert_eq!(rpc.status().await.unwrap().node_info.id, node.home.node_id().unwrap());
    assert_eq!(rpc.consensus_params(None).await.unwrap().block.max_bytes, 22_020_096);
    let unknown = rpc.tx(tendermint::Hash::Sha256([7; 32])).await.unwrap_err();
    assert!(matches!(unknown, RpcError::Rejected(_)), "{unknown}");

    let pid = node.pid();
    node.supervisor.stop();
    assert!(!alive(pid), "stopped in order");
    assert!(matches!(rpc.status().await, Err(RpcError::Unavailable { .. })));
    node.server.unwrap().stop(Duration::from_secs(5)).unwrap();
}

/// The path of the query is not UTF-8: a request that protobuf refuses, from anybody who can reach RPC.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_does_not_decode_does_not_stop_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.advance(1);
    let pid = node.pid();
    let address: SocketAddr = node.rpc().url().strip_prefix("http://").unwrap().parse().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /abci_query?path=0xff HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("query does not decode") && answer.contains("\"code\":18"), "{answer}");
    node.advance(3);
    assert_eq!((node.pid(), node.supervisor.status().restarts), (pid, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_comes_back_under_load() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path());
    node.advance(1);
    let (stop, sender) = load(node.rpc(), "load");
    for round in 0..3 {
        node.advance(2 + round);
        kill_9(node.pid());
        wait("restart", || node.supervisor.status().restarts > round);
    }
    node.advance(2);
    node.restart_app(); // CometBFT ends with its connections, and is started again
    wait("restart", || node.supervisor.status().restarts > 3);
    node.advance(2);
    stop.store(true, Ordering::Relaxed);
    let taken = sender.join().unwrap();
    node.advance(2);
    assert!(*node.app.prefetched.lock() > 0, "CometBFT sends CheckTx without waiting");
    let committed = node.agrees().await;
    assert!(committed > 0 && committed <= taken + 16 * 5, "{committed} committed, {taken} taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_told_to_cometbft_and_a_repaired_application_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path());
    node.advance(2);
    *node.app.broken.lock() = Some("the disk is gone".into());
    let fault = node.faults.recv_timeout(PATIENCE).unwrap();
    assert!(fault.to_string().starts_with("FinalizeBlock: the disk is gone at height "), "{fault}");
    wait("the text in CometBFT's log", || node.log().contains(&fault.to_string()));
    let before = node.app.height();
    node.restart_app();
    node.advance(2);
    assert!(node.app.height() > before);
    node.agrees().await;
}

/// The process that runs application and supervisor is killed; this test is that process too, when told where to work.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_takes_cometbft_with_it_and_the_next_goes_on() {
    const HERE: &str = "DEEPNODE_TEST_NODE";
    if let Some(dir) = env::var_os(HERE) {
        let node = Node::start(Path::new(&dir));
        let pid = node.pid();
        fs::write(Path::new(&dir).join("pid"), pid.to_string()).unwrap();
        loop {
            thread::sleep(Duration::from_secs(1));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.json");
    let mut process = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_killed_process_takes_cometbft_with_it_and_the_next_goes_on"])
        .env(HERE, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait("three blocks", || Kv::load(state.clone()).height() >= 3);
    let pid = fs::read_to_string(dir.path().join("pid")).unwrap().parse().unwrap();
    assert!(alive(pid));
    process.kill().unwrap();
    process.wait().unwrap();
    wait("the end of CometBFT", || !alive(pid));

    let height = Kv::load(state).height();
    let node = Node::start(dir.path());
    assert_eq!(node.app.height(), height);
    node.advance(2);
    node.agrees().await;
}
