//! Our descriptors against the types of cosmos-sdk-proto (SDK 0.50), an independent reading of the same interface:
//! a message with every field set must survive a pass through theirs byte for byte.

use prost::{Message, Name};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use std::collections::{BTreeSet, HashMap};

/// What SDK 0.53 added to: TxBody has `unordered` and `timeout_timestamp`, the others hold one.
const GREW: [&str; 8] = [
    "cosmos.tx.v1beta1.GetBlockWithTxsResponse",
    "cosmos.tx.v1beta1.GetTxResponse",
    "cosmos.tx.v1beta1.GetTxsEventResponse",
    "cosmos.tx.v1beta1.SimulateRequest",
    "cosmos.tx.v1beta1.Tx",
    "cosmos.tx.v1beta1.TxBody",
    "cosmos.tx.v1beta1.TxDecodeResponse",
    "cosmos.tx.v1beta1.TxEncodeRequest",
];

#[test]
fn every_message_matches_cosmos_sdk_proto() {
    let pool = DescriptorPool::decode(deepnode_proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut differ = BTreeSet::new();
    for (name, through) in sdk_types() {
        let message =
            pool.get_message_by_name(&name).unwrap_or_else(|| panic!("{name} is missing from proto/"));
        // Each round sets another member of every oneof.
        for round in 0..8 {
            let ours = filled(&message, round, 4).encode_to_vec();
            if through(&ours) != Some(ours) {
                differ.insert(name.clone());
            }
        }
    }
    assert_eq!(differ, GREW.iter().map(|s| s.to_string()).collect::<BTreeSet<_>>());
}

/// A message with every field set, nested messages down to `depth`.
fn filled(descriptor: &MessageDescriptor, round: usize, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        if let Some(oneof) = field.containing_oneof() {
            let chosen = round % oneof.fields().len();
            if oneof.fields().position(|f| f == field) != Some(chosen) {
                continue;
            }
        }
        if depth == 0 && matches!(field.kind(), Kind::Message(_)) {
            continue;
        }
        let value = if field.is_map() {
            let Kind::Message(entry) = field.kind() else { unreachable!("a map's entry is a message") };
            let value = scalar(&entry.map_entry_value_field(), round, depth);
            Value::Map(HashMap::from([(MapKey::String("k".into()), value)]))
        } else if field.is_list() {
            Value::List(vec![scalar(&field, round, depth)])
        } else {
            scalar(&field, round, depth)
        };
        message.set_field(&field, value);
    }
    message
}

fn scalar(field: &FieldDescriptor, round: usize, depth: usize) -> Value {
    let n = field.number();
    match field.kind() {
        Kind::Bool => Value::Bool(true),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(-(n as i32)),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(-(n as i64)),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(n),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(n.into()),
        Kind::Float => Value::F32(n as f32),
        Kind::Double => Value::F64(n.into()),
        Kind::String => Value::String(format!("field {n}")),
        Kind::Bytes => Value::Bytes(n.to_be_bytes().to_vec().into()),
        Kind::Enum(e) => Value::EnumNumber(e.values().map(|v| v.number()).max().unwrap_or(0)),
        Kind::Message(m) => Value::Message(filled(&m, round, depth.saturating_sub(1))),
    }
}

type Through = fn(&[u8]) -> Option<Vec<u8>>;

fn through<M: Message + Default>(bytes: &[u8]) -> Option<Vec<u8>> {
    M::decode(bytes).ok().map(|m| m.encode_to_vec())
}

/// Also checks that both crates' types at one path carry one full name.
macro_rules! sdk_types {
    ($($($package:ident)::+ => [$($message:ident),+ $(,)?],)+) => {
        fn sdk_types() -> Vec<(String, Through)> {
            let mut all: Vec<(String, Through)> = Vec::new();
            $({
                use cosmos_sdk_proto::$($package)::+ as theirs;
                use deepnode_proto::$($package)::+ as ours;
                $(
                    let name = ours::$message::full_name();
                    assert_eq!(name, theirs::$message::full_name());
                    all.push((name, through::<theirs::$message>));
                )+
            })+
            all
        }
    };
}

sdk_types! {
    cosmos::auth::v1beta1 => [
        AddressBytesToStringRequest, AddressBytesToStringResponse, AddressStringToBytesRequest,
        AddressStringToBytesResponse, BaseAccount, Bech32PrefixRequest, Bech32PrefixResponse, GenesisState,
        ModuleAccount, ModuleCredential, MsgUpdateParams, MsgUpdateParamsResponse, Params,
        QueryAccountInfoRequest, QueryAccountInfoResponse, QueryAccountRequest, QueryAccountResponse,
        QueryAccountsRequest, QueryAccountsResponse, QueryModuleAccountByNameRequest,
        QueryModuleAccountByNameResponse, QueryModuleAccountsRequest, QueryModuleAccountsResponse,
        QueryParamsRequest, QueryParamsResponse,
    ],
    cosmos::authz::v1beta1 => [
        EventGrant, EventRevoke, GenericAuthorization, GenesisState, Grant, GrantAuthorization,
        GrantQueueItem, MsgExec, MsgExecResponse, MsgGrant, MsgGrantResponse, MsgRevoke, MsgRevokeResponse,
        QueryGranteeGrantsRequest, QueryGranteeGrantsResponse, QueryGranterGrantsRequest,
        QueryGranterGrantsResponse, QueryGrantsRequest, QueryGrantsResponse,
    ],
    cosmos::bank::v1beta1 => [
        Balance, DenomOwner, DenomUnit, GenesisState, Input, Metadata, MsgMultiSend, MsgMultiSendResponse,
        MsgSend, MsgSendResponse, MsgSetSendEnabled, MsgSetSendEnabledResponse, MsgUpdateParams,
        MsgUpdateParamsResponse, Output, Params, QueryAllBalancesRequest, QueryAllBalancesResponse,
        QueryBalanceRequest, QueryBalanceResponse, QueryDenomMetadataByQueryStringRequest,
        QueryDenomMetadataByQueryStringResponse, QueryDenomMetadataRequest, QueryDenomMetadataResponse,
        QueryDenomOwnersByQueryRequest, QueryDenomOwnersByQueryResponse, QueryDenomOwnersRequest,
        QueryDenomOwnersResponse, QueryDenomsMetadataRequest, QueryDenomsMetadataResponse,
        QueryParamsRequest, QueryParamsResponse, QuerySendEnabledRequest, QuerySendEnabledResponse,
        QuerySpendableBalanceByDenomRequest, QuerySpendableBalanceByDenomResponse,
        QuerySpendableBalancesRequest, QuerySpendableBalancesResponse, QuerySupplyOfRequest,
        QuerySupplyOfResponse, QueryTotalSupplyRequest, QueryTotalSupplyResponse, SendAuthorization,
        SendEnabled, Supply,
    ],
    cosmos::base::abci::v1beta1 => [
        Attribute, GasInfo, MsgData, Result, SearchBlocksResult, SearchTxsResult, SimulationResponse,
        StringEvent, TxMsgData, TxResponse,
    ],
    cosmos::base::node::v1beta1 => [
        ConfigRequest, ConfigResponse, StatusRequest, StatusResponse,
    ],
    cosmos::base::query::v1beta1 => [
        PageRequest, PageResponse,
    ],
    cosmos::base::reflection::v1beta1 => [
        ListAllInterfacesRequest, ListAllInterfacesResponse, ListImplementationsRequest,
        ListImplementationsResponse,
    ],
    cosmos::base::tendermint::v1beta1 => [
        Block, GetBlockByHeightRequest, GetBlockByHeightResponse, GetLatestBlockRequest,
        GetLatestBlockResponse, GetLatestValidatorSetRequest, GetLatestValidatorSetResponse,
        GetNodeInfoRequest, GetNodeInfoResponse, GetSyncingRequest, GetSyncingResponse,
        GetValidatorSetByHeightRequest, GetValidatorSetByHeightResponse, Header, Module, ProofOp, ProofOps,
        Validator, VersionInfo,
    ],
    cosmos::base::v1beta1 => [
        Coin, DecCoin, DecProto, IntProto,
    ],
    cosmos::crypto::ed25519 => [
        PrivKey, PubKey,
    ],
    cosmos::crypto::multisig => [
        LegacyAminoPubKey,
    ],
    cosmos::crypto::multisig::v1beta1 => [
        CompactBitArray, MultiSignature,
    ],
    cosmos::crypto::secp256k1 => [
        PrivKey, PubKey,
    ],
    cosmos::distribution::v1beta1 => [
        CommunityPoolSpendProposal, CommunityPoolSpendProposalWithDeposit, DelegationDelegatorReward,
        DelegatorStartingInfo, DelegatorStartingInfoRecord, DelegatorWithdrawInfo, FeePool, GenesisState,
        MsgCommunityPoolSpend, MsgCommunityPoolSpendResponse, MsgDepositValidatorRewardsPool,
        MsgDepositValidatorRewardsPoolResponse, MsgFundCommunityPool, MsgFundCommunityPoolResponse,
        MsgSetWithdrawAddress, MsgSetWithdrawAddressResponse, MsgUpdateParams, MsgUpdateParamsResponse,
        MsgWithdrawDelegatorReward, MsgWithdrawDelegatorRewardResponse, MsgWithdrawValidatorCommission,
        MsgWithdrawValidatorCommissionResponse, Params, QueryCommunityPoolRequest,
        QueryCommunityPoolResponse, QueryDelegationRewardsRequest, QueryDelegationRewardsResponse,
        QueryDelegationTotalRewardsRequest, QueryDelegationTotalRewardsResponse,
        QueryDelegatorValidatorsRequest, QueryDelegatorValidatorsResponse,
        QueryDelegatorWithdrawAddressRequest, QueryDelegatorWithdrawAddressResponse, QueryParamsRequest,
        QueryParamsResponse, QueryValidatorCommissionRequest, QueryValidatorCommissionResponse,
        QueryValidatorDistributionInfoRequest, QueryValidatorDistributionInfoResponse,
        QueryValidatorOutstandingRewardsRequest, QueryValidatorOutstandingRewardsResponse,
        QueryValidatorSlashesRequest, QueryValidatorSlashesResponse, ValidatorAccumulatedCommission,
        ValidatorAccumulatedCommissionRecord, ValidatorCurrentRewards, ValidatorCurrentRewardsRecord,
        ValidatorHistoricalRewards, ValidatorHistoricalRewardsRecord, ValidatorOutstandingRewards,
        ValidatorOutstandingRewardsRecord, ValidatorSlashEvent, ValidatorSlashEventRecord,
        ValidatorSlashEvents,
    ],
    cosmos::evidence::v1beta1 => [
        Equivocation, GenesisState, MsgSubmitEvidence, MsgSubmitEvidenceResponse, QueryAllEvidenceRequest,
        QueryAllEvidenceResponse, QueryEvidenceRequest, QueryEvidenceResponse,
    ],
    cosmos::feegrant::v1beta1 => [
        AllowedMsgAllowance, BasicAllowance, GenesisState, Grant, MsgGrantAllowance,
        MsgGrantAllowanceResponse, MsgPruneAllowances, MsgPruneAllowancesResponse, MsgRevokeAllowance,
        MsgRevokeAllowanceResponse, PeriodicAllowance, QueryAllowanceRequest, QueryAllowanceResponse,
        QueryAllowancesByGranterRequest, QueryAllowancesByGranterResponse, QueryAllowancesRequest,
        QueryAllowancesResponse,
    ],
    cosmos::gov::v1 => [
        Deposit, DepositParams, GenesisState, MsgCancelProposal, MsgCancelProposalResponse, MsgDeposit,
        MsgDepositResponse, MsgExecLegacyContent, MsgExecLegacyContentResponse, MsgSubmitProposal,
        MsgSubmitProposalResponse, MsgUpdateParams, MsgUpdateParamsResponse, MsgVote, MsgVoteResponse,
        MsgVoteWeighted, MsgVoteWeightedResponse, Params, Proposal, QueryConstitutionRequest,
        QueryConstitutionResponse, QueryDepositRequest, QueryDepositResponse, QueryDepositsRequest,
        QueryDepositsResponse, QueryParamsRequest, QueryParamsResponse, QueryProposalRequest,
        QueryProposalResponse, QueryProposalsRequest, QueryProposalsResponse, QueryTallyResultRequest,
        QueryTallyResultResponse, QueryVoteRequest, QueryVoteResponse, QueryVotesRequest,
        QueryVotesResponse, TallyParams, TallyResult, Vote, VotingParams, WeightedVoteOption,
    ],
    cosmos::gov::v1beta1 => [
        Deposit, DepositParams, GenesisState, MsgDeposit, MsgDepositResponse, MsgSubmitProposal,
        MsgSubmitProposalResponse, MsgVote, MsgVoteResponse, MsgVoteWeighted, MsgVoteWeightedResponse,
        Proposal, QueryDepositRequest, QueryDepositResponse, QueryDepositsRequest, QueryDepositsResponse,
        QueryParamsRequest, QueryParamsResponse, QueryProposalRequest, QueryProposalResponse,
        QueryProposalsRequest, QueryProposalsResponse, QueryTallyResultRequest, QueryTallyResultResponse,
        QueryVoteRequest, QueryVoteResponse, QueryVotesRequest, QueryVotesResponse, TallyParams,
        TallyResult, TextProposal, Vote, VotingParams, WeightedVoteOption,
    ],
    cosmos::mint::v1beta1 => [
        GenesisState, Minter, MsgUpdateParams, MsgUpdateParamsResponse, Params,
        QueryAnnualProvisionsRequest, QueryAnnualProvisionsResponse, QueryInflationRequest,
        QueryInflationResponse, QueryParamsRequest, QueryParamsResponse,
    ],
    cosmos::params::v1beta1 => [
        ParamChange, ParameterChangeProposal, QueryParamsRequest, QueryParamsResponse,
        QuerySubspacesRequest, QuerySubspacesResponse, Subspace,
    ],
    cosmos::slashing::v1beta1 => [
        GenesisState, MissedBlock, MsgUnjail, MsgUnjailResponse, MsgUpdateParams, MsgUpdateParamsResponse,
        Params, QueryParamsRequest, QueryParamsResponse, QuerySigningInfoRequest, QuerySigningInfoResponse,
        QuerySigningInfosRequest, QuerySigningInfosResponse, SigningInfo, ValidatorMissedBlocks,
        ValidatorSigningInfo,
    ],
    cosmos::staking::v1beta1 => [
        Commission, CommissionRates, Delegation, DelegationResponse, Description, GenesisState,
        HistoricalInfo, LastValidatorPower, MsgBeginRedelegate, MsgBeginRedelegateResponse,
        MsgCancelUnbondingDelegation, MsgCancelUnbondingDelegationResponse, MsgCreateValidator,
        MsgCreateValidatorResponse, MsgDelegate, MsgDelegateResponse, MsgEditValidator,
        MsgEditValidatorResponse, MsgUndelegate, MsgUndelegateResponse, MsgUpdateParams,
        MsgUpdateParamsResponse, Params, Pool, QueryDelegationRequest, QueryDelegationResponse,
        QueryDelegatorDelegationsRequest, QueryDelegatorDelegationsResponse,
        QueryDelegatorUnbondingDelegationsRequest, QueryDelegatorUnbondingDelegationsResponse,
        QueryDelegatorValidatorRequest, QueryDelegatorValidatorResponse, QueryDelegatorValidatorsRequest,
        QueryDelegatorValidatorsResponse, QueryHistoricalInfoRequest, QueryHistoricalInfoResponse,
        QueryParamsRequest, QueryParamsResponse, QueryPoolRequest, QueryPoolResponse,
        QueryRedelegationsRequest, QueryRedelegationsResponse, QueryUnbondingDelegationRequest,
        QueryUnbondingDelegationResponse, QueryValidatorDelegationsRequest,
        QueryValidatorDelegationsResponse, QueryValidatorRequest, QueryValidatorResponse,
        QueryValidatorUnbondingDelegationsRequest, QueryValidatorUnbondingDelegationsResponse,
        QueryValidatorsRequest, QueryValidatorsResponse, Redelegation, RedelegationEntry,
        RedelegationEntryResponse, RedelegationResponse, StakeAuthorization, UnbondingDelegation,
        UnbondingDelegationEntry, ValAddresses, Validator, ValidatorUpdates,
    ],
    cosmos::tx::signing::v1beta1 => [
        SignatureDescriptor, SignatureDescriptors,
    ],
    cosmos::tx::v1beta1 => [
        AuthInfo, AuxSignerData, BroadcastTxRequest, BroadcastTxResponse, Fee, GetBlockWithTxsRequest,
        GetBlockWithTxsResponse, GetTxRequest, GetTxResponse, GetTxsEventRequest, GetTxsEventResponse,
        ModeInfo, SignDoc, SignDocDirectAux, SignerInfo, SimulateRequest, SimulateResponse, Tip, Tx, TxBody,
        TxDecodeAminoRequest, TxDecodeAminoResponse, TxDecodeRequest, TxDecodeResponse,
        TxEncodeAminoRequest, TxEncodeAminoResponse, TxEncodeRequest, TxEncodeResponse, TxRaw,
    ],
    cosmos::upgrade::v1beta1 => [
        CancelSoftwareUpgradeProposal, ModuleVersion, MsgCancelUpgrade, MsgCancelUpgradeResponse,
        MsgSoftwareUpgrade, MsgSoftwareUpgradeResponse, Plan, QueryAppliedPlanRequest,
        QueryAppliedPlanResponse, QueryAuthorityRequest, QueryAuthorityResponse, QueryCurrentPlanRequest,
        QueryCurrentPlanResponse, QueryModuleVersionsRequest, QueryModuleVersionsResponse,
        QueryUpgradedConsensusStateRequest, QueryUpgradedConsensusStateResponse, SoftwareUpgradeProposal,
    ],
    cosmos::vesting::v1beta1 => [
        BaseVestingAccount, ContinuousVestingAccount, DelayedVestingAccount,
        MsgCreatePeriodicVestingAccount, MsgCreatePeriodicVestingAccountResponse,
        MsgCreatePermanentLockedAccount, MsgCreatePermanentLockedAccountResponse, MsgCreateVestingAccount,
        MsgCreateVestingAccountResponse, Period, PeriodicVestingAccount, PermanentLockedAccount,
    ],
}
