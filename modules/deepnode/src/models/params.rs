//! Parameters, and the table of classes.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::num::amount;
use deepnode_core::{errors, Dec, Result};
use deepnode_proto::deepnode::models::v1 as proto;

use super::state::Class;
use crate::fields::{printable, within};
use crate::params::MICRO;

/// Rows of the class table, at most: every registration walks it.
const MAX_CLASSES: usize = 32;
const KINDS: [&str; 6] = ["llm", "embedding", "speech", "image", "tabular", "custom"];

/// Parameters besides the class table.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Params {
    /// udn locked by a registration.
    pub deposit: u128,
    /// Greatest royalty, in millionths of the compute fee.
    pub max_royalty_ppm: u32,
    /// Blocks between commitment and registration.
    pub commit_blocks: u64,
    /// Longest chain of parents.
    pub max_depth: u32,
    /// Auditors drawn for a test vector.
    pub vector_auditors: u32,
    /// Draws without agreement after which a model is rejected.
    pub vector_draws: u32,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            deposit: 100 * MICRO,
            max_royalty_ppm: 200_000,
            commit_blocks: 2,
            max_depth: 4,
            vector_auditors: 4,
            vector_draws: 3,
        }
    }
}

impl Params {
    /// Refuses what is out of bounds.
    pub fn check(&self) -> Result<()> {
        within("params.deposit", self.deposit, 0, 1_000_000_000_000 * MICRO)?;
        within("params.max_royalty_ppm", self.max_royalty_ppm, 0, 1_000_000)?;
        within("params.commit_blocks", self.commit_blocks, 1, super::COMMITMENT_BLOCKS / 2)?;
        within("params.max_depth", self.max_depth, 0, 16)?;
        within("params.vector_auditors", self.vector_auditors, 1, 100)?;
        within("params.vector_draws", self.vector_draws, 1, 100)
    }

    pub(super) fn from_proto(p: &proto::Params) -> Result<(Self, Vec<Class>)> {
        let deposit =
            amount::parse(&p.deposit).map_err(|e| errors::invalid_request(format!("params.deposit: {e}")))?;
        let params = Params {
            deposit,
            max_royalty_ppm: p.max_royalty_ppm,
            commit_blocks: p.commit_blocks,
            max_depth: p.max_depth,
            vector_auditors: p.vector_auditors,
            vector_draws: p.vector_draws,
        };
        params.check()?;
        let classes: Vec<Class> = p.classes.iter().map(Class::from_proto).collect::<Result<_>>()?;
        check_classes(&classes)?;
        Ok((params, classes))
    }

    pub(super) fn to_proto(&self, classes: &[Class]) -> proto::Params {
        proto::Params {
            classes: classes.iter().map(Class::to_proto).collect(),
            deposit: self.deposit.to_string(),
            max_royalty_ppm: self.max_royalty_ppm,
            commit_blocks: self.commit_blocks,
            max_depth: self.max_depth,
            vector_auditors: self.vector_auditors,
            vector_draws: self.vector_draws,
        }
    }
}

impl Class {
    /// The rows of a public network with 10-second blocks: llm by size. Speed is 20 tokens a second at the row's W,
    /// cu_ref 256 tokens in and 256 out; a token of 10^6 weights is 2 CU.
    pub fn defaults() -> Vec<Class> {
        Self::table(Dec::from_atomics(14 * Dec::SCALE), |millions| {
            (millions.saturating_mul(400), millions.saturating_mul(1_022))
        })
    }

    /// The rows of a localnet, where a CPU serves models.
    pub fn localnet() -> Vec<Class> {
        Self::table(Dec::from_atomics(14_000 * Dec::SCALE), |_| (2_000, 10_000))
    }

    /// Rows with (speed, cu_ref) by millions of weights.
    fn table(price: Dec, numbers: fn(u64) -> (u64, u64)) -> Vec<Class> {
        // Name; greatest W in millions, 0 for no bound; the W that its numbers are for.
        let rows = [("300m", 300, 300), ("3b", 3_000, 3_000), ("30b", 30_000, 30_000), ("max", 0, 300_000)];
        let class = |(name, max, millions): (&str, u64, u64)| {
            let (speed, cu_ref) = numbers(millions);
            Class {
                name: format!("llm-{name}"),
                kind: "llm".into(),
                max_weights: max.saturating_mul(1_000_000),
                speed,
                cu_ref,
                ref_price: price,
                price,
            }
        };
        rows.map(class).to_vec()
    }

    fn from_proto(c: &proto::Class) -> Result<Self> {
        let price = |field: &str, text: &str| -> Result<Dec> {
            Dec::from_wire(text)
                .map_err(|e| errors::invalid_request(format!("params.classes.{field} of {:?}: {e}", c.name)))
        };
        Ok(Class {
            name: c.name.clone(),
            kind: c.kind.clone(),
            max_weights: c.max_weights,
            speed: c.speed,
            cu_ref: c.cu_ref,
            ref_price: price("ref_price", &c.ref_price)?,
            price: price("price", &c.price)?,
        })
    }

    pub(super) fn to_proto(&self) -> proto::Class {
        proto::Class {
            name: self.name.clone(),
            kind: self.kind.clone(),
            max_weights: self.max_weights,
            speed: self.speed,
            cu_ref: self.cu_ref,
            ref_price: self.ref_price.to_wire(),
            price: self.price.to_wire(),
        }
    }
}

/// Refuses a table that is out of bounds, names a class twice, or has a row that no model can reach.
pub(super) fn check_classes(classes: &[Class]) -> Result<()> {
    within("number of params.classes", classes.len(), 1, MAX_CLASSES)?;
    let most = 1_000_000_000_000_000;
    // 0 is no bound.
    let bound = |class: &Class| class.max_weights.checked_sub(1).unwrap_or(u64::MAX);
    for (at, class) in classes.iter().enumerate() {
        printable("params.classes.name", &class.name, 1, 32)?;
        let refuse =
            |text: String| Err(errors::invalid_request(format!("params.classes {:?}: {text}", class.name)));
        if class.name.contains([' ', '/']) {
            return refuse("name must have no space and no slash".into());
        }
        if !KINDS.contains(&class.kind.as_str()) {
            return refuse(format!("kind {:?} must be one of {}", class.kind, KINDS.join(", ")));
        }
        within("params.classes.speed", class.speed, 1, most)?;
        within("params.classes.cu_ref", class.cu_ref, 1, most)?;
        for (field, price) in [("ref_price", class.ref_price), ("price", class.price)] {
            within(
                &format!("params.classes.{field}"),
                price,
                Dec::ppm(1),
                Dec::percent(100_000_000_000_000),
            )?;
        }
        for before in classes.iter().take(at) {
            if before.name == class.name {
                return refuse("name appears twice".into());
            }
            if before.kind == class.kind && bound(before) >= bound(class) {
                return refuse(format!(
                    "max_weights {} is not above that of {:?}, {} (0 is no bound)",
                    class.max_weights, before.name, before.max_weights
                ));
            }
        }
    }
    Ok(())
}
