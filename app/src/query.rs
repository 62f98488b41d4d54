//! Queries at a kept height, with or without proofs.

use deepnode_core::query::{Code, QueryCtx, Status};
use deepnode_core::{QueryResult, Result};
use deepnode_proto::cosmos::base::abci::v1beta1::{GasInfo, Result as ProtoResult, SimulationResponse};
use deepnode_proto::tendermint_proto::v0_38::abci::{RequestQuery, ResponseQuery};
use deepnode_proto::tendermint_proto::v0_38::crypto::{ProofOp, ProofOps};
use deepnode_store::db::{DbError, Snapshot};
use deepnode_store::{KvRead, Overlay, Range};
use prost::Message;

use crate::{wire, App};

/// The codespace of queries' errors.
pub const SDK_CODESPACE: &str = "sdk";

/// A query's refusal as ABCI has it.
struct Refusal {
    code: u32,
    log: String,
}

impl Refusal {
    fn invalid(log: impl std::fmt::Display) -> Self {
        Refusal { code: 18, log: format!("{log}: invalid request") }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let (code, root) = match status.code {
            Code::NotFound => (22, "key not found"),
            Code::InvalidArgument | Code::FailedPrecondition => (18, "invalid request"),
            Code::OutOfRange => (26, "invalid height"),
            _ => (6, "unknown request"),
        };
        Refusal { code, log: format!("{status}: {root}") }
    }
}

impl From<DbError> for Refusal {
    fn from(e: DbError) -> Self {
        match e {
            DbError::NotKept { height, latest, .. } if height > latest => Refusal {
                code: 26,
                log: format!("cannot query height {height}, the latest is {latest}: invalid height"),
            },
            DbError::NotKept { .. } => Refusal { code: 38, log: format!("{e}: not found") },
            _ => Refusal { code: 18, log: format!("{e}: invalid request") },
        }
    }
}

/// Entries that one answer may list.
const SUBSPACE: usize = 1_000;

#[derive(Clone, PartialEq, prost::Message)]
struct Pairs {
    #[prost(message, repeated, tag = "1")]
    pairs: Vec<Pair>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pair {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

fn store_name(name: &str) -> std::result::Result<&'static str, Refusal> {
    let found = crate::STORES.into_iter().find(|known| *known == name);
    found.ok_or_else(|| Refusal { code: 6, log: format!("no such store: {name}: unknown request") })
}

impl App {
    /// Answers a gRPC method at `height`, or at the latest if that is 0, and says at which.
    pub fn query(&self, path: &str, height: u64, request: &[u8]) -> QueryResult<(u64, Vec<u8>)> {
        let state = self.state_at(height).map_err(|refusal| match refusal.code {
            26 => Status::new(Code::OutOfRange, refusal.log),
            38 => Status::not_found(refusal.log),
            _ => Status::invalid(refusal.log),
        })?;
        let block = if state.height() == 0 { self.committed_block() } else { self.block_of(&state) }?;
        let genesis = if state.height() == 0 { self.genesis_changes() } else { Default::default() };
        let overlay = Overlay::new(&state, genesis);
        let answer =
            self.shared.modules.queries.run(path, QueryCtx { state: &overlay, block: &block }, request)?;
        Ok((block.height, answer))
    }

    /// The state at a kept height, or the latest for 0.
    fn state_at(&self, height: u64) -> std::result::Result<Snapshot, Refusal> {
        match height {
            0 => Ok(self.shared.db.latest()),
            height => Ok(self.shared.db.at(height)?),
        }
    }

    /// ABCI's Query: `/store/{name}/key`, `/store/{name}/subspace`, `/app/version`, `/app/simulate`, or a method of a
    /// module.
    pub fn abci_query(&self, request: &RequestQuery) -> ResponseQuery {
        self.abci_query_with(request, |path, height, data| self.query(path, height, data))
    }

    /// The same with `methods` for what is none of the application's own paths: a node serves more than the modules.
    pub fn abci_query_with(
        &self,
        request: &RequestQuery,
        methods: impl FnOnce(&str, u64, &[u8]) -> QueryResult<(u64, Vec<u8>)>,
    ) -> ResponseQuery {
        let height = u64::try_from(request.height);
        let answer = match height {
            Ok(height) => self.route(request, height, methods),
            Err(_) => Err(Refusal::invalid(format!("height {} is negative", request.height))),
        };
        answer.unwrap_or_else(|refusal| ResponseQuery {
            code: refusal.code,
            log: refusal.log,
            codespace: SDK_CODESPACE.into(),
            height: i64::try_from(self.height()).unwrap_or(i64::MAX),
            ..ResponseQuery::default()
        })
    }

    fn route(
        &self,
        request: &RequestQuery,
        height: u64,
        methods: impl FnOnce(&str, u64, &[u8]) -> QueryResult<(u64, Vec<u8>)>,
    ) -> std::result::Result<ResponseQuery, Refusal> {
        let parts: Vec<_> = request.path.split('/').skip(1).collect();
        match parts.as_slice() {
            ["store", store, "key"] => self.store_query(store, request, height),
            ["store", store, "subspace"] => self.subspace(store, request, height),
            ["app", "version"] => Ok(self.answer(self.height(), env!("CARGO_PKG_VERSION").into())),
            ["app", "simulate"] => {
                Ok(self.answer(self.height(), self.simulation(&request.data)?.encode_to_vec()))
            }
            ["p2p", "filter", ..] => Ok(self.answer(self.height(), Vec::new())),
            ["app" | "store" | "p2p", ..] => Err(Refusal {
                code: 6,
                log: format!(
                    "path {:?} is none of /app/version, /app/simulate, /store/NAME/key, /store/NAME/subspace, \
                     /p2p/filter/...: unknown request",
                    request.path
                ),
            }),
            _ if request.prove => {
                Err(Refusal::invalid(format!("{}: proofs exist of /store/... only", request.path)))
            }
            _ => {
                let (height, value) = methods(&request.path, height, &request.data)?;
                Ok(self.answer(height, value))
            }
        }
    }

    fn answer(&self, height: u64, value: Vec<u8>) -> ResponseQuery {
        ResponseQuery {
            height: i64::try_from(height).unwrap_or(i64::MAX),
            value: value.into(),
            ..ResponseQuery::default()
        }
    }

    fn store_query(
        &self,
        store: &str,
        request: &RequestQuery,
        height: u64,
    ) -> std::result::Result<ResponseQuery, Refusal> {
        let store = store_name(store)?;
        let state = self.state_at(height)?;
        let (value, proof_ops) = if request.prove {
            if state.height() <= 1 {
                return Err(Refusal::invalid(
                    "cannot query with proof when height <= 1; please provide a valid height",
                ));
            }
            let (value, proof) = state.prove(store, &request.data)?;
            let op = |kind: &str, key: Vec<u8>, data: Vec<u8>| ProofOp { r#type: kind.into(), key, data };
            let ops = vec![
                op("ics23:iavl", request.data.to_vec(), proof.store.encode_to_vec()),
                op("ics23:simple", store.into(), proof.root.encode_to_vec()),
            ];
            (value, Some(ProofOps { ops }))
        } else {
            (state.get(store, &request.data).map_err(|e| Refusal::invalid(e.to_string()))?, None)
        };
        let answer = self.answer(state.height(), value.unwrap_or_default());
        Ok(ResponseQuery { key: request.data.clone(), proof_ops, ..answer })
    }

    /// All entries whose keys begin with the request's data, as the SDK's `cosmos.store.internal.kv.v1beta1.Pairs`.
    fn subspace(
        &self,
        store: &str,
        request: &RequestQuery,
        height: u64,
    ) -> std::result::Result<ResponseQuery, Refusal> {
        let store = store_name(store)?;
        if request.prove {
            return Err(Refusal::invalid("a subspace has no proof: ask for its keys"));
        }
        let state = self.state_at(height)?;
        let mut pairs = Pairs::default();
        for entry in state.scan(store, Range::prefix(request.data.to_vec())) {
            let (key, value) = entry.map_err(|e| Refusal::invalid(e.to_string()))?;
            if pairs.pairs.len() >= SUBSPACE {
                return Err(Refusal::invalid(format!("the subspace holds more than {SUBSPACE} entries")));
            }
            pairs.pairs.push(Pair { key, value });
        }
        let mut answer = self.answer(state.height(), pairs.encode_to_vec());
        answer.key = request.data.clone();
        Ok(answer)
    }

    /// The lowest height that can be asked about, 0 before the first block.
    pub fn earliest_height(&self) -> u64 {
        self.shared.db.oldest()
    }

    /// What a transaction would do and cost, as `cosmos.tx.v1beta1.Service/Simulate` answers it.
    pub fn simulation(&self, tx: &[u8]) -> QueryResult<SimulationResponse> {
        let result = self.simulate(tx)?;
        if result.code != 0 {
            let text = format!("{} with gas used: '{}'", result.log, result.gas_used);
            return Err(Status::new(Code::Unknown, text));
        }
        let response = deepnode_proto::cosmos::base::abci::v1beta1::Result {
            events: result.events.iter().map(wire::event).collect(),
            msg_responses: wire::msg_responses(&result.data),
            ..ProtoResult::default()
        };
        Ok(SimulationResponse {
            gas_info: Some(GasInfo { gas_wanted: result.gas_wanted, gas_used: result.gas_used }),
            result: Some(response),
        })
    }

    /// Times and heights of the committed state, for programs around the application.
    pub fn latest_block(&self) -> Result<deepnode_core::BlockInfo> {
        self.committed_block()
    }
}
