//! What an inference is named by: digests of tokens, the trace of a generation, the auditor's layer digest, and
//! the Merkle tree that all roots use.
//!
//! Trees have the shape of RFC 6962 (as CometBFT's) with BLAKE3: a leaf is BLAKE3(0 | leaf), an inner node
//! BLAKE3(1 | left | right) with the left subtree the largest power of two, no leaves at all BLAKE3 of nothing.

use half::f16;

/// A BLAKE3 digest.
pub type Digest = [u8; 32];

const LEAF: u8 = 0;
const NODE: u8 = 1;

fn hash(parts: &[&[u8]]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Leaves of the left subtree of a tree with `n` leaves, n >= 2: the largest power of two below n.
fn split(n: usize) -> usize {
    n.next_power_of_two() / 2
}

/// The root over `leaves`, in order.
pub fn merkle_root<L: AsRef<[u8]>>(leaves: &[L]) -> Digest {
    match leaves {
        [] => hash(&[]),
        [leaf] => hash(&[&[LEAF], leaf.as_ref()]),
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            hash(&[&[NODE], &merkle_root(left), &merkle_root(right)])
        }
    }
}

/// The siblings from leaf `index` up to the root, nearest first; none when there is no such leaf.
pub fn merkle_path<L: AsRef<[u8]>>(leaves: &[L], index: usize) -> Option<Vec<Digest>> {
    if index >= leaves.len() {
        return None;
    }
    if leaves.len() == 1 {
        return Some(Vec::new());
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, sibling) = if index < left.len() {
        (merkle_path(left, index)?, merkle_root(right))
    } else {
        (merkle_path(right, index - left.len())?, merkle_root(left))
    };
    path.push(sibling);
    Some(path)
}

/// Whether `path` opens leaf `index` of the tree with `total` leaves whose root is `root`.
pub fn merkle_verify(root: &Digest, leaf: &[u8], index: usize, total: usize, path: &[Digest]) -> bool {
    fn climb(leaf: Digest, index: usize, total: usize, path: &[Digest]) -> Option<Digest> {
        match (total, path) {
            (1, []) => Some(leaf),
            (2.., [below @ .., sibling]) => {
                let left = split(total);
                Some(if index < left {
                    hash(&[&[NODE], &climb(leaf, index, left, below)?, sibling])
                } else {
                    hash(&[&[NODE], sibling, &climb(leaf, index - left, total - left, below)?])
                })
            }
            _ => None,
        }
    }
    index < total && climb(hash(&[&[LEAF], leaf]), index, total, path).as_ref() == Some(root)
}

/// The input or result digest: BLAKE3 of the ids, u32 little-endian.
pub fn token_digest(tokens: &[u32]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The leaf of output token `step`: BLAKE3(step, token, x_final), the integers u32 and the halves little-endian.
pub fn trace_leaf(step: u32, token: u32, x_final: &[f16]) -> Digest {
    let halves: Vec<u8> = x_final.iter().flat_map(|x| x.to_le_bytes()).collect();
    hash(&[&step.to_le_bytes(), &token.to_le_bytes(), &halves])
}

/// The Merkle root over a generation's leaves.
pub fn trace_root(leaves: &[Digest]) -> Digest {
    merkle_root(leaves)
}

/// The layer that a beacon asks an auditor about: the beacon as a 256-bit little-endian integer, modulo `layers`.
pub fn beacon_layer(beacon: &Digest, layers: u32) -> u32 {
    let modulus = u64::from(layers);
    beacon.iter().rev().fold(0, |rest, byte| ((rest << 8) | u64::from(*byte)) % modulus) as u32
}

/// The auditor's digest D: BLAKE3 keyed by BLAKE3(beacon | receipt digest) over the residual stream after one layer,
/// f32 little-endian, `[position][width]`.
#[derive(Clone, Debug)]
pub struct LayerDigest(blake3::Hasher);

impl LayerDigest {
    pub fn new(beacon: &Digest, receipt: &Digest) -> Self {
        Self(blake3::Hasher::new_keyed(&hash(&[beacon, receipt])))
    }

    /// Takes in the residual stream of the next positions.
    pub fn update(&mut self, residual: &[f32]) {
        let mut bytes = [0; 4096];
        for chunk in residual.chunks(bytes.len() / 4) {
            for (to, x) in bytes.chunks_exact_mut(4).zip(chunk) {
                to.copy_from_slice(&x.to_le_bytes());
            }
            self.0.update(&bytes[..chunk.len() * 4]);
        }
    }

    pub fn finish(&self) -> Digest {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_spelled_out() {
        let leaf = |x: &str| hash(&[&[0], x.as_bytes()]);
        let node = |l: Digest, r: Digest| hash(&[&[1], &l, &r]);
        assert_eq!(merkle_root::<&str>(&[]), *blake3::hash(b"").as_bytes());
        assert_eq!(merkle_root(&["a"]), leaf("a"));
        // five leaves: four on the left, one on the right
        let left = node(node(leaf("a"), leaf("b")), node(leaf("c"), leaf("d")));
        assert_eq!(merkle_root(&["a", "b", "c", "d", "e"]), node(left, leaf("e")));
    }

    #[test]
    fn a_path_opens_its_leaf_and_nothing_else() {
        for total in 1..20usize {
            let leaves: Vec<Digest> = (0..total).map(|i| hash(&[&[i as u8]])).collect();
            let root = merkle_root(&leaves);
            assert_eq!(merkle_path(&leaves, total), None);
            for (i, leaf) in leaves.iter().enumerate() {
                let path = merkle_path(&leaves, i).unwrap();
                assert!(merkle_verify(&root, leaf, i, total, &path));
                assert!(!merkle_verify(&root, leaf, i + total, total, &path));
                assert!(!merkle_verify(&root, b"other", i, total, &path));
                for other in (0..total).filter(|j| *j != i) {
                    assert!(!merkle_verify(&root, leaf, other, total, &path), "{i} as {other} of {total}");
                }
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!merkle_verify(&root, leaf, i, total, shorter));
                }
                let longer: Vec<Digest> = path.iter().copied().chain([root]).collect();
                assert!(!merkle_verify(&root, leaf, i, total, &longer));
            }
        }
    }

    #[test]
    fn digests_spelled_out() {
        assert_eq!(token_digest(&[1, 0x0203]), *blake3::hash(&[1, 0, 0, 0, 3, 2, 0, 0]).as_bytes());
        let leaf = trace_leaf(7, 258, &[f16::ONE, f16::from_f32(-2.0)]);
        assert_eq!(leaf, *blake3::hash(&[7, 0, 0, 0, 2, 1, 0, 0, 0x00, 0x3c, 0x00, 0xc0]).as_bytes());
        let mut d = LayerDigest::new(&[5; 32], &[6; 32]);
        let residual: Vec<f32> = (0..3000).map(|i| i as f32 * 0.5).collect();
        d.update(&residual[..1700]);
        d.update(&residual[1700..]);
        let key = blake3::hash(&[[5; 32], [6; 32]].concat());
        let bytes: Vec<u8> = residual.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(d.finish(), *blake3::keyed_hash(key.as_bytes(), &bytes).as_bytes());
    }

    #[test]
    fn beacon_layer_is_little_endian() {
        let mut beacon = [0; 32];
        beacon[0] = 200;
        assert_eq!(beacon_layer(&beacon, 30), 200 % 30);
        beacon[1] = 3;
        assert_eq!(beacon_layer(&beacon, 30), (3 * 256 + 200) % 30);
        // 2^248 = 4^124, which is 4 modulo 6
        assert_eq!(beacon_layer(&std::array::from_fn(|i| u8::from(i == 31)), 6), 4);
    }
}
