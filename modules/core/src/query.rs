//! Queries: one registry that ABCI, gRPC and REST serve.

use std::collections::BTreeMap;
use std::fmt;

use deepnode_proto::cosmos::base::query::v1beta1::{PageRequest, PageResponse};
use deepnode_store::{KvRead, Walk};
use prost::Message;

use crate::block::BlockInfo;
use crate::{Error, Result};

/// The canonical status codes of gRPC that queries answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    NotFound = 5,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: String,
}

impl Status {
    /// A status with a message; the middle of a long one is left out.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Status { code, message: crate::errors::brief(message.to_string()) }
    }
    /// A request field is malformed.
    pub fn invalid(message: impl fmt::Display) -> Self {
        Self::new(Code::InvalidArgument, message)
    }
    /// The thing asked for does not exist.
    pub fn not_found(message: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, message)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rpc error: code = {:?} desc = {}", self.code, self.message)
    }
}

impl std::error::Error for Status {}

impl From<Error> for Status {
    fn from(e: Error) -> Self {
        match e {
            Error::Tx(e) => Status::invalid(e.log),
            Error::Fault(e) => Status::new(Code::Internal, e),
        }
    }
}

/// What a query sees: the state after a block, and that block.
#[derive(Clone, Copy)]
pub struct QueryCtx<'a> {
    pub state: &'a dyn KvRead,
    pub block: &'a BlockInfo,
}

/// A query's answer.
pub type QueryResult<T> = std::result::Result<T, Status>;

type Handler = Box<dyn Fn(QueryCtx<'_>, &[u8]) -> QueryResult<Vec<u8>> + Send + Sync>;

/// All queries of the chain by path, `/package.Service/Method`.
#[derive(Default)]
pub struct Queries {
    handlers: BTreeMap<&'static str, Handler>,
    twice: Vec<&'static str>,
}

impl Queries {
    /// Registers the method at `path`.
    pub fn on<Q, R>(&mut self, path: &'static str, run: fn(QueryCtx<'_>, Q) -> QueryResult<R>) -> &mut Self
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
    {
        let handler: Handler = Box::new(move |cx, bytes| {
            let request = Q::decode(bytes).map_err(|e| Status::invalid(format!("request: {e}")))?;
            Ok(run(cx, request)?.encode_to_vec())
        });
        if self.handlers.insert(path, handler).is_some() {
            self.twice.push(path);
        }
        self
    }

    /// Answers a request.
    pub fn run(&self, path: &str, cx: QueryCtx<'_>, request: &[u8]) -> QueryResult<Vec<u8>> {
        match self.handlers.get(path) {
            Some(handler) => handler(cx, request),
            None => Err(Status::new(Code::Unimplemented, format!("unknown query path: {path}"))),
        }
    }

    /// Whether there is a method at `path`.
    pub fn has(&self, path: &str) -> bool {
        self.handlers.contains_key(path)
    }

    /// All paths, ascending.
    pub fn paths(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.handlers.keys().copied()
    }

    /// Paths that were registered more than once; composition refuses them.
    pub fn twice(&self) -> &[&'static str] {
        &self.twice
    }
}

/// Entries of a page without a limit.
const DEFAULT_LIMIT: u64 = 100;
/// Greatest page.
const MAX_LIMIT: u64 = 1_000;
/// How far `offset` and `count_total` may walk.
const MAX_WALK: u64 = 100_000;

/// Cuts one page out of a collection, as cosmos.base.query has it. `iter` walks it, `raw` gives a key's raw bytes.
///
/// `next_key` is the raw key of the last entry returned. `count_total` is ignored with a key, as in the SDK.
pub fn paginate<K, V, I>(
    page: Option<PageRequest>,
    raw: impl Fn(&K) -> Vec<u8>,
    iter: impl FnOnce(Walk<'_>) -> I,
) -> QueryResult<(Vec<(K, V)>, PageResponse)>
where
    I: Iterator<Item = Result<(K, V)>>,
{
    let page = page.unwrap_or_default();
    if page.offset > 0 && !page.key.is_empty() {
        return Err(Status::invalid("pagination: only one of offset and key may be set"));
    }
    if page.offset > MAX_WALK {
        return Err(Status::invalid(format!("pagination.offset {} exceeds {MAX_WALK}", page.offset)));
    }
    let limit = if page.limit == 0 { DEFAULT_LIMIT } else { page.limit.min(MAX_LIMIT) };
    let count = page.key.is_empty() && (page.count_total || page.limit == 0);
    let after = (!page.key.is_empty()).then_some(page.key.as_slice());
    let mut seen = 0u64;
    let mut items = Vec::new();
    let mut response = PageResponse::default();
    for entry in iter(Walk { after, reverse: page.reverse }) {
        let entry = entry?;
        seen = seen.saturating_add(1);
        if seen <= page.offset {
            continue;
        }
        if seen.saturating_sub(page.offset) <= limit {
            items.push(entry);
            continue;
        }
        if response.next_key.is_empty() {
            response.next_key = items.last().map(|(k, _)| raw(k)).unwrap_or_default();
        }
        if !count || seen >= MAX_WALK {
            break;
        }
    }
    if count {
        response.total = seen;
    }
    Ok((items, response))
}
