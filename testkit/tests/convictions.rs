//! Each way to cheat, after two honest epochs: found, and paid for.

use std::sync::Arc;
use std::time::Duration;

use deepnode_proto::deepnode::audits::v1::{Outcome, Verdict};
use deepnode_proto::deepnode::tasks::v1::TaskStatus;
use deepnode_testkit::cheat::{after_epochs, Cheat, Cheater};
use deepnode_testkit::network::{engine_options, Network, Setup, BOND};
use deepnode_worker::chain::Chain;

const HONEST_EPOCHS: u64 = 2;
/// The validator that the cheater backs.
const BACKED: usize = 0;

async fn is_convicted(cheat: Cheat) {
    let network = Network::start(Setup::default());
    let blocks = network.blocks(Duration::from_millis(10));
    let _auditors = network.audit_all();
    let chain: Arc<dyn Chain> = Arc::new(network.account(&network.workers()[0]));
    let due = after_epochs(chain.clone(), HONEST_EPOCHS);
    let cheater = Cheater::new(network.engines(), engine_options(), network.blobs(0), cheat, due).unwrap();
    let worker = network.work(0, BACKED, cheater).await;
    let user = &network.users()[0];

    let mut settled = 0;
    let (task, balance, escrow) = loop {
        let balance = network.balance(&user.address(), 0);
        let question = network.question(user, &format!("What is the sea, number {settled}?"), 8);
        let id = network.submit_task(user, &question).await.unwrap();
        let task = network.ended(id).await;
        if task.status() != TaskStatus::Settled {
            let escrow: u128 = question.max_price.unwrap().amount.parse().unwrap();
            break (task, balance, escrow);
        }
        settled += 1;
    };
    drop(blocks);
    assert_eq!(task.status(), TaskStatus::Convicted);
    assert!(settled > 2, "only {settled} honest answers");

    // All who could be asked say the same; one backed by the worker is not asked.
    let audit = network.audits(task.id).remove(0);
    let backed = network.validators()[BACKED].operator.address().to_string();
    assert!(audit.members.iter().all(|m| m.validator != backed), "{audit:?}");
    let withheld = cheat == Cheat::Withhold;
    if withheld {
        assert_eq!((audit.outcome(), audit.draws.len()), (Outcome::Withheld, 1), "{audit:?}");
        assert!(audit.shown_output.is_empty());
    } else {
        assert_eq!((audit.outcome(), audit.draws.len()), (Outcome::Wrong, 2), "{audit:?}");
        assert_eq!(audit.members.len(), 3, "{audit:?}");
        assert!(audit.members.iter().all(|m| m.verdict() == Verdict::Wrong), "{audit:?}");
    }

    // The whole escrow is back, a quarter of the bond is gone, reputation falls in that block.
    let (at, before) = (audit.closed_height, audit.closed_height - 1);
    assert_eq!(network.balance(&user.address(), at), network.balance(&user.address(), before) + escrow);
    assert_eq!((network.balance(&user.address(), at), task.escrow.as_str()), (balance, "0"));
    let bond = |height| network.worker(&worker.address, height).bond.parse::<u128>().unwrap();
    assert_eq!((bond(before), bond(at)), (BOND, BOND - BOND / 4));
    let reputation = |height| network.record(&worker.address, height).reputation.parse::<f64>().unwrap();
    assert!(reputation(before) > 0.1, "{} before", reputation(before));
    assert!(reputation(at) < reputation(before) / 5.0, "{} to {}", reputation(before), reputation(at));

    // So does the validator's power at the epoch's end.
    let (epoch, powers) = network.terms(0);
    assert!(powers[BACKED] > powers.iter().sum::<u64>() / 4, "work raised it before: {powers:?}");
    while network.terms(0).0 == epoch {
        network.block();
    }
    let (_, after) = network.terms(0);
    assert!(after[BACKED] < powers[BACKED], "{powers:?} to {after:?}");
    network.block();
    assert_eq!(network.powers(), after);
    network.invariants();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_weight() {
    is_convicted(Cheat::Weight).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_token() {
    is_convicted(Cheat::Token).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_prompt() {
    is_convicted(Cheat::Prompt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sampler() {
    is_convicted(Cheat::Sampler).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withheld_output() {
    is_convicted(Cheat::Withhold).await;
}
