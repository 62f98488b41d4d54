//! `deepnode.serving.v1.Serving`: what the parties of a task get from its worker, and nobody else.

// A status is what tonic's own signatures return; boxing it here would only add code.
#![allow(clippy::result_large_err)]

mod live;

pub use live::Live;

use std::sync::atomic::Ordering;
use std::sync::Arc;

use deepnode_client::serving::{unix_now, verify_credential, CHUNK, MAX_INPUT};
use deepnode_client::ClientError;
use deepnode_proto::deepnode::serving::v1::serving_server::{Serving, ServingServer};
use deepnode_proto::deepnode::serving::v1::*;
use deepnode_proto::deepnode::tasks::v1::{Task, TaskStatus};
use deepnode_tx::Address;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status};

use crate::request;
use crate::run::Worker;

/// The service of one worker.
#[derive(Clone)]
pub struct Service {
    worker: Arc<Worker>,
}

/// The service, with bounds on what it reads.
pub fn service(worker: Arc<Worker>) -> ServingServer<Service> {
    ServingServer::new(Service { worker }).max_decoding_message_size(MAX_INPUT + 4096)
}

type Messages<T> = tonic::codegen::BoxStream<T>;

/// The chain cannot be asked now.
fn unavailable(error: ClientError) -> Status {
    Status::unavailable(format!("the worker cannot ask the chain: {error}"))
}

fn internal(error: impl std::fmt::Display) -> Status {
    tracing::error!(%error, "serving");
    Status::internal("the worker has a fault, see its log")
}

impl Service {
    /// Who asks, by the credential; and about which task.
    fn asker(&self, credential: &Option<Credential>) -> Result<(Address, u64), Status> {
        let chain = &self.worker.chain;
        let asker =
            verify_credential(credential.as_ref(), chain.chain_id(), &self.worker.address(), unix_now())
                .map_err(|e| Status::unauthenticated(e.to_string()))?;
        Ok((asker, credential.as_ref().map_or(0, |c| c.task_id)))
    }

    /// The task, if it is this worker's now.
    async fn task(&self, id: u64) -> Result<Task, Status> {
        let task = self.worker.chain.task(id).await.map_err(unavailable)?;
        let task = task.ok_or_else(|| Status::not_found(format!("task {id} does not exist")))?;
        if task.worker != self.worker.address().to_string() {
            return Err(Status::failed_precondition(format!("task {id} is not assigned to this worker")));
        }
        Ok(task)
    }

    async fn task_of_creator(&self, credential: &Option<Credential>) -> Result<Task, Status> {
        let (asker, id) = self.asker(credential)?;
        let task = self.task(id).await?;
        if task.creator != asker.to_string() {
            return Err(Status::permission_denied(format!("task {id} is not a task of {asker}")));
        }
        Ok(task)
    }
}

#[tonic::async_trait]
impl Serving for Service {
    async fn put_input(&self, call: Request<PutInputRequest>) -> Result<Response<PutInputResponse>, Status> {
        let PutInputRequest { credential, input } = call.into_inner();
        if input.is_empty() || input.len() > MAX_INPUT {
            let text = format!("input has {} bytes, must be 1 to {MAX_INPUT}", input.len());
            return Err(Status::invalid_argument(text));
        }
        let task = self.task_of_creator(&credential).await?;
        if !matches!(task.status(), TaskStatus::Assigned | TaskStatus::Accepted) {
            return Err(Status::failed_precondition(format!("task {} takes no input any more", task.id)));
        }
        let expected = task.request.as_ref().map(|r| r.input_digest.clone()).unwrap_or_default();
        let found = blake3::hash(&input);
        if found.as_bytes()[..] != expected {
            return Err(Status::invalid_argument(format!(
                "input has the digest {found}, the task says {}",
                hex::encode(expected)
            )));
        }
        match self.worker.take_input(task, input).await.map_err(internal)? {
            Ok(tokens) => Ok(Response::new(PutInputResponse { input_tokens: tokens })),
            Err(reason) => Err(Status::invalid_argument(reason)),
        }
    }

    async fn stream(
        &self,
        call: Request<StreamRequest>,
    ) -> Result<Response<Messages<StreamResponse>>, Status> {
        let task = self.task_of_creator(&call.into_inner().credential).await?;
        let live = self.worker.live(&task).map_err(internal)?;
        let live = live.ok_or_else(|| Status::not_found(format!("task {}: no answer any more", task.id)))?;
        Ok(Response::new(Box::pin(live.follow())))
    }

    async fn get_blob(
        &self,
        call: Request<GetBlobRequest>,
    ) -> Result<Response<Messages<GetBlobResponse>>, Status> {
        let GetBlobRequest { credential, digest } = call.into_inner();
        let (asker, id) = self.asker(&credential)?;
        let digest = request::digest(&digest).ok_or_else(|| {
            Status::invalid_argument(format!("digest has {} bytes, must be 32", digest.len()))
        })?;
        let task = self.task(id).await?;
        if task.creator != asker.to_string() {
            let audits = self.worker.chain.audits_of_task(id).await.map_err(unavailable)?;
            let asker = asker.to_string();
            if !audits.iter().flat_map(|a| &a.members).any(|m| m.auditor == asker) {
                let text = format!("{asker} is neither the creator of task {id} nor drawn to audit it");
                return Err(Status::permission_denied(text));
            }
        }
        let worker = self.worker.clone();
        let blob = tokio::task::spawn_blocking(move || worker.blob(id, &digest));
        let blob = blob.await.map_err(internal)?.map_err(internal)?;
        let blob = blob.ok_or_else(|| {
            Status::not_found(format!("task {id} has no blob {} here", hex::encode(digest)))
        })?;
        let chunks: Vec<_> = blob.chunks(CHUNK).map(|c| GetBlobResponse { chunk: c.to_vec() }).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks).map(Ok))))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let worker = &self.worker;
        Ok(Response::new(StatusResponse {
            worker: worker.address().to_string(),
            chain_id: worker.chain.chain_id().into(),
            models: worker.models().iter().map(|id| id.to_vec()).collect(),
            running: worker.metrics.running.load(Ordering::Relaxed),
            queued: worker.metrics.queued.load(Ordering::Relaxed),
            version: env!("CARGO_PKG_VERSION").into(),
            stopping: worker.stopping().unwrap_or_default().into(),
        }))
    }
}
