//! The application: modules composed into a chain, and the life of a block.
//!
//! Synchronous and deterministic: the same blocks give the same bytes on every node. Requests and answers are ABCI's
//! own types; sockets, clocks and files belong to `abci-server`.
#![deny(clippy::float_arithmetic, clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod ante;
mod block;
mod execute;
mod genesis;
mod modules;
mod proposal;
mod query;
mod wire;

use std::path::Path;
use std::sync::Arc;

use deepnode_core::block::BlockInfo;
use deepnode_core::{Ctx, Error, Result, Time, Wiring};
use deepnode_cosmos::{auth, consensus};
use deepnode_store::backend::Table;
use deepnode_store::db::{Database, Options as DbOptions, Prepared, Snapshot};
use deepnode_store::{Changes, Overlay};
use parking_lot::{Mutex, RwLock};

use ante::{Ante, SignatureCache};
pub use execute::{MessageRouter, TxResult};
pub use modules::{Modules, STORES};
pub use query::SDK_CODESPACE;
pub use wire::time;

/// The genesis sections of a chain without anything.
pub fn default_genesis() -> serde_json::Value {
    genesis::default(&Modules::new())
}

/// Version of the rules; CometBFT's headers carry it, and state sync compares it.
pub const APP_VERSION: u64 = 1;

/// Time of each kept height, nanoseconds; outside the app hash.
const TIMES: Table = Table::index(0);

/// Heights that stay readable and provable.
pub const KEPT_HEIGHTS: u64 = 100;

/// What an operator chooses.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What this node asks of transactions for its mempool.
    pub mempool: ante::Config,
    /// Blocks that CometBFT keeps at least; 0 keeps all.
    pub min_retain_blocks: u64,
    /// Bytes for the database's page cache; 0 is the default.
    pub cache_bytes: u64,
}

/// The chain's application on one database. Every method may be called from any thread; CometBFT orders the calls that
/// change anything.
#[derive(Clone)]
pub struct App {
    shared: Arc<Shared>,
}

struct Shared {
    modules: Modules,
    db: Database,
    signatures: SignatureCache,
    options: Options,
    /// What InitChain made, until the first block is committed with it.
    genesis: RwLock<Option<Genesis>>,
    check: Mutex<CheckState>,
    pending: Mutex<Option<Pending>>,
}

struct Genesis {
    changes: Changes,
    block: BlockInfo,
}

/// What CheckTx wrote since the last commit, so that several transactions of an account can wait together.
#[derive(Default)]
struct CheckState {
    changes: Changes,
    block: BlockInfo,
}

/// A block that FinalizeBlock executed and Commit has not written.
struct Pending {
    prepared: Prepared,
    retain_height: u64,
}

impl App {
    /// Opens or creates the state in `dir`. `progress` hears how many entries were read so far.
    pub fn open(dir: &Path, options: Options, progress: &mut dyn FnMut(u64)) -> Result<Self> {
        let mut db_options = DbOptions { keep: KEPT_HEIGHTS, ..DbOptions::default() };
        if options.cache_bytes > 0 {
            db_options.cache_bytes = options.cache_bytes;
        }
        Self::on(Database::open(dir, &STORES, &db_options, progress)?, options)
    }

    /// The application on an open database. What the state says of the prefix of addresses becomes this process's.
    pub fn on(db: Database, options: Options) -> Result<Self> {
        let app = App {
            shared: Arc::new(Shared {
                modules: Modules::new(),
                signatures: SignatureCache::new(),
                genesis: RwLock::default(),
                check: Mutex::default(),
                pending: Mutex::default(),
                options,
                db,
            }),
        };
        if app.height() > 0 {
            let prefix = auth::bech32_prefix(&app.shared.db.latest())?;
            deepnode_tx::address::set_prefix(&prefix).map_err(Error::fault)?;
        }
        app.reset_check()?;
        Ok(app)
    }

    /// The modules, their messages and queries.
    pub fn modules(&self) -> &Modules {
        &self.shared.modules
    }

    /// The committed height, 0 before the first block.
    pub fn height(&self) -> u64 {
        self.shared.db.height()
    }

    /// The app hash of the committed height.
    pub fn app_hash(&self) -> [u8; 32] {
        self.shared.db.app_hash()
    }

    /// The committed state.
    pub fn state(&self) -> Snapshot {
        self.shared.db.latest()
    }

    /// The checks of transactions.
    fn ante(&self) -> Ante<'_> {
        let Shared { modules, options, signatures, .. } = &*self.shared;
        Ante { messages: &modules.messages, config: &options.mempool, cache: signatures }
    }

    /// Checks every module's invariants on the committed state. Walks all of it.
    pub fn invariants(&self) -> Result<()> {
        let state = self.shared.db.latest();
        let genesis = self.genesis_changes();
        let state = Overlay::new(&state, genesis);
        self.shared.modules.all().try_for_each(|module| module.invariants(&state))
    }

    /// The genesis sections that describe the committed state.
    pub fn export(&self) -> Result<serde_json::Value> {
        let state = self.shared.db.latest();
        let genesis = self.genesis_changes();
        let state = Overlay::new(&state, genesis);
        genesis::export(&self.shared.modules, &state)
    }

    /// What lies between the database and the state that execution builds on: genesis, before the first block.
    fn genesis_changes(&self) -> Changes {
        if self.height() > 0 {
            return Changes::new();
        }
        self.shared.genesis.read().as_ref().map(|g| g.changes.clone()).unwrap_or_default()
    }

    /// The block that the committed state belongs to.
    fn committed_block(&self) -> Result<BlockInfo> {
        match self.height() {
            0 => Ok(self.shared.genesis.read().as_ref().map(|g| g.block.clone()).unwrap_or_default()),
            _ => self.block_of(&self.shared.db.latest()),
        }
    }

    /// Height, time and chain of a kept state.
    fn block_of(&self, state: &Snapshot) -> Result<BlockInfo> {
        let height = state.height();
        let time = self.shared.db.index_get(TIMES, &height.to_be_bytes())?;
        let time = time
            .and_then(|bytes| bytes.try_into().ok())
            .map(|bytes| Time(u64::from_be_bytes(bytes)))
            .ok_or_else(|| Error::fault(format!("the time of height {height} is not stored")))?;
        Ok(BlockInfo { chain_id: consensus::chain_id(state)?, height, time, ..BlockInfo::default() })
    }

    /// Forgets what CheckTx wrote and lets it build on the committed state.
    fn reset_check(&self) -> Result<()> {
        let mut block = self.committed_block()?;
        // A transaction is checked against the first block that could hold it.
        block.height = block.height.saturating_add(1);
        *self.shared.check.lock() = CheckState { changes: self.genesis_changes(), block };
        Ok(())
    }

    /// Runs `f` in a context over the committed state and returns its result with all changes.
    fn with_context<T>(
        &self,
        mut changes: Changes,
        block: &BlockInfo,
        f: impl FnOnce(&mut Ctx<'_>) -> Result<T>,
    ) -> Result<(T, Changes)> {
        let result = self.run_on(&mut changes, block, f)?;
        Ok((result, changes))
    }

    /// Runs `f` in a context over the committed state and `changes`, which it adds to, whether `f` succeeds or not.
    fn run_on<T>(
        &self,
        changes: &mut Changes,
        block: &BlockInfo,
        f: impl FnOnce(&mut Ctx<'_>) -> Result<T>,
    ) -> Result<T> {
        let state = self.shared.db.latest();
        let router = MessageRouter(&self.shared.modules.messages);
        let wiring = Wiring { router: &router, hooks: &modules::HOOKS };
        let mut cx = Ctx::new(Overlay::new(&state, std::mem::take(changes)), block, wiring);
        let result = f(&mut cx);
        *changes = cx.into_changes();
        result
    }
}
