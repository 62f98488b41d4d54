//! `bench`: what this machine computes with one model, and what that would earn.

mod cost;
mod earnings;
mod measure;

pub use cost::cu;
pub use earnings::{earnings, Earnings};

use serde_json::json;

use super::local::Local;
use super::{block_on, Global, Home};
use measure::Figures;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    local: Local,
    /// A node's gRPC, host:port, that is asked for prices; the home's by default.
    #[arg(long)]
    node: Option<String>,
    #[arg(long)]
    json: bool,
}

pub(super) fn run(global: &Global, args: Args) -> anyhow::Result<()> {
    let (model, engine) = args.local.load(global)?;
    let figures = Figures::of(&model, &engine, args.local.threads())?;
    let node = args.node.or_else(|| Home::open(&global.home).ok().map(|home| home.config.node));
    // Without a node there are no prices, and all the rest is as true.
    let earnings = node.map(|node| {
        let id = hex::encode(model.id());
        block_on(async { self::earnings(&node, &id, figures.cu_a_second()).await })
    });
    let earnings = earnings.unwrap_or_else(|| Err(anyhow::anyhow!("no node is known (--node HOST:PORT)")));
    if args.json {
        let earnings = match earnings {
            Ok(earnings) => json!(earnings),
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        let report = json!({ "model": hex::encode(model.id()), "figures": figures, "earnings": earnings });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("{figures}");
    match earnings {
        Ok(earnings) => println!("{earnings}"),
        Err(error) => println!("earnings              {error:#}"),
    }
    Ok(())
}
