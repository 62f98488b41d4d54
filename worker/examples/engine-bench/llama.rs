//! The peer: llama.cpp's own bench program, on a GGUF file that holds our canonical f16 weights.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use deepnode_worker::model::dequant::Encoding;
use deepnode_worker::model::gguf::{Gguf, TensorData, Value};
use deepnode_worker::model::synthetic::GgufWriter;
use deepnode_worker::model::testing::{models_folder, SMOLLM2_GGUF};
use half::f16;

use crate::Case;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// llama-bench and the model that it reads.
pub struct Llama {
    program: PathBuf,
    model: PathBuf,
}

impl Llama {
    /// Writes the f16 model beside the program, if it is not there yet (270 MB): it is no model of ours to choose.
    pub fn new(program: PathBuf) -> Result<Self> {
        let source = models_folder().join(SMOLLM2_GGUF);
        let model = program.with_file_name(SMOLLM2_GGUF.replace("Q4_1", "F16"));
        if !model.exists() {
            let unfinished = model.with_extension("new");
            let mut out = File::create(&unfinished)?;
            out.write_all(&f16_file(&Gguf::parse(&fs::read(source)?)?)?)?;
            out.sync_all()?;
            fs::rename(&unfinished, &model)?;
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

/// The same file with every matrix in f16 and every vector in f32 (llama.cpp wants that), their values the canonical ones.
fn f16_file(gguf: &Gguf<'_>) -> Result<Vec<u8>> {
    let mut writer = GgufWriter::default();
    for (key, value) in gguf.pairs.iter().filter(|(key, _)| **key != "general.alignment") {
        match value {
            // The number of what most of the tensors are.
            Value::Int(_) if *key == "general.file_type" => writer.u32(key, 1),
            Value::Int(n) => writer.u32(key, u32::try_from(*n)?),
            Value::Float(x) => writer.f32(key, *x as f32),
            Value::Bool(b) => writer.bool(key, *b),
            Value::Str(text) => writer.string(key, text),
            Value::Ints(list) => writer.i32s(
                key,
                &list.iter().map(|n| i32::try_from(*n)).collect::<std::result::Result<Vec<_>, _>>()?,
            ),
            Value::Strings(list) => writer.strings(key, list),
            Value::Other => {}
        }
    }
    for (name, tensor) in &gguf.tensors {
        let values = canonical(tensor).map_err(|at| format!("{name}: {at:?}"))?;
        let (rows, cols) = (tensor.rows as u64, tensor.cols as u64);
        if tensor.rows == 1 {
            let bytes = values.iter().flat_map(|x| x.to_f32().to_le_bytes()).collect();
            writer.tensor(name, &[cols], Encoding::F32.ggml(), bytes);
        } else {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            writer.tensor(name, &[cols, rows], Encoding::F16.ggml(), bytes);
        }
    }
    Ok(writer.finish())
}

fn canonical(tensor: &TensorData<'_>) -> std::result::Result<Vec<f16>, impl std::fmt::Debug> {
    let mut values = vec![f16::ZERO; tensor.rows * tensor.cols];
    tensor.encoding.decode(tensor.bytes, &mut values).map(|()| values)
}
