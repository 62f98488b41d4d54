//! A worker's own service, `deepnode.serving.v1.Serving`: handing in an input, following the answer, fetching blobs.

use crate::client::{endpoint, root_cause};
use crate::ClientError;
use deepnode_proto::deepnode::serving::v1::serving_client::ServingClient;
use deepnode_proto::deepnode::serving::v1::{
    Credential, GetBlobRequest, PutInputRequest, StatusRequest, StatusResponse, StreamRequest, StreamResponse,
};
use deepnode_tx::{Address, PublicKey, SigningKey};
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::transport::Channel;
use tonic::Streaming;

/// Greatest input that a worker takes, bytes.
pub const MAX_INPUT: usize = 4 << 20;
/// Greatest piece of a blob, bytes.
pub const CHUNK: usize = 256 << 10;
/// Longest life of a credential, seconds.
pub const MAX_LIFETIME: u64 = 600;

const DOMAIN: &str = "deepnode.serving.v1";
/// Life of the credentials that this client signs, seconds: room for clocks that differ.
const LIFETIME: u64 = 300;

/// Why a credential is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    #[error("credential is missing")]
    Missing,
    #[error("credential.expires is {expires}, the time here is {now}: must be later, by at most {MAX_LIFETIME} seconds")]
    Expires { expires: u64, now: u64 },
    #[error("credential: {0}")]
    Signature(String),
}

/// What a credential's signature is over: the domain, chain id and worker's address, each ended by a zero byte, task id
/// and expiry as u64 big-endian.
pub fn credential_bytes(chain_id: &str, worker: &Address, task_id: u64, expires: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in [DOMAIN, chain_id, &worker.to_string()] {
        bytes.extend(text.as_bytes());
        bytes.push(0);
    }
    bytes.extend(task_id.to_be_bytes());
    bytes.extend(expires.to_be_bytes());
    bytes
}

/// A credential for one task at one worker, good until `expires` (Unix seconds).
pub fn sign_credential(
    signer: &SigningKey,
    chain_id: &str,
    worker: &Address,
    task_id: u64,
    expires: u64,
) -> Credential {
    let PublicKey::Secp256k1(key) = signer.public_key();
    let signature = signer.sign(&credential_bytes(chain_id, worker, task_id, expires));
    Credential { public_key: key.serialize().to_vec(), task_id, expires, signature: signature.to_vec() }
}

/// The account that signed a credential, if it is good at the time `now` (Unix seconds). What that account may do is
/// for the caller to say.
pub fn verify_credential(
    credential: Option<&Credential>,
    chain_id: &str,
    worker: &Address,
    now: u64,
) -> Result<Address, CredentialError> {
    let c = credential.ok_or(CredentialError::Missing)?;
    if c.expires <= now || c.expires - now > MAX_LIFETIME {
        return Err(CredentialError::Expires { expires: c.expires, now });
    }
    let bad = |e: deepnode_tx::TxError| CredentialError::Signature(e.to_string());
    let key = PublicKey::secp256k1(&c.public_key).map_err(bad)?;
    key.verify(&credential_bytes(chain_id, worker, c.task_id, c.expires), &c.signature).map_err(bad)?;
    Ok(key.address())
}

/// Unix seconds.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn channel(at: &str) -> Result<Channel, ClientError> {
    let failed =
        |e: tonic::transport::Error| ClientError::NoWorker { endpoint: at.into(), reason: root_cause(&e) };
    endpoint(at)?.connect().await.map_err(failed)
}

/// What the worker at `host:port` serves; it tells anybody.
pub async fn status(at: &str) -> Result<StatusResponse, ClientError> {
    let answer = ServingClient::new(channel(at).await?).status(StatusRequest {}).await;
    Ok(answer.map_err(ClientError::query("worker's status"))?.into_inner())
}

/// A connection to one worker, for one account.
#[derive(Debug, Clone)]
pub struct Serving {
    client: ServingClient<Channel>,
    signer: SigningKey,
    chain_id: String,
    worker: Address,
}

impl Serving {
    /// Connects to `host:port` or `http://host:port`, where the chain says that `worker` answers.
    pub async fn connect(
        at: &str,
        chain_id: &str,
        worker: Address,
        signer: &SigningKey,
    ) -> Result<Self, ClientError> {
        let client = ServingClient::new(channel(at).await?).max_encoding_message_size(MAX_INPUT + 4096);
        Ok(Self { client, signer: signer.clone(), chain_id: chain_id.into(), worker })
    }

    fn credential(&self, task: u64) -> Option<Credential> {
        Some(sign_credential(&self.signer, &self.chain_id, &self.worker, task, unix_now() + LIFETIME))
    }

    /// Hands in a task's input; answers the tokens that the worker counts.
    pub async fn put_input(&mut self, task: u64, input: Vec<u8>) -> Result<u32, ClientError> {
        let request = PutInputRequest { credential: self.credential(task), input };
        let answer = self.client.put_input(request).await;
        Ok(answer.map_err(ClientError::query("handing in the input"))?.into_inner().input_tokens)
    }

    /// The answer as it comes, from its first token; the last message has the receipt.
    pub async fn stream(&mut self, task: u64) -> Result<Streaming<StreamResponse>, ClientError> {
        let request = StreamRequest { credential: self.credential(task) };
        let answer = self.client.stream(request).await;
        Ok(answer.map_err(ClientError::query("the worker's answer"))?.into_inner())
    }

    /// A blob of a task by its BLAKE3 digest, verified; `max` is its greatest length in bytes.
    pub async fn blob(&mut self, task: u64, digest: &[u8; 32], max: usize) -> Result<Vec<u8>, ClientError> {
        let bad = |reason: String| ClientError::Blob { digest: hex::encode(digest), reason };
        let request = GetBlobRequest { credential: self.credential(task), digest: digest.to_vec() };
        let failed = ClientError::query("blob");
        let mut chunks = self.client.get_blob(request).await.map_err(&failed)?.into_inner();
        let mut blob = Vec::new();
        while let Some(next) = chunks.message().await.map_err(&failed)? {
            if blob.len() + next.chunk.len() > max {
                return Err(bad(format!("the worker sent more than {max} bytes")));
            }
            blob.extend(next.chunk);
        }
        let found = blake3::hash(&blob);
        if found.as_bytes() != digest {
            return Err(bad(format!("what the worker sent has the digest {found}")));
        }
        Ok(blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SigningKey {
        SigningKey::new(&[byte; 32]).unwrap()
    }

    #[test]
    fn signed_bytes_spelled_out() {
        let worker = key(2).address();
        let text = worker.to_string();
        let expected = [
            b"deepnode.serving.v1\0dn-1\0".as_slice(),
            text.as_bytes(),
            &[0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 9],
        ];
        assert_eq!(credential_bytes("dn-1", &worker, 258, 9), expected.concat());
    }

    #[test]
    fn good_for_one_chain_one_worker_one_task_and_a_while() {
        let (worker, now) = (key(2).address(), 1_000_000);
        let good = |expires| sign_credential(&key(1), "dn-1", &worker, 7, expires);
        let verify = |c: &Credential| verify_credential(Some(c), "dn-1", &worker, now);
        for expires in [now + 1, now + MAX_LIFETIME] {
            assert_eq!(verify(&good(expires)), Ok(key(1).address()));
        }
        for expires in [0, now, now + MAX_LIFETIME + 1, u64::MAX] {
            assert_eq!(verify(&good(expires)), Err(CredentialError::Expires { expires, now }));
        }
        assert_eq!(verify_credential(None, "dn-1", &worker, now), Err(CredentialError::Missing));

        let good = good(now + 60);
        let change = |change: &dyn Fn(&mut Credential)| {
            let mut c = good.clone();
            change(&mut c);
            verify(&c)
        };
        let other = sign_credential(&key(3), "dn-1", &worker, 7, now + 60);
        let mut high = good.signature.clone();
        high[32..].fill(0xff);
        let bad: [&dyn Fn(&mut Credential); 8] = [
            &|c| c.task_id = 8,
            &|c| c.expires += 1,
            &|c| c.public_key.clone_from(&other.public_key),
            &|c| c.signature.clone_from(&other.signature),
            &|c| c.signature.clone_from(&high),
            &|c| c.signature.truncate(63),
            &|c| c.signature.clear(),
            &|c| c.public_key.clear(),
        ];
        for (n, bad) in bad.iter().enumerate() {
            assert!(matches!(change(bad), Err(CredentialError::Signature(_))), "case {n}");
        }
        assert!(verify_credential(Some(&good), "dn-2", &worker, now).is_err());
        assert!(verify_credential(Some(&good), "dn-1", &key(1).address(), now).is_err());
    }
}
