//! `make bench-store`: what a block costs with 2,000 updates and 4,000 reads, committed durably, and what the tree
//! weighs. Beside it, in the same run and on the same hardened sled, a Jellyfish Merkle tree (jmt) whose nodes are rows.
//! Each side has a process of its own, one after the other, so that neither pays for the other's background work.
//! Arguments: the number of blocks, then the numbers of keys.

mod jellyfish;
mod work;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use deepnode_store::sled::Sled;
use deepnode_store::tree::{Builder, Tree};
use deepnode_store::{proof, Database, IndexChanges, KvRead, Options, StoreName};

use jellyfish::Jellyfish;

const STORE: StoreName = "bank";
const LOAD: u64 = 20_000;

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
        let run = |side: &str| -> Result<f64> {
            let mut child = Command::new(std::env::current_exe()?);
            let output = child
                .args([side, &keys.to_string(), &blocks.to_string()])
                .stderr(Stdio::inherit())
                .output()?;
            ensure!(output.status.success(), "{side}: {}", output.status);
            let output = String::from_utf8(output.stdout)?;
            let (text, median) = output.trim_end().rsplit_once('\n').context("a median")?;
            println!("{text}");
            Ok(median.parse()?)
        };
        let (ours, jmt) = (run("ours")?, run("jmt")?);
        println!("  {:.1} times as fast", jmt / ours);
    }
    Ok(())
}

/// Keys, then blocks.
fn ours(args: &[u64]) -> Result<()> {
    let [keys, blocks] = *args else { bail!("keys and blocks") };
    let weight = weigh(keys)?;
    let dir = tempfile::tempdir()?;
    let db = load(dir.path(), keys)?;
    let mut times = Vec::new();
    for block in 1..=blocks {
        let (reads, updates) = (work::reads(block, keys), work::updates(block, keys));
        let began = Instant::now();
        let state = db.latest();
        for key in &reads {
            ensure!(state.get(STORE, key)?.is_some());
        }
        let read = began.elapsed();
        let changes = updates.into_iter().map(|(key, value)| (key, Some(value))).collect();
        let prepared = db.prepare(db.height() + 1, [(STORE, changes)].into(), IndexChanges::new())?;
        let root = began.elapsed();
        db.commit(prepared)?;
        times.push([read, root - read, began.elapsed() - root, began.elapsed()]);
    }
    report("flat rows, tree in memory", &times);
    let all = resident();
    let app_hash = db.app_hash();
    drop(db);
    let began = Instant::now();
    ensure!(open(dir.path())?.app_hash() == app_hash);
    let opened = began.elapsed().as_secs_f64();
    let (all, tree, each) = (all / 1e6, weight / 1e6, weight / keys as f64);
    println!("    the process uses {all:.0} MB, the tree {tree:.0} MB or {each:.0} bytes a key; opening takes {opened:.1} s");
    println!("{}", percentile(&times, 3, 50));
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
    let mut times = Vec::new();
    for block in 1..=blocks {
        let (reads, updates) = (work::reads(block, keys), work::updates(block, keys));
        let began = Instant::now();
        for key in &reads {
            ensure!(jmt.get(key)?.is_some());
        }
        let read = began.elapsed();
        let root = jmt.commit(&updates)?;
        times.push([read, root, began.elapsed() - read - root, began.elapsed()]);
    }
    report("jmt, nodes in sled", &times);
    println!("{}", percentile(&times, 3, 50));
    Ok(())
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

fn percentile(times: &[[Duration; 4]], column: usize, percent: usize) -> f64 {
    let mut times: Vec<_> = times.iter().map(|time| time[column].as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    times[(times.len() - 1) * percent / 100]
}

fn report(name: &str, times: &[[Duration; 4]]) {
    let columns = ["read", "root", "commit", "block"].iter().enumerate().map(|(column, label)| {
        format!("{label} {:.1} / {:.1}", percentile(times, column, 50), percentile(times, column, 99))
    });
    println!("  {name:26} {}", columns.collect::<Vec<_>>().join("   "));
}
