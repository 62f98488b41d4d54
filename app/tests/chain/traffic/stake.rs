//! Coins, stake and governance.

use deepnode_core::Dec;
use deepnode_cosmos::{gov, staking};
use deepnode_proto::cosmos::bank::v1beta1::{
    Input, MsgMultiSend, MsgSend, MsgSetSendEnabled, Output, SendEnabled,
};
use deepnode_proto::cosmos::crypto::ed25519;
use deepnode_proto::cosmos::gov::{v1, v1beta1};
use deepnode_proto::cosmos::staking::v1beta1::*;
use deepnode_proto::deepnode::models::v1::MsgSetScored;
use deepnode_proto::{Any, AnyExt};
use deepnode_store::Snapshot;
use deepnode_tx::{Address, SigningKey};
use rand::seq::{IteratorRandom, SliceRandom};
use rand::Rng;

use super::{udn, Traffic, Wish};
use crate::chain::{Chain, DN};
use crate::world::consensus_key;

/// The message that sets a module's parameters to what they are, but for `$change`.
macro_rules! update {
    ($chain:expr, $($path:ident)::+, $change:expr) => {{
        use deepnode_proto::$($path)::+ as p;
        let answer: p::QueryParamsResponse = $chain.ask("Params", &p::QueryParamsRequest::default());
        let mut params = answer.params.unwrap();
        #[allow(clippy::redundant_closure_call)]
        ($change as fn(&mut p::Params))(&mut params);
        let authority = deepnode_core::authority().to_string();
        Any::pack(&p::MsgUpdateParams { authority, params: Some(params) })
    }};
}

impl Traffic {
    /// Something that a holder of coins may do.
    pub(super) fn stake(&mut self, chain: &Chain, state: &Snapshot) -> Vec<Wish> {
        let wish = match self.rng.gen_range(0..100) {
            0..=24 => Some(self.send()),
            25..=64 => self.delegation(state),
            65..=72 => self.validator(state),
            73..=82 => self.proposal(chain),
            _ => return self.votes(state),
        };
        wish.into_iter().collect()
    }

    fn anybody(&mut self) -> SigningKey {
        let count = self.world.all().count();
        let n = self.rng.gen_range(0..count);
        self.world.all().nth(n).unwrap().clone()
    }

    /// Now and then to an address without account, to a module's, or more than there is.
    fn send(&mut self) -> Wish {
        let from = self.anybody();
        let to = match self.rng.gen_range(0..20) {
            0 => Address::module("tasks"),
            1 | 2 => Address(self.rng.gen()),
            _ => self.anybody().address(),
        };
        let amount = if self.rng.gen_bool(0.05) { u128::MAX } else { self.rng.gen_range(1..50 * DN) };
        if self.rng.gen_bool(0.75) {
            let (from_address, to_address) = (from.address().to_string(), to.to_string());
            return Wish::new(&from, MsgSend { from_address, to_address, amount: vec![udn(amount)] });
        }
        let other = self.anybody().address();
        let (half, rest) = (amount / 2 + 1, amount - amount / 2);
        let output = |to: Address, amount| Output { address: to.to_string(), coins: vec![udn(amount)] };
        let input =
            Input { address: from.address().to_string(), coins: vec![udn(half.saturating_add(rest))] };
        Wish::new(
            &from,
            MsgMultiSend { inputs: vec![input], outputs: vec![output(to, half), output(other, rest)] },
        )
    }

    fn operator(&mut self) -> Address {
        let operators = &self.world.operators;
        operators.choose(&mut self.rng).unwrap().address()
    }

    fn delegation(&mut self, state: &Snapshot) -> Option<Wish> {
        let users = self.world.users.clone();
        // Operators move their own stake too, so that the bonded set changes.
        let key = if self.rng.gen_bool(0.15) {
            let operators = self.world.operators.clone();
            self.pick(&operators).clone()
        } else {
            self.pick(&users).clone()
        };
        let delegator = key.address();
        let (delegator_address, to) = (delegator.to_string(), self.operator().to_operator());
        let mine: Vec<_> = staking::delegations(state, &delegator).collect::<Result<_, _>>().unwrap();
        let amount = self.rng.gen_range(1..2_000 * DN);
        if mine.is_empty() || self.rng.gen_bool(0.4) {
            let amount = if self.rng.gen_bool(0.05) { 1 } else { amount };
            return Some(Wish::new(
                &key,
                MsgDelegate { delegator_address, validator_address: to, amount: Some(udn(amount)) },
            ));
        }
        let (from, shares) = *mine.choose(&mut self.rng).unwrap();
        // All of it one time in eight, and sometimes more than there is.
        let held = shares.atomics() / Dec::SCALE;
        let part = match self.rng.gen_range(0..8) {
            0 => held,
            1 => held + 1,
            _ => self.rng.gen_range(1..held.max(2)),
        };
        let (from_address, amount) = (from.to_operator(), Some(udn(part.max(1))));
        Some(match self.rng.gen_range(0..10) {
            0..=4 => {
                Wish::new(&key, MsgUndelegate { delegator_address, validator_address: from_address, amount })
            }
            5..=8 => Wish::new(
                &key,
                MsgBeginRedelegate {
                    delegator_address,
                    validator_src_address: from_address,
                    validator_dst_address: to,
                    amount,
                },
            ),
            _ => {
                let entry = self.unbonding(state, &delegator, &from);
                let (creation_height, balance) = entry.unwrap_or((1, 1));
                Wish::new(
                    &key,
                    MsgCancelUnbondingDelegation {
                        delegator_address,
                        validator_address: from_address,
                        amount: Some(udn(balance)),
                        creation_height,
                    },
                )
            }
        })
    }

    /// Height and part of an entry that unbonds.
    fn unbonding(&mut self, state: &Snapshot, delegator: &Address, from: &Address) -> Option<(i64, u128)> {
        let request = QueryUnbondingDelegationRequest {
            delegator_addr: delegator.to_string(),
            validator_addr: from.to_operator(),
        };
        let block = deepnode_core::BlockInfo::default();
        let cx = deepnode_core::QueryCtx { state, block: &block };
        let mut queries = deepnode_core::Queries::default();
        deepnode_core::Module::queries(&staking::StakingModule, &mut queries);
        let bytes = deepnode_proto::Message::encode_to_vec(&request);
        let answer = queries.run("/cosmos.staking.v1beta1.Query/UnbondingDelegation", cx, &bytes).ok()?;
        let answer: QueryUnbondingDelegationResponse =
            deepnode_proto::Message::decode(answer.as_slice()).unwrap();
        let entry = answer.unbond?.entries.into_iter().choose(&mut self.rng)?;
        Some((entry.creation_height, (entry.balance.parse::<u128>().unwrap() / 2).max(1)))
    }

    /// Operators without validator create one; the others change their words or their commission.
    #[allow(deprecated)] // delegator_address
    fn validator(&mut self, state: &Snapshot) -> Option<Wish> {
        let key = self.world.operators.choose(&mut self.rng).unwrap().clone();
        let operator = key.address();
        let description = |moniker: String| Description { moniker, ..Description::default() };
        if staking::validator(state, &operator).unwrap().is_some() {
            let rate = Dec::ppm(self.rng.gen_range(100_000..110_000)).to_wire();
            return Some(Wish::new(
                &key,
                MsgEditValidator {
                    description: Some(description(format!("renamed-{}", self.rng.gen_range(0..99)))),
                    validator_address: operator.to_operator(),
                    commission_rate: if self.rng.gen_bool(0.3) { rate } else { String::new() },
                    min_self_delegation: String::new(),
                },
            ));
        }
        let consensus = ed25519::PubKey { key: consensus_key(&operator).to_vec() };
        let commission = CommissionRates {
            rate: Dec::percent(10).to_wire(),
            max_rate: Dec::percent(20).to_wire(),
            max_change_rate: Dec::percent(1).to_wire(),
        };
        Some(Wish::new(
            &key,
            MsgCreateValidator {
                description: Some(description("newcomer".into())),
                commission: Some(commission),
                min_self_delegation: "1".into(),
                delegator_address: String::new(),
                validator_address: operator.to_operator(),
                pubkey: Some(Any::pack(&consensus)),
                value: Some(udn(self.rng.gen_range(9_000..12_000) * DN)),
            },
        ))
    }

    fn proposal(&mut self, chain: &Chain) -> Option<Wish> {
        if chain.height == 0 {
            return None;
        }
        let key = self.anybody();
        let messages = match self.rng.gen_range(0..12) {
            0 => vec![],
            1 => vec![self.update(chain), self.update(chain)],
            // Executed only if all succeed: governance has no coins to send.
            2 => {
                let (from, to) = (deepnode_core::authority().to_string(), key.address().to_string());
                let send = MsgSend { from_address: from, to_address: to, amount: vec![udn(u128::MAX)] };
                vec![self.update(chain), Any::pack(&send)]
            }
            _ => vec![self.update(chain)],
        };
        Some(Wish::new(
            &key,
            v1::MsgSubmitProposal {
                messages,
                initial_deposit: vec![udn(if self.rng.gen_bool(0.8) { 10 * DN } else { DN })],
                proposer: key.address().to_string(),
                metadata: "m".into(),
                title: "A change".into(),
                summary: "Of parameters".into(),
                expedited: false,
            },
        ))
    }

    /// Some module's parameters, changed a little or not at all.
    fn update(&mut self, chain: &Chain) -> Any {
        let authority = deepnode_core::authority().to_string();
        match self.rng.gen_range(0..15) {
            0 => update!(chain, cosmos::auth::v1beta1, |p| p.max_memo_characters = 250),
            1 => update!(chain, cosmos::bank::v1beta1, |_| ()),
            2 => {
                use deepnode_proto::cosmos::consensus::v1::*;
                let answer: QueryParamsResponse = chain.ask("Params", &QueryParamsRequest {});
                let p = answer.params.unwrap();
                let mut block = p.block.unwrap();
                block.max_bytes += 1_000;
                Any::pack(&MsgUpdateParams {
                    authority,
                    block: Some(block),
                    evidence: p.evidence,
                    validator: p.validator,
                    abci: None,
                })
            }
            3 => update!(chain, cosmos::staking::v1beta1, |p| p.max_validators = 9 - p.max_validators),
            4 => {
                use v1::*;
                let answer: QueryParamsResponse = chain.ask("Params", &QueryParamsRequest::default());
                Any::pack(&MsgUpdateParams { authority, params: answer.params })
            }
            5 => update!(chain, deepnode::beacon::v1, |p| p.epoch_blocks = 11 - p.epoch_blocks),
            6 => update!(chain, deepnode::models::v1, |p| p.deposit = "50000000".into()),
            7 => update!(chain, deepnode::workers::v1, |p| p.min_bond = "120000000".into()),
            8 => update!(chain, deepnode::reputation::v1, |_| ()),
            9 => update!(chain, deepnode::tasks::v1, |p| p.window_blocks = 9 - p.window_blocks),
            10 => update!(chain, deepnode::audits::v1, |p| p.phase_blocks = 9 - p.phase_blocks),
            11 => update!(chain, deepnode::powr::v1, |p| p.target_cu += 1),
            12 => Any::pack(&MsgSetSendEnabled {
                authority,
                send_enabled: vec![SendEnabled { denom: "other".into(), enabled: self.rng.gen() }],
                use_default_for: Vec::new(),
            }),
            13 => {
                let model = crate::world::Manifest::new(self.rng.gen_range(0..3)).id().to_vec();
                Any::pack(&MsgSetScored { authority, model_id: model, scored: self.rng.gen_bool(0.8) })
            }
            // Nobody's: refused when it is submitted.
            _ => Any { type_url: "/deepnode.none.v1.MsgNone".into(), value: Vec::new() },
        }
    }

    /// For one proposal: deposits, votes of several, or its withdrawal.
    fn votes(&mut self, state: &Snapshot) -> Vec<Wish> {
        let ids: Vec<u64> = self.seen.proposals.iter().copied().collect();
        let Some(&id) = ids.choose(&mut self.rng) else { return Vec::new() };
        let Some(proposal) = gov::proposal(state, id).unwrap() else { return Vec::new() };
        if proposal.status == gov::Status::DepositPeriod {
            let key = self.anybody();
            let (depositor, amount) = (key.address().to_string(), vec![udn(self.rng.gen_range(1..9) * DN)]);
            return vec![match self.rng.gen_bool(0.7) {
                true => Wish::new(&key, v1::MsgDeposit { proposal_id: id, depositor, amount }),
                false => Wish::new(&key, v1beta1::MsgDeposit { proposal_id: id, depositor, amount }),
            }];
        }
        if self.rng.gen_bool(0.08) {
            let proposer = self.world.all().find(|key| key.address() == proposal.proposer).cloned();
            let cancel = |key: SigningKey| {
                let proposer = key.address().to_string();
                Wish::new(&key, v1::MsgCancelProposal { proposal_id: id, proposer })
            };
            return proposer.map(cancel).into_iter().collect();
        }
        let voters: Vec<SigningKey> = self.world.operators.iter().chain(&self.world.users).cloned().collect();
        let voters: Vec<SigningKey> = voters.into_iter().filter(|_| self.rng.gen_bool(0.5)).collect();
        voters.iter().map(|key| self.vote(id, key)).collect()
    }

    fn vote(&mut self, id: u64, key: &SigningKey) -> Wish {
        let voter = key.address().to_string();
        let option = *[1, 1, 1, 1, 1, 1, 1, 2, 3, 4, 9].choose(&mut self.rng).unwrap();
        match self.rng.gen_range(0..10) {
            0 => {
                let part =
                    |option, weight: Dec| v1::WeightedVoteOption { option, weight: weight.to_string() };
                let options = vec![part(1, Dec::percent(60)), part(2, Dec::percent(40))];
                Wish::new(
                    key,
                    v1::MsgVoteWeighted { proposal_id: id, voter, options, metadata: String::new() },
                )
            }
            1 => {
                let options = vec![v1beta1::WeightedVoteOption { option: 1, weight: Dec::ONE.to_wire() }];
                Wish::new(key, v1beta1::MsgVoteWeighted { proposal_id: id, voter, options })
            }
            2 => Wish::new(key, v1beta1::MsgVote { proposal_id: id, voter, option }),
            _ => Wish::new(key, v1::MsgVote { proposal_id: id, voter, option, metadata: String::new() }),
        }
    }
}
