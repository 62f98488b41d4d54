//! Blocks of random transactions, good and bad, by people who follow the chain: workers answer tasks, some wrongly,
//! auditors judge them, some wrongly, governance votes. All of it follows from the seed and from the chain's answers.

mod seen;
mod stake;
mod work;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::tendermint_proto::v0_38::abci::{
    Misbehavior, MisbehaviorType, RequestFinalizeBlock, ResponseFinalizeBlock, Validator,
};
use deepnode_proto::{Any, AnyExt, Message, Name};
use deepnode_tx::{Address, SignerData, SigningKey, TxBuilder};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::chain::{consensus_address, timestamp, Chain, Plan, FEE, GAS};
use crate::world::{consensus_key, World};
pub use seen::Seen;
pub use work::{receipt, shown};

/// What somebody wants to send.
struct Wish {
    signer: SigningKey,
    message: Any,
}

impl Wish {
    fn new<M: Message + Name>(signer: &SigningKey, message: M) -> Self {
        Wish { signer: signer.clone(), message: Any::pack(&message) }
    }
}

/// The people of a world at work.
pub struct Traffic {
    rng: ChaCha8Rng,
    pub world: World,
    pub seen: Seen,
    /// Sequences of accounts that sign in the block in the making.
    next: BTreeMap<Address, SignerData>,
    last: Option<Bytes>,
}

impl Traffic {
    pub fn new(seed: u64) -> Self {
        Traffic {
            rng: ChaCha8Rng::seed_from_u64(seed),
            world: World::new(),
            seen: Seen::default(),
            next: BTreeMap::new(),
            last: None,
        }
    }

    /// Executes a random block on `chain`; what was asked and answered.
    pub fn step(&mut self, chain: &mut Chain) -> (RequestFinalizeBlock, ResponseFinalizeBlock) {
        let txs = self.transactions(chain);
        let absent = self.absent(chain);
        let plan = Plan {
            txs,
            passed: self.rng.gen_range(500_000_000..7_000_000_000),
            absent,
            misbehavior: self.misbehavior(chain),
        };
        let request = chain.request(plan);
        let response = chain.execute(request.clone());
        self.seen.observe(chain.height, &request, &response);
        (request, response)
    }

    /// Transactions of the next block, in their order.
    pub fn transactions(&mut self, chain: &Chain) -> Vec<Bytes> {
        let state = chain.state();
        self.next.clear();
        let mut wishes = if chain.height == 0 { Vec::new() } else { self.work(&state) };
        for _ in 0..self.rng.gen_range(2..7) {
            wishes.extend(self.stake(chain, &state));
        }
        wishes.shuffle(&mut self.rng);
        let mut txs = Vec::new();
        for wish in wishes {
            let bytes = self.signed(chain, wish);
            txs.extend(bytes);
        }
        txs
    }

    fn signer_data(&mut self, chain: &Chain, address: &Address) -> Option<SignerData> {
        if let Some(data) = self.next.get(address) {
            return Some(data.clone());
        }
        // Before the first block no account can be read: nobody has signed, and numbers are not known.
        let data = chain.signer_data(address)?;
        self.next.insert(*address, data.clone());
        Some(data)
    }

    /// Most are signed as they should be; some are spoilt, one way or another. What ante refuses spoils the later
    /// ones of its signer in the block too.
    fn signed(&mut self, chain: &Chain, wish: Wish) -> Vec<Bytes> {
        let address = wish.signer.address();
        let Some(mut data) = self.signer_data(chain, &address) else { return Vec::new() };
        let mut tx = TxBuilder::new().any(wish.message.clone()).fee(FEE, "udn").gas(GAS);
        let spoil = self.rng.gen_range(0..100);
        match spoil {
            0 => tx = tx.gas(60_000),
            1 => tx.body.memo = "m".repeat(300),
            2 => tx.fee.gas_limit = 30_000_001,
            3 => tx.fee.gas_limit = 0,
            4 => tx.fee.amount[0].amount = u128::MAX.to_string(),
            5 => tx.body.timeout_height = chain.height,
            6 => data.sequence += self.rng.gen_range(1..4),
            7 => data.chain_id = "another-1".into(),
            8 => data.account_number += 1,
            9 => tx = tx.any(Any { type_url: "/deepnode.none.v1.MsgNone".into(), value: Vec::new() }),
            // A second message of the same kind: both or none take effect.
            10..=13 => tx = tx.any(wish.message),
            14..=17 => {
                let until = chain.time + self.rng.gen_range(1..900) * 1_000_000_000;
                let until = timestamp(until + chain.height);
                tx = tx.unordered(deepnode_proto::Timestamp { seconds: until.seconds, nanos: until.nanos });
                data.sequence = 0;
            }
            _ => {}
        }
        let mut bytes = tx.sign(&wish.signer, &data);
        match spoil {
            18 => {
                let at = self.rng.gen_range(0..bytes.len());
                bytes[at] ^= 1 << self.rng.gen_range(0..8);
            }
            19 => bytes.truncate(self.rng.gen_range(0..bytes.len())),
            20 => bytes = (0..self.rng.gen_range(0..300)).map(|_| self.rng.gen()).collect(),
            _ => {}
        }
        let bytes = Bytes::from(bytes);
        if let (10..=13 | 21.., Some(data)) = (spoil, self.next.get_mut(&address)) {
            data.sequence += 1;
        }
        // Sometimes the transaction before once more.
        let again = self.last.replace(bytes.clone()).filter(|_| spoil == 21);
        [Some(bytes), again].into_iter().flatten().collect()
    }

    /// Everybody misses a vote now and then; the third validator misses most of some epochs.
    fn absent(&mut self, chain: &Chain) -> BTreeSet<[u8; 32]> {
        let lazy = consensus_key(&self.world.operators[2].address());
        let lazy_now = (chain.height / 15) % 3 == 1;
        let keys: Vec<[u8; 32]> = chain.set(chain.height.max(1)).keys().copied().collect();
        keys.into_iter()
            .filter(|key| self.rng.gen_bool(if lazy_now && *key == lazy { 0.7 } else { 0.04 }))
            .collect()
    }

    /// Two validators sign twice, once of them long ago; and CometBFT names one that nobody knows.
    fn misbehavior(&mut self, chain: &Chain) -> Vec<Misbehavior> {
        let next = chain.height + 1;
        let of = |key: [u8; 32], kind: MisbehaviorType, height: u64| Misbehavior {
            r#type: kind.into(),
            validator: Some(Validator { address: consensus_address(&key).to_vec().into(), power: 10 }),
            height: height as i64,
            time: Some(timestamp(chain.time)),
            total_voting_power: 100_000_000,
        };
        let operator = |n: usize| consensus_key(&self.world.operators[n].address());
        match next {
            90 => vec![
                of(operator(3), MisbehaviorType::DuplicateVote, next - 3),
                of(operator(3), MisbehaviorType::DuplicateVote, next - 2),
                of([7; 32], MisbehaviorType::DuplicateVote, next - 1),
            ],
            150 => vec![of(operator(4), MisbehaviorType::LightClientAttack, next - 12)],
            _ => Vec::new(),
        }
    }

    fn pick<'a>(&mut self, keys: &'a [SigningKey]) -> &'a SigningKey {
        keys.choose(&mut self.rng).unwrap()
    }
}

fn udn(amount: u128) -> Coin {
    Coin { denom: "udn".into(), amount: amount.to_string() }
}
