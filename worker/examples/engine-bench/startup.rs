//! From nothing to the second token, in a process of its own: how long, and how much memory, beside llama.cpp.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deepnode_worker::canon::{SamplingParams, PAGE};
use deepnode_worker::engine::{Engine, Options, Request, Stop};
use deepnode_worker::model::{import, Model};
use half::f16;

use crate::aims::Aims;
use crate::llama::{Llama, Result};

/// Positions that the peer takes memory for at once; ours is taken when it is used.
const CONTEXT: u32 = 128;

/// What a program does that was just started: every weight is checked, unless the peer's way is wanted, which checks none;
/// then two tokens follow one.
pub fn child(model: &Path, threads: usize, unchecked: bool) -> Result<()> {
    let model = if unchecked { Model::open(model)? } else { Model::open_verified(model)? };
    let engine = Engine::new(Arc::new(model), Options { threads, ..Options::default() })?;
    let request = Request { prompt: &[1], params: &SamplingParams::GREEDY, max_output: 2, stop: Stop::NONE };
    engine.session(3)?.generate(&request, &mut |_| (), &AtomicBool::new(false))?;
    Ok(())
}

/// Prints a line for each model file and number of threads.
pub fn run(llama: &Llama, threads: &[usize], rounds: usize, aims: &mut Aims) -> Result<()> {
    println!("\nfrom the start of a process to its second token, files in the system's memory; median of {rounds}\n");
    println!("| weights | threads | file, MB | ours, weights checked, s | ours, unchecked, s | llama.cpp (unchecked), s | ratios | ours at most, MB | of the file | llama.cpp at most, MB |");
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for kind in ["F16", "Q4_0", "Q4_1", "Q8_0"] {
        let file =
            if kind == "F16" { llama.model().to_path_buf() } else { crate::packed::quantised(llama, kind)? };
        let folder = tempfile::tempdir()?;
        let model = import(&file, folder.path(), &|_| {})?.path;
        // Keys and values of the one page that two tokens take.
        let arch = Model::open(&model)?.arch().clone();
        let page = (2 * PAGE * size_of::<f16>()) as u64 * u64::from(arch.layers) * u64::from(arch.kv_rows());
        for threads in threads.iter().map(usize::to_string) {
            let [mut ours, mut unchecked, mut theirs] = <[Vec<_>; 3]>::default();
            for _ in 0..rounds {
                let own = || -> Result<Command> {
                    let mut own = Command::new(std::env::current_exe()?);
                    own.arg("--startup").arg(&model).args(["--threads", &threads]);
                    Ok(own)
                };
                ours.push(measure(own()?)?);
                let mut careless = own()?;
                careless.arg("--unchecked");
                unchecked.push(measure(careless)?);
                let mut peer = Command::new(llama.tool("llama-batched-bench"));
                peer.arg("-m").arg(&file).args(["-t", &threads, "-c", &CONTEXT.to_string()]);
                peer.args(["-npp", "1", "-ntg", "2", "-npl", "1"]);
                theirs.push(measure(peer)?);
            }
            let [(ours, memory), (unchecked, _), (theirs, their_memory)] =
                [ours, unchecked, theirs].map(median);
            let bytes = std::fs::metadata(&model)?.len();
            if kind == "F16" {
                let what = |what: &str| format!("{what} with {threads} threads");
                aims.at_most(&what("a start, of llama.cpp's,"), unchecked / theirs, 1.0);
                aims.at_most(&what("a checked start, of llama.cpp's,"), ours / theirs, 1.0);
                aims.at_most(
                    &what("memory besides a page, of the weights,"),
                    (memory - page) as f64 / bytes as f64,
                    1.15,
                );
            }
            let megabytes = |bytes: u64| bytes as f64 / 1e6;
            let length = megabytes(bytes);
            println!(
                "| {kind} | {threads} | {length:.0} | {ours:.2} | {unchecked:.2} | {theirs:.2} | {:.2}, {:.2} | {:.0} | {:.2} | {:.0} |",
                ours / theirs,
                unchecked / theirs,
                megabytes(memory),
                megabytes(memory) / length,
                megabytes(their_memory),
            );
        }
    }
    Ok(())
}

/// The medians of seconds and of bytes.
fn median(mut runs: Vec<(f64, u64)>) -> (f64, u64) {
    let middle = runs.len() / 2;
    runs.sort_by_key(|run| run.1);
    let bytes = runs[middle].1;
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    (runs[middle].0, bytes)
}

/// Seconds that a command takes, and the most memory it had, in bytes. The system's own account of a child's memory begins
/// with that of the process which started it, so the child is watched.
fn measure(mut command: Command) -> Result<(f64, u64)> {
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        most = line.and_then(|kilobytes| kilobytes.parse().ok()).unwrap_or(0).max(most);
        std::thread::sleep(Duration::from_millis(2));
    };
    match ended.success() {
        true => Ok((start.elapsed().as_secs_f64(), most * 1024)),
        false => Err(format!("{command:?}: {ended}").into()),
    }
}
