//! `make bench-store`: what a block costs with 2,000 updates and 4,000 reads, committed durably, and what the tree
//! weighs. Beside it, in the same run and on the same hardened sled, a Jellyfish Merkle tree (jmt) whose nodes are rows.
//! Each side has a process of its own. They take turns of a few blocks, so that a busy machine meets both alike; whose
//! turn it is not waits. Beside the time of a block stands the processor time, which other programs disturb less.
//! Arguments: the number of blocks, then the numbers of keys.

mod jellyfish;
mod work;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use deepnode_store::sled::Sled;
use deepnode_store::tree::{Builder, Tree};
use deepnode_store::{proof, Database, IndexChanges, KvRead, Options, StoreName};

use jellyfish::Jellyfish;

const STORE: StoreName = "bank";
const LOAD: u64 = 20_000;

/// Blocks of one turn.
const TURN: u64 = 5;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let numbers = |args: &[String]| args.iter().map(|arg| Ok(arg.parse()?)).collect::<Result<Vec<u64>>>();
    match args.first().map(String::as_str) {
        Some("ours") => return ours(&numbers(&args[1..])?),
        Some("jmt") => return jmt(&numbers(&args[1..])?),
        _ => {}
    }
    let numbers = numbers(&args)?;
    let (blocks, sizes) = numbers.split_first().unwrap_or((&40, &[]));
    let sizes = if sizes.is_empty() { &[100_000, 1_000_000] } else { sizes };
    println!("{} updates and {} reads a block, {blocks} blocks, p50 / p99 in ms", work::UPDATES, work::READS);
    for keys in sizes {
        println!("{keys} keys");
        let mut ours = Side::start("ours", *keys, *blocks)?;
        let mut jmt = Side::start("jmt", *keys, *blocks)?;
        for _ in 0..blocks.div_ceil(TURN) {
            ours.turn()?;
            jmt.turn()?;
        }
        let (ours, jmt) = (ours.finish()?, jmt.finish()?);
        println!("  {:.1} times as fast, {:.1} times in processor time", jmt[0] / ours[0], jmt[1] / ours[1]);
    }
    Ok(())
}

/// One side's process. It loads its keys at the start, runs some blocks for each line that it gets and answers with one,
/// and reports at the end.
struct Side {
    name: &'static str,
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Side {
    /// Returns when the keys are loaded.
    fn start(name: &'static str, keys: u64, blocks: u64) -> Result<Self> {
        eprintln!("  {name}: loading");
        let mut process = Command::new(std::env::current_exe()?)
            .args([name, &keys.to_string(), &blocks.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().context("stdin")?;
        let output = BufReader::new(process.stdout.take().context("stdout")?);
        let mut side = Side { name, process, input, output };
        side.wait()?;
        Ok(side)
    }

    fn turn(&mut self) -> Result<()> {
        writeln!(self.input)?;
        self.wait()
    }

    fn wait(&mut self) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line == "\n", "{}: {line:?}", self.name);
        Ok(())
    }

    /// Prints the report; the medians of a block's time and processor time.
    fn finish(mut self) -> Result<[f64; 2]> {
        drop(self.input);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.output, &mut text)?;
        let status = self.process.wait()?;
        ensure!(status.success(), "{}: {status}", self.name);
        let (text, medians) = text.trim_end().rsplit_once('\n').context("medians")?;
        println!("{text}");
        let (time, processor) = medians.split_once(' ').context("two medians")?;
        Ok([time.parse()?, processor.parse()?])
    }
}

/// Runs `block` for each of `blocks`, in turns that the parent gives.
fn in_turns(blocks: u64, mut block: impl FnMut(u64) -> Result<Times>) -> Result<Vec<Times>> {
    println!();
    let (mut times, mut done) = (Vec::new(), 0);
    while done < blocks {
        ensure!(std::io::stdin().read_line(&mut String::new())? > 0, "the parent is gone");
        let turn = done + 1..=blocks.min(done + TURN);
        done = *turn.end();
        for number in turn {
            times.push(block(number)?);
        }
        println!();
    }
    Ok(times)
}

/// Of a block: reading, computing the root, committing, all of it, and the processor time of all of it.
type Times = [Duration; 5];

/// Keys, then blocks.
fn ours(args: &[u64]) -> Result<()> {
    let [keys, blocks] = *args else { bail!("keys and blocks") };
    let weight = weigh(keys)?;
    let dir = tempfile::tempdir()?;
    let db = load(dir.path(), keys)?;
    let times = in_turns(blocks, |block| {
        let (reads, updates) = (work::reads(block, keys), work::updates(block, keys));
        let (began, processor) = (Instant::now(), processor_time());
        let state = db.latest();
        for key in &reads {
            ensure!(state.get(STORE, key)?.is_some());
        }
        let read = began.elapsed();
        let changes = updates.into_iter().map(|(key, value)| (key, Some(value))).collect();
        let prepared = db.prepare(db.height() + 1, [(STORE, changes)].into(), IndexChanges::new())?;
        let root = began.elapsed();
        db.commit(prepared)?;
        let block = began.elapsed();
        Ok([read, root - read, block - root, block, processor_time() - processor])
    })?;
    report("flat rows, tree in memory", &times);
    let all = resident();
    let app_hash = db.app_hash();
    drop(db);
    let began = Instant::now();
    ensure!(open(dir.path())?.app_hash() == app_hash);
    let opened = began.elapsed().as_secs_f64();
    let (all, tree, each) = (all / 1e6, weight / 1e6, weight / keys as f64);
    println!("    the process uses {all:.0} MB, the tree {tree:.0} MB or {each:.0} bytes a key; opening takes {opened:.1} s");
    println!("{} {}", percentile(&times, 3, 50), percentile(&times, 4, 50));
    Ok(())
}

/// Keys, then blocks.
fn jmt(args: &[u64]) -> Result<()> {
    let [keys, blocks] = *args else { bail!("keys and blocks") };
    let dir = tempfile::tempdir()?;
    let mut jmt = Jellyfish::new(Sled::open(dir.path(), Options::default().cache_bytes)?);
    for from in (0..keys).step_by(LOAD as usize) {
        jmt.commit(&work::initial(from..keys.min(from + LOAD)))?;
    }
    settle();
    let times = in_turns(blocks, |block| {
        let (reads, updates) = (work::reads(block, keys), work::updates(block, keys));
        let (began, processor) = (Instant::now(), processor_time());
        for key in &reads {
            ensure!(jmt.get(key)?.is_some());
        }
        let read = began.elapsed();
        let root = jmt.commit(&updates)?;
        let block = began.elapsed();
        Ok([read, root, block - read - root, block, processor_time() - processor])
    })?;
    report("jmt, nodes in sled", &times);
    println!("{} {}", percentile(&times, 3, 50), percentile(&times, 4, 50));
    Ok(())
}

/// What all threads of this process have computed so far.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(answer, 0, "Linux");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Lets sled's cleaning of what was loaded come to an end.
fn settle() {
    std::thread::sleep(Duration::from_secs(5));
}

fn open(dir: &Path) -> Result<Database> {
    Ok(Database::open(dir, &[STORE], &Options::default(), &mut |_| {})?)
}

/// A database with the initial keys.
fn load(dir: &Path, keys: u64) -> Result<Database> {
    let import = open(dir)?.import()?;
    for from in (0..keys).step_by(LOAD as usize) {
        import.add(STORE, work::initial(from..keys.min(from + LOAD)))?;
    }
    let app_hash = proof::app_hash([(STORE, build(keys)?.root())]);
    let db = import.finish(1, app_hash, &mut |_| {})?;
    settle();
    Ok(db)
}

fn build(keys: u64) -> Result<Tree> {
    let mut entries = work::initial(0..keys);
    entries.sort_unstable();
    let mut builder = Builder::default();
    for chunk in entries.chunks(8192) {
        builder.extend(chunk)?;
    }
    Ok(builder.finish())
}

/// How much memory the tree takes, in bytes.
fn weigh(keys: u64) -> Result<f64> {
    let before = resident();
    let tree = build(keys)?;
    let weight = resident() - before;
    ensure!(!tree.is_empty());
    Ok(weight)
}

/// Resident memory in bytes, after what was freed went back to the system.
fn resident() -> f64 {
    // SAFETY: touches the allocator's own free lists only.
    unsafe { libc::malloc_trim(0) };
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("Linux");
    pages * 4096.0
}

fn percentile(times: &[Times], column: usize, percent: usize) -> f64 {
    let mut times: Vec<_> = times.iter().map(|time| time[column].as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    times[(times.len() - 1) * percent / 100]
}

fn report(name: &str, times: &[Times]) {
    let columns =
        ["read", "root", "commit", "block", "processor"].iter().enumerate().map(|(column, label)| {
            format!("{label} {:.1} / {:.1}", percentile(times, column, 50), percentile(times, column, 99))
        });
    println!("  {name:26} {}", columns.collect::<Vec<_>>().join("   "));
}
