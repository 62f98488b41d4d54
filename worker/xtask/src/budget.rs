//! BUDGET.toml: what kernels may cost. Written by hand, so that a kernel gets dearer only where someone says so.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{bail, Context, Result};
use serde::Deserialize;

use crate::manifest::{Cost, Kernels};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    family: Vec<Family>,
}

/// Kernels with the same limits, on each architecture. Spills and stack must be 0 of all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    kernels: Vec<String>,
    /// The costs of the same names, at most.
    registers: u32,
    shared: u32,
    instructions: u32,
    bytes: u32,
    /// Machine instructions of the main loop for 100 fused multiply-adds, where it has any.
    per_100_fma: Option<u32>,
}

impl Budget {
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("BUDGET.toml");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Fails with everything that is beyond its limit, and with kernels that have none or several.
    pub fn check(&self, kernels: &Kernels) -> Result<()> {
        let mut wrong = Vec::new();
        for (arch, kernels) in kernels {
            for (name, cost) in kernels {
                match &self.families(name)[..] {
                    [family] => {
                        let beyond = family.beyond(cost).into_iter();
                        wrong.extend(beyond.map(|what| format!("{name} for {arch}: {what}")));
                    }
                    families => {
                        wrong
                            .push(format!("{name} for {arch}: in {} families, must be in 1", families.len()));
                    }
                }
            }
        }
        let known: BTreeSet<&String> = kernels.values().flat_map(|kernels| kernels.keys()).collect();
        let named = self.family.iter().flat_map(|family| &family.kernels);
        wrong
            .extend(named.filter(|name| !known.contains(name)).map(|name| format!("{name}: no such kernel")));
        if !wrong.is_empty() {
            bail!("kernels/BUDGET.toml:\n{}", wrong.join("\n"));
        }
        Ok(())
    }

    fn families(&self, name: &str) -> Vec<&Family> {
        self.family.iter().filter(|family| family.kernels.iter().any(|kernel| kernel == name)).collect()
    }
}

impl Family {
    /// What of a kernel is beyond a limit.
    fn beyond(&self, cost: &Cost) -> Vec<String> {
        let per_100_fma = (cost.loop_instructions * 100).checked_div(cost.loop_fma);
        let mut costs = vec![
            ("spills", cost.spills, 0),
            ("stack", cost.stack, 0),
            ("registers", cost.registers, self.registers),
            ("shared", cost.shared, self.shared),
            ("instructions", cost.instructions, self.instructions),
            ("bytes", cost.bytes, self.bytes),
        ];
        costs.extend(self.per_100_fma.map(|limit| ("per_100_fma", per_100_fma.unwrap_or(u32::MAX), limit)));
        let beyond = costs.into_iter().filter(|(_, found, limit)| found > limit);
        beyond.map(|(what, found, limit)| format!("{what} is {found}, must be at most {limit}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

    fn committed() -> (Budget, Manifest) {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../kernels"));
        let manifest = std::fs::read_to_string(folder.join("MANIFEST.toml")).unwrap();
        (Budget::read(folder).unwrap(), toml::from_str(&manifest).unwrap())
    }

    #[test]
    fn what_is_committed_is_within_its_budget() {
        let (budget, manifest) = committed();
        assert_eq!(manifest.kernels.keys().collect::<Vec<_>>(), ["sm_80", "sm_90a"]);
        budget.check(&manifest.kernels).unwrap();
    }

    /// Each cost of each kernel has a limit.
    #[test]
    fn what_is_beyond_is_named() {
        let (budget, manifest) = committed();
        type Part = fn(&mut Cost) -> &mut u32;
        let costs: [(&str, Part); 6] = [
            ("spills", |cost| &mut cost.spills),
            ("stack", |cost| &mut cost.stack),
            ("registers", |cost| &mut cost.registers),
            ("shared", |cost| &mut cost.shared),
            ("instructions", |cost| &mut cost.instructions),
            ("bytes", |cost| &mut cost.bytes),
        ];
        for (arch, kernels) in &manifest.kernels {
            for name in kernels.keys() {
                for (what, cost) in costs {
                    let mut dearer = manifest.kernels.clone();
                    *cost(dearer.get_mut(arch).unwrap().get_mut(name).unwrap()) = 1 << 16;
                    let error = budget.check(&dearer).unwrap_err().to_string();
                    let all: Vec<&str> = error.lines().skip(1).collect();
                    assert_eq!(all.len(), 1, "{error}");
                    assert!(
                        all[0].starts_with(&format!("{name} for {arch}: {what} is 65536, must be at most "))
                    );
                }
            }
        }
        let mut slower = manifest.kernels.clone();
        slower.get_mut("sm_80").unwrap().get_mut("gate_many").unwrap().loop_instructions *= 2;
        assert!(budget
            .check(&slower)
            .unwrap_err()
            .to_string()
            .contains("gate_many for sm_80: per_100_fma is"));
        let mut more = manifest.kernels;
        let embed = more["sm_80"]["embed"];
        more.get_mut("sm_80").unwrap().insert("another".into(), embed);
        let error = budget.check(&more).unwrap_err().to_string();
        assert!(error.ends_with("another for sm_80: in 0 families, must be in 1"), "{error}");
    }
}
