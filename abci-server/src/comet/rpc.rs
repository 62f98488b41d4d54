//! Asks a CometBFT over its RPC. Thin: the types are those of `tendermint` and `tendermint-rpc`.

use std::time::Duration;

use base64::prelude::{Engine, BASE64_STANDARD as BASE64};
use tendermint::abci::types::ExecTxResult;
use tendermint::block::Height;
use tendermint::{consensus, validator, Hash};
use tendermint_rpc::error::ErrorDetail;
use tendermint_rpc::query::Query;
use tendermint_rpc::{endpoint, Client, Error, HttpClient, HttpClientUrl, Order, Paging};

/// CometBFT itself gives up on a request after 10 s.
const TIMEOUT: Duration = Duration::from_secs(12);

#[derive(Clone, Debug)]
pub struct Rpc {
    http: HttpClient,
    url: String,
}

#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// Nothing listens, the connection broke, or no answer came in time. Trying again may help.
    #[error("CometBFT at {url} is unavailable: {cause}")]
    Unavailable { url: String, cause: String },
    /// CometBFT says no: an unknown transaction or height, a full mempool, a transaction that it knows already.
    #[error("CometBFT refuses: {0}")]
    Rejected(String),
    /// The answer is not what CometBFT 0.38 answers.
    #[error("CometBFT's answer is not understood: {0}")]
    Malformed(String),
}

type Result<T> = std::result::Result<T, RpcError>;

impl Rpc {
    /// `url` such as `http://127.0.0.1:26657`. Connects when asked something.
    pub fn new(url: &str) -> Result<Self> {
        Self::with_timeout(url, TIMEOUT)
    }

    pub fn with_timeout(url: &str, timeout: Duration) -> Result<Self> {
        let malformed = |e: &dyn std::fmt::Display| RpcError::Malformed(format!("URL {url:?}: {e}"));
        let address: HttpClientUrl = url.parse().map_err(|e: Error| malformed(&e.detail()))?;
        // The node is ours and near: HTTP_PROXY is not for it.
        let client =
            reqwest::Client::builder().timeout(timeout).no_proxy().build().map_err(|e| malformed(&e))?;
        let http = HttpClient::builder(address).client(client).build().map_err(|e| malformed(&e.detail()))?;
        Ok(Self { http, url: url.to_owned() })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn status(&self) -> Result<endpoint::status::Response> {
        self.check(self.http.status().await)
    }

    /// All validators at `height`, or at the latest.
    pub async fn validators(&self, height: Option<Height>) -> Result<Vec<validator::Info>> {
        let height = self.or_latest(height).await?;
        Ok(self.check(self.http.validators(height, Paging::All).await)?.validators)
    }

    /// Answers once CheckTx did. A transaction that it refuses is an answer with a code other than 0.
    pub async fn broadcast_tx_sync(&self, tx: Vec<u8>) -> Result<endpoint::broadcast::tx_sync::Response> {
        self.check(self.http.broadcast_tx_sync(tx).await)
    }

    /// A transaction in a block, by its hash. Needs `tx_index`.
    pub async fn tx(&self, hash: Hash) -> Result<endpoint::tx::Response> {
        let mut answer = self.check(self.http.tx(hash, false).await)?;
        decode_data([&mut answer.tx_result])?;
        Ok(answer)
    }

    /// Transactions by their events. `page` counts from 1; `per_page` is 1 to 100. Needs `tx_index`.
    pub async fn tx_search(
        &self,
        query: Query,
        page: u32,
        per_page: u8,
        order: Order,
    ) -> Result<endpoint::tx_search::Response> {
        let mut answer = self.check(self.http.tx_search(query, false, page, per_page, order).await)?;
        decode_data(answer.txs.iter_mut().map(|tx| &mut tx.tx_result))?;
        Ok(answer)
    }

    /// The block at `height`, or the latest.
    pub async fn block(&self, height: Option<Height>) -> Result<endpoint::block::Response> {
        self.check(match height {
            Some(height) => self.http.block(height).await,
            None => self.http.latest_block().await,
        })
    }

    /// What the application answered for the block at `height`. A little later than the block itself.
    pub async fn block_results(&self, height: Height) -> Result<endpoint::block_results::Response> {
        let mut answer = self.check(self.http.block_results(height).await)?;
        decode_data(answer.txs_results.iter_mut().flatten())?;
        Ok(answer)
    }

    /// The parameters in force at `height`, or at the latest.
    pub async fn consensus_params(&self, height: Option<Height>) -> Result<consensus::Params> {
        let height = self.or_latest(height).await?;
        Ok(self.check(self.http.consensus_params(height).await)?.consensus_params)
    }

    /// CometBFT's own "latest" is for some answers a height that it has not written yet.
    async fn or_latest(&self, height: Option<Height>) -> Result<Height> {
        match height {
            Some(height) => Ok(height),
            None => Ok(self.status().await?.sync_info.latest_block_height),
        }
    }

    /// For what has no method here.
    pub fn client(&self) -> &HttpClient {
        &self.http
    }

    /// The answer of [`Rpc::client`], its error told apart.
    pub fn check<T>(&self, answer: std::result::Result<T, Error>) -> Result<T> {
        answer.map_err(|error| match error.detail() {
            ErrorDetail::Response(e) => RpcError::Rejected(e.source.to_string()),
            ErrorDetail::HttpRequestFailed(e) if e.status.is_client_error() => {
                RpcError::Rejected(error.detail().to_string())
            }
            detail @ (ErrorDetail::Http(_)
            | ErrorDetail::HttpRequestFailed(_)
            | ErrorDetail::Io(_)
            | ErrorDetail::Timeout(_)) => {
                RpcError::Unavailable { url: self.url.clone(), cause: detail.to_string() }
            }
            detail => RpcError::Malformed(detail.to_string()),
        })
    }
}

/// tendermint-rpc hands on the `data` of a result in the base64 of the JSON.
fn decode_data<'a>(results: impl IntoIterator<Item = &'a mut ExecTxResult>) -> Result<()> {
    for result in results {
        let data =
            BASE64.decode(&result.data).map_err(|e| RpcError::Malformed(format!("data of a result: {e}")))?;
        result.data = data.into();
    }
    Ok(())
}
