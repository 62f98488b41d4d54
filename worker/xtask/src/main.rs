//! `cargo xtask kernels`: builds the worker's CUDA kernels, which needs neither a GPU nor an installed CUDA.

mod budget;
mod kernels;
mod manifest;
mod tools;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of the worker")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compiles worker/kernels into kernels.fatbin and MANIFEST.toml, which are committed
    Kernels {
        /// Change nothing: fail where what is committed is not what the sources give
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    let Command::Kernels { check } = Args::parse().command;
    kernels::run(check)
}
