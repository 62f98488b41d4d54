//! Child processes: started with a log file, watched, and always stopped.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

/// How long a child may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(15);

/// A child process with its log.
pub struct Process {
    pub name: String,
    pub log: PathBuf,
    program: PathBuf,
    args: Vec<String>,
    /// Arguments after these.
    more: Vec<String>,
    nice: i32,
    child: Option<Child>,
}

impl Process {
    /// Describes a child; nothing runs yet. Its output goes to `log`. `nice` lowers its priority.
    pub fn new(name: &str, program: &Path, args: Vec<String>, log: PathBuf, nice: i32) -> Self {
        Process { name: name.into(), log, program: program.into(), args, more: Vec::new(), nice, child: None }
    }

    /// Starts it. It dies with this process.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).args(&self.more).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let nice = self.nice;
        // SAFETY: prctl, setpgid and nice are async-signal-safe, and touch only the new process.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                // Of its own group, so that a Ctrl-C in the terminal reaches only us and children end in order.
                libc::setpgid(0, 0);
                if nice != 0 {
                    libc::nice(nice);
                }
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Fails if it has ended, with the path and the last lines of its log.
    pub fn check(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        if let Some(status) = child.try_wait()? {
            self.child = None;
            bail!("{} ended with {status}; its log is {}\n{}", self.name, self.log.display(), self.tail());
        }
        Ok(())
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(6).collect();
        lines.into_iter().rev().map(|l| format!("    {l}\n")).collect()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        if let Some(pid) = self.pid() {
            // SAFETY: the child is ours and not reaped, so its pid is not another process'.
            unsafe { libc::kill(pid as i32, signal) };
        }
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        self.wait();
    }

    /// Runs another program from the next start on, with `more` after the arguments.
    pub fn replace(&mut self, program: &Path, more: &[&str]) {
        self.program = program.into();
        self.more = more.iter().map(|arg| String::from(*arg)).collect();
    }

    /// Kills it at once and reaps it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits for its end after a SIGTERM, and kills it if that takes too long.
    pub fn wait(&mut self) {
        let begin = Instant::now();
        while let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) if begin.elapsed() < GRACE => std::thread::sleep(Duration::from_millis(50)),
                Ok(None) => self.kill(),
                _ => self.child = None,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &Path, script: &str) -> Process {
        let args = vec!["-c".into(), script.into()];
        Process::new("child", Path::new("/bin/sh"), args, dir.join("child.log"), 0)
    }

    #[test]
    fn a_child_that_ends_by_itself_is_an_error_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = shell(dir.path(), "echo the disk is full; exit 7");
        child.start().unwrap();
        let begin = Instant::now();
        let error = loop {
            match child.check() {
                Err(error) => break error.to_string(),
                Ok(()) => assert!(begin.elapsed() < GRACE),
            }
        };
        for part in ["child ended with exit status: 7", "child.log", "the disk is full"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn stopping_lets_a_child_end_in_order_and_replacing_runs_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut child =
            shell(dir.path(), "trap 'echo in order; exit 0' TERM; echo up; while :; do sleep 0.01; done");
        child.start().unwrap();
        while !child.tail().contains("up") {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.stop();
        assert!(child.pid().is_none() && child.tail().contains("in order"));
        child.args.clear();
        child.replace(Path::new("/bin/echo"), &["another"]);
        child.start().unwrap();
        child.wait();
        assert!(child.tail().contains("another"));
    }
}
