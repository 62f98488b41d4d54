use deepnode_core::testing::TestState;
use deepnode_core::{
    authority, errors, Address, Coin, Ctx, Dec, Error, Event, Messages, Module, Queries, Result, Router, Time,
};
use deepnode_proto::cosmos::gov::v1::{self as proto, *};
use deepnode_proto::cosmos::staking::v1beta1 as staking_proto;
use deepnode_proto::{Any, AnyExt, Name};
use proptest::prelude::*;

use super::genesis::Genesis;
use super::{GovModule, Params};
use crate::bank;
use crate::staking::genesis::{Genesis as StakingGenesis, GenesisValidator};
use crate::staking::{self, StakingModule};

const DN: u128 = 1_000_000;
const HOUR: u64 = 3_600;

/// Routes to staking and gov, as the application does.
struct TestRouter(Messages);

impl TestRouter {
    fn new() -> Self {
        let mut messages = Messages::default();
        StakingModule.messages(&mut messages);
        GovModule.messages(&mut messages);
        assert!(messages.twice().is_empty());
        TestRouter(messages)
    }
}

impl Router for TestRouter {
    fn check(&self, signer: &Address, msg: &Any) -> Result<()> {
        self.0.get(&msg.type_url)?;
        let signers = deepnode_tx::signers::signers(msg).map_err(errors::tx_decode)?;
        if signers != [*signer] {
            return Err(errors::unauthorized(format!("{signers:?} instead of {signer}")));
        }
        Ok(())
    }
    fn run(&self, cx: &mut Ctx<'_>, signer: &Address, msg: &Any) -> Result<Any> {
        self.check(signer, msg)?;
        self.0.get(&msg.type_url)?.run(cx, &msg.value)
    }
}

fn user(n: u8) -> Address {
    Address([n; 20])
}

fn op(n: u8) -> Address {
    Address([100 + n; 20])
}

struct Chain {
    state: TestState,
    router: TestRouter,
    events: Vec<Event>,
}

impl Chain {
    /// Validators 1, 2, 3 with 100, 200 and 300 DN of their own; users 1 to 9 have 10^4 DN.
    fn new(change: fn(&mut Params)) -> Chain {
        let mut state = TestState::new();
        state.block.time = Time(1_700_000_000_000_000_000);
        let validator = |n: u8| GenesisValidator {
            moniker: format!("v{n}"),
            operator: op(n),
            consensus_pubkey: [n; 32],
            self_delegation: u128::from(n) * 100 * DN,
            commission_rate: Dec::percent(10),
        };
        let stakers =
            StakingGenesis { genesis_validators: (1..=3).map(validator).collect(), ..Default::default() };
        let mut genesis = Genesis { constitution: "Compute is proven.".into(), ..Default::default() };
        change(&mut genesis.params);
        state
            .run(|cx| {
                for n in 1..=9 {
                    bank::mint_udn(cx, &user(n), 10_000 * DN)?;
                    bank::mint_udn(cx, &op(n), 10_000 * DN)?;
                }
                StakingModule.init_genesis(cx, &serde_json::json!(stakers))?;
                GovModule.init_genesis(cx, &serde_json::json!(genesis))?;
                StakingModule.begin_block(cx)
            })
            .unwrap();
        Chain { state, router: TestRouter::new(), events: Vec::new() }
    }

    fn run<T>(&mut self, f: impl FnOnce(&mut Ctx<'_>) -> Result<T>) -> Result<T> {
        let result = self.state.run_routed(&self.router, f);
        self.events.extend(self.state.events.clone());
        result
    }

    fn send<R: prost::Message + Name + Default>(&mut self, m: &impl Name) -> Result<R> {
        let (any, messages) = (Any::pack(m), TestRouter::new().0);
        let answer = self.run(|cx| messages.get(&any.type_url)?.run(cx, &any.value))?;
        Ok(answer.unpack::<R>().unwrap())
    }

    fn refused<R: prost::Message + Name + Default>(&mut self, m: &impl Name) -> (u32, String) {
        match self.send::<R>(m).unwrap_err() {
            Error::Tx(e) => (e.code, e.log),
            Error::Fault(e) => panic!("{e}"),
        }
    }

    /// Ends this block; the next one is `seconds` later.
    fn next(&mut self, seconds: u64) {
        self.run(|cx| GovModule.end_block(cx)).unwrap();
        self.run(|cx| StakingModule.end_block(cx)).unwrap();
        self.run(|cx| GovModule.invariants(cx)).unwrap();
        self.state.block.height += 1;
        self.state.block.time = self.state.block.time.plus_secs(seconds);
        self.run(|cx| StakingModule.begin_block(cx)).unwrap();
    }

    fn query<R: prost::Message + Default>(
        &self,
        method: &str,
        q: &impl prost::Message,
    ) -> deepnode_core::QueryResult<R> {
        let mut queries = Queries::default();
        GovModule.queries(&mut queries);
        let path = match method.strip_prefix("old ") {
            Some(method) => format!("/cosmos.gov.v1beta1.Query/{method}"),
            None => format!("/cosmos.gov.v1.Query/{method}"),
        };
        self.state.query(|cx| queries.run(&path, cx, &q.encode_to_vec())).map(|b| R::decode(&*b).unwrap())
    }

    fn submit(&mut self, messages: Vec<Any>, deposit: u128) -> u64 {
        self.send::<MsgSubmitProposalResponse>(&proposal(messages, deposit)).unwrap().proposal_id
    }

    fn vote(&mut self, id: u64, voter: Address, option: VoteOption) {
        self.send::<MsgVoteResponse>(&ballot(id, voter, option)).unwrap();
    }

    fn status(&self, id: u64) -> ProposalStatus {
        self.proposal(id).status()
    }

    fn proposal(&self, id: u64) -> proto::Proposal {
        let found: QueryProposalResponse =
            self.query("Proposal", &QueryProposalRequest { proposal_id: id }).unwrap();
        found.proposal.unwrap()
    }

    fn counts(&self, id: u64) -> [u128; 4] {
        let r: QueryTallyResultResponse =
            self.query("TallyResult", &QueryTallyResultRequest { proposal_id: id }).unwrap();
        let t = r.tally.unwrap();
        [t.yes_count, t.abstain_count, t.no_count, t.no_with_veto_count].map(|c| c.parse::<u128>().unwrap())
    }

    fn balance(&mut self, a: Address) -> u128 {
        self.run(|cx| bank::balance_udn(cx, &a)).unwrap()
    }

    fn event(&self, kind: &str, key: &str) -> Option<String> {
        let event = self.events.iter().rev().find(|e| e.kind == kind)?;
        event.attributes.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone())
    }
}

fn udn(amount: u128) -> Vec<deepnode_proto::cosmos::base::v1beta1::Coin> {
    vec![Coin::udn(amount).to_proto()]
}

/// Proposed by user 1.
fn proposal(messages: Vec<Any>, deposit: u128) -> MsgSubmitProposal {
    MsgSubmitProposal {
        messages,
        initial_deposit: udn(deposit),
        proposer: user(1).to_string(),
        metadata: "ipfs://x".into(),
        title: "A title".into(),
        summary: "A summary".into(),
        expedited: false,
    }
}

fn ballot(id: u64, voter: Address, option: VoteOption) -> MsgVote {
    MsgVote { proposal_id: id, voter: voter.to_string(), option: option.into(), metadata: String::new() }
}

/// Governance sets the size of the bonded set.
fn resize(max_validators: u32) -> Any {
    Any::pack(&staking_proto::MsgUpdateParams {
        authority: authority().to_string(),
        params: Some(staking_proto::Params {
            unbonding_time: Some(deepnode_proto::Duration { seconds: 21 * 24 * 3_600, nanos: 0 }),
            max_validators,
            max_entries: 7,
            historical_entries: 0,
            bond_denom: "udn".into(),
            min_commission_rate: "0".into(),
        }),
    })
}

#[test]
fn a_proposal_passes_and_changes_a_parameter() {
    let mut chain = Chain::new(|_| {});
    let before = (chain.balance(user(1)), chain.balance(user(2)));
    let id = chain.submit(vec![resize(2)], 40 * DN);
    assert_eq!((id, chain.status(id)), (1, ProposalStatus::DepositPeriod));
    assert_eq!(
        chain.event("submit_proposal", "proposal_messages").unwrap(),
        "/cosmos.staking.v1beta1.MsgUpdateParams"
    );
    assert_eq!(chain.refused::<MsgVoteResponse>(&ballot(1, op(3), VoteOption::Yes)).0, 3, "no vote yet");
    let pay = |n, amount| MsgDeposit { proposal_id: 1, depositor: user(n).to_string(), amount: udn(amount) };
    assert_eq!(chain.refused::<MsgDepositResponse>(&pay(2, 999_999)).0, 16, "below 1%");
    let _: MsgDepositResponse = chain.send(&pay(2, 60 * DN)).unwrap();
    assert_eq!(chain.status(id), ProposalStatus::VotingPeriod);
    assert_eq!(chain.event("proposal_deposit", "voting_period_start").unwrap(), "1");
    assert_eq!(chain.balance(authority()), 100 * DN);

    chain.vote(id, op(3), VoteOption::Yes);
    assert_eq!(chain.counts(id), [300 * DN, 0, 0, 0], "while the vote goes on");
    chain.next(48 * HOUR - 1);
    chain.vote(id, op(1), VoteOption::No);
    chain.next(1);
    assert_eq!(chain.refused::<MsgVoteResponse>(&ballot(1, op(2), VoteOption::No)).0, 3, "too late");
    assert_eq!(chain.run(|cx| staking::params(cx)).unwrap().max_validators, 100);
    chain.next(5);

    assert_eq!(chain.status(id), ProposalStatus::Passed);
    assert_eq!(chain.counts(id), [300 * DN, 0, 100 * DN, 0]);
    assert_eq!(chain.event("active_proposal", "proposal_result").unwrap(), "proposal_passed");
    assert_eq!(chain.run(|cx| staking::params(cx)).unwrap().max_validators, 2);
    assert_eq!(chain.run(|cx| staking::bonded(cx)).unwrap().len(), 2, "staking's end comes after");
    assert_eq!((chain.balance(user(1)), chain.balance(user(2))), before);
    assert_eq!(chain.balance(authority()), 0);
    let votes: QueryVotesResponse =
        chain.query("Votes", &QueryVotesRequest { proposal_id: id, pagination: None }).unwrap();
    assert!(votes.votes.is_empty());
}

#[test]
fn delegators_override_their_validators() {
    let mut chain = Chain::new(|_| {});
    chain
        .run(|cx| {
            staking::delegate(cx, &user(4), &op(3), 100 * DN)?;
            staking::delegate(cx, &user(5), &op(3), 200 * DN)?;
            staking::delegate(cx, &user(4), &op(1), 50 * DN)?;
            // Shares of validator 2 become worth half a udn each.
            staking::set_power(cx, &op(2), 1)?;
            staking::slash(cx, &op(2), 3, Dec::percent(50)).map(drop)
        })
        .unwrap();
    let id = chain.submit(vec![], 100 * DN);
    chain.vote(id, op(3), VoteOption::Yes);
    chain.vote(id, user(4), VoteOption::No);
    let split = MsgVoteWeighted {
        proposal_id: id,
        voter: op(2).to_string(),
        options: [(VoteOption::Abstain, "0.25"), (VoteOption::NoWithVeto, "0.75")]
            .map(|(o, w)| WeightedVoteOption { option: o.into(), weight: w.into() })
            .into(),
        metadata: String::new(),
    };
    let _: MsgVoteWeightedResponse = chain.send(&split).unwrap();
    // A voter without stake changes nothing.
    chain.vote(id, user(9), VoteOption::NoWithVeto);
    // Validator 3: 300 of its own and 200 of user 5. User 4: 100 and 50. Validator 2: half of 200, split.
    assert_eq!(chain.counts(id), [500 * DN, 25 * DN, 150 * DN, 75 * DN]);
    chain.vote(id, user(5), VoteOption::Abstain);
    assert_eq!(chain.counts(id), [300 * DN, 225 * DN, 150 * DN, 75 * DN]);
    chain.vote(id, user(5), VoteOption::Yes);
    chain.next(49 * HOUR);
    chain.next(5);
    assert_eq!(chain.counts(id), [500 * DN, 25 * DN, 150 * DN, 75 * DN]);
    assert_eq!(chain.status(id), ProposalStatus::Passed);

    for broken in [
        vec![(VoteOption::Yes, "0.5")],
        vec![(VoteOption::Yes, "0.5"), (VoteOption::Yes, "0.5")],
        vec![(VoteOption::Yes, "0"), (VoteOption::No, "1")],
        vec![(VoteOption::Yes, "1"), (VoteOption::No, "1")],
        vec![(VoteOption::Unspecified, "1")],
    ] {
        let options =
            broken.into_iter().map(|(o, w)| WeightedVoteOption { option: o.into(), weight: w.into() });
        let vote = MsgVoteWeighted { options: options.collect(), ..split.clone() };
        assert_eq!(chain.refused::<MsgVoteWeightedResponse>(&vote).0, 7);
    }
}

#[test]
fn quorum_veto_and_threshold_decide() {
    use VoteOption::*;
    // Bonded: 600 DN, of validators 1, 2, 3 with 100, 200, 300.
    type Votes = &'static [(u8, VoteOption)];
    let table: [(Votes, ProposalStatus, bool); 8] = [
        (&[], ProposalStatus::Rejected, false),
        (&[(2, Yes)], ProposalStatus::Rejected, false), // a third is no quorum
        (&[(3, Yes)], ProposalStatus::Passed, false),
        (&[(3, Abstain)], ProposalStatus::Rejected, false),
        (&[(3, Yes), (2, No), (1, No)], ProposalStatus::Rejected, false), // half is not more than half
        (&[(3, Yes), (2, NoWithVeto)], ProposalStatus::Rejected, true),
        (&[(3, Yes), (2, NoWithVeto), (1, Yes)], ProposalStatus::Passed, false), // a third is not above 0.334
        (&[(3, Abstain), (2, Yes), (1, No)], ProposalStatus::Passed, false),
    ];
    for (votes, status, burned) in table {
        let mut chain = Chain::new(|_| {});
        let before = chain.balance(user(1));
        let id = chain.submit(vec![], 150 * DN);
        for (n, option) in votes {
            chain.vote(id, op(*n), *option);
        }
        chain.next(48 * HOUR);
        chain.next(5);
        assert_eq!(chain.status(id), status, "{votes:?}");
        let lost = before - chain.balance(user(1));
        assert_eq!(lost, if burned { 150 * DN } else { 0 }, "{votes:?}");
        assert_eq!(chain.balance(authority()), 0);
    }
}

#[test]
fn a_failing_message_undoes_all_of_them() {
    let mut chain = Chain::new(|_| {});
    let before = chain.balance(user(1));
    let id = chain.submit(vec![resize(2), resize(0)], 100 * DN);
    chain.vote(id, op(3), VoteOption::Yes);
    chain.next(48 * HOUR);
    chain.next(5);
    let failed = chain.proposal(id);
    assert_eq!(failed.status(), ProposalStatus::Failed);
    assert!(
        failed
            .failed_reason
            .starts_with("message 1 (/cosmos.staking.v1beta1.MsgUpdateParams): params.max_validators is 0"),
        "{}",
        failed.failed_reason
    );
    assert_eq!(chain.run(|cx| staking::params(cx)).unwrap().max_validators, 100);
    assert_eq!(chain.balance(user(1)), before);

    // Gas that nobody pays for is bounded too.
    let fat = MsgSubmitProposal {
        proposer: authority().to_string(),
        messages: vec![resize(2); 30_000],
        ..proposal(vec![], DN)
    };
    let id = chain.submit(vec![Any::pack(&fat)], 100 * DN);
    chain.vote(id, op(3), VoteOption::Yes);
    chain.next(48 * HOUR);
    chain.next(5);
    let failed = chain.proposal(id);
    assert_eq!(failed.status(), ProposalStatus::Failed);
    assert!(failed.failed_reason.contains("out of gas in location: WriteFlat"), "{}", failed.failed_reason);
}

#[test]
fn what_governance_cannot_sign_cannot_be_proposed() {
    let mut chain = Chain::new(|_| {});
    let mut refused = |m: MsgSubmitProposal| chain.refused::<MsgSubmitProposalResponse>(&m);
    let legacy = Any::pack(&MsgExecLegacyContent { content: None, authority: authority().to_string() });
    assert!(super::UNHANDLED.contains(&legacy.type_url.as_str()));
    assert_eq!(refused(proposal(vec![legacy], DN)).0, 10);
    let of_user = Any::pack(&ballot(1, user(2), VoteOption::Yes));
    assert_eq!(refused(proposal(vec![of_user], DN)).0, 13);
    let mut garbled = resize(2);
    garbled.value = vec![0xff];
    assert_eq!(refused(proposal(vec![garbled], DN)).0, 12);
    assert_eq!(refused(MsgSubmitProposal { metadata: String::new(), ..proposal(vec![], DN) }).0, 11);
    let (code, text) = refused(MsgSubmitProposal { expedited: true, ..proposal(vec![], DN) });
    assert_eq!((code, text.as_str()), (37, "expedited proposals: feature not supported"));
    assert_eq!(refused(MsgSubmitProposal { title: String::new(), ..proposal(vec![], DN) }).0, 18);
    assert_eq!(refused(MsgSubmitProposal { title: "x".repeat(256), ..proposal(vec![], DN) }).0, 15);
    assert_eq!(refused(MsgSubmitProposal { summary: "x".repeat(10_201), ..proposal(vec![], DN) }).0, 22);
    let mut foreign = proposal(vec![], DN);
    foreign.initial_deposit[0].denom = "atom".into();
    assert_eq!(refused(foreign).0, 23);
    assert_eq!(refused(proposal(vec![], DN / 2)).0, 16);
    assert_eq!(refused(MsgSubmitProposal { proposer: "dn1x".into(), ..proposal(vec![], DN) }).0, 7);
    let all: QueryProposalsResponse = chain.query("Proposals", &QueryProposalsRequest::default()).unwrap();
    assert!(all.proposals.is_empty());
}

#[test]
fn deposits_return_or_burn_when_they_do_not_suffice() {
    for (burn, lost) in [(false, 0), (true, 40 * DN)] {
        let mut chain =
            if burn { Chain::new(|p| p.burn_proposal_deposit_prevote = true) } else { Chain::new(|_| {}) };
        let before = chain.balance(user(1));
        let id = chain.submit(vec![], 40 * DN);
        chain.next(48 * HOUR);
        chain.next(5);
        assert_eq!(chain.event("inactive_proposal", "proposal_result").unwrap(), "proposal_dropped");
        let gone =
            chain.query::<QueryProposalResponse>("Proposal", &QueryProposalRequest { proposal_id: id });
        assert_eq!(gone.unwrap_err().code, deepnode_core::query::Code::NotFound);
        assert_eq!(before - chain.balance(user(1)), lost);
        assert_eq!(chain.balance(authority()), 0);
    }
}

#[test]
fn cancelling_costs_a_part_and_only_the_proposer_can() {
    let mut chain = Chain::new(|p| {
        p.proposal_cancel_dest = Some(user(9));
        p.proposal_cancel_ratio = Dec::percent(30);
    });
    let before = [1, 2, 9].map(|n| chain.balance(user(n)));
    let id = chain.submit(vec![], 60 * DN);
    let _: MsgDepositResponse = chain
        .send(&MsgDeposit { proposal_id: id, depositor: user(2).to_string(), amount: udn(40 * DN) })
        .unwrap();
    chain.vote(id, op(1), VoteOption::Yes);
    let cancel = |n: u8, id| MsgCancelProposal { proposal_id: id, proposer: user(n).to_string() };
    assert_eq!(chain.refused::<MsgCancelProposalResponse>(&cancel(2, id)).0, 18);
    let answer: MsgCancelProposalResponse = chain.send(&cancel(1, id)).unwrap();
    assert_eq!((answer.proposal_id, answer.canceled_height), (id, 1));
    assert_eq!(chain.refused::<MsgCancelProposalResponse>(&cancel(1, id)).0, 17);
    chain.next(5);
    let after = [1, 2, 9].map(|n| chain.balance(user(n)));
    assert_eq!([before[0] - after[0], before[1] - after[1]], [18 * DN, 12 * DN]);
    assert_eq!(after[2] - before[2], 30 * DN);
    let id = chain.submit(vec![], 100 * DN);
    chain.next(48 * HOUR);
    assert_eq!(chain.refused::<MsgCancelProposalResponse>(&cancel(1, id)).0, 20, "the vote is over");
    chain.next(5);
    assert_eq!(chain.refused::<MsgCancelProposalResponse>(&cancel(1, id)).0, 21);
}

#[test]
fn a_large_vote_is_counted_over_blocks_with_one_result() {
    let mut chain = Chain::new(|_| {});
    let voter = |n: u32| {
        let mut a = [7; 20];
        a[..4].copy_from_slice(&n.to_be_bytes());
        Address(a)
    };
    // 12,000 voters with 0.01 DN each at validator 1; a vote and its delegation are two pieces of work.
    chain
        .run(|cx| {
            for n in 0..12_000 {
                bank::mint_udn(cx, &voter(n), DN / 100)?;
                staking::delegate(cx, &voter(n), &op(1), DN / 100)?;
            }
            Ok(())
        })
        .unwrap();
    let id = chain.submit(vec![resize(2)], 100 * DN);
    let messages = TestRouter::new().0;
    chain
        .run(|cx| {
            for n in 0..12_000 {
                let vote = Any::pack(&ballot(id, voter(n), VoteOption::No));
                messages.get(&vote.type_url)?.run(cx, &vote.value)?;
            }
            Ok(())
        })
        .unwrap();
    chain.vote(id, op(3), VoteOption::Yes);
    chain.vote(id, op(1), VoteOption::Yes);
    let too_large =
        chain.query::<QueryTallyResultResponse>("TallyResult", &QueryTallyResultRequest { proposal_id: id });
    assert_eq!(too_large.unwrap_err().code, deepnode_core::query::Code::FailedPrecondition);
    chain.next(48 * HOUR);
    chain.next(5);
    assert_eq!(chain.status(id), ProposalStatus::VotingPeriod, "still counting");
    assert!(chain.run(|cx| GovModule.export_genesis(cx)).is_err());
    // Stake that moves meanwhile is counted where it was, once.
    chain.run(|cx| staking::redelegate(cx, &voter(0), &op(1), &op(3), DN / 100)).unwrap();
    let mut blocks = 1;
    while chain.status(id) == ProposalStatus::VotingPeriod {
        chain.next(5);
        blocks += 1;
    }
    assert_eq!(blocks, 3);
    assert_eq!(chain.counts(id), [400 * DN, 0, 120 * DN, 0]);
    assert_eq!(chain.status(id), ProposalStatus::Passed);
    chain.next(5);
    assert_eq!(chain.balance(authority()), 0);
}

#[test]
fn parameters_are_checked_and_set_by_governance_alone() {
    let mut chain = Chain::new(|_| {});
    let found: QueryParamsResponse =
        chain.query("Params", &QueryParamsRequest { params_type: "voting".into() }).unwrap();
    let params = found.params.unwrap();
    assert_eq!(params.quorum, "0.334000000000000000");
    #[allow(deprecated)]
    let old = found.voting_params.unwrap();
    assert_eq!(old.voting_period, params.voting_period);
    let mut message = MsgUpdateParams { authority: user(1).to_string(), params: Some(params) };
    assert_eq!(chain.refused::<MsgUpdateParamsResponse>(&message).0, 4);
    message.authority = authority().to_string();
    for (break_it, why) in [
        ((|p| p.quorum = "1.1".into()) as fn(&mut proto::Params), "params.quorum is 1.1"),
        (|p| p.threshold = "0".into(), "params.threshold is 0.0"),
        (|p| p.expedited_threshold = "0.5".into(), "params.expedited_threshold is 0.5"),
        (|p| p.voting_period = None, "params.voting_period is 0s, allowed are 1s to"),
        (|p| p.expedited_voting_period = p.voting_period, "params.expedited_voting_period is 172800s"),
        (|p| p.min_deposit.clear(), "params.min_deposit must not be empty"),
        (|p| p.expedited_min_deposit = udn(1), "params.expedited_min_deposit 1udn must exceed"),
        (|p| p.proposal_cancel_dest = "x".into(), "params.proposal_cancel_dest"),
    ] {
        let mut broken = message.clone();
        break_it(broken.params.as_mut().unwrap());
        let (_, text) = chain.refused::<MsgUpdateParamsResponse>(&broken);
        assert!(text.starts_with(why), "{text}");
    }
    message.params.as_mut().unwrap().voting_period.as_mut().unwrap().seconds = 100_000;
    let _: MsgUpdateParamsResponse = chain.send(&message).unwrap();
    let id = chain.submit(vec![], 100 * DN);
    let p = chain.proposal(id);
    let (start, end) = (p.voting_start_time.unwrap(), p.voting_end_time.unwrap());
    assert_eq!(end.seconds - start.seconds, 100_000);
}

#[test]
fn export_and_import_keep_everything() {
    let mut chain = Chain::new(|_| {});
    let open = chain.submit(vec![resize(3)], 100 * DN);
    chain.submit(vec![], 40 * DN);
    chain.vote(open, op(3), VoteOption::NoWithVeto);
    chain.next(5);
    let exported = chain.run(|cx| GovModule.export_genesis(cx)).unwrap();
    assert_eq!(exported["votes"][0]["options"][0]["option"], "VOTE_OPTION_NO_WITH_VETO");
    assert_eq!(exported["starting_proposal_id"], "3");
    let import = |deposits: u128| {
        TestState::new().run(|cx| {
            bank::mint_udn(cx, &authority(), deposits)?;
            GovModule.init_genesis(cx, &exported)?;
            GovModule.export_genesis(cx)
        })
    };
    assert_eq!(import(140 * DN).unwrap(), exported);
    let error = import(139 * DN).unwrap_err().to_string();
    assert!(error.contains("gov: the account holds 139000000 of deposits 140000000udn"), "{error}");
    let constitution: QueryConstitutionResponse =
        chain.query("Constitution", &QueryConstitutionRequest {}).unwrap();
    assert_eq!(constitution.constitution, "Compute is proven.");
    let of_voter: QueryProposalsResponse = chain
        .query("Proposals", &QueryProposalsRequest { voter: op(3).to_string(), ..Default::default() })
        .unwrap();
    assert_eq!(of_voter.proposals.iter().map(|p| p.id).collect::<Vec<_>>(), [open]);
    let waiting: QueryProposalsResponse = chain
        .query(
            "Proposals",
            &QueryProposalsRequest {
                proposal_status: ProposalStatus::DepositPeriod.into(),
                ..Default::default()
            },
        )
        .unwrap();
    assert_eq!(waiting.proposals.iter().map(|p| p.id).collect::<Vec<_>>(), [2]);
}

#[test]
fn older_wallets_vote_and_read() {
    use deepnode_proto::cosmos::gov::v1beta1 as old;
    let mut chain = Chain::new(|_| {});
    let id = chain.submit(vec![resize(2)], 60 * DN);
    let _: old::MsgDepositResponse = chain
        .send(&old::MsgDeposit { proposal_id: id, depositor: user(2).to_string(), amount: udn(40 * DN) })
        .unwrap();
    let no = old::MsgVote { proposal_id: id, voter: op(1).to_string(), option: old::VoteOption::No.into() };
    let _: old::MsgVoteResponse = chain.send(&no).unwrap();
    let option = |option: old::VoteOption, percent| old::WeightedVoteOption {
        option: option.into(),
        weight: Dec::percent(percent).to_wire(),
    };
    let split = old::MsgVoteWeighted {
        proposal_id: id,
        voter: op(3).to_string(),
        options: vec![option(old::VoteOption::Yes, 90), option(old::VoteOption::Abstain, 10)],
    };
    let _: old::MsgVoteWeightedResponse = chain.send(&split).unwrap();
    let shown: old::QueryProposalResponse =
        chain.query("old Proposal", &old::QueryProposalRequest { proposal_id: id }).unwrap();
    let content = shown.proposal.unwrap().content.unwrap().unpack::<old::TextProposal>().unwrap();
    assert_eq!((content.title.as_str(), content.description.as_str()), ("A title", "A summary"));
    let votes: old::QueryVotesResponse =
        chain.query("old Votes", &old::QueryVotesRequest { proposal_id: id, pagination: None }).unwrap();
    assert_eq!(votes.votes[1].options, split.options);
    #[allow(deprecated)]
    let options: Vec<i32> = votes.votes.iter().map(|v| v.option).collect();
    assert_eq!(options, [3, 0]);
    let tally: old::QueryTallyResultResponse =
        chain.query("old TallyResult", &old::QueryTallyResultRequest { proposal_id: id }).unwrap();
    let tally = tally.tally.unwrap();
    assert_eq!((tally.yes.as_str(), tally.abstain.as_str()), ("270000000", "30000000"));
    let params: old::QueryParamsResponse =
        chain.query("old Params", &old::QueryParamsRequest { params_type: "tallying".into() }).unwrap();
    assert_eq!(params.tally_params.unwrap().quorum, b"334000000000000000");
}

#[test]
fn a_vote_leaves_room_in_the_usual_gas_limit() {
    let mut chain = Chain::new(|_| {});
    let id = chain.submit(vec![resize(2)], 100 * DN);
    let (vote, messages) = (Any::pack(&ballot(id, op(1), VoteOption::Yes)), TestRouter::new().0);
    let used = chain.run(|cx| {
        messages.get(&vote.type_url)?.run(cx, &vote.value)?;
        Ok(cx.gas().used())
    });
    // Of 100,000; the ante takes the rest.
    assert!(matches!(used, Ok(1..=20_000)), "{used:?}");
}

#[derive(Clone, Debug)]
enum Op {
    Submit(u8, u128),
    Deposit(u8, u64, u128),
    Vote(u8, u64, usize, u64),
    Cancel(u8, u64),
    Delegate(u8, u8, u128),
    Undelegate(u8, u8, u128),
    Next(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let (u, id) = (1u8..6, 1u64..5);
    let deposit = prop_oneof![Just(DN), Just(60 * DN), Just(100 * DN)];
    let stake = 1u128..200_000_000;
    let op = prop_oneof![
        2 => (u.clone(), deposit.clone()).prop_map(|(u, a)| Op::Submit(u, a)),
        2 => (u.clone(), id.clone(), deposit).prop_map(|(u, id, a)| Op::Deposit(u, id, a)),
        5 => (0u8..9, id.clone(), 0usize..4, 1u64..=100).prop_map(|(u, id, c, w)| Op::Vote(u, id, c, w)),
        1 => (u.clone(), id).prop_map(|(u, id)| Op::Cancel(u, id)),
        2 => (u.clone(), 1u8..4, stake.clone()).prop_map(|(u, v, a)| Op::Delegate(u, v, a)),
        1 => (u, 1u8..4, stake).prop_map(|(u, v, a)| Op::Undelegate(u, v, a)),
        3 => prop_oneof![Just(5), Just(20 * HOUR), Just(49 * HOUR)].prop_map(Op::Next),
    ];
    proptest::collection::vec(op, 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever happens: the account holds the deposits of what is open and nothing else, and no vote counts for
    /// more than all stake.
    #[test]
    fn deposits_and_votes_add_up(ops in ops()) {
        use super::state::{DEPOSITS, VOTES};
        let mut chain = Chain::new(|_| {});
        for step in ops {
            let result = match step.clone() {
                Op::Submit(u, a) => {
                    let m = MsgSubmitProposal { proposer: user(u).to_string(), ..proposal(vec![resize(2)], a) };
                    chain.send::<MsgSubmitProposalResponse>(&m).map(drop)
                }
                Op::Deposit(u, proposal_id, a) => {
                    let m = MsgDeposit { proposal_id, depositor: user(u).to_string(), amount: udn(a) };
                    chain.send::<MsgDepositResponse>(&m).map(drop)
                }
                Op::Vote(u, proposal_id, choice, weight) => {
                    let voter = if u < 6 { user(u) } else { op(u - 5) };
                    let mut options = vec![(choice, Dec::percent(weight))];
                    if weight < 100 {
                        options.push(((choice + 1) % 4, Dec::percent(100 - weight)));
                    }
                    let option = |(c, w): (usize, Dec)| WeightedVoteOption {
                        option: i32::try_from(c).unwrap() + 1,
                        weight: w.to_string(),
                    };
                    let options = options.into_iter().map(option).collect();
                    let m = MsgVoteWeighted { proposal_id, voter: voter.to_string(), options, metadata: String::new() };
                    chain.send::<MsgVoteWeightedResponse>(&m).map(drop)
                }
                Op::Cancel(u, proposal_id) => {
                    let m = MsgCancelProposal { proposal_id, proposer: user(u).to_string() };
                    chain.send::<MsgCancelProposalResponse>(&m).map(drop)
                }
                Op::Delegate(u, v, a) => chain.run(|cx| staking::delegate(cx, &user(u), &op(v), a).map(drop)),
                Op::Undelegate(u, v, a) => chain.run(|cx| staking::undelegate(cx, &user(u), &op(v), a).map(drop)),
                Op::Next(seconds) => {
                    chain.next(seconds);
                    Ok(())
                }
            };
            if let Err(Error::Fault(e)) = result {
                prop_assert!(false, "{:?}: {}", step, e);
            }
            chain.run(|cx| GovModule.invariants(cx)).unwrap();
            let deposits = chain.run(|cx| DEPOSITS.iter(cx, deepnode_core::Walk::FORWARD)
                .try_fold(0, |sum, d| Ok(sum + d?.1.amount_of("udn")))).unwrap();
            prop_assert_eq!(chain.balance(authority()), deposits);
            let bonded = chain.run(|cx| staking::bonded_tokens(cx)).unwrap();
            let all: QueryProposalsResponse = chain.query("Proposals", &QueryProposalsRequest::default()).unwrap();
            for p in &all.proposals {
                let sum: u128 = chain.counts(p.id).iter().sum();
                prop_assert!(p.status() != ProposalStatus::VotingPeriod || sum <= bonded, "{} of {}", sum, bonded);
            }
        }
        // When all time is up, nothing is left.
        for _ in 0..3 {
            chain.next(60 * HOUR);
        }
        prop_assert_eq!(chain.balance(authority()), 0);
        let votes = chain.run(|cx| Ok(VOTES.iter(cx, deepnode_core::Walk::FORWARD).count())).unwrap();
        prop_assert_eq!(votes, 0);
    }
}
