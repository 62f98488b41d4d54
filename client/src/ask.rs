//! One question to a model: estimate, submit, hand in the input, follow the answer.

use std::time::Duration;

use deepnode_proto::cosmos::base::abci::v1beta1::TxMsgData;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::deepnode::models::v1::query_client::QueryClient as Models;
use deepnode_proto::deepnode::models::v1::{Model, QueryModelRequest};
use deepnode_proto::deepnode::tasks::v1::query_client::QueryClient as Tasks;
use deepnode_proto::deepnode::tasks::v1::{
    InputKind, MsgSubmitTask, MsgSubmitTaskResponse, QueryEstimateTaskRequest, QueryTaskRequest, Receipt,
    Request, SamplingParams, Task, TaskStatus,
};
use deepnode_proto::deepnode::workers::v1::query_client::QueryClient as Workers;
use deepnode_proto::deepnode::workers::v1::QueryWorkerRequest;
use deepnode_proto::{Any, AnyExt, Message};
use deepnode_tx::SigningKey;
use tokio::time::{sleep, Instant};

use crate::serving::Serving;
use crate::{Client, ClientError, Options};

/// Tokens that a chat template adds to the messages, at most: roles, markers, a default system prompt.
const TEMPLATE_TOKENS: usize = 96;
const POLL: Duration = Duration::from_millis(300);
/// How long a task may take from submission to its receipt.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// Model id in hex, or its name.
    pub model: String,
    /// Role and content of each message.
    pub messages: Vec<(String, String)>,
    /// Greatest number of tokens of the answer.
    pub max_output: u32,
    /// Millionths; 0 is greedy.
    pub temperature_micros: u32,
    /// The input goes into the transaction, for everybody to read.
    pub inline: bool,
}

impl Question {
    /// One message of a user, answered greedily.
    pub fn new(model: impl Into<String>, text: impl Into<String>, max_output: u32) -> Self {
        Question {
            model: model.into(),
            messages: vec![("user".into(), text.into())],
            max_output,
            temperature_micros: 0,
            inline: false,
        }
    }

    /// The input as it is sent: JSON messages.
    pub fn input(&self) -> Vec<u8> {
        let message =
            |(role, content): &(String, String)| serde_json::json!({ "role": role, "content": content });
        serde_json::Value::Array(self.messages.iter().map(message).collect()).to_string().into_bytes()
    }

    /// A bound of the input's tokens: none is shorter than a byte.
    pub fn most_tokens(&self) -> usize {
        self.messages.iter().map(|(role, content)| role.len() + content.len() + 8).sum::<usize>()
            + TEMPLATE_TOKENS
    }
}

/// What happens on the way to an answer.
#[derive(Debug, Clone)]
pub enum Event {
    /// udn at most, and CU.
    Estimated {
        fee: String,
        cu: u64,
    },
    Submitted {
        task: u64,
        hash: String,
    },
    Assigned {
        worker: String,
        endpoint: String,
    },
    /// A piece of the answer.
    Text(String),
    /// The worker failed; what came so far is void, and another will answer.
    Reassigned,
}

/// An answered task.
#[derive(Debug, Clone)]
pub struct Answered {
    pub id: u64,
    pub text: String,
    pub receipt: Option<Receipt>,
    /// udn.
    pub price: String,
}

/// Asks, and follows the answer to its receipt on chain. The price is final after the audit or the window.
pub async fn ask(
    client: &Client,
    signer: &SigningKey,
    question: &Question,
    options: &Options,
    on: &mut dyn FnMut(Event),
) -> Result<Answered, ClientError> {
    let model = model(client, &question.model).await?;
    let input = question.input();
    let tokens = u32::try_from(question.most_tokens()).unwrap_or(u32::MAX);
    let context = model.architecture.as_ref().map_or(0, |a| a.context);
    let room = context.saturating_sub(question.max_output);
    let tokens = tokens.min(room);
    if tokens == 0 {
        return Err(ClientError::Input(format!(
            "max_output {} leaves no room for the question: the model's context is {context} tokens",
            question.max_output
        )));
    }
    let estimate = Tasks::new(client.channel())
        .estimate_task(QueryEstimateTaskRequest {
            model_id: hex::encode(&model.id),
            input_tokens: tokens,
            max_output: question.max_output,
        })
        .await
        .map_err(ClientError::query("estimate"))?
        .into_inner();
    on(Event::Estimated { fee: estimate.fee.clone(), cu: estimate.cu });
    let submit = MsgSubmitTask {
        creator: signer.address().to_string(),
        request: Some(Request {
            model_id: model.id.clone(),
            input_kind: InputKind::Chat.into(),
            input_digest: blake3::hash(&input).as_bytes().to_vec(),
            max_output: question.max_output,
            sampling: Some(SamplingParams {
                temperature: question.temperature_micros,
                ..SamplingParams::default()
            }),
            stop: Vec::new(),
        }),
        input_tokens: tokens,
        inline_input: if question.inline { input.clone() } else { Vec::new() },
        max_price: Some(Coin { denom: "udn".into(), amount: estimate.fee }),
        deadline: 0,
    };
    let response = client.send(signer, vec![Any::pack(&submit)], options.clone()).await?;
    let id = task_id(&response.data)?;
    on(Event::Submitted { task: id, hash: response.txhash });
    follow(client, signer, id, &input, question.inline, on).await
}

/// Follows a task that is submitted: hands in its input to whoever it is assigned to, and streams the answer.
async fn follow(
    client: &Client,
    signer: &SigningKey,
    id: u64,
    input: &[u8],
    inline: bool,
    on: &mut dyn FnMut(Event),
) -> Result<Answered, ClientError> {
    let begin = Instant::now();
    let (mut worker, mut text) = (String::new(), String::new());
    let mut stream = None;
    loop {
        let task = task(client, id).await?;
        match task.status() {
            TaskStatus::Submitted | TaskStatus::Settled | TaskStatus::Void | TaskStatus::Convicted => {
                if let Some(stream) = stream.as_mut() {
                    drain(stream, &mut text, on).await;
                }
                return Ok(Answered { id, text, price: price_of(&task), receipt: task.receipt });
            }
            TaskStatus::Refunded | TaskStatus::Cancelled => {
                let status = task.status().as_str_name();
                return Err(ClientError::Input(format!(
                    "task {id} ended as {status}: the escrow is returned"
                )));
            }
            _ => {}
        }
        if !task.worker.is_empty() && task.worker != worker {
            if !worker.is_empty() {
                text.clear();
                on(Event::Reassigned);
            }
            worker.clone_from(&task.worker);
            stream = match hand_in(client, signer, &task, input, inline, on).await {
                Ok(stream) => Some(stream),
                // A worker that does not answer is replaced by the chain: waiting is all there is to do.
                Err(ClientError::NoWorker { .. }) => None,
                Err(e) => return Err(e),
            };
        }
        match stream.as_mut() {
            Some(open) => {
                if !next(open, &mut text, on).await {
                    stream = None;
                }
            }
            None => sleep(POLL).await,
        }
        if begin.elapsed() > PATIENCE {
            return Err(ClientError::Input(format!(
                "task {id} has no answer after {} s",
                PATIENCE.as_secs()
            )));
        }
    }
}

type Pieces = tonic::Streaming<deepnode_proto::deepnode::serving::v1::StreamResponse>;

async fn hand_in(
    client: &Client,
    signer: &SigningKey,
    task: &Task,
    input: &[u8],
    inline: bool,
    on: &mut dyn FnMut(Event),
) -> Result<Pieces, ClientError> {
    let request = QueryWorkerRequest { address: task.worker.clone() };
    let answer =
        Workers::new(client.channel()).worker(request).await.map_err(ClientError::query("worker"))?;
    let endpoint = answer.into_inner().worker.unwrap_or_default().endpoint;
    on(Event::Assigned { worker: task.worker.clone(), endpoint: endpoint.clone() });
    let address = task.worker.parse().map_err(|e| ClientError::Input(format!("task.worker: {e}")))?;
    let mut serving = Serving::connect(&endpoint, client.chain_id(), address, signer).await?;
    if !inline {
        serving.put_input(task.id, input.to_vec()).await?;
    }
    serving.stream(task.id).await
}

/// Takes the next piece, or looks again after a while; false at the end of the stream.
async fn next(stream: &mut Pieces, text: &mut String, on: &mut dyn FnMut(Event)) -> bool {
    match tokio::time::timeout(POLL, stream.message()).await {
        Err(_) => true,
        Ok(Ok(Some(piece))) => {
            if !piece.text.is_empty() {
                text.push_str(&piece.text);
                on(Event::Text(piece.text));
            }
            true
        }
        Ok(_) => false,
    }
}

async fn drain(stream: &mut Pieces, text: &mut String, on: &mut dyn FnMut(Event)) {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until && next(stream, text, on).await {}
}

/// A model by id or name.
pub async fn model(client: &Client, id: &str) -> Result<Model, ClientError> {
    let answer = Models::new(client.channel()).model(QueryModelRequest { id: id.into() }).await;
    let model = answer.map_err(ClientError::query("model"))?.into_inner().model;
    model.ok_or_else(|| ClientError::Input(format!("the node's answer about model {id:?} is empty")))
}

/// A task by its id.
pub async fn task(client: &Client, id: u64) -> Result<Task, ClientError> {
    let answer = Tasks::new(client.channel()).task(QueryTaskRequest { id }).await;
    let task = answer.map_err(ClientError::query("task"))?.into_inner().task;
    task.ok_or_else(|| ClientError::Input(format!("the node's answer about task {id} is empty")))
}

/// udn that the task cost, once it is settled; before that, the escrow bounds it.
fn price_of(task: &Task) -> String {
    match &task.settlement {
        Some(settlement) if !settlement.price.is_empty() => settlement.price.clone(),
        _ => format!("not settled, at most {}", task.escrow),
    }
}

fn task_id(data: &str) -> Result<u64, ClientError> {
    let bad = |what: String| ClientError::Input(format!("the transaction's data: {what}"));
    let data = hex::decode(data).map_err(|e| bad(e.to_string()))?;
    let data = TxMsgData::decode(data.as_slice()).map_err(|e| bad(e.to_string()))?;
    let response = data.msg_responses.first().ok_or_else(|| bad("no response".into()))?;
    let response: MsgSubmitTaskResponse = response.unpack().map_err(|e| bad(e.to_string()))?;
    Ok(response.task_id)
}
