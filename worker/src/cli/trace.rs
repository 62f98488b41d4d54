//! `trace`: what this machine computes tensor by tensor, and where two machines differ first.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use anyhow::{bail, Context};
use clap::{Args, Subcommand};

use super::device::Device;
use super::local::ModelArg;
use super::Global;
use crate::canon::SamplingParams;
use crate::cpu::Isa;
use crate::engine::{difference, Engine, EngineError, Options, Request, Stop, TensorName, Trace};
use crate::model::Model;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Computes a sequence and writes digests of every tensor of every layer at every position
    Record(Box<Record>),
    /// Names the first tensor, position and element in which two recordings differ; exits with 1 if they do
    Diff(Diff),
}

#[derive(Debug, Args)]
pub(super) struct Record {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    sequence: Sequence,
    /// Greedy tokens that follow. What they are sampled from is recorded, the last token's own position is not.
    #[arg(long, default_value_t = 0)]
    max_tokens: u32,
    /// What computes: auto, cpu, cuda or cuda:NUMBER; the scalar reference (slow); or the processor with one of its
    /// instruction sets: portable, avx2, avx512, neon.
    #[arg(long, default_value = "auto")]
    engine: Which,
    /// Threads that compute; every core by default.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Keep the elements of this tensor too, as LAYER.NAME (3.query); `all` is several hundred kilobytes a position.
    #[arg(long, value_name = "TENSOR")]
    values: Vec<Keep>,
    /// The file to write; an old one is replaced.
    out: PathBuf,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Sequence {
    /// A text.
    #[arg(long)]
    prompt: Option<String>,
    /// Token ids, with commas between them.
    #[arg(long, value_delimiter = ',')]
    tokens: Option<Vec<u32>>,
}

#[derive(Debug, Args)]
pub(super) struct Diff {
    a: PathBuf,
    b: PathBuf,
}

/// What computes a recording.
#[derive(Clone, Copy, Debug)]
enum Which {
    Device(Device),
    Reference,
    Isa(Isa),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "reference" {
            return Ok(Self::Reference);
        }
        if let Ok(isa) = text.parse() {
            return Ok(Self::Isa(isa));
        }
        text.parse().map(Self::Device).map_err(|_| {
            let own: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
            format!(
                "must be auto, cpu, cuda, cuda:NUMBER, reference, or of this processor {}",
                own.join(", ")
            )
        })
    }
}

/// Tensors whose elements are kept.
#[derive(Clone, Copy, Debug)]
enum Keep {
    All,
    One(TensorName),
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        text.parse().map(Self::One)
    }
}

impl Command {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<()> {
        match self {
            Self::Record(record) => record.run(global),
            Self::Diff(diff) => diff.run(),
        }
    }
}

impl Record {
    fn run(self, global: &Global) -> anyhow::Result<()> {
        let path = self.model.path(global)?;
        let model = Arc::new(Model::open_verified(&path).with_context(|| path.display().to_string())?);
        let mut tokens = match (&self.sequence.prompt, &self.sequence.tokens) {
            (Some(text), _) => model.tokenizer().encode_prompt(text)?,
            (None, tokens) => tokens.clone().unwrap_or_default(),
        };
        let (engine, name) = self.engine(&model)?;
        let output = self.continuation(&engine, &tokens)?;
        // Of the last token there is nothing yet: it would be the next position.
        tokens.extend(output.split_last().map_or(&[][..], |(_, before)| before));
        let keep = |tensor| {
            self.values.iter().any(|keep| match keep {
                Keep::All => true,
                Keep::One(one) => *one == tensor,
            })
        };
        let trace = engine.trace(model.id(), name, &tokens, &keep)?;
        if let Some(Keep::One(absent)) = self.values.iter().find(|keep| match keep {
            Keep::All => false,
            Keep::One(one) => trace.claims.iter().all(|claim| claim.tensor != *one),
        }) {
            bail!("--values {absent}: the model has {} layers, from 0 on", engine.arch().layers);
        }
        write(&self.out, &trace).with_context(|| self.out.display().to_string())?;
        println!("{} tensors over {} positions, by {}", trace.claims.len(), trace.tokens.len(), trace.engine);
        Ok(())
    }

    /// The engine that was asked for, and a name of it.
    fn engine(&self, model: &Arc<Model>) -> Result<(Engine, String), EngineError> {
        // Weights as the file has them: they are read once or twice, and copied they would take longer.
        let default = Options { huge_pages: false, ..Options::default() };
        let options = Options { threads: self.threads.map_or(default.threads, usize::from), ..default };
        let Options { isa, threads, .. } = options;
        Ok(match self.engine {
            Which::Reference => (Engine::reference(model.clone())?, "reference".into()),
            Which::Isa(isa) => (
                Engine::new(model.clone(), Options { isa, ..options })?,
                format!("{isa:?}, {threads} threads"),
            ),
            Which::Device(device) => {
                (device.engine(model, options)?, format!("{device} ({isa:?}, {threads} threads)"))
            }
        })
    }

    /// What follows the prompt, greedily.
    fn continuation(&self, engine: &Engine, prompt: &[u32]) -> anyhow::Result<Vec<u32>> {
        if self.max_tokens == 0 {
            return Ok(Vec::new());
        }
        let request = Request {
            prompt,
            params: &SamplingParams::GREEDY,
            max_output: self.max_tokens,
            stop: Stop::NONE,
        };
        let mut session = engine.session(prompt.len() + self.max_tokens as usize)?;
        let generation = session.generate(&request, &mut |_| (), &AtomicBool::new(false))?;
        Ok(generation.tokens)
    }
}

impl Diff {
    fn run(self) -> anyhow::Result<()> {
        let [a, b] = [&self.a, &self.b]
            .map(|path| read(path).with_context(|| format!("{} is no recording", path.display())));
        let (a, b) = (a?, b?);
        println!("{}: {}\n{}: {}", self.a.display(), a.engine, self.b.display(), b.engine);
        match difference(&a, &b) {
            None => println!("equal in {} tensors over {} positions", a.claims.len(), a.tokens.len()),
            Some(difference) => {
                println!("{difference}");
                bail!("the recordings differ");
            }
        }
        Ok(())
    }
}

fn write(path: &Path, trace: &Trace) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    serde_json::to_writer(&mut file, trace)?;
    file.write_all(b"\n")?;
    file.flush()?;
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Trace> {
    Ok(serde_json::from_reader(BufReader::new(File::open(path)?))?)
}
