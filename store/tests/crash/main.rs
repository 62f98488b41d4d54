//! What a node relies on when it answers Commit: a committed block is there after `kill -9` and after a power cut, whole,
//! wherever it hits, also while the database opens.
//!
//! The writer is this test binary again, started as a child that runs the test `child` alone. `STORE_CRASH_ROUNDS`,
//! `STORE_CRASH_POINTS` and `STORE_CRASH_SEED` make longer and other runs (`make test-store-long`).

#![cfg(target_os = "linux")]

mod chain;
mod disk;
mod recorder;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use chain::{Oracle, Random};
use deepnode_store::DbError;
use disk::Disk;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

fn random() -> Random {
    Random(setting("STORE_CRASH_SEED", 1))
}

/// The writer's side. Without its environment, which only the other tests give, there is nothing to do.
#[test]
fn child() {
    let Some(dir) = std::env::var_os("STORE_CRASH_DIR") else { return };
    let dir = Path::new(&dir);
    if let Some(log) = std::env::var_os("STORE_CRASH_LOG") {
        recorder::start(Path::new(&log), dir.parent().unwrap());
    }
    let blocks = setting("STORE_CRASH_BLOCKS", u64::MAX);
    for _ in 0..setting("STORE_CRASH_OPENS", 1) {
        chain::write(dir, blocks);
    }
    recorder::stop();
}

fn writer(dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env("STORE_CRASH_DIR", dir);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

struct Writer {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Writer {
    fn start(dir: &Path) -> Self {
        let mut process = writer(dir).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Writer { process, output }
    }

    /// The height that the next line says is open or committed; `None` at the end of the output.
    fn height(&mut self) -> Option<u64> {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some(height) = line.trim().strip_prefix("height ") {
                return Some(height.parse().unwrap());
            }
            line.clear();
        }
        None
    }

    /// Kills the writer and returns the last height that it acknowledged before.
    fn kill(mut self) -> Option<u64> {
        self.process.kill().unwrap();
        let status = self.process.wait().unwrap();
        let last = std::iter::from_fn(|| self.height()).last();
        if status.code().is_some() {
            let mut errors = String::new();
            self.process.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            panic!("the writer ended by itself, {status}: {errors}");
        }
        last
    }
}

#[test]
fn nothing_is_lost_by_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("db");
    let (mut random, mut oracle) = (random(), Oracle::default());
    let (mut committed, mut opening) = (0, Duration::from_millis(50));
    for round in 0..setting("STORE_CRASH_ROUNDS", 24) {
        let began = Instant::now();
        let mut writer = Writer::start(&dir);
        if round % 3 == 1 {
            // Somewhere between the start of the process and its first block.
            std::thread::sleep(opening.mul_f64(random.below(1200) as f64 / 1000.0));
        } else {
            let opened = writer.height().expect("the writer opens");
            assert!(opened >= committed, "round {round}: {committed} was committed, {opened} is open");
            opening = began.elapsed();
            committed = opened;
            std::thread::sleep(Duration::from_millis(random.below(300)));
        }
        committed = committed.max(writer.kill().unwrap_or(0));
        let height = oracle.check(&dir).unwrap_or_else(|e| panic!("round {round}: does not open: {e}"));
        assert!(
            (committed..=committed + 1).contains(&height),
            "round {round}: {committed} was committed, {height} is there"
        );
        committed = height;
    }
    assert!(committed > 20, "only {committed} blocks");
}

#[test]
fn two_processes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::start(dir.path());
    writer.height().expect("the writer opens");
    assert!(matches!(chain::open(dir.path()), Err(DbError::InUse { path }) if path == dir.path()));
    writer.kill();
    chain::open(dir.path()).unwrap();
}

/// A process that died while sled wrote its snapshot at open: half of it lies there, newest by name.
#[test]
fn a_half_written_sled_snapshot_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    chain::write(dir, 8);
    chain::write(dir, 8);
    let snapshots = || std::fs::read_dir(dir.join("sled")).unwrap().map(|entry| entry.unwrap().path());
    let snapshot =
        snapshots().find(|path| path.to_str().unwrap().contains("/snap.")).expect("sled wrote a snapshot");
    let whole = std::fs::read(snapshot).unwrap();
    for kept in [0, whole.len() / 2, whole.len() - 1] {
        std::fs::write(dir.join("sled/snap.00FFFFFFFFFFFFFF.generating"), &whole[..kept]).unwrap();
        assert_eq!(Oracle::default().check(dir).unwrap(), 16);
    }
    assert!(!snapshots().any(|path| path.to_str().unwrap().ends_with(".generating")));
}

#[test]
fn nothing_is_lost_by_power_cuts() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().canonicalize().unwrap().join("root");
    std::fs::create_dir(&root).unwrap();
    let log = home.path().join("log");
    let status = writer(&root.join("db"))
        .env("STORE_CRASH_LOG", &log)
        .env("STORE_CRASH_BLOCKS", "40")
        .env("STORE_CRASH_OPENS", "3")
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let events = recorder::read(&log);

    // The record is complete: replayed, it makes the very files that are there.
    let mut disk = Disk::new(&root);
    events.iter().for_each(|event| disk.apply(event));
    disk.assert_equals_real();

    let mut oracle = Oracle::default();
    let mut random = random();
    let points = setting("STORE_CRASH_POINTS", 40) as usize;
    // The creation of the database is short, and everywhere else is as good as any.
    let mut cuts: Vec<_> = (0..points).map(|_| random.below(events.len() as u64) as usize).collect();
    cuts.extend((0..90).step_by(3));
    cuts.sort_unstable();
    let images =
        tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let mut run = |events: &[recorder::Event], models: &[disk::Model]| {
        let (mut disk, mut acked, mut lost, mut at) = (Disk::new(&root), 0, Vec::new(), 0);
        for cut in &cuts {
            for event in &events[at..*cut] {
                disk.apply(event);
                if let recorder::Event::Ack(height) = event {
                    acked = *height;
                }
            }
            at = *cut;
            for model in models {
                let image = images.path().join("image");
                disk.write_image(&image, *model, &mut random);
                let found = oracle.check(&image.join("db"));
                if !found.as_ref().is_ok_and(|height| (acked..=acked + 1).contains(height)) {
                    lost.push(format!("event {cut}, {model:?}: {acked} was committed, found {found:?}"));
                }
                std::fs::remove_dir_all(&image).unwrap();
            }
        }
        lost
    };
    assert_eq!(run(&events, &disk::Model::ALL), Vec::<String>::new());

    // The simulation sees a missing fsync: without those of the log file, blocks are lost.
    let log_file = root.join("db/sled/db");
    let unsynced: Vec<_> = events
        .iter()
        .map(|event| match event {
            recorder::Event::Sync(path) if *path == log_file.to_str().unwrap() => recorder::Event::None,
            other => other.clone(),
        })
        .collect();
    assert!(!run(&unsynced, &[disk::Model::Synced]).is_empty());
}
