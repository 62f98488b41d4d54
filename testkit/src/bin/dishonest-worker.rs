//! A worker that earns trust, and then cheats: `deepnode-worker run` with another executor.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use deepnode_testkit::cheat::{after_epochs, Cheat, Cheater};
use deepnode_worker::blobs::Blobs;
use deepnode_worker::cli::{self, Global};
use deepnode_worker::model::{chat, Sandbox};

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
    /// What a sandbox starts
    #[command(name = chat::COMMAND, hide = true)]
    RenderTemplate {
        #[arg(long, default_value_t = 1)]
        room: u32,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run { cheat, honest_epochs } => run(&cli.global, cheat, honest_epochs),
        Command::RenderTemplate { room } => chat::serve(room).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(global: &Global, cheat: Cheat, honest_epochs: u64) -> anyhow::Result<()> {
    cli::run(global, &Sandbox::this_program(), |home, engines, chain| {
        let blobs = Blobs::open(&home.blobs_folder())?;
        let due = after_epochs(chain.clone(), honest_epochs);
        Ok(Cheater::new(engines, home.engine_options(), blobs, cheat, due)?)
    })
}
