//! Getting a task's input and output: from the chain, or from the worker.

use std::collections::BTreeMap;

use deepnode_client::Serving;
use deepnode_proto::deepnode::audits::v1::Audit;
use deepnode_proto::deepnode::tasks::v1::Task;
use deepnode_tx::Address;
use parking_lot::Mutex;

use crate::canon::Digest;
use crate::chain::Chain;
use crate::request;

/// What an audit is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// As the user sent it.
    pub input: Vec<u8>,
    /// Token ids.
    pub output: Vec<u8>,
}

/// Fetches from workers, over connections that are kept.
#[derive(Default)]
pub struct Fetcher {
    connections: Mutex<BTreeMap<String, Serving>>,
}

impl Fetcher {
    /// The blobs of a task, each verified against its digest. An error says which one cannot be had, and why.
    pub async fn fetch(&self, chain: &dyn Chain, audit: &Audit, task: &Task) -> Result<Evidence, String> {
        let (Some(ask), Some(receipt)) = (&task.request, &task.receipt) else {
            return Err(format!("task {} has no request or no receipt", task.id));
        };
        let named = |field: &str, bytes: &[u8]| {
            request::digest(bytes).ok_or_else(|| format!("{field} has {} bytes, must be 32", bytes.len()))
        };
        let input = named("input_digest", &ask.input_digest)?;
        let output = named("result_digest", &receipt.result_digest)?;
        let output_len = receipt.output_tokens as usize * 4;
        let is = |blob: &[u8], digest: &Digest| blake3::hash(blob).as_bytes() == digest;
        let here = |blob: &Vec<u8>, digest| is(blob, digest).then(|| blob.clone());

        let input = match here(&task.inline_input, &input).or_else(|| here(&audit.shown_input, &input)) {
            Some(blob) => blob,
            None => {
                let max = deepnode_client::serving::MAX_INPUT;
                self.ask_worker(chain, task, &input, max).await.map_err(|e| format!("input: {e}"))?
            }
        };
        let output = match here(&audit.shown_output, &output) {
            Some(blob) => blob,
            None => {
                let blob = self.ask_worker(chain, task, &output, output_len).await;
                blob.map_err(|e| format!("output: {e}"))?
            }
        };
        Ok(Evidence { input, output })
    }

    async fn ask_worker(
        &self,
        chain: &dyn Chain,
        task: &Task,
        digest: &Digest,
        max: usize,
    ) -> Result<Vec<u8>, String> {
        if blake3::hash(&[]).as_bytes() == digest {
            return Ok(Vec::new());
        }
        let address = Address::parse(&task.worker).map_err(|e| e.to_string())?;
        let record = chain.worker(&address).await.map_err(|e| e.to_string())?;
        let endpoint = record.ok_or_else(|| format!("{address} is no worker"))?.endpoint;
        let key = format!("{address} {endpoint}");
        let kept = self.connections.lock().remove(&key);
        let mut serving = match kept {
            Some(serving) => serving,
            None => Serving::connect(&endpoint, chain.chain_id(), address, chain.signer())
                .await
                .map_err(|e| e.to_string())?,
        };
        let blob = serving.blob(task.id, digest, max).await.map_err(|e| e.to_string())?;
        self.connections.lock().insert(key, serving);
        Ok(blob)
    }
}
