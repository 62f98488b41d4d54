//! Which modules there are, and in which order their hooks run. The orders are consensus.

use deepnode_core::module::StakingHooks;
use deepnode_core::{Messages, Module, Queries};
use deepnode_cosmos::{auth::AuthModule, bank::BankModule, consensus::ConsensusModule};
use deepnode_cosmos::{gov::GovModule, staking::StakingModule};
use deepnode_modules::{audits::AuditsModule, beacon::BeaconModule, models::ModelsModule, powr::PowrModule};
use deepnode_modules::{
    powr::PowrHooks, reputation::ReputationModule, tasks::TasksModule, workers::WorkersModule,
};

/// All modules in the order of genesis: a module may call those before it.
static MODULES: [&dyn Module; 12] = [
    &AuthModule,
    &BankModule,
    &ConsensusModule,
    &StakingModule,
    &GovModule,
    &BeaconModule,
    &ModelsModule,
    &WorkersModule,
    &ReputationModule,
    &TasksModule,
    &AuditsModule,
    &PowrModule,
];

const PRE_BLOCK: [&str; 12] = [
    "auth",
    "beacon",
    "bank",
    "consensus",
    "staking",
    "gov",
    "models",
    "workers",
    "reputation",
    "tasks",
    "audits",
    "powr",
];

const BEGIN_BLOCK: [&str; 12] = [
    "staking",
    "auth",
    "bank",
    "consensus",
    "gov",
    "beacon",
    "models",
    "workers",
    "reputation",
    "tasks",
    "audits",
    "powr",
];

const END_BLOCK: [&str; 12] = [
    "gov",
    "auth",
    "bank",
    "consensus",
    "beacon",
    "models",
    "workers",
    "reputation",
    "tasks",
    "audits",
    "staking",
    "powr",
];

/// Listeners to staking, in their order.
pub static HOOKS: [&dyn StakingHooks; 1] = [&PowrHooks];

/// The named stores, one a module.
pub const STORES: [&str; 12] = [
    "audits",
    "auth",
    "bank",
    "beacon",
    "consensus",
    "gov",
    "models",
    "powr",
    "reputation",
    "staking",
    "tasks",
    "workers",
];

/// The modules with their messages and queries.
pub struct Modules {
    pub messages: Messages,
    pub queries: Queries,
    pub pre_block: Vec<&'static dyn Module>,
    pub begin_block: Vec<&'static dyn Module>,
    pub end_block: Vec<&'static dyn Module>,
}

impl Modules {
    /// Composes the chain. An order that misses a module, or a message or query with two handlers, is a bug that a
    /// test finds; it ends the program here.
    pub fn new() -> Self {
        let (mut messages, mut queries) = (Messages::default(), Queries::default());
        for module in MODULES {
            module.messages(messages.begin(module.name()));
            module.queries(&mut queries);
        }
        assert!(messages.twice().is_empty(), "messages with two handlers: {:?}", messages.twice());
        assert!(queries.twice().is_empty(), "queries with two handlers: {:?}", queries.twice());
        Modules {
            messages,
            queries,
            pre_block: ordered(PRE_BLOCK),
            begin_block: ordered(BEGIN_BLOCK),
            end_block: ordered(END_BLOCK),
        }
    }

    /// In the order of genesis.
    pub fn all(&self) -> impl Iterator<Item = &'static dyn Module> {
        MODULES.into_iter()
    }
}

impl Default for Modules {
    fn default() -> Self {
        Modules::new()
    }
}

fn ordered(names: [&str; 12]) -> Vec<&'static dyn Module> {
    let find = |name: &&str| MODULES.into_iter().find(|m| m.name() == *name);
    let found: Vec<_> = names.iter().filter_map(find).collect();
    assert_eq!(found.len(), MODULES.len(), "an order of hooks misses a module");
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_order_and_the_stores_name_every_module_once() {
        let all: BTreeSet<_> = MODULES.iter().map(|m| m.name()).collect();
        assert_eq!(all.len(), MODULES.len());
        for order in [PRE_BLOCK, BEGIN_BLOCK, END_BLOCK, STORES] {
            assert_eq!(order.into_iter().collect::<BTreeSet<_>>(), all);
        }
    }

    #[test]
    fn every_message_of_our_packages_has_a_handler() {
        let modules = Modules::new();
        let handled: BTreeSet<_> = modules.messages.type_urls().map(str::to_owned).collect();
        let mut missing = Vec::new();
        for service in deepnode_proto::pool().services().filter(|s| s.name() == "Msg") {
            if service.full_name().starts_with("deepnode.") {
                for method in service.methods() {
                    let url = format!("/{}", method.input().full_name());
                    if !handled.contains(&url) {
                        missing.push(url);
                    }
                }
            }
        }
        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn every_query_of_our_packages_has_a_handler() {
        let modules = Modules::new();
        let mut missing = Vec::new();
        for service in deepnode_proto::pool().services().filter(|s| s.name() == "Query") {
            if service.full_name().starts_with("deepnode.") {
                for method in service.methods() {
                    let path = format!("/{}/{}", service.full_name(), method.name());
                    if !modules.queries.has(&path) {
                        missing.push(path);
                    }
                }
            }
        }
        assert_eq!(missing, Vec::<String>::new());
    }
}
