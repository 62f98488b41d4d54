//! Queries: cosmos.bank.v1beta1.

use deepnode_core::coin::check_denom;
use deepnode_core::query::paginate;
use deepnode_core::{Address, Coin, Queries, QueryCtx, QueryResult, Status};
use deepnode_proto::cosmos::bank::v1beta1::*;
use deepnode_proto::cosmos::base::query::v1beta1::{PageRequest, PageResponse};
use deepnode_proto::cosmos::base::v1beta1::Coin as ProtoCoin;

use super::state::{BALANCES, METADATA, OWNERS, SEND_ENABLED, SUPPLY};

pub fn register(queries: &mut Queries) {
    queries
        .on("/cosmos.bank.v1beta1.Query/Balance", balance)
        .on("/cosmos.bank.v1beta1.Query/AllBalances", all_balances)
        .on("/cosmos.bank.v1beta1.Query/SpendableBalances", spendable_balances)
        .on("/cosmos.bank.v1beta1.Query/SpendableBalanceByDenom", spendable_balance_by_denom)
        .on("/cosmos.bank.v1beta1.Query/TotalSupply", total_supply)
        .on("/cosmos.bank.v1beta1.Query/SupplyOf", supply_of)
        .on("/cosmos.bank.v1beta1.Query/Params", params)
        .on("/cosmos.bank.v1beta1.Query/DenomMetadata", denom_metadata)
        .on("/cosmos.bank.v1beta1.Query/DenomMetadataByQueryString", denom_metadata_by_query_string)
        .on("/cosmos.bank.v1beta1.Query/DenomsMetadata", denoms_metadata)
        .on("/cosmos.bank.v1beta1.Query/DenomOwners", denom_owners)
        .on("/cosmos.bank.v1beta1.Query/DenomOwnersByQuery", denom_owners_by_query)
        .on("/cosmos.bank.v1beta1.Query/SendEnabled", send_enabled);
}

/// Entries of `denoms` that one SendEnabled request may name.
const MAX_DENOMS: usize = 100;

fn address(text: &str) -> QueryResult<Address> {
    Address::parse(text).map_err(|e| Status::invalid(format!("invalid address: {e}")))
}

fn denom(denom: &str) -> QueryResult<&str> {
    if denom.is_empty() {
        return Err(Status::invalid("empty denom"));
    }
    check_denom("denom", denom).map_err(|_| Status::invalid(format!("invalid denom: {:.40}", denom)))?;
    Ok(denom)
}

fn coin(amount: u128, denom: impl Into<String>) -> ProtoCoin {
    Coin::new(amount, denom).to_proto()
}

fn balance(cx: QueryCtx<'_>, q: QueryBalanceRequest) -> QueryResult<QueryBalanceResponse> {
    let (address, denom) = (address(&q.address)?, denom(&q.denom)?);
    Ok(QueryBalanceResponse { balance: Some(coin(super::balance(cx.state, &address, denom)?, denom)) })
}

fn page_of_balances(
    cx: QueryCtx<'_>,
    text: &str,
    page: Option<PageRequest>,
) -> QueryResult<(Vec<ProtoCoin>, PageResponse)> {
    let address = address(text)?;
    let (entries, page) =
        paginate(page, |k| BALANCES.raw_key(k), |walk| BALANCES.iter_from(cx.state, &address, walk))?;
    Ok((entries.into_iter().map(|((_, denom), amount)| coin(amount, denom)).collect(), page))
}

fn all_balances(cx: QueryCtx<'_>, q: QueryAllBalancesRequest) -> QueryResult<QueryAllBalancesResponse> {
    let (mut balances, page) = page_of_balances(cx, &q.address, q.pagination)?;
    if q.resolve_denom {
        for coin in &mut balances {
            if let Some(metadata) = METADATA.get(cx.state, &coin.denom)? {
                coin.denom = metadata.display;
            }
        }
    }
    Ok(QueryAllBalancesResponse { balances, pagination: Some(page) })
}

/// Nothing is locked here: what an account holds it can spend.
fn spendable_balances(
    cx: QueryCtx<'_>,
    q: QuerySpendableBalancesRequest,
) -> QueryResult<QuerySpendableBalancesResponse> {
    let (balances, page) = page_of_balances(cx, &q.address, q.pagination)?;
    Ok(QuerySpendableBalancesResponse { balances, pagination: Some(page) })
}

fn spendable_balance_by_denom(
    cx: QueryCtx<'_>,
    q: QuerySpendableBalanceByDenomRequest,
) -> QueryResult<QuerySpendableBalanceByDenomResponse> {
    let held = balance(cx, QueryBalanceRequest { address: q.address, denom: q.denom })?;
    Ok(QuerySpendableBalanceByDenomResponse { balance: held.balance })
}

fn total_supply(cx: QueryCtx<'_>, q: QueryTotalSupplyRequest) -> QueryResult<QueryTotalSupplyResponse> {
    let (entries, page) = paginate(q.pagination, |k| SUPPLY.raw_key(k), |walk| SUPPLY.iter(cx.state, walk))?;
    let supply = entries.into_iter().map(|(denom, amount)| coin(amount, denom)).collect();
    Ok(QueryTotalSupplyResponse { supply, pagination: Some(page) })
}

fn supply_of(cx: QueryCtx<'_>, q: QuerySupplyOfRequest) -> QueryResult<QuerySupplyOfResponse> {
    let denom = denom(&q.denom)?;
    Ok(QuerySupplyOfResponse { amount: Some(coin(super::supply(cx.state, denom)?, denom)) })
}

fn params(cx: QueryCtx<'_>, _: QueryParamsRequest) -> QueryResult<QueryParamsResponse> {
    Ok(QueryParamsResponse { params: Some(super::params(cx.state)?.to_proto()) })
}

fn metadata(cx: QueryCtx<'_>, text: &str) -> QueryResult<Option<Metadata>> {
    match METADATA.get(cx.state, &denom(text)?.to_owned())? {
        Some(metadata) => Ok(Some(metadata.to_proto())),
        None => Err(Status::not_found(format!("client metadata for denom {text}"))),
    }
}

fn denom_metadata(cx: QueryCtx<'_>, q: QueryDenomMetadataRequest) -> QueryResult<QueryDenomMetadataResponse> {
    Ok(QueryDenomMetadataResponse { metadata: metadata(cx, &q.denom)? })
}

fn denom_metadata_by_query_string(
    cx: QueryCtx<'_>,
    q: QueryDenomMetadataByQueryStringRequest,
) -> QueryResult<QueryDenomMetadataByQueryStringResponse> {
    Ok(QueryDenomMetadataByQueryStringResponse { metadata: metadata(cx, &q.denom)? })
}

fn denoms_metadata(
    cx: QueryCtx<'_>,
    q: QueryDenomsMetadataRequest,
) -> QueryResult<QueryDenomsMetadataResponse> {
    let (entries, page) =
        paginate(q.pagination, |k| METADATA.raw_key(k), |walk| METADATA.iter(cx.state, walk))?;
    let metadatas = entries.iter().map(|(_, metadata)| metadata.to_proto()).collect();
    Ok(QueryDenomsMetadataResponse { metadatas, pagination: Some(page) })
}

fn denom_owners(cx: QueryCtx<'_>, q: QueryDenomOwnersRequest) -> QueryResult<QueryDenomOwnersResponse> {
    let denom = denom(&q.denom)?.to_owned();
    let (entries, page) = paginate(
        q.pagination,
        |owner| OWNERS.raw_key(owner),
        |walk| OWNERS.iter_from(cx.state, &denom, walk).map(|owner| Ok((owner?, ()))),
    )?;
    let mut denom_owners = Vec::new();
    for ((_, address), ()) in &entries {
        let held = super::balance(cx.state, address, &denom)?;
        denom_owners.push(DenomOwner { address: address.to_string(), balance: Some(coin(held, &denom)) });
    }
    Ok(QueryDenomOwnersResponse { denom_owners, pagination: Some(page) })
}

fn denom_owners_by_query(
    cx: QueryCtx<'_>,
    q: QueryDenomOwnersByQueryRequest,
) -> QueryResult<QueryDenomOwnersByQueryResponse> {
    let owners = denom_owners(cx, QueryDenomOwnersRequest { denom: q.denom, pagination: q.pagination })?;
    Ok(QueryDenomOwnersByQueryResponse { denom_owners: owners.denom_owners, pagination: owners.pagination })
}

/// The denominations asked for that have a setting of their own, or a page of all such.
fn send_enabled(cx: QueryCtx<'_>, q: QuerySendEnabledRequest) -> QueryResult<QuerySendEnabledResponse> {
    let setting = |denom: String, enabled| SendEnabled { denom, enabled };
    if q.denoms.is_empty() {
        let (entries, page) =
            paginate(q.pagination, |k| SEND_ENABLED.raw_key(k), |walk| SEND_ENABLED.iter(cx.state, walk))?;
        let send_enabled = entries.into_iter().map(|(denom, enabled)| setting(denom, enabled)).collect();
        return Ok(QuerySendEnabledResponse { send_enabled, pagination: Some(page) });
    }
    if q.denoms.len() > MAX_DENOMS {
        return Err(Status::invalid(format!("denoms has {} entries, at most {MAX_DENOMS}", q.denoms.len())));
    }
    let mut send_enabled = Vec::new();
    for text in q.denoms {
        let enabled = SEND_ENABLED.get(cx.state, &text)?;
        send_enabled.extend(enabled.map(|enabled| setting(text, enabled)));
    }
    Ok(QuerySendEnabledResponse { send_enabled, pagination: None })
}
