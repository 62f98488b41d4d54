//! The peer: jmt's tree as its users keep it, nodes and values as rows; stale nodes go with the block that replaced
//! them, and the upper nodes stay in memory.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use borsh::BorshDeserialize;
use deepnode_store::backend::{Backend, Op, Table};
use deepnode_store::sled::Sled;
use jmt::storage::{LeafNode, Node, NodeKey, TreeReader};
use jmt::{KeyHash, OwnedValue, Sha256Jmt, Version};

use crate::work::Entries;

const NODES: Table = Table::index(0);
const VALUES: Table = Table::index(1);

/// Nodes at fewer nibbles than this stay in memory.
const CACHED: usize = 4;

pub struct Jellyfish {
    sled: Sled,
    cache: HashMap<NodeKey, Node>,
    version: Version,
}

struct Reader<'a>(&'a Jellyfish);

impl TreeReader for Reader<'_> {
    fn get_node_option(&self, key: &NodeKey) -> Result<Option<Node>> {
        if let Some(node) = self.0.cache.get(key) {
            return Ok(Some(node.clone()));
        }
        Ok(self.0.sled.get(NODES, &row(key)?)?.map(|bytes| Node::try_from_slice(&bytes)).transpose()?)
    }

    fn get_value_option(&self, _: Version, key: KeyHash) -> Result<Option<OwnedValue>> {
        Ok(self.0.sled.get(VALUES, &key.0)?)
    }

    fn get_rightmost_leaf(&self) -> Result<Option<(NodeKey, LeafNode)>> {
        Ok(None)
    }
}

fn row(key: &NodeKey) -> Result<Vec<u8>> {
    Ok(borsh::to_vec(key)?)
}

impl Jellyfish {
    pub fn new(sled: Sled) -> Self {
        Jellyfish { sled, cache: HashMap::new(), version: 0 }
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.sled.get(VALUES, &KeyHash::with::<sha2::Sha256>(key).0)?)
    }

    /// Commits a block durably; how long the root took.
    pub fn commit(&mut self, entries: &Entries) -> Result<Duration> {
        let began = Instant::now();
        let set: Vec<_> =
            entries.iter().map(|(k, v)| (KeyHash::with::<sha2::Sha256>(k), v.clone())).collect();
        let (_, update) =
            Sha256Jmt::new(&Reader(self)).batch_put_value_sets(vec![set.clone()], None, self.version)?;
        let root = began.elapsed();
        let mut ops = Vec::new();
        for (key, node) in update.node_batch.nodes() {
            ops.push(Op { table: NODES, key: row(key)?, value: Some(borsh::to_vec(node)?) });
        }
        for stale in &update.stale_node_index_batch {
            ops.push(Op { table: NODES, key: row(&stale.node_key)?, value: None });
            self.cache.remove(&stale.node_key);
        }
        ops.extend(set.into_iter().map(|(key, v)| Op { table: VALUES, key: key.0.to_vec(), value: Some(v) }));
        self.sled.commit(ops)?;
        let upper =
            update.node_batch.nodes().iter().filter(|(key, _)| key.nibble_path().num_nibbles() < CACHED);
        self.cache.extend(upper.map(|(key, node)| (key.clone(), node.clone())));
        self.version += 1;
        Ok(root)
    }
}
