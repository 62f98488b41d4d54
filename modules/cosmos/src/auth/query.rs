//! Queries: cosmos.auth.v1beta1.

use deepnode_core::query::{paginate, Code};
use deepnode_core::{Address, Queries, QueryCtx, QueryResult, Status, Walk};
use deepnode_proto::cosmos::auth::v1beta1::*;

use super::state::{Account, ACCOUNTS, BY_NUMBER, MODULES};

pub fn register(queries: &mut Queries) {
    queries
        .on("/cosmos.auth.v1beta1.Query/Account", account)
        .on("/cosmos.auth.v1beta1.Query/AccountInfo", account_info)
        .on("/cosmos.auth.v1beta1.Query/Accounts", accounts)
        .on("/cosmos.auth.v1beta1.Query/AccountAddressByID", account_address_by_id)
        .on("/cosmos.auth.v1beta1.Query/Params", params)
        .on("/cosmos.auth.v1beta1.Query/ModuleAccounts", module_accounts)
        .on("/cosmos.auth.v1beta1.Query/ModuleAccountByName", module_account_by_name)
        .on("/cosmos.auth.v1beta1.Query/Bech32Prefix", bech32_prefix)
        .on("/cosmos.auth.v1beta1.Query/AddressBytesToString", address_bytes_to_string)
        .on("/cosmos.auth.v1beta1.Query/AddressStringToBytes", address_string_to_bytes);
}

/// The account at `text`; wallets recognise a fresh address by the words of the refusal.
fn existing(cx: QueryCtx<'_>, text: &str) -> QueryResult<(Address, Account)> {
    let address = Address::parse(text).map_err(Status::invalid)?;
    match super::account(cx.state, &address)? {
        Some(account) => Ok((address, account)),
        None => Err(Status::not_found(format!("account {address} not found"))),
    }
}

fn account(cx: QueryCtx<'_>, q: QueryAccountRequest) -> QueryResult<QueryAccountResponse> {
    let (address, account) = existing(cx, &q.address)?;
    Ok(QueryAccountResponse { account: Some(account.to_any(&address)?) })
}

fn account_info(cx: QueryCtx<'_>, q: QueryAccountInfoRequest) -> QueryResult<QueryAccountInfoResponse> {
    let (address, account) = existing(cx, &q.address)?;
    Ok(QueryAccountInfoResponse { info: Some(account.to_base(&address)?) })
}

fn accounts(cx: QueryCtx<'_>, q: QueryAccountsRequest) -> QueryResult<QueryAccountsResponse> {
    let (entries, page) =
        paginate(q.pagination, |k| ACCOUNTS.raw_key(k), |walk| ACCOUNTS.iter(cx.state, walk))?;
    let accounts =
        entries.iter().map(|(address, account)| account.to_any(address)).collect::<Result<_, _>>()?;
    Ok(QueryAccountsResponse { accounts, pagination: Some(page) })
}

fn account_address_by_id(
    cx: QueryCtx<'_>,
    q: QueryAccountAddressByIdRequest,
) -> QueryResult<QueryAccountAddressByIdResponse> {
    #[allow(deprecated)]
    if q.id != 0 {
        return Err(Status::invalid("id is deprecated: use account_id"));
    }
    match BY_NUMBER.get(cx.state, &q.account_id)? {
        Some(address) => Ok(QueryAccountAddressByIdResponse { account_address: address.to_string() }),
        None => {
            Err(Status::not_found(format!("account address not found with account number {}", q.account_id)))
        }
    }
}

fn params(cx: QueryCtx<'_>, _: QueryParamsRequest) -> QueryResult<QueryParamsResponse> {
    Ok(QueryParamsResponse { params: Some(super::params(cx.state)?.to_proto()) })
}

fn module_accounts(
    cx: QueryCtx<'_>,
    _: QueryModuleAccountsRequest,
) -> QueryResult<QueryModuleAccountsResponse> {
    let mut accounts = Vec::new();
    for entry in MODULES.iter(cx.state, Walk::FORWARD) {
        accounts.push(module_account(cx, &entry?.1)?);
    }
    Ok(QueryModuleAccountsResponse { accounts })
}

fn module_account_by_name(
    cx: QueryCtx<'_>,
    q: QueryModuleAccountByNameRequest,
) -> QueryResult<QueryModuleAccountByNameResponse> {
    if q.name.is_empty() {
        return Err(Status::invalid("module name is empty"));
    }
    let address = MODULES
        .get(cx.state, &q.name)?
        .ok_or_else(|| Status::not_found(format!("account {} not found", q.name)))?;
    Ok(QueryModuleAccountByNameResponse { account: Some(module_account(cx, &address)?) })
}

fn module_account(cx: QueryCtx<'_>, address: &Address) -> QueryResult<deepnode_core::Any> {
    let account = super::account(cx.state, address)?
        .ok_or_else(|| Status::new(Code::Internal, format!("module account {address} is missing")))?;
    Ok(account.to_any(address)?)
}

fn bech32_prefix(cx: QueryCtx<'_>, _: Bech32PrefixRequest) -> QueryResult<Bech32PrefixResponse> {
    Ok(Bech32PrefixResponse { bech32_prefix: super::bech32_prefix(cx.state)? })
}

fn address_bytes_to_string(
    _: QueryCtx<'_>,
    q: AddressBytesToStringRequest,
) -> QueryResult<AddressBytesToStringResponse> {
    let address = Address::try_from(q.address_bytes.as_slice()).map_err(Status::invalid)?;
    Ok(AddressBytesToStringResponse { address_string: address.to_string() })
}

fn address_string_to_bytes(
    _: QueryCtx<'_>,
    q: AddressStringToBytesRequest,
) -> QueryResult<AddressStringToBytesResponse> {
    let address = Address::parse(&q.address_string).map_err(Status::invalid)?;
    Ok(AddressStringToBytesResponse { address_bytes: address.0.to_vec() })
}
