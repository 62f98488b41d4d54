//! The tables behind `tx` and `query`: what a command's words become. A new message or query is one line here.

/// One command: `module name ARGUMENTS`.
pub struct Spec {
    pub module: &'static str,
    pub name: &'static str,
    /// Type URL of a message, or path of a method.
    pub target: &'static str,
    /// The fields that the positional arguments fill, in their order; `a.b` is a field of a field. A leading `?` may be
    /// left out. For transactions the first is the sender.
    pub fields: &'static [&'static str],
    pub about: &'static str,
}

const fn spec(
    module: &'static str,
    name: &'static str,
    target: &'static str,
    fields: &'static [&'static str],
    about: &'static str,
) -> Spec {
    Spec { module, name, target, fields, about }
}

/// Transactions.
pub const TXS: &[Spec] = &[
    spec(
        "bank",
        "send",
        "/cosmos.bank.v1beta1.MsgSend",
        &["from_address", "to_address", "amount"],
        "Send coins",
    ),
    spec(
        "staking",
        "delegate",
        "/cosmos.staking.v1beta1.MsgDelegate",
        &["delegator_address", "validator_address", "amount"],
        "Delegate to a validator",
    ),
    spec(
        "staking",
        "unbond",
        "/cosmos.staking.v1beta1.MsgUndelegate",
        &["delegator_address", "validator_address", "amount"],
        "Take a delegation back",
    ),
    spec(
        "staking",
        "redelegate",
        "/cosmos.staking.v1beta1.MsgBeginRedelegate",
        &["delegator_address", "validator_src_address", "validator_dst_address", "amount"],
        "Move a delegation",
    ),
    spec(
        "gov",
        "deposit",
        "/cosmos.gov.v1.MsgDeposit",
        &["depositor", "proposal_id", "amount"],
        "Add to a proposal's deposit",
    ),
    spec(
        "gov",
        "vote",
        "/cosmos.gov.v1.MsgVote",
        &["voter", "proposal_id", "option"],
        "Vote: yes, no, abstain or no_with_veto",
    ),
    spec(
        "gov",
        "submit-proposal",
        "/cosmos.gov.v1.MsgSubmitProposal",
        &["proposer"],
        "Submit a proposal: the message's JSON by --json",
    ),
    spec(
        "models",
        "commit",
        "/deepnode.models.v1.MsgCommitModel",
        &["owner", "commitment"],
        "Announce a model (commitment in hex)",
    ),
    spec(
        "models",
        "register",
        "/deepnode.models.v1.MsgRegisterModel",
        &["owner"],
        "Register a model: the message's JSON by --json",
    ),
    spec(
        "workers",
        "register",
        "/deepnode.workers.v1.MsgRegisterWorker",
        &["worker", "bond", "validator", "endpoint", "?hardware", "?declared"],
        "Register a worker",
    ),
    spec(
        "workers",
        "add-bond",
        "/deepnode.workers.v1.MsgAddBond",
        &["worker", "amount"],
        "Add to a worker's bond",
    ),
    spec("workers", "unbond", "/deepnode.workers.v1.MsgUnbond", &["worker", "amount"], "Take a bond back"),
    spec(
        "workers",
        "back",
        "/deepnode.workers.v1.MsgBackValidator",
        &["worker", "validator"],
        "Back another validator",
    ),
    spec(
        "workers",
        "approve",
        "/deepnode.workers.v1.MsgApproveWorker",
        &["operator", "worker"],
        "Consent to a worker, as a validator's operator",
    ),
    spec(
        "workers",
        "serve",
        "/deepnode.workers.v1.MsgServeModels",
        &["worker", "model_ids"],
        "Replace the models served (ids in hex, comma separated)",
    ),
    spec(
        "tasks",
        "cancel",
        "/deepnode.tasks.v1.MsgCancelTask",
        &["creator", "task_id"],
        "Cancel a task that nobody accepted",
    ),
    spec(
        "audits",
        "register",
        "/deepnode.audits.v1.MsgRegisterAuditor",
        &["operator", "auditor", "classes", "deposit"],
        "Name the key that audits for a validator",
    ),
];

/// Queries.
pub const QUERIES: &[Spec] = &[
    spec("auth", "account", "/cosmos.auth.v1beta1.Query/Account", &["address"], "An account"),
    spec("auth", "accounts", "/cosmos.auth.v1beta1.Query/Accounts", &[], "All accounts"),
    spec("auth", "params", "/cosmos.auth.v1beta1.Query/Params", &[], "Parameters"),
    spec(
        "bank",
        "balances",
        "/cosmos.bank.v1beta1.Query/AllBalances",
        &["address"],
        "The coins of an account",
    ),
    spec(
        "bank",
        "balance",
        "/cosmos.bank.v1beta1.Query/Balance",
        &["address", "denom"],
        "One coin of an account",
    ),
    spec("bank", "total", "/cosmos.bank.v1beta1.Query/TotalSupply", &[], "The supply"),
    spec("bank", "params", "/cosmos.bank.v1beta1.Query/Params", &[], "Parameters"),
    spec("consensus", "params", "/cosmos.consensus.v1.Query/Params", &[], "CometBFT's parameters"),
    spec("staking", "validators", "/cosmos.staking.v1beta1.Query/Validators", &["?status"], "Validators"),
    spec(
        "staking",
        "validator",
        "/cosmos.staking.v1beta1.Query/Validator",
        &["validator_addr"],
        "A validator",
    ),
    spec(
        "staking",
        "delegations",
        "/cosmos.staking.v1beta1.Query/DelegatorDelegations",
        &["delegator_addr"],
        "Delegations of an account",
    ),
    spec("staking", "pool", "/cosmos.staking.v1beta1.Query/Pool", &[], "Bonded and unbonded stake"),
    spec("staking", "params", "/cosmos.staking.v1beta1.Query/Params", &[], "Parameters"),
    spec("gov", "proposals", "/cosmos.gov.v1.Query/Proposals", &[], "Proposals"),
    spec("gov", "proposal", "/cosmos.gov.v1.Query/Proposal", &["proposal_id"], "A proposal"),
    spec(
        "gov",
        "tally",
        "/cosmos.gov.v1.Query/TallyResult",
        &["proposal_id"],
        "The votes of a proposal, counted",
    ),
    spec("gov", "params", "/cosmos.gov.v1.Query/Params", &["?params_type"], "Parameters"),
    spec("beacon", "value", "/deepnode.beacon.v1.Query/Value", &["?height"], "The beacon's value"),
    spec("beacon", "epoch", "/deepnode.beacon.v1.Query/Epoch", &[], "The epoch"),
    spec("models", "models", "/deepnode.models.v1.Query/Models", &[], "All models"),
    spec("models", "model", "/deepnode.models.v1.Query/Model", &["id"], "A model, by id or name"),
    spec("models", "classes", "/deepnode.models.v1.Query/Classes", &[], "Classes and their prices"),
    spec("models", "params", "/deepnode.models.v1.Query/Params", &[], "Parameters"),
    spec(
        "workers",
        "workers",
        "/deepnode.workers.v1.Query/Workers",
        &["?model_id"],
        "Workers, of one model or all",
    ),
    spec("workers", "worker", "/deepnode.workers.v1.Query/Worker", &["address"], "A worker"),
    spec("workers", "params", "/deepnode.workers.v1.Query/Params", &[], "Parameters"),
    spec(
        "reputation",
        "records",
        "/deepnode.reputation.v1.Query/Records",
        &["subject"],
        "All that is known of a worker or auditor",
    ),
    spec(
        "reputation",
        "record",
        "/deepnode.reputation.v1.Query/Record",
        &["subject", "capability"],
        "Reputation in one capability",
    ),
    spec("reputation", "params", "/deepnode.reputation.v1.Query/Params", &[], "Parameters"),
    spec("tasks", "task", "/deepnode.tasks.v1.Query/Task", &["id"], "A task"),
    spec("tasks", "tasks", "/deepnode.tasks.v1.Query/Tasks", &["?creator"], "Tasks, of one user or all"),
    spec(
        "tasks",
        "estimate",
        "/deepnode.tasks.v1.Query/EstimateTask",
        &["model_id", "input_tokens", "max_output"],
        "What a task costs at most",
    ),
    spec("tasks", "params", "/deepnode.tasks.v1.Query/Params", &[], "Parameters"),
    spec("audits", "audit", "/deepnode.audits.v1.Query/Audit", &["id"], "An audit"),
    spec("audits", "audits", "/deepnode.audits.v1.Query/Audits", &["?task_id"], "Audits, of one task or all"),
    spec("audits", "auditors", "/deepnode.audits.v1.Query/Auditors", &[], "Auditors"),
    spec("audits", "params", "/deepnode.audits.v1.Query/Params", &[], "Parameters"),
    spec(
        "powr",
        "terms",
        "/deepnode.powr.v1.Query/Terms",
        &["?validator"],
        "Why validators have their power",
    ),
    spec("powr", "worker", "/deepnode.powr.v1.Query/WorkerScore", &["worker"], "A worker's score"),
    spec("powr", "params", "/deepnode.powr.v1.Query/Params", &[], "Parameters"),
];

/// The command, or an error that lists what there is.
pub fn find<'a>(table: &'a [Spec], module: Option<&str>, name: Option<&str>) -> anyhow::Result<&'a Spec> {
    let same = |s: &&Spec| Some(s.module) == module && Some(s.name) == name;
    table.iter().find(same).ok_or_else(|| anyhow::anyhow!("{}", unknown(table, module, name)))
}

fn unknown(table: &[Spec], module: Option<&str>, name: Option<&str>) -> String {
    let of_module: Vec<_> = table.iter().filter(|s| Some(s.module) == module).collect();
    let head = match (module, name, of_module.is_empty()) {
        (None, ..) => "which module? There are these commands:".into(),
        (Some(m), _, true) => format!("there is no module {m:?}; these are the commands:"),
        (Some(m), None, _) => format!("{m} has these commands:"),
        (Some(m), Some(n), _) => format!("{m} has no command {n:?}, but these:"),
    };
    let shown = if of_module.is_empty() { table.iter().collect() } else { of_module };
    let lines: Vec<_> = shown.iter().map(|s| format!("  {:<70} {}", usage(s), s.about)).collect();
    format!("{head}\n{}", lines.join("\n"))
}

/// `module name ARGUMENT [OPTIONAL]`
pub fn usage(spec: &Spec) -> String {
    let mut words = vec![spec.module.to_owned(), spec.name.to_owned()];
    for field in spec.fields {
        words.push(match field.strip_prefix('?') {
            Some(optional) => format!("[{}]", optional.to_uppercase()),
            None => field.to_uppercase(),
        });
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::message;

    #[test]
    fn every_command_names_a_message_and_fields_that_exist() {
        for spec in TXS {
            let kind =
                message(spec.target.trim_start_matches('/')).unwrap_or_else(|| panic!("{}", spec.target));
            for field in spec.fields {
                let name = field.trim_start_matches('?');
                assert!(kind.get_field_by_name(name).is_some(), "{} has no field {name}", spec.target);
            }
        }
        for spec in QUERIES {
            let (service, method) = spec.target.trim_start_matches('/').split_once('/').unwrap();
            let service = deepnode_proto::pool().get_service_by_name(service).unwrap();
            let method = service.methods().find(|m| m.name() == method).unwrap();
            for field in spec.fields {
                let name = field.trim_start_matches('?');
                assert!(
                    method.input().get_field_by_name(name).is_some(),
                    "{} has no field {name}",
                    spec.target
                );
            }
        }
    }
}
