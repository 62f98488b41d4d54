//! `doctor`: what stands in the way of a worker, a verifier or a gateway on this machine, each with the way to mend it.

mod chain;
mod machine;
mod setup;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{block_on, Global, Home};

/// What was found out about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// It works, and would work better otherwise.
    Warning,
    /// It does not work.
    Mend,
}

impl Check {
    pub(self) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), remedy: None }
    }

    pub(self) fn warning(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: State::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    pub(self) fn mend(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: State::Mend, found: found.into(), remedy: Some(remedy.into()) }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Mend => "MEND",
        };
        write!(f, "{state:<8} {:<12} {}", self.name, self.found)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n{:<22}{remedy}", ""),
            None => Ok(()),
        }
    }
}

/// What a home is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// A worker.
    Run,
    /// The auditor of a validator.
    Verify,
    /// A gateway in front of the chain, whose answers others compute.
    Gateway,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The command that this home is for: run by default, gateway with --gateway.
    #[arg(long = "for", value_name = "COMMAND")]
    role: Option<Role>,
    #[arg(long)]
    json: bool,
    /// Reads every weight of the models and compares it with their ids.
    #[arg(long)]
    weights: bool,
    /// Where a gateway of this home will listen: looks at the port, and at the API keys that it needs.
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<SocketAddr>,
    /// That gateway's file of API keys.
    #[arg(long, value_name = "FILE", requires = "gateway")]
    api_key_file: Option<PathBuf>,
}

/// An error if something is to be mended.
pub(super) fn run(global: &Global, args: Args) -> anyhow::Result<()> {
    let implied = if args.gateway.is_some() { Role::Gateway } else { Role::Run };
    let role = args.role.unwrap_or(implied);
    let mut checks = block_on(async { Ok(examine(&global.home, role, args.weights).await) })?;
    if let Some(listen) = args.gateway {
        checks.extend(setup::gateway(listen, args.api_key_file.as_deref()));
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&checks)?);
    } else {
        checks.iter().for_each(|check| println!("{check}"));
    }
    match checks.iter().filter(|check| check.state == State::Mend).count() {
        0 => Ok(()),
        n => anyhow::bail!("{n} of {} checks say that something is to be mended", checks.len()),
    }
}

/// Looks at a home folder, this machine, and the chain, for what one command needs. Changes nothing.
pub async fn examine(dir: &Path, role: Role, weights: bool) -> Vec<Check> {
    let home = Home::open(dir);
    let computes = role != Role::Gateway;
    let mut checks = Vec::new();
    if computes {
        let device = home.as_ref().ok().map(|home| home.config.device);
        checks.extend([machine::processor(), machine::gpu(device)]);
    }
    checks.extend([machine::clock(), machine::disk(dir)]);
    let home = match home {
        Ok(home) => home,
        Err(error) => {
            let remedy = format!("deepnode-worker init --home {} --chain-id ID", dir.display());
            checks.push(Check::mend("home", format!("{error:#}"), remedy));
            return checks;
        }
    };
    checks.push(Check::ok("home", dir.display().to_string()));
    checks.extend(setup::key(&home));
    let (models, sizes) = setup::models(&home, weights);
    checks.extend(models);
    if computes {
        checks.push(machine::memory(sizes.iter().map(|size| size.file).sum()));
        let halves: Vec<u64> = sizes.iter().map(|size| size.halves).collect();
        checks.extend(machine::card_memory(home.config.device, &halves));
    }
    if role == Role::Run {
        checks.extend(setup::ports(&home).await);
    }
    checks.extend(chain::examine(&home, role).await);
    checks
}
