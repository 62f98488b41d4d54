//! The peer: llama.cpp's own bench program, on a GGUF file that holds our canonical f16 weights.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use deepnode_worker::model::testing::SMOLLM2_GGUF;
use deepnode_worker::model::{export, Model};

use crate::Case;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

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

    /// Tokens a second. Each call is a process of its own, which warms up before it measures.
    pub fn measure(&self, case: Case, threads: usize) -> Result<f64> {
        let (prefilled, depth) = if case.decoded == 0 { (case.prefilled, 0) } else { (0, case.prefilled) };
        // One token before the first decoded one is no depth worth a prefill.
        let depth = if depth == 1 { 0 } else { depth };
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(&self.model).args(["-o", "json", "-r", "1"]);
        for (flag, n) in [("-t", threads), ("-p", prefilled), ("-n", case.decoded), ("-d", depth)] {
            command.arg(flag).arg(n.to_string());
        }
        let output = command.output()?;
        if !output.status.success() {
            return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let runs: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        runs[0]["avg_ts"].as_f64().filter(|_| runs.get(1).is_none()).ok_or_else(|| "not one result".into())
    }
}
