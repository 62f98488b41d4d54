//! Queries of cosmos.staking.v1beta1.

use deepnode_core::query::paginate;
use deepnode_core::{
    Address, Coin, Dec, KvRead, Queries, QueryCtx, QueryResult, Result, Status as Refusal, UDN,
};
use deepnode_proto::cosmos::crypto::ed25519;
use deepnode_proto::cosmos::staking::v1beta1::{self as proto, *};
use deepnode_proto::{Any, AnyExt};

use super::state::{RedelegationEntry, Status, Validator, *};
use super::validators::{self, known};
use super::{delegations, params};
use crate::bank;

pub(super) fn register(queries: &mut Queries) {
    queries
        .on("/cosmos.staking.v1beta1.Query/Validators", validators_of_status)
        .on("/cosmos.staking.v1beta1.Query/Validator", validator)
        .on("/cosmos.staking.v1beta1.Query/ValidatorDelegations", validator_delegations)
        .on("/cosmos.staking.v1beta1.Query/ValidatorUnbondingDelegations", validator_unbondings)
        .on("/cosmos.staking.v1beta1.Query/Delegation", delegation)
        .on("/cosmos.staking.v1beta1.Query/UnbondingDelegation", unbonding)
        .on("/cosmos.staking.v1beta1.Query/DelegatorDelegations", delegator_delegations)
        .on("/cosmos.staking.v1beta1.Query/DelegatorUnbondingDelegations", delegator_unbondings)
        .on("/cosmos.staking.v1beta1.Query/Redelegations", redelegations)
        .on("/cosmos.staking.v1beta1.Query/DelegatorValidators", delegator_validators)
        .on("/cosmos.staking.v1beta1.Query/DelegatorValidator", delegator_validator)
        .on("/cosmos.staking.v1beta1.Query/HistoricalInfo", historical_info)
        .on("/cosmos.staking.v1beta1.Query/Pool", pool)
        .on("/cosmos.staking.v1beta1.Query/Params", parameters);
}

fn validators_of_status(cx: QueryCtx<'_>, q: QueryValidatorsRequest) -> QueryResult<QueryValidatorsResponse> {
    let wanted = match q.status.as_str() {
        "" | "BOND_STATUS_UNSPECIFIED" => None,
        "BOND_STATUS_UNBONDED" => Some(Status::Unbonded),
        "BOND_STATUS_UNBONDING" => Some(Status::Unbonding),
        "BOND_STATUS_BONDED" => Some(Status::Bonded),
        other => {
            let shown: String = other.chars().take(40).collect();
            return Err(Refusal::invalid(format!("invalid validator status {shown}")));
        }
    };
    let (page, pagination) = paginate(
        q.pagination,
        |k| VALIDATORS.raw_key(k),
        |walk| {
            VALIDATORS.iter(cx.state, walk).filter(move |entry| match (entry, wanted) {
                (Ok((_, v)), Some(status)) => v.status == status,
                _ => true,
            })
        },
    )?;
    let validators =
        page.iter().map(|(operator, v)| to_proto(cx.state, operator, v)).collect::<Result<_>>()?;
    Ok(QueryValidatorsResponse { validators, pagination: Some(pagination) })
}

fn validator(cx: QueryCtx<'_>, q: QueryValidatorRequest) -> QueryResult<QueryValidatorResponse> {
    let operator = operator(&q.validator_addr)?;
    let v = validators::validator(cx.state, &operator)?
        .ok_or_else(|| Refusal::not_found(format!("validator {} not found", q.validator_addr)))?;
    Ok(QueryValidatorResponse { validator: Some(to_proto(cx.state, &operator, &v)?) })
}

fn validator_delegations(
    cx: QueryCtx<'_>,
    q: QueryValidatorDelegationsRequest,
) -> QueryResult<QueryValidatorDelegationsResponse> {
    let operator = operator(&q.validator_addr)?;
    let (page, pagination) = paginate(
        q.pagination,
        |k| DELEGATORS.raw_key(k),
        |walk| DELEGATORS.iter_from(cx.state, &operator, walk).map(|k| Ok((k?, ()))),
    )?;
    let delegation_responses = page
        .iter()
        .map(|((operator, delegator), ())| {
            let shares = delegations::delegation(cx.state, delegator, operator)?.unwrap_or_default();
            delegation_response(cx.state, delegator, operator, shares)
        })
        .collect::<Result<_>>()?;
    Ok(QueryValidatorDelegationsResponse { delegation_responses, pagination: Some(pagination) })
}

fn validator_unbondings(
    cx: QueryCtx<'_>,
    q: QueryValidatorUnbondingDelegationsRequest,
) -> QueryResult<QueryValidatorUnbondingDelegationsResponse> {
    let operator = operator(&q.validator_addr)?;
    let (page, pagination) = paginate(
        q.pagination,
        |k| UNBONDING_DELEGATORS.raw_key(k),
        |walk| UNBONDING_DELEGATORS.iter_from(cx.state, &operator, walk).map(|k| Ok((k?, ()))),
    )?;
    let unbonding_responses = page
        .iter()
        .map(|((operator, delegator), ())| {
            let entries = UNBONDINGS.get(cx.state, &(*delegator, *operator))?.unwrap_or_default();
            Ok(unbonding_to_proto(delegator, operator, &entries))
        })
        .collect::<Result<_>>()?;
    Ok(QueryValidatorUnbondingDelegationsResponse { unbonding_responses, pagination: Some(pagination) })
}

fn delegation(cx: QueryCtx<'_>, q: QueryDelegationRequest) -> QueryResult<QueryDelegationResponse> {
    let (delegator, operator) = (account(&q.delegator_addr)?, operator(&q.validator_addr)?);
    let shares = delegations::delegation(cx.state, &delegator, &operator)?.ok_or_else(|| {
        Refusal::not_found(format!(
            "delegation with delegator {delegator} not found for validator {}",
            q.validator_addr
        ))
    })?;
    let response = delegation_response(cx.state, &delegator, &operator, shares)?;
    Ok(QueryDelegationResponse { delegation_response: Some(response) })
}

fn unbonding(
    cx: QueryCtx<'_>,
    q: QueryUnbondingDelegationRequest,
) -> QueryResult<QueryUnbondingDelegationResponse> {
    let (delegator, operator) = (account(&q.delegator_addr)?, operator(&q.validator_addr)?);
    let entries = UNBONDINGS.get(cx.state, &(delegator, operator))?.ok_or_else(|| {
        Refusal::not_found(format!(
            "unbonding delegation with delegator {delegator} not found for validator {}",
            q.validator_addr
        ))
    })?;
    let unbond = unbonding_to_proto(&delegator, &operator, &entries);
    Ok(QueryUnbondingDelegationResponse { unbond: Some(unbond) })
}

fn delegator_delegations(
    cx: QueryCtx<'_>,
    q: QueryDelegatorDelegationsRequest,
) -> QueryResult<QueryDelegatorDelegationsResponse> {
    let delegator = account(&q.delegator_addr)?;
    let (page, pagination) = paginate(
        q.pagination,
        |k| DELEGATIONS.raw_key(k),
        |walk| DELEGATIONS.iter_from(cx.state, &delegator, walk),
    )?;
    let delegation_responses = page
        .iter()
        .map(|((delegator, operator), shares)| delegation_response(cx.state, delegator, operator, *shares))
        .collect::<Result<_>>()?;
    Ok(QueryDelegatorDelegationsResponse { delegation_responses, pagination: Some(pagination) })
}

fn delegator_unbondings(
    cx: QueryCtx<'_>,
    q: QueryDelegatorUnbondingDelegationsRequest,
) -> QueryResult<QueryDelegatorUnbondingDelegationsResponse> {
    let delegator = account(&q.delegator_addr)?;
    let (page, pagination) = paginate(
        q.pagination,
        |k| UNBONDINGS.raw_key(k),
        |walk| UNBONDINGS.iter_from(cx.state, &delegator, walk),
    )?;
    let unbonding_responses = page
        .iter()
        .map(|((delegator, operator), entries)| unbonding_to_proto(delegator, operator, entries))
        .collect();
    Ok(QueryDelegatorUnbondingDelegationsResponse { unbonding_responses, pagination: Some(pagination) })
}

/// Of a delegator (between two validators, if both are named), or else of all who left `src_validator_addr`.
fn redelegations(cx: QueryCtx<'_>, q: QueryRedelegationsRequest) -> QueryResult<QueryRedelegationsResponse> {
    let named = |text: &str| (!text.is_empty()).then(|| operator(text)).transpose();
    let (from, to) = (named(&q.src_validator_addr)?, named(&q.dst_validator_addr)?);
    let delegator = (!q.delegator_addr.is_empty()).then(|| account(&q.delegator_addr)).transpose()?;
    let (triples, pagination) = match (delegator, from, to) {
        (Some(delegator), Some(from), Some(to)) => {
            let triple = (delegator, from, to);
            if !REDELEGATIONS.has(cx.state, &triple)? {
                return Err(Refusal::not_found(format!(
                    "redelegation not found for delegator address {delegator} from validator address {}",
                    q.src_validator_addr
                )));
            }
            (vec![triple], None)
        }
        (Some(delegator), from, to) => {
            let (page, pagination) = paginate(
                q.pagination,
                |k| REDELEGATIONS.raw_key(k),
                |walk| {
                    REDELEGATIONS.iter_from(cx.state, &delegator, walk).filter(move |entry| match entry {
                        Ok(((_, f, t), _)) => from.is_none_or(|x| x == *f) && to.is_none_or(|x| x == *t),
                        Err(_) => true,
                    })
                },
            )?;
            (page.into_iter().map(|(k, _)| k).collect(), Some(pagination))
        }
        (None, Some(from), to) => {
            let (page, pagination) = paginate(
                q.pagination,
                |k| REDELEGATIONS_FROM.raw_key(k),
                |walk| {
                    REDELEGATIONS_FROM
                        .iter_from(cx.state, &from, walk)
                        .filter(move |entry| match entry {
                            Ok((_, _, t)) => to.is_none_or(|x| x == *t),
                            Err(_) => true,
                        })
                        .map(|k| Ok((k?, ())))
                },
            )?;
            (page.into_iter().map(|((f, d, t), ())| (d, f, t)).collect(), Some(pagination))
        }
        (None, None, _) => {
            return Err(Refusal::invalid("delegator_addr or src_validator_addr must be given"));
        }
    };
    let redelegation_responses = triples
        .iter()
        .map(|triple| {
            let entries = REDELEGATIONS.get(cx.state, triple)?.unwrap_or_default();
            redelegation_response(cx.state, triple, &entries)
        })
        .collect::<Result<_>>()?;
    Ok(QueryRedelegationsResponse { redelegation_responses, pagination })
}

fn delegator_validators(
    cx: QueryCtx<'_>,
    q: QueryDelegatorValidatorsRequest,
) -> QueryResult<QueryDelegatorValidatorsResponse> {
    let delegator = account(&q.delegator_addr)?;
    let (page, pagination) = paginate(
        q.pagination,
        |k| DELEGATIONS.raw_key(k),
        |walk| DELEGATIONS.iter_from(cx.state, &delegator, walk),
    )?;
    let validators = page
        .iter()
        .map(|((_, operator), _)| to_proto(cx.state, operator, &known(cx.state, operator)?))
        .collect::<Result<_>>()?;
    Ok(QueryDelegatorValidatorsResponse { validators, pagination: Some(pagination) })
}

fn delegator_validator(
    cx: QueryCtx<'_>,
    q: QueryDelegatorValidatorRequest,
) -> QueryResult<QueryDelegatorValidatorResponse> {
    let (delegator, operator) = (account(&q.delegator_addr)?, operator(&q.validator_addr)?);
    if delegations::delegation(cx.state, &delegator, &operator)?.is_none() {
        return Err(Refusal::not_found(format!(
            "delegation with delegator {delegator} not found for validator {}",
            q.validator_addr
        )));
    }
    let validator = to_proto(cx.state, &operator, &known(cx.state, &operator)?)?;
    Ok(QueryDelegatorValidatorResponse { validator: Some(validator) })
}

/// Parameters allow no historical entries, so there are none.
fn historical_info(
    _: QueryCtx<'_>,
    q: QueryHistoricalInfoRequest,
) -> QueryResult<QueryHistoricalInfoResponse> {
    Err(Refusal::not_found(format!("historical info for height {} not found", q.height)))
}

fn pool(cx: QueryCtx<'_>, _: QueryPoolRequest) -> QueryResult<QueryPoolResponse> {
    let of = |name| bank::balance_udn(cx.state, &Address::module(name));
    Ok(QueryPoolResponse {
        pool: Some(Pool {
            not_bonded_tokens: of(NOT_BONDED_POOL)?.to_string(),
            bonded_tokens: of(BONDED_POOL)?.to_string(),
        }),
    })
}

fn parameters(cx: QueryCtx<'_>, _: QueryParamsRequest) -> QueryResult<QueryParamsResponse> {
    Ok(QueryParamsResponse { params: Some(params(cx.state)?.to_proto()) })
}

fn account(text: &str) -> QueryResult<Address> {
    Address::parse(text).map_err(|e| Refusal::invalid(format!("delegator_addr: {e}")))
}

fn operator(text: &str) -> QueryResult<Address> {
    Address::parse_operator(text).map_err(|e| Refusal::invalid(format!("validator address: {e}")))
}

/// A validator as clients read it.
pub fn to_proto(kv: &(impl KvRead + ?Sized), operator: &Address, v: &Validator) -> Result<proto::Validator> {
    let d = validators::description(kv, operator)?;
    let status = match v.status {
        Status::Unbonded => BondStatus::Unbonded,
        Status::Unbonding => BondStatus::Unbonding,
        Status::Bonded => BondStatus::Bonded,
    };
    Ok(proto::Validator {
        operator_address: operator.to_operator(),
        consensus_pubkey: Some(Any::pack(&ed25519::PubKey { key: v.consensus_key.to_vec() })),
        jailed: v.jailed,
        status: status.into(),
        tokens: v.tokens.to_string(),
        delegator_shares: v.shares.to_wire(),
        description: Some(proto::Description {
            moniker: d.moniker,
            identity: d.identity,
            website: d.website,
            security_contact: d.security_contact,
            details: d.details,
        }),
        unbonding_height: height(v.unbonding_height),
        unbonding_time: Some(v.unbonding_time.to_proto()),
        commission: Some(proto::Commission {
            commission_rates: Some(CommissionRates {
                rate: v.commission.rate.to_wire(),
                max_rate: v.commission.max_rate.to_wire(),
                max_change_rate: v.commission.max_change_rate.to_wire(),
            }),
            update_time: Some(v.commission.updated.to_proto()),
        }),
        min_self_delegation: v.min_self_delegation.to_string(),
        ..proto::Validator::default()
    })
}

fn delegation_response(
    kv: &(impl KvRead + ?Sized),
    delegator: &Address,
    operator: &Address,
    shares: Dec,
) -> Result<DelegationResponse> {
    let tokens = known(kv, operator)?.tokens_from_shares(shares)?;
    Ok(DelegationResponse {
        delegation: Some(Delegation {
            delegator_address: delegator.to_string(),
            validator_address: operator.to_operator(),
            shares: shares.to_wire(),
        }),
        balance: Some(Coin::new(tokens, UDN).to_proto()),
    })
}

fn unbonding_to_proto(
    delegator: &Address,
    operator: &Address,
    entries: &[UnbondingEntry],
) -> UnbondingDelegation {
    let entries = entries.iter().map(|e| UnbondingDelegationEntry {
        creation_height: height(e.height),
        completion_time: Some(e.completion.to_proto()),
        initial_balance: e.initial.to_string(),
        balance: e.balance.to_string(),
        ..UnbondingDelegationEntry::default()
    });
    UnbondingDelegation {
        delegator_address: delegator.to_string(),
        validator_address: operator.to_operator(),
        entries: entries.collect(),
    }
}

fn redelegation_response(
    kv: &(impl KvRead + ?Sized),
    (delegator, from, to): &(Address, Address, Address),
    entries: &[RedelegationEntry],
) -> Result<RedelegationResponse> {
    let target = validators::validator(kv, to)?;
    let entries = entries
        .iter()
        .map(|e| {
            let balance = target.as_ref().map_or(Ok(0), |v| v.tokens_from_shares(e.shares))?;
            let entry = proto::RedelegationEntry {
                creation_height: height(e.height),
                completion_time: Some(e.completion.to_proto()),
                initial_balance: e.initial.to_string(),
                shares_dst: e.shares.to_wire(),
                ..proto::RedelegationEntry::default()
            };
            Ok(RedelegationEntryResponse { redelegation_entry: Some(entry), balance: balance.to_string() })
        })
        .collect::<Result<_>>()?;
    Ok(RedelegationResponse {
        redelegation: Some(Redelegation {
            delegator_address: delegator.to_string(),
            validator_src_address: from.to_operator(),
            validator_dst_address: to.to_operator(),
            entries: Vec::new(),
        }),
        entries,
    })
}

/// A height as protobuf has it.
fn height(height: u64) -> i64 {
    i64::try_from(height).unwrap_or(i64::MAX)
}
