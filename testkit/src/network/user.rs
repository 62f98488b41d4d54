//! What a user does and reads.

use deepnode_client::ClientError;
use deepnode_core::UDN;
use deepnode_proto::cosmos::bank::v1beta1::{
    QueryBalanceRequest, QueryBalanceResponse, QueryDenomOwnersRequest, QueryDenomOwnersResponse,
    QuerySupplyOfRequest, QuerySupplyOfResponse,
};
use deepnode_proto::cosmos::base::abci::v1beta1::TxMsgData;
use deepnode_proto::cosmos::base::query::v1beta1::PageRequest;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::deepnode::audits::v1::{Audit, Phase, QueryAuditsRequest, QueryAuditsResponse};
use deepnode_proto::deepnode::powr::v1::{QueryTermsRequest, QueryTermsResponse};
use deepnode_proto::deepnode::reputation::v1::{QueryRecordRequest, QueryRecordResponse, Record};
use deepnode_proto::deepnode::tasks::v1::{
    InputKind, MsgSubmitTask, MsgSubmitTaskResponse, QueryEstimateTaskRequest, QueryEstimateTaskResponse,
    QueryTaskRequest, QueryTaskResponse, Request, SamplingParams, Task, TaskStatus,
};
use deepnode_proto::deepnode::workers::v1::{QueryWorkerRequest, QueryWorkerResponse, Worker};
use deepnode_proto::tendermint_proto::v0_38::abci::ExecTxResult;
use deepnode_proto::{AnyExt, Message, Name};
use deepnode_tx::{Address, SigningKey};

use super::{Network, CAPABILITY};

/// Greatest number of input tokens of the questions here.
pub const INPUT_TOKENS: u32 = 40;

/// The messages' answers in a transaction's result.
pub fn responses<M: Name + Default>(result: &ExecTxResult) -> impl Iterator<Item = M> {
    let data = TxMsgData::decode(&*result.data).expect("the data of a result");
    data.msg_responses.into_iter().map(|any| any.unpack().expect("an answer of that type"))
}

impl Network {
    /// A task for the network's model: sampled, its input inline, the offered price twice the estimate.
    pub fn question(&self, user: &SigningKey, text: &str, max_output: u32) -> MsgSubmitTask {
        let model_id = self.model().id();
        let request = QueryEstimateTaskRequest {
            model_id: hex::encode(model_id),
            input_tokens: INPUT_TOKENS,
            max_output,
        };
        let estimate: QueryEstimateTaskResponse = self.ask("estimate", 0, &request).expect("an estimate");
        let fee: u128 = estimate.fee.parse().expect("an amount");
        MsgSubmitTask {
            creator: user.address().to_string(),
            request: Some(Request {
                model_id: model_id.to_vec(),
                input_kind: InputKind::Text.into(),
                input_digest: blake3::hash(text.as_bytes()).as_bytes().to_vec(),
                max_output,
                sampling: Some(SamplingParams { temperature: 900_000, ..Default::default() }),
                stop: Vec::new(),
            }),
            input_tokens: INPUT_TOKENS,
            inline_input: text.into(),
            max_price: Some(Coin { denom: UDN.into(), amount: (2 * fee).to_string() }),
            deadline: 1000,
        }
    }

    /// Submits a task; answers its number.
    pub async fn submit_task(&self, user: &SigningKey, task: &MsgSubmitTask) -> Result<u64, ClientError> {
        let (_, result) = self.tell(user, task).await?;
        Ok(responses::<MsgSubmitTaskResponse>(&result).next().unwrap_or_default().task_id)
    }

    pub fn task(&self, id: u64) -> Task {
        let answer: QueryTaskResponse = self.ask("task", 0, &QueryTaskRequest { id }).expect("the task");
        answer.task.expect("a task")
    }

    /// Waits until a task has ended, one way or another.
    pub async fn ended(&self, id: u64) -> Task {
        use TaskStatus::*;
        let look = || async move {
            let task = self.task(id);
            (!matches!(task.status(), Open | Assigned | Accepted | Submitted)).then_some(task)
        };
        self.until("the task has ended", look).await
    }

    /// The audits of a task, or of all for 0; the newest first.
    pub fn audits(&self, task_id: u64) -> Vec<Audit> {
        let pagination = Some(PageRequest { limit: 1000, reverse: true, ..Default::default() });
        let request = QueryAuditsRequest { task_id, auditor: String::new(), pagination };
        let answer: QueryAuditsResponse = self.ask("audits", 0, &request).expect("audits");
        answer.audits
    }

    /// Audits that are not closed.
    pub fn open_audits(&self) -> usize {
        self.audits(0).iter().filter(|audit| audit.phase() != Phase::Closed).count()
    }

    pub fn worker(&self, address: &Address, height: u64) -> Worker {
        let request = QueryWorkerRequest { address: address.to_string() };
        let answer: QueryWorkerResponse = self.ask("worker", height, &request).expect("the worker");
        answer.worker.expect("a worker")
    }

    /// A worker's record for the model's class.
    pub fn record(&self, worker: &Address, height: u64) -> Record {
        let request = QueryRecordRequest { subject: worker.to_string(), capability: CAPABILITY.into() };
        let answer: QueryRecordResponse = self.ask("reputation", height, &request).expect("a record");
        answer.record.expect("a record")
    }

    /// The epoch that powers were last set in, and each validator's power then.
    pub fn terms(&self, height: u64) -> (u64, Vec<u64>) {
        let answer: QueryTermsResponse =
            self.ask("terms", height, &QueryTermsRequest::default()).expect("terms");
        let power = |operator: Address| {
            let operator = operator.to_string();
            answer.terms.iter().find(|t| t.validator == operator).map_or(0, |t| t.power)
        };
        (answer.epoch, self.validators().iter().map(|v| power(v.operator.address())).collect())
    }

    /// udn of an account, at a height, or at the latest one for 0.
    pub fn balance(&self, address: &Address, height: u64) -> u128 {
        let request = QueryBalanceRequest { address: address.to_string(), denom: UDN.into() };
        let answer: QueryBalanceResponse = self.ask("balance", height, &request).expect("a balance");
        amount(answer.balance)
    }

    /// udn that exist, and the sum of all balances, those of modules too.
    pub fn supply_and_balances(&self) -> (u128, u128) {
        let height = self.height();
        let request = QuerySupplyOfRequest { denom: UDN.into() };
        let supply: QuerySupplyOfResponse = self.ask("supply", height, &request).expect("a supply");
        let pagination = Some(PageRequest { limit: 1000, ..Default::default() });
        let request = QueryDenomOwnersRequest { denom: UDN.into(), pagination };
        let owners: QueryDenomOwnersResponse = self.ask("owners", height, &request).expect("owners");
        let sum = owners.denom_owners.into_iter().map(|owner| amount(owner.balance)).sum();
        (amount(supply.amount), sum)
    }
}

fn amount(coin: Option<Coin>) -> u128 {
    coin.expect("a coin").amount.parse().expect("an amount")
}
