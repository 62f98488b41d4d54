//! gRPC: any method by its path, bytes in and bytes out, with reflection v1 and v1alpha.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use axum::extract::{Request, State};
use axum::response::Response;
use axum::Router;
use bytes::{Buf, BufMut};
use deepnode_core::query::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::server::{Grpc, UnaryService};

use super::Node;

/// Asks for a height, and tells which one an answer is of.
pub const HEIGHT_HEADER: &str = "x-cosmos-block-height";

/// Serves until `stop` resolves.
pub async fn serve(
    node: Node,
    listener: tokio::net::TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let set = deepnode_proto::FILE_DESCRIPTOR_SET;
    let reflection =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(set);
    let v1 = reflection().build_v1().expect("the descriptor set decodes");
    let v1alpha = reflection().build_v1alpha().expect("the descriptor set decodes");
    let methods = Router::new().fallback(method).with_state(node);
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder()
        .add_routes(tonic::service::Routes::from(methods))
        .add_service(v1)
        .add_service(v1alpha)
        .serve_with_incoming_shutdown(incoming, stop)
        .await
}

/// Binds a listener; the error names the address and what to do.
pub async fn bind(what: &str, address: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await.map_err(|e| {
        anyhow::anyhow!("{what} cannot listen on {address}: {e}; choose another address or stop what uses it")
    })
}

async fn method(State(node): State<Node>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let response = Grpc::new(Raw).unary(Method { node, path }, request).await;
    response.map(axum::body::Body::new)
}

struct Method {
    node: Node,
    path: String,
}

impl UnaryService<Vec<u8>> for Method {
    type Response = Vec<u8>;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Vec<u8>>, tonic::Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Vec<u8>>) -> Self::Future {
        let (node, path) = (self.node.clone(), self.path.clone());
        Box::pin(async move {
            let height = match request.metadata().get(HEIGHT_HEADER) {
                None => 0,
                Some(text) => parse_height(text.to_str().unwrap_or_default()).map_err(status)?,
            };
            let (height, answer) = node.call(&path, height, request.into_inner()).await.map_err(status)?;
            let mut response = tonic::Response::new(answer);
            response.metadata_mut().insert(HEIGHT_HEADER, MetadataValue::from(height));
            Ok(response)
        })
    }
}

/// Reads a height that a client sent in a header.
pub fn parse_height(text: &str) -> Result<u64, Status> {
    text.parse()
        .map_err(|_| Status::invalid(format!("{HEIGHT_HEADER} {text:?} must be a height, 0 or above")))
}

fn status(status: Status) -> tonic::Status {
    tonic::Status::new(tonic::Code::from_i32(status.code as i32), status.message)
}

/// Messages stay as they are on the wire: the registry decodes them.
#[derive(Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, tonic::Status> {
        let mut item = vec![0; bytes.remaining()];
        bytes.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}
