//! The tour: what happens to one question, with figures read back from the chain.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use deepnode_client::ask::{self, Answered, Event, Question};
use deepnode_client::{Client, Gas, Options};
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::cosmos::gov::v1::query_client::QueryClient as Gov;
use deepnode_proto::cosmos::gov::v1::{
    MsgSubmitProposal, MsgSubmitProposalResponse, MsgVote, ProposalStatus, QueryParamsRequest,
    QueryProposalRequest, VoteOption,
};
use deepnode_proto::deepnode::audits::v1::{MsgRegisterAuditor, Verdict};
use deepnode_proto::deepnode::powr::v1::{MsgUpdateParams, Terms};
use deepnode_proto::deepnode::tasks::v1::{Settlement, TaskStatus};
use deepnode_proto::deepnode::workers::v1::query_client::QueryClient as Workers;
use deepnode_proto::deepnode::workers::v1::{MsgApproveWorker, QueryWorkerRequest};
use deepnode_proto::{Any, AnyExt};
use deepnode_tx::SigningKey;
use serde_json::{json, Value};

use crate::chain;
use crate::network::{height, short, Network, Paths, VALIDATORS};
use crate::print::{line, percent, step, udn};

/// How long a task may take to become final.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(400);
/// Class of SmolLM2-135M, and the capability that reputation is kept in.
const CLASS: &str = "llm-300m";

/// An imported model, and its entry of the genesis file.
pub struct Imported {
    pub id: [u8; 32],
    pub genesis: Value,
}

/// Imports the model once; later starts find it.
pub fn import(paths: &Paths) -> Result<Imported> {
    use deepnode_worker::model::{import, manifest::encode_architecture, Model};
    let told = std::sync::Mutex::new(Instant::now());
    let imported = import(&paths.gguf, &paths.models, &|progress| {
        let mut told = told.lock().expect("printing does not panic");
        if told.elapsed() > Duration::from_secs(1) {
            println!("   importing {} of {} MB", progress.done >> 20, progress.total >> 20);
            *told = Instant::now();
        }
    })?;
    let model = Model::open(&imported.path)?;
    line("model", model.name());
    line("model id", hex::encode(imported.id));
    let genesis = json!({
        "id": hex::encode(imported.id),
        "owner": deepnode_tx::Address::module("models").to_string(),
        "name": "SmolLM2-135M-Instruct",
        "licence": "Apache-2.0",
        "architecture": hex::encode(encode_architecture(model.arch())),
        "status": "MODEL_STATUS_ACTIVE",
        "scored": true,
    });
    Ok(Imported { id: imported.id, genesis })
}

/// The whole tour.
pub async fn run(network: &mut Network, question: &str) -> Result<()> {
    let client = network.client().await?;
    auditors(network, &client).await?;
    workers(network, &client).await?;

    step("voting power at the start");
    let start = chain::powers(network)?;
    print_powers(network, &start, None);

    step("a question");
    let worker_r = worker_reputations(network, &client).await?;
    let answered = question_and_answer(network, &client, question).await?;
    let task = settle(network, &client, answered.id).await?;
    receipt(&task)?;
    audits(&client, answered.id).await?;
    money(task.settlement.as_ref().context("a settled task has a settlement")?)?;
    let index = network
        .workers
        .iter()
        .position(|w| w.key.address().to_string() == task.worker)
        .context("the worker is not of this network")?;

    step("reputation of the worker");
    let after = chain::reputation(&client, &task.worker, &capability()).await?;
    line("before", &worker_r[index]);
    line("now", after);
    power(network, &client, &start).await?;
    proposal(network, &client).await?;
    kills(network).await
}

fn capability() -> String {
    format!("llm/{CLASS}")
}

/// Registers each validator's auditor and starts its verifier.
async fn auditors(network: &mut Network, client: &Client) -> Result<()> {
    step("auditors");
    for index in 0..VALIDATORS {
        let validator = &network.validators[index];
        let message = MsgRegisterAuditor {
            operator: validator.operator.address().to_string(),
            auditor: validator.auditor.address().to_string(),
            classes: vec![CLASS.into()],
            deposit: Some(Coin { denom: "udn".into(), amount: "100000000".into() }),
        };
        client.send(&validator.operator, vec![Any::pack(&message)], options()).await?;
        network.validators[index].verifier.start()?;
        line(
            &network.validators[index].name,
            format!("audits {CLASS} with {}", short(&validator_auditor(network, index))),
        );
    }
    Ok(())
}

fn validator_auditor(network: &Network, index: usize) -> deepnode_tx::Address {
    network.validators[index].auditor.address()
}

/// Starts the workers, waits until they are registered, and lets the validators consent to them.
async fn workers(network: &mut Network, client: &Client) -> Result<()> {
    step("workers");
    for worker in &mut network.workers {
        worker.process.start()?;
    }
    let begin = Instant::now();
    for index in 0..network.workers.len() {
        loop {
            network.check()?;
            let worker = &network.workers[index];
            let request = QueryWorkerRequest { address: worker.key.address().to_string() };
            let found = Workers::new(client.channel()).worker(request).await;
            let serves = found.ok().and_then(|f| f.into_inner().worker).is_some_and(|w| !w.models.is_empty());
            if serves {
                break;
            }
            if begin.elapsed() > Duration::from_secs(60) {
                bail!("{} did not register; its log is {}", worker.name, worker.process.log.display());
            }
            tokio::time::sleep(POLL).await;
        }
        let worker = &network.workers[index];
        let validator = &network.validators[worker.backs];
        let message = MsgApproveWorker {
            operator: validator.operator.address().to_string(),
            worker: worker.key.address().to_string(),
        };
        client.send(&validator.operator, vec![Any::pack(&message)], options()).await?;
        let address = short(&worker.key.address());
        line(&worker.name, format!("{address} serves at {}, backs {}", worker.endpoint, validator.name));
    }
    Ok(())
}

async fn worker_reputations(network: &Network, client: &Client) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for worker in &network.workers {
        all.push(chain::reputation(client, &worker.key.address().to_string(), &capability()).await?);
    }
    Ok(all)
}

fn options() -> Options {
    Options { gas: Gas::default(), gas_price: "0.025udn".parse().ok(), ..Options::default() }
}

/// Asks, and prints the answer as it comes.
async fn question_and_answer(network: &Network, client: &Client, text: &str) -> Result<Answered> {
    line("question", text);
    let question = Question::new(hex::encode(network.model), text, 48);
    ask(client, &network.user, &question, true).await
}

async fn ask(client: &Client, user: &SigningKey, question: &Question, show: bool) -> Result<Answered> {
    let answered = ask::ask(client, user, question, &options(), &mut |event| {
        if !show {
            return;
        }
        match event {
            Event::Estimated { fee, cu } => line("estimate", format!("at most {} for {cu} CU", udn(&fee))),
            Event::Submitted { task, hash } => line("task", format!("{task}, transaction {hash}")),
            Event::Assigned { worker, endpoint } => {
                line("assigned to", format!("{worker} at {endpoint}"));
                print!("   {:<24} ", "answer");
            }
            Event::Text(piece) => print!("{}", piece.replace('\n', " ")),
            Event::Reassigned => println!("\n   (reassigned)"),
        }
        let _ = std::io::stdout().flush();
    })
    .await?;
    if show {
        println!();
    }
    Ok(answered)
}

type Task = deepnode_proto::deepnode::tasks::v1::Task;

/// Waits until a task is final.
async fn settle(network: &mut Network, client: &Client, id: u64) -> Result<Task> {
    let begin = Instant::now();
    loop {
        network.check()?;
        let task = ask::task(client, id).await?;
        match task.status() {
            TaskStatus::Settled => return Ok(task),
            TaskStatus::Void | TaskStatus::Convicted | TaskStatus::Refunded | TaskStatus::Cancelled => {
                bail!("task {id} ended as {}", task.status().as_str_name())
            }
            _ if begin.elapsed() > PATIENCE => bail!("task {id} is not final after {} s", PATIENCE.as_secs()),
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

fn receipt(task: &Task) -> Result<()> {
    step("receipt");
    let receipt = task.receipt.as_ref().context("a settled task has a receipt")?;
    line("worker", &task.worker);
    line("receipt digest", hex::encode(&task.receipt_digest));
    line("trace root", hex::encode(&receipt.trace_root));
    line(
        "tokens",
        format!(
            "{} in, {} out, {}",
            receipt.input_tokens,
            receipt.output_tokens,
            receipt.finish().as_str_name()
        ),
    );
    line("compute", format!("{} CU", task.cu));
    line("chance of an audit", &task.audit_chance);
    line("drawn", if task.drawn { "yes" } else { "no" });
    Ok(())
}

async fn audits(client: &Client, task: u64) -> Result<()> {
    step("audit");
    for audit in chain::audits(client, task).await? {
        line("audit", format!("{}, {}", audit.id, audit.outcome().as_str_name()));
        for member in &audit.members {
            let verdict = match member.verdict() {
                Verdict::Right => "right",
                Verdict::Wrong => "wrong",
                Verdict::Unavailable => "unavailable",
                Verdict::Unspecified => "did not speak",
            };
            let digest: String = hex::encode(&member.digest).chars().take(16).collect();
            line("auditor", format!("{}: {verdict}, layer digest {digest}…", member.auditor));
        }
    }
    Ok(())
}

/// Where the price went; the parts must sum to it.
fn money(s: &Settlement) -> Result<()> {
    step("where the price went");
    let parts = [
        ("worker", &s.worker),
        ("model's owner", &s.owner),
        ("parent model", &s.parent),
        ("burned", &s.burned),
        ("community pool", &s.community),
        ("auditors' pool", &s.levy),
    ];
    let mut sum = 0u128;
    for (name, amount) in parts {
        line(name, udn(amount));
        sum += amount.parse::<u128>().unwrap_or(0);
    }
    line("price", udn(&s.price));
    line("returned to the user", udn(&s.returned));
    ensure!(sum.to_string() == s.price, "the parts sum to {sum} udn, the price is {} udn", s.price);
    Ok(())
}

fn print_powers(
    network: &Network,
    powers: &std::collections::BTreeMap<usize, u64>,
    before: Option<&std::collections::BTreeMap<usize, u64>>,
) {
    let total = powers.values().sum();
    for (index, power) in powers {
        let share = percent(*power, total);
        let text = match before.and_then(|b| Some((b.get(index)?, b.values().sum::<u64>()))) {
            Some((old, old_total)) => format!("{power:>10}  {share:>7}  (was {})", percent(*old, old_total)),
            None => format!("{power:>10}  {share:>7}"),
        };
        line(&network.validators[*index].name, text);
    }
}

/// Gives work for two epochs and shows how power followed it. R is 0 in a worker's first epoch, so the second counts.
async fn power(
    network: &mut Network,
    client: &Client,
    start: &std::collections::BTreeMap<usize, u64>,
) -> Result<()> {
    step("two epochs of work");
    let first = chain::epoch(client).await?;
    let mut asked = 0;
    while chain::epoch(client).await? < first + 4 {
        network.check()?;
        let question =
            Question::new(hex::encode(network.model), format!("Name a colour, number {asked}."), 8);
        ask(client, &network.user, &question, false).await?;
        asked += 1;
        line("answered", format!("{asked} more, epoch {}", chain::epoch(client).await?));
    }
    step("voting power after the work, and why");
    let now = chain::powers(network)?;
    print_powers(network, &now, Some(start));
    let terms = chain::terms(client).await?;
    for validator in &network.validators {
        let operator = validator.operator.address().to_string();
        if let Some(t) = terms.iter().find(|t| t.validator == operator) {
            line(&validator.name, why(t));
        }
    }
    // Which of them had the work is the beacon's choice.
    let works = |t: &&Terms| t.work.parse::<u128>().unwrap_or(0);
    let busiest = terms.iter().max_by_key(works).map(|t| t.validator.clone()).unwrap_or_default();
    let position = network.validators.iter().position(|v| v.operator.address().to_string() == busiest);
    let index = position.context("no validator had work")?;
    line("most work", &network.validators[index].name);
    let share = |powers: &std::collections::BTreeMap<usize, u64>| {
        let total: u64 = powers.values().sum();
        powers.get(&index).copied().unwrap_or(0) * 10_000 / total.max(1)
    };
    let (before, after) = (share(start), share(&now));
    ensure!(
        after > before + 100,
        "the working validator's share went from {before} to {after} hundredths of a percent; expected more than a point"
    );
    Ok(())
}

fn why(t: &Terms) -> String {
    format!(
        "epoch {}: work {} + audits {} at R {} = score {}; q {}; bounds {}..{} (was {}), collateral {}; power {}",
        t.epoch, t.work, t.audit_work, t.reputation, t.score, t.q, t.low, t.high, t.old, t.collateral, t.power
    )
}

/// A proposal raises the collateral factor of PoWR; the validators vote, and the next epoch's terms follow it.
async fn proposal(network: &mut Network, client: &Client) -> Result<()> {
    step("a proposal: PoWR's collateral factor from 2 to 3");
    let mut gov = Gov::new(client.channel());
    let params = gov.params(QueryParamsRequest { params_type: "deposit".into() }).await?.into_inner().params;
    let deposit = params.context("gov has parameters")?.min_deposit;
    let mut params = chain::powr_params(client).await?;
    params.collateral = 3;
    let authority = deepnode_tx::Address::module("gov").to_string();
    let submit = MsgSubmitProposal {
        messages: vec![Any::pack(&MsgUpdateParams { authority, params: Some(params) })],
        initial_deposit: deposit,
        proposer: network.user.address().to_string(),
        title: "Collateral factor 3".into(),
        summary: "Power may be up to three times the share of stake.".into(),
        ..MsgSubmitProposal::default()
    };
    let sent = client.send(&network.user, vec![Any::pack(&submit)], options()).await?;
    let id = chain::response::<MsgSubmitProposalResponse>(&sent)?.proposal_id;
    line("proposal", format!("{id}, transaction {}", sent.txhash));
    for validator in &network.validators {
        let vote = MsgVote {
            proposal_id: id,
            voter: validator.operator.address().to_string(),
            option: VoteOption::Yes.into(),
            metadata: String::new(),
        };
        client.send(&validator.operator, vec![Any::pack(&vote)], options()).await?;
        line(&validator.name, "votes yes");
    }
    let begin = Instant::now();
    loop {
        network.check()?;
        let found = gov.proposal(QueryProposalRequest { proposal_id: id }).await?.into_inner().proposal;
        let found = found.context("the proposal exists")?;
        match found.status() {
            ProposalStatus::Passed => break,
            ProposalStatus::Rejected | ProposalStatus::Failed => {
                bail!("the proposal ended as {}: {}", found.status().as_str_name(), found.failed_reason)
            }
            _ if begin.elapsed() > PATIENCE => {
                bail!("the proposal is not decided after {} s", PATIENCE.as_secs())
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
    let collateral = chain::powr_params(client).await?.collateral;
    line("executed", format!("the collateral factor is {collateral}"));
    ensure!(collateral == 3, "the proposal passed and the factor is {collateral}");
    let epoch = chain::epoch(client).await?;
    while chain::epoch(client).await? < epoch + 1 {
        network.check()?;
        tokio::time::sleep(POLL).await;
    }
    for term in chain::terms(client).await? {
        line("collateral bound", format!("{} of {}", term.collateral, short(&term.validator.parse()?)));
        ensure!(
            term.collateral == 75_000_000,
            "with equal stakes three shares are 75000000, not {}",
            term.collateral
        );
    }
    Ok(())
}

/// Kills one validator's application, another's CometBFT, and both of a third; all come back with one app hash.
async fn kills(network: &mut Network) -> Result<()> {
    step("kill -9 of an application, of a CometBFT, and of both");
    for index in [3, 2, 1] {
        let comet = chain::cometbft_pid(network.validators[index].node.pid());
        if index != 3 {
            let pid = comet.context("CometBFT runs")?;
            // SAFETY: the process is a child of ours, found by its parent's pid a moment ago.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let validator = &mut network.validators[index];
        if index != 2 {
            validator.node.kill();
            validator.node.start()?;
        }
        let what = ["", "both", "its CometBFT", "its application"][index];
        line(&validator.name, format!("lost {what}"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let begin = Instant::now();
    let target = height(network.validators[0].rpc).context("validator0 answers")? + 4;
    loop {
        network.check()?;
        if network.validators.iter().all(|v| height(v.rpc).is_some_and(|h| h > target)) {
            break;
        }
        ensure!(
            begin.elapsed() < PATIENCE,
            "not all validators are back; see {}",
            network.validators[1].node.log.display()
        );
        tokio::time::sleep(POLL).await;
    }
    let hashes = chain::app_hashes(network, target).await?;
    for (validator, hash) in network.validators.iter().zip(&hashes) {
        line(&validator.name, format!("app hash at {target}: {hash}"));
    }
    ensure!(hashes.iter().all(|hash| *hash == hashes[0]), "the app hashes differ");
    Ok(())
}
