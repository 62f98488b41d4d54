//! The peer: llama.cpp's own bench program, on a GGUF file that holds our canonical f16 weights.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use deepnode_worker::model::testing::SMOLLM2_GGUF;
use deepnode_worker::model::{export, Model};

use crate::Case;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// llama-bench and the model that it reads.
pub struct Llama {
    program: PathBuf,
    model: PathBuf,
}

impl Llama {
    /// Writes the f16 model beside the program, if it is not there yet (270 MB): it is no model of ours to choose.
    pub fn new(program: PathBuf, ours: &Model) -> Result<Self> {
        let model = program.with_file_name(SMOLLM2_GGUF.replace("Q4_1", "F16"));
        if !model.exists() {
            export::to_gguf(ours, &model)?;
        }
        Ok(Llama { program, model })
    }

    /// What it says that it is.
    pub fn version(&self) -> String {
        let name = |path: &Path| path.display().to_string();
        format!("{} on {}", name(&self.program), name(&self.model))
    }

    /// The f16 model.
    pub fn model(&self) -> &Path {
        &self.model
    }

    /// Another of its programs.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.program.with_file_name(name)
    }

    /// Tokens a second with f16 weights. Each call is a process of its own, which warms up before it measures.
    pub fn measure(&self, case: Case, threads: usize) -> Result<f64> {
        self.measure_on(&self.model, case, threads)
    }

    /// The same with the weights of `model`.
    pub fn measure_on(&self, model: &Path, case: Case, threads: usize) -> Result<f64> {
        let threads = threads.to_string();
        if case.sequences > 1 {
            let mut command = Command::new(self.tool("llama-batched-bench"));
            command.arg("-m").arg(model).args([
                "-c",
                "2048",
                "-b",
                "512",
                "-ub",
                "512",
                "--output-format",
                "jsonl",
            ]);
            command.args(["-t", &threads, "-tb", &threads]);
            for (flag, n) in [("-npp", case.prefilled), ("-ntg", case.decoded), ("-npl", case.sequences)] {
                command.arg(flag).arg(n.to_string());
            }
            return rate(command, |text| {
                let line = text.lines().find(|line| line.starts_with('{'))?;
                serde_json::from_str::<serde_json::Value>(line).ok()?["speed_tg"].as_f64()
            });
        }
        let (prefilled, depth) = if case.decoded == 0 { (case.prefilled, 0) } else { (0, case.prefilled) };
        // One token before the first decoded one is no depth worth a prefill.
        let depth = if depth == 1 { 0 } else { depth };
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(model).args(["-o", "json", "-r", "1", "-t", &threads]);
        for (flag, n) in [("-p", prefilled), ("-n", case.decoded), ("-d", depth)] {
            command.arg(flag).arg(n.to_string());
        }
        rate(command, |text| {
            let runs: serde_json::Value = serde_json::from_str(text).ok()?;
            runs[0]["avg_ts"].as_f64().filter(|_| runs.get(1).is_none())
        })
    }
}

/// The one result that a program prints.
fn rate(mut command: Command, read: impl Fn(&str) -> Option<f64>) -> Result<f64> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    read(&text).ok_or_else(|| format!("{command:?} did not print one result: {text}").into())
}
