//! One task of a user: what it may cost, its submission, its input handed in, and its answer, followed from the worker
//! as it grows and checked against the receipt on the chain.

use std::time::Duration;

use deepnode_proto::cosmos::base::abci::v1beta1::{TxMsgData, TxResponse};
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::deepnode::models::v1::query_client::QueryClient as Models;
use deepnode_proto::deepnode::models::v1::{Model, QueryModelRequest};
use deepnode_proto::deepnode::serving::v1::StreamResponse;
use deepnode_proto::deepnode::tasks::v1::query_client::QueryClient as Tasks;
use deepnode_proto::deepnode::tasks::v1::{
    MsgCancelTask, MsgSubmitTask, MsgSubmitTaskResponse, Params, QueryEstimateTaskRequest,
    QueryEstimateTaskResponse, QueryParamsRequest, QueryTaskRequest, Receipt, Request, Task, TaskStatus,
};
use deepnode_proto::deepnode::workers::v1::query_client::QueryClient as Workers;
use deepnode_proto::deepnode::workers::v1::QueryWorkerRequest;
use deepnode_proto::{Any, AnyExt, Message};
use deepnode_tx::SigningKey;
use tokio::time::{sleep_until, timeout_at, Instant};

use crate::serving::Serving;
use crate::{Client, ClientError, Options};

/// How often the chain is asked about a task.
const LOOK: Duration = Duration::from_millis(300);
/// How long a worker that could not be reached is left alone.
const RETRY: Duration = Duration::from_secs(1);
/// How long the node may be away at a time, and how long an answer may stay out when its receipt is on the chain.
const PATIENCE: Duration = Duration::from_secs(30);

/// A model by id (hex) or name.
pub async fn model(client: &Client, id: &str) -> Result<Model, ClientError> {
    let answer = Models::new(client.channel()).model(QueryModelRequest { id: id.into() }).await;
    let model = answer.map_err(ClientError::query("model"))?.into_inner().model;
    model.ok_or_else(|| ClientError::Input(format!("the node's answer about model {id:?} is empty")))
}

/// A task by its number.
pub async fn task(client: &Client, id: u64) -> Result<Task, ClientError> {
    let answer = Tasks::new(client.channel()).task(QueryTaskRequest { id }).await;
    let task = answer.map_err(ClientError::query("task"))?.into_inner().task;
    task.ok_or_else(|| ClientError::Input(format!("the node's answer about task {id} is empty")))
}

/// The bounds of tasks.
pub async fn params(client: &Client) -> Result<Params, ClientError> {
    let answer = Tasks::new(client.channel()).params(QueryParamsRequest {}).await;
    Ok(answer.map_err(ClientError::query("parameters of tasks"))?.into_inner().params.unwrap_or_default())
}

/// What so many tokens of a model cost now.
pub async fn estimate(
    client: &Client,
    model_id: &[u8],
    input_tokens: u32,
    max_output: u32,
) -> Result<QueryEstimateTaskResponse, ClientError> {
    let request = QueryEstimateTaskRequest { model_id: hex::encode(model_id), input_tokens, max_output };
    let answer = Tasks::new(client.channel()).estimate_task(request).await;
    Ok(answer.map_err(ClientError::query("estimate"))?.into_inner())
}

/// What a task asks, and the input that it is about.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Its `input_digest` is that of `input`.
    pub request: Request,
    pub input: Vec<u8>,
    /// Greatest number of input tokens; only those counted are paid.
    pub input_tokens: u32,
    /// The input goes into the transaction, for everybody to read.
    pub inline: bool,
    /// udn that are locked, at least the estimate.
    pub max_price: u128,
}

/// A task that is on the chain.
#[derive(Debug, Clone)]
pub struct Submitted {
    pub task: u64,
    /// The transaction in its block.
    pub tx: TxResponse,
}

/// Locks the price, and puts the task on the chain. `options.wait` must be set: the task's number is in the block.
pub async fn submit(
    client: &Client,
    signer: &SigningKey,
    offer: &Offer,
    options: &Options,
) -> Result<Submitted, ClientError> {
    let limit = options.wait.ok_or_else(|| {
        ClientError::Input("options.wait is missing, must be how long the task may wait for its block".into())
    })?;
    let hash = broadcast(client, signer, offer, options).await?;
    included(client, &hash, limit).await
}

/// Signs a task's transaction and gives it to the node; answers its hash, for [`included`].
pub async fn broadcast(
    client: &Client,
    signer: &SigningKey,
    offer: &Offer,
    options: &Options,
) -> Result<String, ClientError> {
    let message = MsgSubmitTask {
        creator: signer.address().to_string(),
        request: Some(offer.request.clone()),
        input_tokens: offer.input_tokens,
        inline_input: if offer.inline { offer.input.clone() } else { Vec::new() },
        max_price: Some(Coin { denom: "udn".into(), amount: offer.max_price.to_string() }),
        deadline: 0,
    };
    let options = Options { wait: None, ..options.clone() };
    Ok(client.send(signer, vec![Any::pack(&message)], options).await?.txhash)
}

/// Waits until a task that was sent is in a block.
pub async fn included(client: &Client, hash: &str, limit: Duration) -> Result<Submitted, ClientError> {
    let tx = client.wait(hash, limit).await?;
    match task_id(&tx.data) {
        Ok(task) => Ok(Submitted { task, tx }),
        Err(error) => Err(ClientError::Sent { hash: tx.txhash, reason: error.to_string() }),
    }
}

/// Takes back a task that nobody accepted: all of its price returns.
pub async fn cancel(
    client: &Client,
    signer: &SigningKey,
    task_id: u64,
    options: &Options,
) -> Result<TxResponse, ClientError> {
    let message = MsgCancelTask { creator: signer.address().to_string(), task_id };
    client.send(signer, vec![Any::pack(&message)], options.clone()).await
}

fn task_id(data: &str) -> Result<u64, ClientError> {
    let bad = |what: String| ClientError::Input(format!("the transaction's data: {what}"));
    let data = hex::decode(data).map_err(|e| bad(e.to_string()))?;
    let data = TxMsgData::decode(data.as_slice()).map_err(|e| bad(e.to_string()))?;
    let response = data.msg_responses.first().ok_or_else(|| bad("no response".into()))?;
    let response: MsgSubmitTaskResponse = response.unpack().map_err(|e| bad(e.to_string()))?;
    Ok(response.task_id)
}

/// What happens to a task on the way to its answer.
#[derive(Debug, Clone)]
pub enum Step {
    /// The chain gave it to a worker. One that had it before failed, and what that one said is void.
    Assigned { worker: String, endpoint: String },
    /// More of the answer: tokens, and the text that they complete as the worker has it.
    Piece { tokens: Vec<u32>, text: String },
    /// The receipt is on the chain, and the tokens are those that it speaks of.
    Answered(Box<Answer>),
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// As the chain has it: with the receipt, and what the receipt is worth.
    pub task: Task,
    pub receipt: Receipt,
    /// Their digest is the receipt's.
    pub tokens: Vec<u32>,
    /// As the worker says it; only who has the model's tokenizer can check it.
    pub text: String,
}

/// Follows a task that is submitted: hands in its input to whoever it is assigned to, reads the answer from there, and
/// sees to it that the answer is the one that the receipt on the chain is about.
pub struct Follower {
    client: Client,
    signer: SigningKey,
    id: u64,
    /// None where it is on the chain.
    input: Option<Vec<u8>>,
    /// Who has the task now.
    worker: String,
    endpoint: String,
    stream: Option<tonic::Streaming<StreamResponse>>,
    /// Of the open stream, which begins at the first token.
    heard: Heard,
    /// Of this worker's answer, what was passed on.
    told: Heard,
    /// When the worker may be tried again.
    retry: Instant,
    /// When the chain is asked next.
    look: Instant,
    /// The node has not answered since.
    away: Option<Instant>,
    /// The task with its receipt, and when it was seen.
    ended: Option<(Task, Instant)>,
    /// Why the worker could not be asked, for who wants to know why nothing comes.
    trouble: String,
}

#[derive(Debug, Default)]
struct Heard {
    tokens: Vec<u32>,
    text: String,
    /// The worker said that this is all.
    whole: bool,
}

impl Follower {
    /// `input` is what the worker is to be handed; none if it went into the transaction.
    pub fn new(client: Client, signer: SigningKey, id: u64, input: Option<Vec<u8>>) -> Self {
        let now = Instant::now();
        Self {
            client,
            signer,
            id,
            input,
            worker: String::new(),
            endpoint: String::new(),
            stream: None,
            heard: Heard::default(),
            told: Heard::default(),
            retry: now,
            look: now,
            away: None,
            ended: None,
            trouble: String::new(),
        }
    }

    /// The next step. A task that ends without an answer is [`ClientError::Ended`], an answer that is not the one of
    /// the receipt [`ClientError::Answer`]. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Step, ClientError> {
        loop {
            if let Some(step) = self.answered()? {
                return Ok(step);
            }
            if Instant::now() >= self.look {
                if let Some(step) = self.look().await? {
                    return Ok(step);
                }
            }
            let lacking = self.stream.is_none() && !self.heard.whole && !self.worker.is_empty();
            if lacking && Instant::now() >= self.retry {
                self.connect().await;
            }
            let Some(stream) = &mut self.stream else {
                sleep_until(self.look).await;
                continue;
            };
            match timeout_at(self.look, stream.message()).await {
                Err(_) => {}
                Ok(Ok(Some(message))) => {
                    if let Some(step) = self.take(message)? {
                        return Ok(step);
                    }
                }
                Ok(end) => {
                    if let Err(status) = end {
                        self.trouble = status.message().into();
                    }
                    self.stream = None;
                    self.retry = Instant::now() + RETRY;
                }
            }
        }
    }

    /// Asks the chain where the task stands.
    async fn look(&mut self) -> Result<Option<Step>, ClientError> {
        self.look = Instant::now() + LOOK;
        match self.ask().await {
            Err(error) if error.is_away() => {
                let since = *self.away.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    return Err(error);
                }
                Ok(None)
            }
            answer => {
                self.away = None;
                answer
            }
        }
    }

    async fn ask(&mut self) -> Result<Option<Step>, ClientError> {
        let task = task(&self.client, self.id).await?;
        match task.status() {
            TaskStatus::Refunded | TaskStatus::Cancelled => {
                let status = task.status().as_str_name().trim_start_matches("TASK_STATUS_").to_lowercase();
                let trouble = std::mem::take(&mut self.trouble);
                return Err(ClientError::Ended { task: self.id, status, trouble });
            }
            TaskStatus::Submitted | TaskStatus::Settled | TaskStatus::Void | TaskStatus::Convicted => {
                let since = self.ended.as_ref().map_or_else(Instant::now, |(_, since)| *since);
                self.ended = Some((task.clone(), since));
            }
            _ => {}
        }
        if task.worker.is_empty() || task.worker == self.worker {
            return Ok(None);
        }
        let request = QueryWorkerRequest { address: task.worker.clone() };
        let answer = Workers::new(self.client.channel()).worker(request).await;
        let worker = answer.map_err(ClientError::query("worker"))?.into_inner().worker.unwrap_or_default();
        self.worker.clone_from(&task.worker);
        self.endpoint.clone_from(&worker.endpoint);
        self.stream = None;
        (self.heard, self.told) = (Heard::default(), Heard::default());
        self.retry = Instant::now();
        Ok(Some(Step::Assigned { worker: task.worker, endpoint: worker.endpoint }))
    }

    /// Hands in the input and asks for the answer. A worker that cannot be reached is tried again, until the chain
    /// gives the task to another: waiting is all there is to do.
    async fn connect(&mut self) {
        self.retry = Instant::now() + RETRY;
        match self.open().await {
            Ok(stream) => {
                self.stream = Some(stream);
                self.heard = Heard::default();
            }
            Err(error) => self.trouble = error.to_string(),
        }
    }

    async fn open(&mut self) -> Result<tonic::Streaming<StreamResponse>, ClientError> {
        let worker = self.worker.parse().map_err(|e| ClientError::Input(format!("task.worker: {e}")))?;
        let mut serving =
            Serving::connect(&self.endpoint, self.client.chain_id(), worker, &self.signer).await?;
        if let Some(input) = self.input.as_ref().filter(|_| self.ended.is_none()) {
            serving.put_input(self.id, input.clone()).await?;
        }
        serving.stream(self.id).await
    }

    /// What is new in a message. A worker that begins anew has to say the same again.
    fn take(&mut self, message: StreamResponse) -> Result<Option<Step>, ClientError> {
        self.heard.tokens.extend(message.tokens);
        self.heard.text.push_str(&message.text);
        self.heard.whole |= message.receipt.is_some();
        let both = self.heard.tokens.len().min(self.told.tokens.len());
        if self.heard.tokens[..both] != self.told.tokens[..both] {
            return Err(ClientError::Answer {
                task: self.id,
                reason: format!("{} changed what it said before", self.worker),
            });
        }
        let tokens = self.heard.tokens[both..].to_vec();
        let text = self.heard.text.get(self.told.text.len()..).unwrap_or_default().to_owned();
        self.told.tokens.extend(&tokens);
        self.told.text.push_str(&text);
        Ok((!tokens.is_empty() || !text.is_empty()).then_some(Step::Piece { tokens, text }))
    }

    /// The answer, if the chain has its receipt and all of it was heard.
    fn answered(&mut self) -> Result<Option<Step>, ClientError> {
        let Some((task, since)) = &self.ended else { return Ok(None) };
        let bad = |reason: String| ClientError::Answer { task: self.id, reason };
        let receipt = task.receipt.clone().ok_or_else(|| bad("the chain has no receipt of it".into()))?;
        if task.status() == TaskStatus::Convicted {
            return Err(bad("its receipt was found wrong, the escrow is returned".into()));
        }
        if self.heard.whole {
            if receipt.result_digest != token_digest(&self.heard.tokens) {
                return Err(bad(format!("{} said other tokens than its receipt", self.worker)));
            }
            let heard = std::mem::take(&mut self.heard);
            let answer = Answer { task: task.clone(), receipt, tokens: heard.tokens, text: heard.text };
            return Ok(Some(Step::Answered(Box::new(answer))));
        }
        if since.elapsed() > PATIENCE {
            return Err(bad(format!("{} does not hand it over: {}", self.worker, self.trouble)));
        }
        Ok(None)
    }
}

/// BLAKE3 of token ids as u32 little-endian: the digest in receipts.
pub fn token_digest(tokens: &[u32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    tokens.iter().for_each(|token| {
        hasher.update(&token.to_le_bytes());
    });
    *hasher.finalize().as_bytes()
}
