//! The Merkle tree of one store: a binary radix tree over raw key bits, kept in memory, hashed in IAVL's node format.
//!
//! The shape depends on the keys alone, so the root is a function of the content: it is the same after any order of
//! updates, after a rebuild at open and after state sync. Nodes are immutable and shared: an update copies the paths
//! it touches, and every earlier root stays usable for as long as someone holds it.
//!
//! A byte of a key counts nine bits: one that says "the key has this byte", then the byte, most significant bit first.
//! So the end of a key sorts below every continuation, no key hides another one that begins with it, and the order of
//! the leaves is the order of the keys.
//!
//! - leaf:  `sha256(00 02 00 | len key | key | 20 | sha256(value))`
//! - inner: `sha256(zigzag height | 02 00 | 20 | left | 20 | right)`, height = 1 + the higher child's, a leaf's is 0
//! - empty tree: `sha256("")`

use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// Longest key of an authenticated store, in bytes: what one byte of length prefix can say. Keys are never empty.
pub const MAX_KEY_LEN: usize = 127;

/// Longest value of a store or index, in bytes. Values of authenticated stores are never empty: ICS23 cannot prove them.
pub const MAX_VALUE_LEN: usize = 4 << 20;

/// Work on fewer keys than this stays on one thread.
const PARALLEL_FROM: usize = 64;

/// Why an entry cannot be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("key of {0} bytes: want 1 to {MAX_KEY_LEN}")]
    KeyLength(usize),
    #[error("value of {0} bytes: want 1 to {MAX_VALUE_LEN}")]
    ValueLength(usize),
    #[error("keys are not in strictly ascending order")]
    Order,
}

impl From<EntryError> for crate::Error {
    /// `sdk` 18, invalid request: keys and values come from messages.
    fn from(e: EntryError) -> Self {
        crate::Error::Tx(crate::TxError { codespace: "sdk", code: 18, log: e.to_string() })
    }
}

/// Checks that `key` can be a key of an authenticated store.
pub fn check_key(key: &[u8]) -> Result<(), EntryError> {
    match key.len() {
        1..=MAX_KEY_LEN => Ok(()),
        n => Err(EntryError::KeyLength(n)),
    }
}

/// Checks that `value` can be a value of an authenticated store.
pub fn check_value(value: &[u8]) -> Result<(), EntryError> {
    match value.len() {
        1..=MAX_VALUE_LEN => Ok(()),
        n => Err(EntryError::ValueLength(n)),
    }
}

/// An immutable tree; a clone shares everything.
#[derive(Clone, Default)]
pub struct Tree {
    root: Option<Node>,
}

#[derive(Clone)]
pub(crate) enum Node {
    Leaf(Leaf),
    Inner(Arc<Inner>),
}

/// Hash and key in one allocation; the value is in the flat state.
#[derive(Clone)]
pub(crate) struct Leaf(Arc<[u8]>);

/// All keys below agree in the bits before `bit`; those with a zero there are `left`.
pub(crate) struct Inner {
    hash: Hash,
    bit: u16,
    pub(crate) height: u16,
    pub(crate) left: Node,
    pub(crate) right: Node,
}

/// The way from the root to a leaf: the inner nodes passed, and whether the way went right there.
pub(crate) struct Path<'t> {
    pub(crate) steps: Vec<(&'t Inner, bool)>,
    pub(crate) leaf: &'t Leaf,
}

/// Where a key is, or would be.
pub(crate) enum Place<'t> {
    Present(Path<'t>),
    /// The neighbours of an absent key; both are `None` in an empty tree only.
    Between(Option<Path<'t>>, Option<Path<'t>>),
}

enum Change<'a> {
    Set(Leaf),
    Remove(&'a [u8]),
}

impl Tree {
    /// The root hash.
    pub fn root(&self) -> Hash {
        self.root.as_ref().map_or_else(|| Sha256::digest(b"").into(), |node| *node.hash())
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// The tree with `changes` made: a value sets its key, `None` removes it (a missing key is no error).
    /// Keys must ascend strictly and both keys and values must be within bounds, otherwise nothing changes.
    pub fn update(&self, changes: &[(&[u8], Option<&[u8]>)]) -> Result<Tree, EntryError> {
        if changes.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(EntryError::Order);
        }
        let batch: Vec<Change<'_>> = changes
            .par_iter()
            .with_min_len(PARALLEL_FROM)
            .map(|(key, value)| match value {
                Some(value) => Leaf::new(key, value).map(Change::Set),
                None => check_key(key).map(|()| Change::Remove(key)),
            })
            .collect::<Result<_, _>>()?;
        Ok(Tree { root: update(self.root.as_ref(), &batch) })
    }

    /// Where `key` is or would be.
    pub(crate) fn place(&self, key: &[u8]) -> Place<'_> {
        let Some(root) = &self.root else { return Place::Between(None, None) };
        let fork = divergence(root.towards(key).key(), key);
        // Down to the subtree in which all keys agree up to the fork: it is that key, or lies on one side of it.
        let (mut node, mut steps) = (root, Vec::new());
        while let Node::Inner(inner) = node {
            if fork.is_some_and(|fork| fork < inner.bit) {
                break;
            }
            let right = bit(key, inner.bit);
            steps.push((&**inner, right));
            node = inner.child(right);
        }
        let Some(fork) = fork else { return Place::Present(Path::to_end(steps, node, false)) };
        let above = bit(key, fork);
        let near = Path::to_end(steps.clone(), node, above);
        // The other neighbour hangs off the last place where the way turned towards the key's near side.
        let turn = steps.iter().rposition(|(_, right)| *right != above);
        let far = turn.map(|turn| {
            steps.truncate(turn + 1);
            steps[turn].1 = above;
            let inner = steps[turn].0;
            Path::to_end(steps, inner.child(above), !above)
        });
        if above {
            Place::Between(Some(near), far)
        } else {
            Place::Between(far, Some(near))
        }
    }
}

impl<'t> Path<'t> {
    /// `steps`, then from `node` always to the right or always to the left.
    fn to_end(mut steps: Vec<(&'t Inner, bool)>, mut node: &'t Node, right: bool) -> Self {
        loop {
            match node {
                Node::Leaf(leaf) => return Path { steps, leaf },
                Node::Inner(inner) => {
                    steps.push((inner, right));
                    node = inner.child(right);
                }
            }
        }
    }
}

impl Node {
    pub(crate) fn hash(&self) -> &Hash {
        match self {
            Node::Leaf(leaf) => leaf.hash(),
            Node::Inner(inner) => &inner.hash,
        }
    }

    fn height(&self) -> u16 {
        match self {
            Node::Leaf(_) => 0,
            Node::Inner(inner) => inner.height,
        }
    }

    /// The leaf reached by following the bits of `key`, without comparing what lies between the branchings.
    fn towards(&self, key: &[u8]) -> &Leaf {
        let mut node = self;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf,
                Node::Inner(inner) => node = inner.child(bit(key, inner.bit)),
            }
        }
    }
}

impl Inner {
    fn child(&self, right: bool) -> &Node {
        if right {
            &self.right
        } else {
            &self.left
        }
    }
}

impl Leaf {
    fn new(key: &[u8], value: &[u8]) -> Result<Self, EntryError> {
        check_key(key)?;
        check_value(value)?;
        let mut hasher = Sha256::new_with_prefix(LEAF_PREFIX);
        hasher.update([key.len() as u8]);
        hasher.update(key);
        hasher.update([32]);
        hasher.update(Sha256::digest(value));
        let hash: Hash = hasher.finalize().into();
        Ok(Leaf(hash.iter().chain(key).copied().collect()))
    }

    fn hash(&self) -> &Hash {
        self.0.first_chunk().expect("a leaf begins with its hash")
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.0[size_of::<Hash>()..]
    }
}

impl Change<'_> {
    fn key(&self) -> &[u8] {
        match self {
            Change::Set(leaf) => leaf.key(),
            Change::Remove(key) => key,
        }
    }

    fn leaf(&self) -> Option<Leaf> {
        match self {
            Change::Set(leaf) => Some(leaf.clone()),
            Change::Remove(_) => None,
        }
    }
}

/// Builds a tree from entries that come in key order, in bounded pieces.
#[derive(Default)]
pub struct Builder {
    leaves: Vec<Leaf>,
}

impl Builder {
    /// Adds entries; all keys over all calls ascend strictly.
    pub fn extend(&mut self, entries: &[(Vec<u8>, Vec<u8>)]) -> Result<(), EntryError> {
        let from = self.leaves.len().saturating_sub(1);
        self.leaves.par_extend(
            entries
                .par_iter()
                .with_min_len(PARALLEL_FROM)
                .map(|(key, value)| Leaf::new(key, value))
                .collect::<Result<Vec<_>, _>>()?,
        );
        if self.leaves[from..].windows(2).any(|pair| pair[0].key() >= pair[1].key()) {
            return Err(EntryError::Order);
        }
        Ok(())
    }

    /// The tree of everything added.
    pub fn finish(self) -> Tree {
        Tree { root: build(&self.leaves) }
    }
}

/// The first bytes of what a leaf is hashed over: height 0, size 1, version 0, each a zigzag varint.
pub(crate) const LEAF_PREFIX: [u8; 3] = [0, 2, 0];

/// The first bytes of what an inner node is hashed over: height, size 1, version 0, and the length of the left hash.
pub(crate) fn inner_prefix(height: u16) -> ([u8; 6], usize) {
    let zigzag = u32::from(height) << 1;
    if zigzag < 0x80 {
        ([zigzag as u8, 2, 0, 32, 0, 0], 4)
    } else {
        ([zigzag as u8 | 0x80, (zigzag >> 7) as u8, 2, 0, 32, 0], 5)
    }
}

fn bit(key: &[u8], bit: u16) -> bool {
    let (byte, within) = (usize::from(bit / 9), bit % 9);
    key.get(byte).is_some_and(|byte| within == 0 || byte >> (8 - within) & 1 == 1)
}

/// The first bit in which two keys differ; none if they are equal.
fn divergence(a: &[u8], b: &[u8]) -> Option<u16> {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    match (a.get(same), b.get(same)) {
        (None, None) => None,
        (Some(a), Some(b)) => Some(9 * same as u16 + 1 + (a ^ b).leading_zeros() as u16),
        _ => Some(9 * same as u16),
    }
}

fn join(left: Option<Node>, right: Option<Node>, bit: u16) -> Option<Node> {
    let (left, right) = match (left, right) {
        (Some(left), Some(right)) => (left, right),
        (one, None) | (None, one) => return one,
    };
    let height = 1 + left.height().max(right.height());
    let (prefix, len) = inner_prefix(height);
    let mut hasher = Sha256::new_with_prefix(&prefix[..len]);
    hasher.update(left.hash());
    hasher.update([32]);
    hasher.update(right.hash());
    let hash = hasher.finalize().into();
    Some(Node::Inner(Arc::new(Inner { hash, bit, height, left, right })))
}

fn both<T: Send>(parallel: bool, a: impl FnOnce() -> T + Send, b: impl FnOnce() -> T + Send) -> (T, T) {
    if parallel {
        rayon::join(a, b)
    } else {
        (a(), b())
    }
}

/// The tree of sorted leaves.
fn build(leaves: &[Leaf]) -> Option<Node> {
    let (first, last) = (leaves.first()?, leaves.last()?);
    let Some(fork) = divergence(first.key(), last.key()) else { return Some(Node::Leaf(first.clone())) };
    let (left, right) = leaves.split_at(leaves.partition_point(|leaf| !bit(leaf.key(), fork)));
    let (left, right) = both(leaves.len() >= PARALLEL_FROM, || build(left), || build(right));
    join(left, right, fork)
}

/// `node` with a sorted batch of changes made.
fn update(node: Option<&Node>, batch: &[Change<'_>]) -> Option<Node> {
    match (node, batch.first()) {
        (None, _) => build(&batch.iter().filter_map(Change::leaf).collect::<Vec<_>>()),
        (Some(node), None) => Some(node.clone()),
        (Some(node), Some(first)) => update_near(node, node.towards(first.key()).key(), batch),
    }
}

/// As `update`; `near` is the key of some leaf below `node`. It stands for the bits that all keys below share, which
/// inner nodes do not store.
fn update_near(node: &Node, near: &[u8], batch: &[Change<'_>]) -> Option<Node> {
    let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return Some(node.clone()) };
    let inner = match node {
        Node::Inner(inner) => inner,
        Node::Leaf(leaf) => {
            let mut leaves: Vec<Leaf> = batch.iter().filter_map(Change::leaf).collect();
            if batch.binary_search_by(|change| change.key().cmp(leaf.key())).is_err() {
                leaves.insert(leaves.partition_point(|other| other.key() < leaf.key()), leaf.clone());
            }
            return build(&leaves);
        }
    };
    let fork = [first, last].into_iter().filter_map(|change| divergence(near, change.key())).min();
    let split = |at| batch.split_at(batch.partition_point(|change| !bit(change.key(), at)));
    match fork {
        // Some keys leave what this subtree shares: it moves down one level whole.
        Some(fork) if fork < inner.bit => {
            let (left, right) = split(fork);
            if bit(near, fork) {
                join(update(None, left), update_near(node, near, right), fork)
            } else {
                join(update_near(node, near, left), update(None, right), fork)
            }
        }
        _ => {
            let (left, right) = split(inner.bit);
            let below = |child: bool, changes| {
                let node = inner.child(child);
                if bit(near, inner.bit) == child {
                    update_near(node, near, changes)
                } else {
                    update(Some(node), changes)
                }
            };
            let (left, right) =
                both(batch.len() >= PARALLEL_FROM, || below(false, left), || below(true, right));
            join(left, right, inner.bit)
        }
    }
}
