//! A node's gRPC, as far as sending transactions needs it.

use crate::{ClientError, Gas, GasPrice};
use deepnode_proto::cosmos::auth::v1beta1::query_client::QueryClient as AuthClient;
use deepnode_proto::cosmos::auth::v1beta1::{Bech32PrefixRequest, QueryAccountInfoRequest};
use deepnode_proto::cosmos::base::abci::v1beta1::TxResponse;
use deepnode_proto::cosmos::base::tendermint::v1beta1::service_client::ServiceClient as NodeClient;
use deepnode_proto::cosmos::base::tendermint::v1beta1::GetNodeInfoRequest;
use deepnode_proto::cosmos::tx::v1beta1::service_client::ServiceClient as TxClient;
use deepnode_proto::cosmos::tx::v1beta1::{BroadcastMode, BroadcastTxRequest, GetTxRequest, SimulateRequest};
use deepnode_proto::{Any, Timestamp};
use deepnode_tx::{Address, SignerData, SigningKey, TxBuilder};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::Code;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(400);
/// Answers may hold whole blocks.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// How a transaction is sent.
#[derive(Debug, Clone)]
pub struct Options {
    pub gas: Gas,
    /// `None` offers no fee.
    pub gas_price: Option<GasPrice>,
    pub memo: String,
    pub fee_granter: Option<Address>,
    /// The last height at which the transaction is good; 0 for no limit.
    pub timeout_height: u64,
    /// Good for this long (at most 10 minutes), whatever the account's sequence.
    pub unordered: Option<Duration>,
    /// How long to wait for a block; `None` returns when the node's mempool has taken the transaction.
    pub wait: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gas: Gas::default(),
            gas_price: None,
            memo: String::new(),
            fee_granter: None,
            timeout_height: 0,
            unordered: None,
            wait: Some(Duration::from_secs(60)),
        }
    }
}

/// A connection to one node. Clones share it; so may many tasks.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    endpoint: String,
    chain_id: String,
    /// The next sequence of each account that has sent, one step ahead of the committed state that queries show.
    /// Held from choosing a sequence to the mempool's answer, so that tasks of one account do not race.
    sequences: Arc<Mutex<BTreeMap<Address, u64>>>,
}

impl Client {
    /// Connects to `host:port` or `http://host:port` and asks for the chain's id and its prefix of addresses, which
    /// becomes that of this process.
    pub async fn connect(endpoint: &str) -> Result<Self, ClientError> {
        let unreachable = |reason: String| ClientError::Unreachable { endpoint: endpoint.into(), reason };
        let channel = self::endpoint(endpoint)?.connect().await.map_err(|e| unreachable(root_cause(&e)))?;
        let info = NodeClient::new(channel.clone())
            .get_node_info(GetNodeInfoRequest {})
            .await
            .map_err(|status| match status.code() {
                Code::Unimplemented | Code::Unknown | Code::Internal => {
                    unreachable(format!("what listens there is not a node's gRPC: {}", status.message()))
                }
                _ => ClientError::query("node info")(status),
            })?
            .into_inner();
        let chain_id = info.default_node_info.unwrap_or_default().network;
        if chain_id.is_empty() {
            return Err(unreachable("the node does not say what chain it is of".into()));
        }
        learn_prefix(&channel).await?;
        Ok(Self { channel, endpoint: endpoint.into(), chain_id, sequences: Arc::default() })
    }

    /// Fails unless the node is of this chain.
    pub fn expect_chain(self, chain_id: &str) -> Result<Self, ClientError> {
        if self.chain_id == chain_id {
            return Ok(self);
        }
        Err(ClientError::WrongChain { got: self.chain_id, expected: chain_id.into() })
    }

    pub fn chain_id(&self) -> &str {
        &self.chain_id
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// For the generated query clients: `QueryClient::new(client.channel())`.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Account number and sequence, as last committed.
    pub async fn account(&self, address: Address) -> Result<(u64, u64), ClientError> {
        let request = QueryAccountInfoRequest { address: address.to_string() };
        let answer = AuthClient::new(self.channel()).account_info(request).await.map_err(|status| {
            match status.code() {
                Code::NotFound => ClientError::NoAccount { address, chain_id: self.chain_id.clone() },
                _ => ClientError::query("account")(status),
            }
        })?;
        let info = answer.into_inner().info.unwrap_or_default();
        Ok((info.account_number, info.sequence))
    }

    /// Signs, sends and waits as the options say. A transaction that is refused or fails is an error; one that may be
    /// included all the same says so ([`ClientError::may_be_included`]).
    pub async fn send(
        &self,
        signer: &SigningKey,
        messages: Vec<Any>,
        options: Options,
    ) -> Result<TxResponse, ClientError> {
        let mut tx = TxBuilder::new().memo(options.memo.clone()).timeout_height(options.timeout_height);
        tx.body.messages = messages;
        if let Some(granter) = options.fee_granter {
            tx = tx.fee_granter(granter);
        }
        let hash = match options.unordered {
            Some(lifetime) => {
                let (account_number, _) = self.account(signer.address()).await?;
                let data = SignerData { chain_id: self.chain_id.clone(), account_number, sequence: 0 };
                self.submit(tx.unordered(until(lifetime)?), signer, &data, &options).await?
            }
            None => self.send_in_order(&tx, signer, &options).await?,
        };
        match options.wait {
            Some(limit) => self.wait(&hash.txhash, limit).await,
            None => Ok(hash),
        }
    }

    /// Polls until the transaction with this hash (hexadecimal), which was sent, is in a block. It stands whatever becomes
    /// of the node meanwhile, so that no trouble with the node ends the wait before the limit.
    pub async fn wait(&self, hash: &str, limit: Duration) -> Result<TxResponse, ClientError> {
        let started = Instant::now();
        let mut client = TxClient::new(self.channel()).max_decoding_message_size(MAX_ANSWER_BYTES);
        loop {
            let trouble = match client.get_tx(GetTxRequest { hash: hash.into() }).await {
                Ok(answer) => match answer.into_inner().tx_response {
                    Some(response) => return accepted(response),
                    None => Some("the node's answer about it is empty".into()),
                },
                Err(status) if status.code() == Code::NotFound => None,
                Err(status) => Some(format!("{} ({})", status.message(), status.code())),
            };
            if started.elapsed() >= limit {
                return Err(match trouble {
                    Some(reason) => ClientError::Sent { hash: hash.into(), reason },
                    None => ClientError::Timeout { hash: hash.into(), waited: limit },
                });
            }
            tokio::time::sleep(POLL.min(limit)).await;
        }
    }

    /// The sequence of a transaction that waits in the mempool is not yet in the committed state, and one that was
    /// dropped was counted for nothing: once, the sequence that the node names is believed.
    async fn send_in_order(
        &self,
        tx: &TxBuilder,
        signer: &SigningKey,
        options: &Options,
    ) -> Result<TxResponse, ClientError> {
        let address = signer.address();
        let mut sequences = self.sequences.lock().await;
        let (account_number, committed) = self.account(address).await?;
        let sequence = sequences.get(&address).map_or(committed, |next| committed.max(*next));
        let mut data = SignerData { chain_id: self.chain_id.clone(), account_number, sequence };
        let mut result = self.submit(tx.clone(), signer, &data, options).await;
        if let Some(expected) = result.as_ref().err().and_then(expected_sequence) {
            data.sequence = expected;
            result = self.submit(tx.clone(), signer, &data, options).await;
        }
        match &result {
            Ok(_) => sequences.insert(address, data.sequence.saturating_add(1)),
            Err(_) => sequences.remove(&address),
        };
        result
    }

    /// Finds gas and fee, signs, and gives the transaction to the node's mempool.
    async fn submit(
        &self,
        mut tx: TxBuilder,
        signer: &SigningKey,
        data: &SignerData,
        options: &Options,
    ) -> Result<TxResponse, ClientError> {
        let gas = match options.gas {
            Gas::Limit(gas) => gas,
            Gas::Auto { percent } => {
                let used = self.simulate(&tx, signer, data.sequence).await?;
                let gas = u128::from(used) * u128::from(percent) / 100;
                u64::try_from(gas)
                    .map_err(|_| ClientError::Input(format!("{percent}% of {used} gas is too much")))?
            }
        };
        tx = tx.gas(gas);
        if let Some(price) = &options.gas_price {
            tx = tx.fee(price.fee(gas)?, &price.denom);
        }
        let tx_bytes = tx.sign(signer, data);
        let hash = hex::encode_upper(deepnode_tx::hash(&tx_bytes));
        let request = BroadcastTxRequest { tx_bytes, mode: BroadcastMode::Sync.into() };
        let answer = TxClient::new(self.channel()).broadcast_tx(request).await;
        let answer = answer.map_err(|status| match status.code() {
            // The node did not understand it. Whatever else went wrong, the mempool may have it.
            Code::InvalidArgument | Code::Unimplemented => ClientError::query("broadcast")(status),
            code => {
                ClientError::Sent { hash: hash.clone(), reason: format!("{} ({code})", status.message()) }
            }
        })?;
        let mut response = answer.into_inner().tx_response.unwrap_or_default();
        response.txhash = hash;
        if response.code == IN_MEMPOOL && response.codespace == deepnode_tx::error::CODESPACE {
            response.code = 0;
        }
        accepted(response)
    }

    /// Gas that the transaction uses, by the node's simulation.
    async fn simulate(&self, tx: &TxBuilder, signer: &SigningKey, sequence: u64) -> Result<u64, ClientError> {
        let tx_bytes = tx.simulation(&signer.public_key(), sequence);
        let request = SimulateRequest { tx_bytes, ..Default::default() };
        let answer = TxClient::new(self.channel())
            .simulate(request)
            .await
            .map_err(ClientError::query("simulation"))?;
        Ok(answer.into_inner().gas_info.unwrap_or_default().gas_used)
    }
}

const IN_MEMPOOL: u32 = 19;

fn accepted(response: TxResponse) -> Result<TxResponse, ClientError> {
    if response.code == 0 {
        return Ok(response);
    }
    Err(ClientError::Transaction {
        hash: response.txhash,
        height: response.height,
        code: response.code,
        codespace: response.codespace,
        log: response.raw_log,
        gas_wanted: response.gas_wanted,
    })
}

/// E of `account sequence mismatch, expected E, got G`, from the mempool or a simulation.
fn expected_sequence(error: &ClientError) -> Option<u64> {
    let text = match error {
        ClientError::Transaction { log, height: 0, .. } => log,
        ClientError::Query { message, .. } => message,
        _ => return None,
    };
    let (_, rest) = text.split_once("account sequence mismatch, expected ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Now plus `lifetime`, and in nanoseconds never twice the same: it is the nonce of an unordered transaction.
fn until(lifetime: Duration) -> Result<Timestamp, ClientError> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let error =
        || ClientError::Input(format!("unordered lifetime {lifetime:?}: not a time that can be written"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| error())?;
    let wanted =
        now.checked_add(lifetime).and_then(|t| u64::try_from(t.as_nanos()).ok()).ok_or_else(error)?;
    let last = LAST
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(wanted.max(last.saturating_add(1))))
        .unwrap_or(0);
    let nanos = wanted.max(last.saturating_add(1));
    Ok(Timestamp { seconds: (nanos / 1_000_000_000) as i64, nanos: (nanos % 1_000_000_000) as i32 })
}

/// Makes the chain's prefix of addresses that of this process.
async fn learn_prefix(channel: &Channel) -> Result<(), ClientError> {
    let answer = AuthClient::new(channel.clone()).bech32_prefix(Bech32PrefixRequest {}).await;
    let prefix = match answer {
        Ok(answer) => answer.into_inner().bech32_prefix,
        // What does not say so has the default.
        Err(status) if status.code() == Code::Unimplemented => return Ok(()),
        Err(status) => return Err(ClientError::query("bech32 prefix")(status)),
    };
    deepnode_tx::address::set_prefix(&prefix).map_err(|e| {
        ClientError::Input(format!("{e}: choose it with --bech32-prefix or DEEPNODE_BECH32_PREFIX"))
    })
}

/// How to connect to `host:port` or `http://host:port`.
pub(crate) fn endpoint(text: &str) -> Result<Endpoint, ClientError> {
    Ok(Endpoint::from(uri(text)?)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(30)))
}

fn uri(endpoint: &str) -> Result<http::Uri, ClientError> {
    let error = |reason: String| ClientError::Endpoint { endpoint: endpoint.into(), reason };
    let text = match endpoint.split_once("://") {
        Some(("http" | "tcp" | "grpc", rest)) => format!("http://{rest}"),
        Some((scheme, _)) => return Err(error(format!("scheme {scheme:?} is not supported"))),
        None => format!("http://{endpoint}"),
    };
    let uri: http::Uri = text.parse().map_err(|e: http::uri::InvalidUri| error(e.to_string()))?;
    match uri.port() {
        Some(_) => Ok(uri),
        None => Err(error("no port".into())),
    }
}

/// The innermost error says what happened: "Connection refused" and not "transport error".
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
