//! A worker that earns trust, and then cheats: `deepnode-worker run` with another executor.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use deepnode_testkit::cheat::{after_epochs, Cheat, Cheater};
use deepnode_worker::blobs::Blobs;
use deepnode_worker::cli::{self, Global};

#[derive(Debug, Parser)]
#[command(name = "dishonest-worker", version, about = "Works like deepnode-worker, then cheats")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Works from a home folder that `deepnode-worker init` made
    Run {
        /// How to cheat.
        #[arg(long)]
        cheat: Cheat,
        /// Epochs of honest answers before, counted from that of its first answer.
        #[arg(long, default_value_t = 2)]
        honest_epochs: u64,
    },
}

fn main() -> ExitCode {
    let Cli { global, command: Command::Run { cheat, honest_epochs } } = Cli::parse();
    let run = cli::run(&global, |home, engines, chain| {
        let blobs = Blobs::open(&home.blobs_folder())?;
        let due = after_epochs(chain.clone(), honest_epochs);
        Ok(Cheater::new(engines, home.engine_options(), blobs, cheat, due)?)
    });
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
