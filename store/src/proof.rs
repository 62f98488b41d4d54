//! ICS23 proofs that unmodified Cosmos clients verify: `ics23:iavl` from a key to its store's root, `ics23:simple` from
//! there to the app hash. The app hash is CometBFT's simple Merkle root over (name, sha256(store root)), sorted by name.

use ics23::commitment_proof::Proof as Kind;
use ics23::{
    CommitmentProof, ExistenceProof, HashOp, HostFunctionsManager, InnerOp, LeafOp, LengthOp,
    NonExistenceProof,
};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::tree::{inner_prefix, Hash, Path, Place, Tree, LEAF_PREFIX};

/// A proof that a key of a store has a value, or that it is absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Proof {
    /// From the key to the store's root, for `ics23::iavl_spec()`.
    pub store: CommitmentProof,
    /// From the store's root to the app hash, for `ics23::tendermint_spec()`.
    pub root: CommitmentProof,
}

/// One operator of an ABCI query's `proof_ops`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofOp {
    pub r#type: &'static str,
    pub key: Vec<u8>,
    pub data: Vec<u8>,
}

impl Proof {
    /// The two operators of `/store/{name}/key` with `prove`, in the order in which a client applies them.
    pub fn ops(&self, store: &str, key: &[u8]) -> [ProofOp; 2] {
        [
            ProofOp { r#type: "ics23:iavl", key: key.to_vec(), data: self.store.encode_to_vec() },
            ProofOp {
                r#type: "ics23:simple",
                key: store.as_bytes().to_vec(),
                data: self.root.encode_to_vec(),
            },
        ]
    }

    /// Whether the proof shows that under `app_hash`, `key` of `store` has `value` (`None`: is absent).
    pub fn verify(&self, app_hash: &Hash, store: &str, key: &[u8], value: Option<&[u8]>) -> bool {
        let (iavl, simple, app_hash) = (ics23::iavl_spec(), ics23::tendermint_spec(), app_hash.to_vec());
        let Some(Kind::Exist(root)) = &self.root.proof else { return false };
        let root = &root.value;
        (match value {
            Some(value) => {
                ics23::verify_membership::<HostFunctionsManager>(&self.store, &iavl, root, key, value)
            }
            None => ics23::verify_non_membership::<HostFunctionsManager>(&self.store, &iavl, root, key),
        }) && ics23::verify_membership::<HostFunctionsManager>(
            &self.root,
            &simple,
            &app_hash,
            store.as_bytes(),
            root,
        )
    }
}

/// Proves presence or absence of `key`; `None` for an empty tree, from which nothing can be proved.
/// `value` reads the stored value of a present key.
pub fn prove_key<E>(
    tree: &Tree,
    key: &[u8],
    value: impl Fn(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<Option<CommitmentProof>, E> {
    let existence = |path: Path<'_>| Ok(existence(&path, value(path.leaf.key())?));
    let proof = match tree.place(key) {
        Place::Between(None, None) => return Ok(None),
        Place::Present(path) => Kind::Exist(existence(path)?),
        Place::Between(left, right) => Kind::Nonexist(NonExistenceProof {
            key: key.to_vec(),
            left: left.map(existence).transpose()?,
            right: right.map(existence).transpose()?,
        }),
    };
    Ok(Some(CommitmentProof { proof: Some(proof) }))
}

fn leaf_op(prefix: &[u8]) -> LeafOp {
    LeafOp {
        hash: HashOp::Sha256.into(),
        prehash_key: HashOp::NoHash.into(),
        prehash_value: HashOp::Sha256.into(),
        length: LengthOp::VarProto.into(),
        prefix: prefix.to_vec(),
    }
}

fn inner_op(prefix: Vec<u8>, suffix: Vec<u8>) -> InnerOp {
    InnerOp { hash: HashOp::Sha256.into(), prefix, suffix }
}

fn existence(path: &Path<'_>, value: Vec<u8>) -> ExistenceProof {
    let step = |(inner, right): &(&crate::tree::Inner, bool)| {
        let (prefix, len) = inner_prefix(inner.height);
        let mut prefix = prefix[..len].to_vec();
        if *right {
            prefix.extend(inner.left.hash());
            prefix.push(32);
            inner_op(prefix, Vec::new())
        } else {
            inner_op(prefix, [&[32], inner.right.hash().as_slice()].concat())
        }
    };
    ExistenceProof {
        key: path.leaf.key().to_vec(),
        value,
        leaf: Some(leaf_op(&LEAF_PREFIX)),
        path: path.steps.iter().rev().map(step).collect(),
    }
}

/// The app hash over stores sorted by name.
pub fn app_hash<'a>(stores: impl IntoIterator<Item = (&'a str, Hash)>) -> Hash {
    simple_root(&stores.into_iter().map(|(name, root)| simple_leaf(name, &root)).collect::<Vec<_>>())
}

/// Proves the root of store `name` among all stores sorted by name; `None` if there is no such store.
pub fn prove_store(stores: &[(&str, Hash)], name: &str) -> Option<CommitmentProof> {
    let index = stores.iter().position(|(other, _)| *other == name)?;
    let leaves: Vec<Hash> = stores.iter().map(|(name, root)| simple_leaf(name, root)).collect();
    let mut path = Vec::new();
    simple_path(&leaves, index, &mut path);
    let proof = ExistenceProof {
        key: name.as_bytes().to_vec(),
        value: stores[index].1.to_vec(),
        leaf: Some(leaf_op(&[0])),
        path,
    };
    Some(CommitmentProof { proof: Some(Kind::Exist(proof)) })
}

fn simple_leaf(name: &str, root: &Hash) -> Hash {
    let mut hasher = Sha256::new_with_prefix([0]);
    let mut length = Vec::new();
    prost::encoding::encode_varint(name.len() as u64, &mut length);
    hasher.update(length);
    hasher.update(name);
    hasher.update([32]);
    hasher.update(Sha256::digest(root));
    hasher.finalize().into()
}

/// As in CometBFT's crypto/merkle: the left part is the largest power of two below the number of leaves.
fn simple_split(leaves: &[Hash]) -> usize {
    leaves.len().next_power_of_two() / 2
}

fn simple_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest(b"").into(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(simple_split(leaves));
            let mut hasher = Sha256::new_with_prefix([1]);
            hasher.update(simple_root(left));
            hasher.update(simple_root(right));
            hasher.finalize().into()
        }
    }
}

/// The steps from leaf `index` up to the root.
fn simple_path(leaves: &[Hash], index: usize, path: &mut Vec<InnerOp>) {
    if leaves.len() < 2 {
        return;
    }
    let split = simple_split(leaves);
    let (left, right) = leaves.split_at(split);
    if index < split {
        simple_path(left, index, path);
        path.push(inner_op(vec![1], simple_root(right).to_vec()));
    } else {
        simple_path(right, index - split, path);
        path.push(inner_op([&[1], simple_root(left).as_slice()].concat(), Vec::new()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::tree::Builder;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    fn rebuilt(model: &Model) -> Tree {
        let mut builder = Builder::default();
        let entries: Vec<_> = model.clone().into_iter().collect();
        entries.chunks(7).for_each(|entries| builder.extend(entries).unwrap());
        builder.finish()
    }

    fn prove(model: &Model, tree: &Tree, key: &[u8]) -> Option<Proof> {
        let store = prove_key(tree, key, |key| Ok::<_, Infallible>(model[key].clone())).unwrap()?;
        let stores =
            [("auth", [1; 32]), ("bank", tree.root()), ("ibc", [2; 32]), ("tasks", [3; 32]), ("z", [4; 32])];
        Some(Proof { store, root: prove_store(&stores, "bank").unwrap() })
    }

    fn hash_of(tree: &Tree) -> Hash {
        app_hash([
            ("auth", [1; 32]),
            ("bank", tree.root()),
            ("ibc", [2; 32]),
            ("tasks", [3; 32]),
            ("z", [4; 32]),
        ])
    }

    /// Keys that are prefixes of each other, lie at the edges and share long heads.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(prop::sample::select(vec![0u8, 1, 0x7f, 0x80, 0xff]), 1..5),
            prop::collection::vec(any::<u8>(), 1..4),
            (1usize..=127).prop_map(|n| vec![0xff; n]),
            (1usize..=127).prop_map(|n| vec![0; n]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// After any batches the tree equals a rebuild from the content, earlier roots stay what they were, and the
        /// ics23 crate accepts membership of each present and absence of each absent key, and nothing else.
        #[test]
        fn equals_a_rebuild_and_proves_everything(
            batches in prop::collection::vec(
                prop::collection::btree_map(key(), prop::option::weighted(0.6, any::<[u8; 3]>()), 0..120), 1..8),
            probes in prop::collection::vec(key(), 40),
        ) {
            let (mut tree, mut model, mut history) = (Tree::default(), Model::new(), Vec::new());
            for batch in &batches {
                let changes: Vec<_> =
                    batch.iter().map(|(k, v)| (k.as_slice(), v.as_ref().map(|v| v.as_slice()))).collect();
                tree = tree.update(&changes).unwrap();
                for (key, value) in batch {
                    match value {
                        Some(value) => model.insert(key.clone(), value.to_vec()),
                        None => model.remove(key),
                    };
                }
                prop_assert_eq!(tree.root(), rebuilt(&model).root());
                history.push((tree.clone(), model.clone()));
            }
            for (tree, model) in &history {
                prop_assert_eq!(tree.root(), rebuilt(model).root());
            }
            let app_hash = hash_of(&tree);
            let mut probes = probes;
            probes.extend(model.keys().take(60).cloned());
            probes.extend(model.keys().next_back().cloned());
            probes.extend(model.keys().take(20).map(|key| key[..key.len() - 1].to_vec()).filter(|key| !key.is_empty()));
            for key in &probes {
                let Some(proof) = prove(&model, &tree, key) else {
                    prop_assert!(model.is_empty());
                    continue;
                };
                let value = model.get(key).map(Vec::as_slice);
                prop_assert!(proof.verify(&app_hash, "bank", key, value));
                prop_assert!(!proof.verify(&app_hash, "bank", key, Some(b"another")));
                prop_assert!(!proof.verify(&app_hash, "ibc", key, value));
                prop_assert!(!proof.verify(&[9; 32], "bank", key, value));
                if value.is_some() {
                    prop_assert!(!proof.verify(&app_hash, "bank", key, None));
                }
            }
        }
    }

    /// The hash formats are consensus: a changed root here means a chain that no longer agrees with itself.
    #[test]
    fn roots_are_pinned() {
        let model: Model = [("a", "1"), ("ab", "2"), ("b", "3")].map(|(k, v)| (k.into(), v.into())).into();
        let hex = |hash: Hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(Tree::default().root()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(hex(app_hash([])), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(
            hex(rebuilt(&model).root()),
            "231bea82708ad1ce57dadcef43fbb6ae3ad2f330a10e2522cb72c7c22021ed69"
        );
        assert_eq!(
            hex(hash_of(&rebuilt(&model))),
            "c17ef8c613d97dc763998a80af50bd2e7d2a9835014fd7b016fea56640e55b00"
        );
    }

    #[test]
    fn bad_entries_are_refused() {
        use crate::tree::{EntryError, MAX_VALUE_LEN};
        let tree = Tree::default();
        let refused = |key: &[u8], value: Option<&[u8]>| tree.update(&[(key, value)]).err();
        assert_eq!(refused(b"", Some(b"v")), Some(EntryError::KeyLength(0)));
        assert_eq!(refused(&[1; 128], Some(b"v")), Some(EntryError::KeyLength(128)));
        assert_eq!(refused(&[1; 128], None), Some(EntryError::KeyLength(128)));
        assert_eq!(refused(b"k", Some(b"")), Some(EntryError::ValueLength(0)));
        assert_eq!(
            refused(b"k", Some(&vec![0; MAX_VALUE_LEN + 1])),
            Some(EntryError::ValueLength(MAX_VALUE_LEN + 1))
        );
        assert_eq!(refused(&[1; 127], Some(b"v")), None);
        let unsorted: [(&[u8], Option<&[u8]>); 2] = [(b"b", None), (b"a", None)];
        assert_eq!(tree.update(&unsorted).err(), Some(EntryError::Order));
        let mut builder = Builder::default();
        builder.extend(&[(b"b".to_vec(), b"1".to_vec())]).unwrap();
        assert_eq!(builder.extend(&[(b"b".to_vec(), b"1".to_vec())]).err(), Some(EntryError::Order));
    }

    /// Keys that each begin with the one before make the deepest tree; its height needs two varint bytes.
    #[test]
    fn deep_trees_prove() {
        let model: Model = (1..=127).map(|n| (vec![0xff; n], vec![n as u8])).collect();
        let (tree, deepest) = (rebuilt(&model), vec![0xff; 127]);
        let proof = prove(&model, &tree, &deepest).unwrap();
        assert!(proof.verify(&hash_of(&tree), "bank", &deepest, Some(&[127])));
        let model: Model = (0..127u16)
            .flat_map(|at| (0..8).map(move |bit| (at, bit)))
            .map(|(at, bit)| {
                let mut key = vec![0xff; usize::from(at)];
                key.push(!(0x80 >> bit));
                (key, vec![1])
            })
            .collect();
        let tree = rebuilt(&model);
        for key in model.keys().step_by(97).chain(model.keys().last()) {
            assert!(prove(&model, &tree, key).unwrap().verify(&hash_of(&tree), "bank", key, Some(&[1])));
            let absent = [key.as_slice(), &[0]].concat();
            if absent.len() <= 127 && !model.contains_key(&absent) {
                assert!(prove(&model, &tree, &absent).unwrap().verify(
                    &hash_of(&tree),
                    "bank",
                    &absent,
                    None
                ));
            }
        }
    }
}
