//! `deepnode-localnet`: a real network of 4 validators and 3 workers on this machine, and a tour of it.

mod chain;
mod network;
mod print;
mod process;
mod tour;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use clap::Parser;

use network::{Network, Paths};

/// Starts a network on this machine, asks a real question, and shows what became of it.
#[derive(Parser)]
#[command(name = "deepnode-localnet", version)]
struct Cli {
    /// Folder for the network's state; deleted at each start.
    #[arg(long, default_value = ".localnet")]
    dir: PathBuf,
    /// Folder of the programs.
    #[arg(long, default_value = "target/debug")]
    bin: PathBuf,
    /// Folder of models.
    #[arg(long, env = "DEEPNODE_MODELS", default_value = ".models")]
    models: PathBuf,
    /// The question.
    #[arg(long, default_value = "What is the capital of France? Answer in one sentence.")]
    question: String,
    /// End after the tour, with exit code 0 if all of it was as it should be.
    #[arg(long)]
    demo: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\nError: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let started = Instant::now();
    let dir = std::env::current_dir()?.join(&cli.dir);
    let bin = cli
        .bin
        .canonicalize()
        .with_context(|| format!("{} is not built: run `make localnet`", cli.bin.display()))?;
    let models = cli
        .models
        .canonicalize()
        .with_context(|| format!("no {}: run `make model`", cli.models.display()))?;
    let gguf = gguf(&models)?;
    let paths = Paths { dir, bin, models, gguf };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    runtime.spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        let _ = stop.send(());
    });

    print::step("model");
    let model = tour::import(&paths)?;
    print::step("network");
    let mut network = Network::create(paths, model.id, model.genesis, started)?;
    let outcome = runtime.block_on(async {
        let work = async {
            network.start_validators(Duration::from_secs(60)).await?;
            tour::run(&mut network, &cli.question).await?;
            if cli.demo {
                return Ok(());
            }
            print::usage(&network);
            loop {
                network.check().await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            outcome = work => outcome,
            _ = stopped => Ok(()),
        }
    });
    print::step("stopping");
    network.stop();
    outcome
}

/// The file that the model is imported from.
fn gguf(models: &std::path::Path) -> Result<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(models)?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "gguf"))
        .collect();
    found.sort();
    match found.into_iter().next() {
        Some(path) => Ok(path),
        None => bail!("no GGUF file in {}: run `make model`", models.display()),
    }
}

/// Runs a program to its end and returns what it printed.
pub fn output(program: &std::path::Path, args: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !out.status.success() {
        bail!("{} {}: {}", program.display(), args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
