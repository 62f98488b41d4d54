//! `query`: any method of the table, its answer as JSON.

use anyhow::{bail, Context, Result};
use clap::Args;
use deepnode_client::Client;
use deepnode_proto::cosmos::base::node::v1beta1 as node_v1;
use prost_reflect::{Kind, MessageDescriptor};
use serde_json::{json, Map, Value};

use super::commands::{self, Spec};
use super::NodeArgs;
use crate::json;
use crate::node::grpc::{Raw, HEIGHT_HEADER};

/// `query MODULE COMMAND ARGUMENTS`, or `query raw PATH [JSON]`.
#[derive(Args)]
pub struct QueryArgs {
    /// Module, command and arguments; without them the commands are listed.
    words: Vec<String>,
    /// Height to ask about; the latest by default.
    #[arg(long, default_value_t = 0)]
    height: u64,
    /// Entries of a page.
    #[arg(long)]
    limit: Option<u64>,
    /// `pagination.next_key` of the page before.
    #[arg(long)]
    page_key: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

impl QueryArgs {
    pub async fn run(self) -> Result<()> {
        let mut words = self.words.iter().map(String::as_str);
        let (module, name) = (words.next(), words.next());
        let arguments: Vec<_> = words.collect();
        let (path, mut request) = match (module, name) {
            (Some("raw"), Some(path)) => {
                let request = arguments.first().copied().unwrap_or("{}");
                (path, serde_json::from_str(request).context("the request is not JSON")?)
            }
            _ => {
                let spec = commands::find(commands::QUERIES, module, name)?;
                let kind = method(spec.target)?.0;
                (spec.target, arguments_of(spec, &kind, &arguments)?)
            }
        };
        let (input, output) = method(path)?;
        self.paginate(&input, &mut request);
        let client = self.node.connect().await?;
        let answer = call(&client, path, self.height, json::from_json(input, request)?).await?;
        self.node.output.print(&json::to_json(output, &answer)?);
        Ok(())
    }

    fn paginate(&self, input: &MessageDescriptor, request: &mut Value) {
        if input.get_field_by_name("pagination").is_none()
            || (self.limit.is_none() && self.page_key.is_none())
        {
            return;
        }
        let mut page = Map::new();
        if let Some(limit) = self.limit {
            page.insert("limit".into(), limit.to_string().into());
        }
        if let Some(key) = &self.page_key {
            page.insert("key".into(), key.clone().into());
        }
        request["pagination"] = Value::Object(page);
    }
}

/// Request and answer of a method.
pub fn method(path: &str) -> Result<(MessageDescriptor, MessageDescriptor)> {
    let found = path.trim_start_matches('/').split_once('/').and_then(|(service, name)| {
        let service = deepnode_proto::pool().get_service_by_name(service)?;
        let method = service.methods().find(|m| m.name() == name)?;
        Some((method.input(), method.output()))
    });
    found.with_context(|| format!("there is no method {path:?}, expected /package.Service/Method"))
}

/// The positional arguments as the JSON of `kind`.
pub fn arguments_of(spec: &Spec, kind: &MessageDescriptor, arguments: &[&str]) -> Result<Value> {
    let required = spec.fields.iter().filter(|f| !f.starts_with('?')).count();
    if arguments.len() < required || arguments.len() > spec.fields.len() {
        bail!("{} arguments given; usage: {}", arguments.len(), commands::usage(spec));
    }
    let mut fields = Map::new();
    for (name, text) in spec.fields.iter().zip(arguments) {
        let name = name.trim_start_matches('?');
        let field = kind
            .get_field_by_name(name)
            .with_context(|| format!("{} has no field {name}", kind.full_name()))?;
        let one = |text: &str| value(name, &field.kind(), text);
        let value = match field.is_list() {
            true => Value::Array(text.split(',').map(one).collect::<Result<_>>()?),
            false => one(text)?,
        };
        fields.insert(name.into(), value);
    }
    Ok(Value::Object(fields))
}

/// One argument: coins as `100udn`, bytes in hex, enums by their last word.
fn value(name: &str, kind: &Kind, text: &str) -> Result<Value> {
    Ok(match kind {
        Kind::Message(m) if m.full_name() == "cosmos.base.v1beta1.Coin" => {
            let split = text.find(|c: char| !c.is_ascii_digit()).filter(|i| *i > 0);
            let split = split.with_context(|| {
                format!("{name} {text:?} must be an amount and its denom, such as 100udn")
            })?;
            json!({ "amount": text[..split], "denom": text[split..] })
        }
        Kind::Bytes => {
            let bytes = hex::decode(text).with_context(|| format!("{name} {text:?} must be hex"))?;
            Value::String(base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes))
        }
        Kind::Enum(e) => {
            let wanted = text.to_uppercase();
            let found = e.values().find(|v| v.name() == wanted || v.name().ends_with(&format!("_{wanted}")));
            let choices = || e.values().map(|v| v.name().to_lowercase()).collect::<Vec<_>>().join(", ");
            Value::String(
                found.with_context(|| format!("{name} {text:?} must be one of {}", choices()))?.name().into(),
            )
        }
        Kind::Message(m) => bail!("{name}: a {} cannot be an argument: use --json", m.full_name()),
        _ => Value::String(text.into()),
    })
}

/// Calls a method by its path, bytes in and bytes out.
pub async fn call(client: &Client, path: &str, height: u64, request: Vec<u8>) -> Result<Vec<u8>> {
    let mut grpc = tonic::client::Grpc::new(client.channel()).max_decoding_message_size(64 << 20);
    grpc.ready().await.context("the node does not answer")?;
    let mut request = tonic::Request::new(request);
    if height > 0 {
        request.metadata_mut().insert(HEIGHT_HEADER, height.into());
    }
    let answer = grpc.unary(request, path.parse()?, Raw).await;
    answer.map(tonic::Response::into_inner).map_err(|s| anyhow::anyhow!("{:?}: {}", s.code(), s.message()))
}

/// `status`
pub async fn status(node: &NodeArgs) -> Result<()> {
    use deepnode_proto::Message;
    let client = node.connect().await?;
    let bytes = call(&client, "/cosmos.base.node.v1beta1.Service/Status", 0, Vec::new()).await?;
    let status = node_v1::StatusResponse::decode(bytes.as_slice())?;
    let syncing = call(&client, "/cosmos.base.tendermint.v1beta1.Service/GetSyncing", 0, Vec::new()).await;
    let cometbft = match &syncing {
        Ok(bytes) if bytes.is_empty() => "in sync".to_owned(),
        Ok(_) => "catching up".to_owned(),
        Err(e) => format!("not answering: {e}"),
    };
    node.output.print(&json!({
        "chain_id": client.chain_id(),
        "height": status.height.to_string(),
        "app_hash": hex::encode(status.app_hash),
        "cometbft": cometbft,
    }));
    Ok(())
}
