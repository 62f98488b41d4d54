//! One question to a model: estimate, submit, hand in the input, follow the answer.

use std::time::Duration;

use deepnode_proto::deepnode::tasks::v1::{InputKind, Receipt, Request, SamplingParams, Task};
use deepnode_tx::SigningKey;
use tokio::time::timeout;

use crate::task::{estimate, submit, Follower, Offer, Step};
pub use crate::task::{model, task};
use crate::{Client, ClientError, Options};

/// Tokens that a chat template adds to the messages, at most: roles, markers, a default system prompt.
const TEMPLATE_TOKENS: usize = 96;
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
    let estimate = estimate(client, &model.id, tokens, question.max_output).await?;
    let max_price = estimate.fee.parse().map_err(|e| ClientError::Input(format!("estimate.fee: {e}")))?;
    on(Event::Estimated { fee: estimate.fee, cu: estimate.cu });
    let sampling = SamplingParams { temperature: question.temperature_micros, ..SamplingParams::default() };
    let offer = Offer {
        request: Request {
            model_id: model.id,
            input_kind: InputKind::Chat.into(),
            input_digest: blake3::hash(&input).as_bytes().to_vec(),
            max_output: question.max_output,
            sampling: Some(sampling),
            stop: Vec::new(),
        },
        input,
        input_tokens: tokens,
        inline: question.inline,
        max_price,
    };
    let submitted = submit(client, signer, &offer, options).await?;
    let id = submitted.task;
    on(Event::Submitted { task: id, hash: submitted.tx.txhash });
    let input = (!offer.inline).then_some(offer.input);
    let follower = Follower::new(client.clone(), signer.clone(), id, input);
    match timeout(PATIENCE, follow(follower, on)).await {
        Ok(answered) => answered,
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            Err(ClientError::Input(format!("task {id} has no answer after {seconds} s")))
        }
    }
}

async fn follow(mut follower: Follower, on: &mut dyn FnMut(Event)) -> Result<Answered, ClientError> {
    let mut assigned = false;
    loop {
        match follower.next().await? {
            Step::Assigned { worker, endpoint } => {
                if std::mem::replace(&mut assigned, true) {
                    on(Event::Reassigned);
                }
                on(Event::Assigned { worker, endpoint });
            }
            Step::Piece { text, .. } if text.is_empty() => {}
            Step::Piece { text, .. } => on(Event::Text(text)),
            Step::Answered(answer) => {
                let (id, price) = (answer.task.id, price_of(&answer.task));
                return Ok(Answered { id, text: answer.text, price, receipt: Some(answer.receipt) });
            }
        }
    }
}

/// udn that the task cost; before it is settled, what its receipt is worth.
fn price_of(task: &Task) -> String {
    task.settlement.as_ref().map_or_else(|| task.price.clone(), |settlement| settlement.price.clone())
}
