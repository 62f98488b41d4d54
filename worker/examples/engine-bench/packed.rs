//! Decoding with weights that stay quantised, beside the same weights as halves, and beside llama.cpp on the same file.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use deepnode_worker::cpu::{Cpu, Isa, Resident};
use deepnode_worker::model::{import, Model};

use crate::aims::Aims;
use crate::llama::{Llama, Result};
use crate::{measure, Case, Rates, PAGES};

const KINDS: [&str; 3] = ["Q4_0", "Q4_1", "Q8_0"];
const DECODE: Case = Case { name: "tg64", prefilled: 1, decoded: 64, sequences: 1 };

/// The f16 model in another format, made by llama.cpp's own quantiser.
pub fn quantised(llama: &Llama, kind: &str) -> Result<std::path::PathBuf> {
    let out = llama.model().with_file_name(format!("SmolLM2-135M-Instruct.pure-{kind}.gguf"));
    if !out.exists() {
        let mut command = Command::new(llama.tool("llama-quantize"));
        let done = command.arg("--pure").arg(llama.model()).arg(&out).arg(kind).output()?;
        if !done.status.success() {
            return Err(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr)).into());
        }
    }
    Ok(out)
}

/// Prints a line for each format and number of threads.
pub fn run(llama: &Llama, threads: &[usize], isas: &[Isa], rounds: usize, aims: &mut Aims) -> Result<()> {
    println!("\ndecode with quantised weights; tokens/s, median of {rounds} (best)\n");
    println!("| format | threads | instructions | packed | the same as f16 | packed/f16 | llama.cpp | ours/llama.cpp |");
    println!("|---|--:|---|--:|--:|--:|--:|--:|");
    for kind in KINDS {
        let file = quantised(llama, kind)?;
        let folder = tempfile::tempdir()?;
        let model = open(&file, folder.path())?;
        let copy = |expanded| Resident::copy(&model, expanded).map(Arc::new).ok_or("memory for the weights");
        let (packed, halves) = (copy(false)?, copy(true)?);
        for (threads, isa) in threads.iter().flat_map(|n| isas.iter().map(move |isa| (*n, *isa))) {
            let engine = |model: &Arc<Resident<Model>>| Cpu::new(model.clone(), isa, threads, PAGES);
            let (packed, halves) = (engine(&packed)?, engine(&halves)?);
            let [mut ours, mut wide, mut theirs] = <[Rates; 3]>::default();
            for _ in 0..rounds {
                ours.push(measure(&packed, DECODE));
                wide.push(measure(&halves, DECODE));
                theirs.push(llama.measure_on(&file, DECODE, threads)?);
            }
            let gain = ours.median() / wide.median();
            if threads == 2 {
                aims.at_least(&format!("{kind} with {isa:?} of f16"), gain, 1.2);
            }
            println!(
                "| {kind} | {threads} | {isa:?} | {} | {} | {gain:.2} | {} | {:.2} |",
                ours.text(),
                wide.text(),
                theirs.text(),
                ours.median() / theirs.median()
            );
        }
    }
    Ok(())
}

fn open(file: &Path, folder: &Path) -> Result<Arc<Model>> {
    Ok(Arc::new(Model::open(&import(file, folder, &|_| {})?.path)?))
}
