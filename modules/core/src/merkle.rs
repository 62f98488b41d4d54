//! Merkle trees that workers build and the chain opens: the shape of RFC 6962 with BLAKE3. A leaf is
//! BLAKE3(0 | leaf), an inner node BLAKE3(1 | left | right) with the largest power of two of leaves on the left, no
//! leaves at all BLAKE3 of nothing.

/// A BLAKE3 digest.
pub type Digest = [u8; 32];

/// Longest path that is followed: more than 2^32 leaves have none.
pub const MAX_PATH: usize = 32;

fn hash(parts: &[&[u8]]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// The digest of a leaf.
pub fn leaf_hash(leaf: &[u8]) -> Digest {
    hash(&[&[0], leaf])
}

/// The digest of an inner node.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    hash(&[&[1], left, right])
}

/// The root over `leaves`, in order.
pub fn root<L: AsRef<[u8]>>(leaves: &[L]) -> Digest {
    match leaves {
        [] => hash(&[]),
        [leaf] => leaf_hash(leaf.as_ref()),
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&root(left), &root(right))
        }
    }
}

/// Whether `path` (siblings, nearest first) opens leaf `index` of the tree of `total` leaves under `root`. There is
/// one path for an index: none too short, too long or for another place is taken.
pub fn verify(root: &Digest, leaf: &[u8], index: u32, total: u32, path: &[Digest]) -> bool {
    if index >= total || path.len() > MAX_PATH {
        return false;
    }
    // Walks from the leaf up: `last` is the greatest index of the level. A last node without a sibling moves up as
    // it is.
    let (mut index, mut last) = (index, total.saturating_sub(1));
    let mut digest = leaf_hash(leaf);
    let mut siblings = path.iter();
    while last > 0 {
        if index & 1 == 1 || index < last {
            let Some(sibling) = siblings.next() else { return false };
            digest = match index & 1 {
                1 => node_hash(sibling, &digest),
                _ => node_hash(&digest, sibling),
            };
        }
        index >>= 1;
        last >>= 1;
    }
    siblings.next().is_none() && digest == *root
}

/// The siblings of a leaf, nearest first, by the recursive definition of the tree; `index` must be below the number of
/// leaves, of which there is at least one.
#[cfg(any(test, feature = "testing"))]
pub fn path<L: AsRef<[u8]>>(leaves: &[L], index: usize) -> Vec<Digest> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let (mut path, sibling) = match index.checked_sub(left.len()) {
        None => (path(left, index), root(right)),
        Some(index) => (path(right, index), root(left)),
    };
    path.push(sibling);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_spelled_out() {
        assert_eq!(root::<&str>(&[]), *blake3::hash(b"").as_bytes());
        let leaf = |text: &str| *blake3::hash(format!("\0{text}").as_bytes()).as_bytes();
        let node = |l: Digest, r: Digest| *blake3::hash(&[&[1][..], &l, &r].concat()).as_bytes();
        let left = node(node(leaf("a"), leaf("b")), node(leaf("c"), leaf("d")));
        assert_eq!(root(&["a", "b", "c", "d", "e"]), node(left, leaf("e")));
    }

    #[test]
    fn a_path_opens_its_leaf_and_nothing_else() {
        for total in 1..40u32 {
            let leaves: Vec<Digest> = (0..total).map(|n| leaf_hash(&n.to_le_bytes())).collect();
            let root = root(&leaves);
            for index in 0..total {
                let leaf = leaves[index as usize];
                let path = path(&leaves, index as usize);
                assert!(verify(&root, &leaf, index, total, &path), "{index} of {total}");
                assert!(!verify(&root, b"other", index, total, &path));
                for other in (0..total + 2).filter(|other| *other != index) {
                    assert!(!verify(&root, &leaf, other, total, &path), "{index} as {other} of {total}");
                }
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!verify(&root, &leaf, index, total, shorter));
                }
                let longer = [path.as_slice(), &[root]].concat();
                assert!(!verify(&root, &leaf, index, total, &longer));
            }
        }
    }
}
