//! `deepnoded`: a node of the chain, and the command line of its users.

use std::process::ExitCode;

use clap::Parser;
use deepnode_abci_server::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("Error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
