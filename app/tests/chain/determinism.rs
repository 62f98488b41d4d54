//! The same blocks give the same bytes: in another process, with other threads, other caches, a database reopened in
//! between, and whatever else a node is asked meanwhile.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use bytes::Bytes;
use deepnode_app::{App, Options};
use deepnode_core::{KvRead, Time};
use deepnode_proto::tendermint_proto::v0_38::abci::{RequestFinalizeBlock, ResponseFinalizeBlock};
use deepnode_proto::Message;

use crate::chain::{init_chain, Chain};
use crate::sets;
use crate::traffic::Traffic;
use crate::world::World;

const BLOCKS: u64 = 300;
const SEED: u64 = 2026;
/// Another seed, for `make test-chain-long`.
const OTHER_SEED: &str = "DEEPNODE_TEST_SEED";
/// Names the folder of a replay to the process that is to do it.
const REPLAY: &str = "DEEPNODE_TEST_REPLAY";

/// How a replay differs from the first run.
struct Node {
    name: &'static str,
    threads: &'static str,
    /// Reopens its database, is asked things between blocks, and finalizes some blocks twice.
    busy: bool,
    cache_bytes: u64,
}

const NODES: [Node; 2] = [
    Node { name: "quiet", threads: "1", busy: false, cache_bytes: 0 },
    Node { name: "busy", threads: "5", busy: true, cache_bytes: 2 << 20 },
];

/// Random blocks on one node, everything checked after each; then the same blocks in two other processes.
#[test]
fn the_same_blocks_give_the_same_bytes_everywhere() {
    if let Ok(dir) = std::env::var(REPLAY) {
        return replay(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let blocks = dir.path().join("blocks");
    let seed = std::env::var(OTHER_SEED).map(|seed| seed.parse().unwrap());
    let (first, traffic) = random_blocks(seed.clone().unwrap_or(SEED), &dir.path().join("first"), &blocks);
    if seed.is_err() {
        happened(&traffic);
    }

    let nodes: Vec<(&Node, PathBuf, Child)> = NODES
        .iter()
        .map(|node| {
            let home = dir.path().join(node.name);
            fs::create_dir(&home).unwrap();
            fs::copy(&blocks, home.join("blocks")).unwrap();
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "determinism::the_same_blocks_give_the_same_bytes_everywhere"])
                .env(REPLAY, &home)
                .env("RAYON_NUM_THREADS", node.threads)
                .stdout(File::create(home.join("stdout")).unwrap())
                .spawn()
                .unwrap();
            (node, home, child)
        })
        .collect();
    for (node, home, mut child) in nodes {
        let status = child.wait().unwrap();
        assert!(status.success(), "{}: {}", node.name, fs::read_to_string(home.join("stdout")).unwrap());
        let other = fs::read_to_string(home.join("transcript")).unwrap();
        for (one, other) in first.lines().zip(other.lines()) {
            assert_eq!(one, other, "{} went another way", node.name);
        }
        assert_eq!(first.lines().count(), other.lines().count());
    }
}

/// Height, app hash, and digest of the whole answer.
fn line(response: &ResponseFinalizeBlock, app: &App) -> String {
    let digest = blake3::hash(&response.encode_to_vec());
    format!("{} {} {digest}\n", app.height(), hex::encode(app.app_hash()))
}

fn random_blocks(seed: u64, home: &Path, blocks: &Path) -> (String, Traffic) {
    let mut traffic = Traffic::new(seed);
    let genesis = traffic.world.genesis(crate::world::VALIDATORS);
    let (mut chain, _) = Chain::start(home, Options::default(), &genesis);
    let mut file = File::create(blocks).unwrap();
    let mut transcript = String::new();
    for _ in 0..BLOCKS {
        let (request, response) = traffic.step(&mut chain);
        file.write_all(&request.encode_length_delimited_to_vec()).unwrap();
        transcript += &line(&response, &chain.app);
        chain.app.invariants().unwrap_or_else(|e| panic!("after block {}: {e}", chain.height));
        sets::check(&chain);
    }
    (transcript, traffic)
}

/// The sequence is worth something only if everything happened in it.
fn happened(traffic: &Traffic) {
    let seen = &traffic.seen;
    println!("{:#?}\n{:#?}\n{:#?}", seen.events, seen.messages, seen.codes);
    let expected = [
        "epoch_started",
        "powers_set",
        "task_settled",
        "task_refunded",
        "task_cancelled",
        "task_convicted",
        "task_late",
        "task_seeded",
        "task_lost.declined",
        "task_lost.not accepted",
        "receipt_final.true",
        "audit_opened.receipt",
        "audit_opened.vector",
        "audit_drawn",
        "audit_missing",
        "audit_shown",
        "audit_closed.right",
        "audit_closed.wrong",
        "audit_closed.withheld",
        "audit_closed.void",
        "auditor_paid",
        "auditor_overruled",
        "auditor_missed",
        "auditor_retired",
        "worker_convicted",
        "worker_unbonded",
        "model_scored",
        "create_validator",
        "slash",
        "double_sign",
        "complete_unbonding",
        "complete_redelegation",
        "active_proposal.proposal_passed",
        "active_proposal.proposal_rejected",
        "active_proposal.proposal_failed",
        "inactive_proposal",
    ];
    let missing: Vec<_> = expected.iter().filter(|event| seen.count(event) == 0).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
    let modules = deepnode_app::Modules::new();
    let gov = |url: &&str| {
        url.ends_with("UpdateParams") || url.ends_with("MsgSetScored") || url.ends_with("MsgSetSendEnabled")
    };
    let direct = modules.messages.type_urls().filter(|url| !gov(url));
    let missing: Vec<_> = direct.filter(|url| !seen.messages.contains_key(*url)).collect();
    assert!(missing.is_empty(), "never succeeded: {missing:?}");
    let good = seen.codes[&(String::new(), 0)];
    let all: u64 = seen.codes.values().sum();
    assert!(
        good * 2 > all && good * 10 < all * 9,
        "{good} of {all} transactions are good: too few or too many"
    );
}

/// Executes the recorded blocks of a folder and writes what came out.
fn replay(dir: &Path) {
    let node = NODES.iter().find(|node| dir.ends_with(node.name)).unwrap();
    let options = Options { cache_bytes: node.cache_bytes, ..Options::default() };
    let open = |options: &Options| App::open(&dir.join("state"), options.clone(), &mut |_| {}).unwrap();
    let mut app = open(&options);
    let genesis = World::new().genesis(crate::world::VALIDATORS);
    app.init_chain(init_chain(&genesis)).unwrap();
    let recorded = fs::read(dir.join("blocks")).unwrap();
    let mut rest = recorded.as_slice();
    let mut transcript = String::new();
    while !rest.is_empty() {
        let request = RequestFinalizeBlock::decode_length_delimited(&mut rest).unwrap();
        if node.busy {
            ask_around(&app, &request);
            if request.height % 13 == 0 {
                drop(app);
                app = open(&options);
            }
            if request.height % 10 == 0 {
                // CometBFT came back before Commit, and once with another block.
                let other = RequestFinalizeBlock { txs: Vec::new(), ..request.clone() };
                app.finalize_block(other).unwrap();
                app.finalize_block(request.clone()).unwrap();
            }
        }
        let response = app.finalize_block(request).unwrap();
        app.commit().unwrap();
        transcript += &line(&response, &app);
    }
    fs::write(dir.join("transcript"), transcript).unwrap();
}

/// Everything that a node is asked besides blocks; none of it may show in them.
fn ask_around(app: &App, request: &RequestFinalizeBlock) {
    let (height, txs): (u64, &[Bytes]) = (request.height as u64, &request.txs);
    app.prefetch(txs);
    for tx in txs.iter().rev() {
        app.check_tx(tx, false).unwrap();
        let _ = app.simulate(tx);
    }
    for tx in txs.iter().take(3) {
        app.check_tx(tx, true).unwrap();
    }
    let time = request.time.as_ref().unwrap();
    let time = Time(time.seconds as u64 * 1_000_000_000 + time.nanos as u64);
    let prepared = app.prepare_proposal(txs, height, time, 100_000).unwrap();
    assert_eq!(app.process_proposal(&prepared, height, time).unwrap(), None);
    let _ = app.process_proposal(txs, height, time).unwrap();
    if height > 1 {
        for path in ["staking.v1beta1.Query/Validators", "bank.v1beta1.Query/TotalSupply"] {
            app.query(&format!("/cosmos.{path}"), 0, &[]).unwrap();
        }
        let old =
            app.query("/cosmos.staking.v1beta1.Query/Pool", (height - 1).saturating_sub(20).max(1), &[]);
        old.unwrap();
        assert!(app.state().scan("bank", deepnode_store::Range::prefix(Vec::new())).count() > 0);
        app.invariants().unwrap();
    }
}
