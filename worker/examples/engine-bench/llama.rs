//! The peer: llama.cpp's own bench program, on a GGUF file that holds our canonical f16 weights.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use deepnode_worker::model::dequant::Encoding;
use deepnode_worker::model::gguf::{Gguf, TensorData, Value};
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
            let mut out = BufWriter::new(File::create(&unfinished)?);
            write_f16(&Gguf::parse(&fs::read(source)?)?, &mut out)?;
            out.into_inner()?.sync_all()?;
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
fn write_f16(gguf: &Gguf<'_>, out: &mut impl Write) -> Result<()> {
    const ALIGNMENT: usize = 32;
    let mut head = Vec::from(*b"GGUF");
    head.extend(3u32.to_le_bytes());
    head.extend((gguf.tensors.len() as u64).to_le_bytes());
    let pairs: Vec<_> = gguf
        .pairs
        .iter()
        .filter(|(key, value)| **key != "general.alignment" && !matches!(value, Value::Other))
        .collect();
    head.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        // The number of what most of the tensors are.
        let value = if *key == "general.file_type" { &Value::Int(1) } else { value };
        put_string(&mut head, key);
        put_value(&mut head, value)?;
    }
    let mut offset = 0usize;
    for (name, tensor) in &gguf.tensors {
        put_string(&mut head, name);
        let vector = tensor.rows == 1;
        head.extend((if vector { 1u32 } else { 2 }).to_le_bytes());
        head.extend((tensor.cols as u64).to_le_bytes());
        if !vector {
            head.extend((tensor.rows as u64).to_le_bytes());
        }
        let encoding = if vector { Encoding::F32 } else { Encoding::F16 };
        head.extend(encoding.ggml().to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += (tensor.rows * tensor.cols * encoding.block_bytes()).next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    out.write_all(&head)?;
    for (name, tensor) in &gguf.tensors {
        let values = canonical(tensor).map_err(|at| format!("{name}: {at:?}"))?;
        let mut bytes: Vec<u8> = if tensor.rows == 1 {
            values.iter().flat_map(|x| x.to_f32().to_le_bytes()).collect()
        } else {
            values.iter().flat_map(|x| x.to_le_bytes()).collect()
        };
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn canonical(tensor: &TensorData<'_>) -> std::result::Result<Vec<f16>, impl std::fmt::Debug> {
    let mut values = vec![f16::ZERO; tensor.rows * tensor.cols];
    tensor.encoding.decode(tensor.bytes, &mut values).map(|()| values)
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A value as GGUF's u32, f32, bool, string, or array of i32 or strings.
fn put_value(out: &mut Vec<u8>, value: &Value<'_>) -> Result<()> {
    match value {
        Value::Int(n) => {
            out.extend(4u32.to_le_bytes());
            out.extend(u32::try_from(*n)?.to_le_bytes());
        }
        Value::Float(x) => {
            out.extend(6u32.to_le_bytes());
            out.extend((*x as f32).to_le_bytes());
        }
        Value::Bool(b) => {
            out.extend(7u32.to_le_bytes());
            out.push((*b).into());
        }
        Value::Str(text) => {
            out.extend(8u32.to_le_bytes());
            put_string(out, text);
        }
        Value::Ints(list) => {
            out.extend([9u32, 5].map(u32::to_le_bytes).concat());
            out.extend((list.len() as u64).to_le_bytes());
            for n in list {
                out.extend(i32::try_from(*n)?.to_le_bytes());
            }
        }
        Value::Strings(list) => {
            out.extend([9u32, 8].map(u32::to_le_bytes).concat());
            out.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|text| put_string(out, text));
        }
        Value::Other => return Err("an array of numbers that are not integers".into()),
    }
    Ok(())
}
