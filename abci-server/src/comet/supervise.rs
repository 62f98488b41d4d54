//! Keeps a CometBFT running as our child.
//!
//! Its life is one thread: the kernel kills the child when the *thread* that started it ends
//! (`PR_SET_PDEATHSIG`), so the child cannot outlive us, even after `kill -9`, with the database lock in its hands.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Binary, Home, HomeError, Rpc};
use crate::abci::Server;

/// A log longer than this is set aside, as `.old`, when CometBFT is started.
const LOG_KEPT: u64 = 64 << 20;

/// What to run, and how to tell whether it lives.
pub struct Options {
    pub binary: Binary,
    pub home: Home,
    /// Overrides the home's `proxy_app`.
    pub proxy_app: String,
    /// Where CometBFT's output goes.
    pub log: PathBuf,
    /// Whether CometBFT holds all its ABCI connections.
    pub linked: Box<dyn Fn() -> bool + Send>,
    pub timing: Timing,
}

impl Options {
    /// CometBFT of `home` for the application behind `server`, its log in the home folder.
    pub fn new(binary: Binary, home: Home, server: &Server) -> Self {
        Self {
            binary,
            log: home.dir().join("cometbft.log"),
            home,
            proxy_app: server.address().to_string(),
            linked: Box::new(server.linked()),
            timing: Timing::default(),
        }
    }
}

/// How long the supervisor waits.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Before the first restart; doubled by each further one that comes soon.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// A CometBFT that ran for longer is restarted after `backoff_min` again.
    pub settled: Duration,
    /// Between looks at the height and at the connections.
    pub poll: Duration,
    /// A height older than this is frozen.
    pub stall: Duration,
    /// A CometBFT that lost its connections has this long to end by itself, before SIGTERM.
    pub unlinked: Duration,
    /// From SIGTERM to SIGKILL.
    pub term: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(10),
            settled: Duration::from_secs(30),
            poll: Duration::from_millis(500),
            stall: Duration::from_secs(30),
            unlinked: Duration::from_secs(10),
            term: Duration::from_secs(10),
        }
    }
}

/// What is known of the child.
#[derive(Clone, Debug)]
pub struct Status {
    /// The process, while there is one.
    pub pid: Option<u32>,
    /// The last height seen, 0 before the first.
    pub height: u64,
    /// When `height` was seen first, or when the supervisor began.
    pub advanced: Instant,
    /// How often CometBFT was started again.
    pub restarts: u64,
    /// How the last one ended, or why it could not be started.
    pub last_end: Option<String>,
}

/// CometBFT makes no blocks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CometBFT {state}; see {}", log.display())]
pub struct Unhealthy {
    state: String,
    log: PathBuf,
}

/// A CometBFT that is kept running until [`Supervisor::stop`], or until this is dropped.
pub struct Supervisor {
    seen: Arc<Seen>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    log: PathBuf,
    stall: Duration,
}

struct Seen {
    status: Mutex<Status>,
    changed: Condvar,
}

impl Seen {
    fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock());
        self.changed.notify_all();
    }
}

impl Supervisor {
    /// Begins to run CometBFT. The application must listen already.
    pub fn start(options: Options) -> Result<Self, HomeError> {
        let (stop, stopped) = watch::channel(false);
        let seen = Arc::new(Seen {
            status: Mutex::new(Status {
                pid: None,
                height: 0,
                advanced: Instant::now(),
                restarts: 0,
                last_end: None,
            }),
            changed: Condvar::new(),
        });
        let (log, stall) = (options.log.clone(), options.timing.stall);
        let io = |source| HomeError::Io { path: options.log.clone(), source };
        let rpc_url = options.home.rpc_url()?;
        open_log(&options.log).map_err(io)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        let name = std::thread::Builder::new().name("cometbft".into());
        let thread = name
            .spawn({
                let seen = seen.clone();
                move || {
                    match Rpc::with_timeout(&rpc_url, options.timing.poll.max(Duration::from_secs(2))) {
                        Ok(rpc) => runtime.block_on(Keeper { options, rpc, seen, stopped }.run()),
                        Err(e) => seen.update(|s| s.last_end = Some(e.to_string())),
                    };
                }
            })
            .map_err(|source| HomeError::Io { path: log.clone(), source })?;
        Ok(Self { seen, stop, thread: Some(thread), log, stall })
    }

    pub fn status(&self) -> Status {
        self.seen.status.lock().clone()
    }

    /// The height, if CometBFT runs and has advanced lately.
    pub fn health(&self) -> Result<u64, Unhealthy> {
        let status = self.status();
        let idle = status.advanced.elapsed();
        let state = match (status.pid, &status.last_end) {
            (Some(_), _) if idle < self.stall && status.height > 0 => return Ok(status.height),
            (Some(_), _) if status.height == 0 => "has made no block yet".to_owned(),
            (Some(_), _) => format!("stands at height {} for {} s", status.height, idle.as_secs()),
            (None, Some(end)) => format!("does not run: {end}; {} restarts", status.restarts),
            (None, None) => "is not started yet".to_owned(),
        };
        Err(Unhealthy { state, log: self.log.clone() })
    }

    /// Waits until the chain is at `height` or above; returns the height seen.
    pub fn wait_height(&self, height: u64, patience: Duration) -> Result<u64, Unhealthy> {
        let deadline = Instant::now() + patience;
        let mut status = self.seen.status.lock();
        while status.height < height {
            if self.seen.changed.wait_until(&mut status, deadline).timed_out() {
                let last = status.last_end.as_ref().map(|e| format!(" (last end: {e})")).unwrap_or_default();
                let state = format!("is at height {}, waited for {height}{last}", status.height);
                return Err(Unhealthy { state, log: self.log.clone() });
            }
        }
        Ok(status.height)
    }

    /// Ends CometBFT: SIGTERM, and SIGKILL where it lingers. Stop it before the application.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The supervisor's own thread.
struct Keeper {
    options: Options,
    rpc: Rpc,
    seen: Arc<Seen>,
    stopped: watch::Receiver<bool>,
}

/// Why we stopped watching a child.
enum Cause {
    Ended(io::Result<ExitStatus>),
    Asked,
    Hung,
}

impl Keeper {
    async fn run(mut self) {
        let timing = self.options.timing;
        let mut backoff = timing.backoff_min;
        loop {
            let begun = Instant::now();
            match self.spawn() {
                Ok(mut child) => {
                    self.seen.update(|s| s.pid = child.id());
                    let end = match self.watch(&mut child).await {
                        Cause::Ended(Ok(status)) => describe(status),
                        Cause::Ended(Err(e)) => format!("lost: {e}"),
                        Cause::Asked => self.end(&mut child).await,
                        Cause::Hung => {
                            tracing::warn!("CometBFT lost the application and does not end");
                            format!("hung without the application, {}", self.end(&mut child).await)
                        }
                    };
                    self.seen.update(|s| (s.pid, s.last_end) = (None, Some(end)));
                }
                Err(e) => self.seen.update(|s| s.last_end = Some(format!("not started: {e}"))),
            }
            if *self.stopped.borrow() {
                return;
            }
            if begun.elapsed() >= timing.settled {
                backoff = timing.backoff_min;
            }
            let end = self.seen.status.lock().last_end.clone().unwrap_or_default();
            tracing::warn!(log = %self.options.log.display(), "CometBFT {end}; starting it again in {backoff:?}");
            tokio::select! {
                _ = sleep(backoff) => {}
                _ = self.stopped.wait_for(|stop| *stop) => return,
            }
            backoff = (backoff * 2).min(timing.backoff_max);
            self.seen.update(|s| s.restarts += 1);
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let log = open_log(&self.options.log)?;
        let mut command = Command::new(self.options.binary.path());
        command
            .arg("node")
            .arg("--home")
            .arg(self.options.home.dir())
            .arg("--proxy_app")
            .arg(&self.options.proxy_app)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0) // Ctrl-C is for us; we end it in order
            .kill_on_drop(true);
        #[cfg(target_os = "linux")]
        die_with_parent(&mut command);
        command.spawn()
    }

    async fn watch(&self, child: &mut Child) -> Cause {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            status = child.wait() => Cause::Ended(status),
            _ = stopped.wait_for(|stop| *stop) => Cause::Asked,
            () = self.hung() => Cause::Hung,
            never = self.follow_height() => match never {},
        }
    }

    /// Returns once CometBFT had its connections and has been without them for too long.
    async fn hung(&self) {
        let (mut was_linked, mut lost) = (false, None);
        loop {
            sleep(self.options.timing.poll).await;
            if (self.options.linked)() {
                (was_linked, lost) = (true, None);
            } else if was_linked {
                let lost: &Instant = lost.get_or_insert_with(Instant::now);
                if lost.elapsed() > self.options.timing.unlinked {
                    return;
                }
            }
        }
    }

    /// RPC that does not answer is only an old height.
    async fn follow_height(&self) -> Infallible {
        loop {
            match self.rpc.status().await {
                Ok(status) => {
                    let height = status.sync_info.latest_block_height.value();
                    if height != self.seen.status.lock().height {
                        self.seen.update(|s| (s.height, s.advanced) = (height, Instant::now()));
                    }
                }
                Err(e) => tracing::debug!("{e}"),
            }
            sleep(self.options.timing.poll).await;
        }
    }

    async fn end(&self, child: &mut Child) -> String {
        terminate(child);
        match timeout(self.options.timing.term, child.wait()).await {
            Ok(Ok(status)) => return describe(status),
            Ok(Err(e)) => return format!("lost: {e}"),
            Err(_) => {}
        }
        match child.kill().await {
            Ok(()) => "killed: it did not end when asked".into(),
            Err(e) => format!("cannot be killed: {e}"),
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|m| m.len() > LOG_KEPT) {
        fs::rename(path, path.with_extension("log.old"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn terminate(child: &Child) {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
    // SAFETY: kill(2) takes no pointers. The child is not reaped while `id` is `Some`, so the id is still its own.
    unsafe { libc::kill(pid, libc::SIGTERM) };
}

/// Asks the kernel to kill the child when the thread that starts it ends, for whatever reason.
#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let in_child = move || {
        // SAFETY: prctl and getppid are async-signal-safe and take no pointers here.
        let orphan = unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            libc::getppid() as u32 != parent // we ended before the kernel was asked
        };
        if orphan {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes async-signal-safe calls only and allocates nothing.
    unsafe { command.pre_exec(in_child) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comet::fake;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A program that says it is CometBFT; as a node it runs `body`, with its home in `$3`.
    fn options(dir: &Path, body: &str) -> Options {
        let program = fake::program(dir, &format!("[ $1 = version ] && {{ echo 0.38.26; exit; }}\n{body}"));
        fs::create_dir_all(dir.join("config")).unwrap();
        fs::write(dir.join("config/config.toml"), "[rpc]\nladdr = \"tcp://127.0.0.1:1\"\n").unwrap();
        let ms = Duration::from_millis;
        Options {
            binary: Binary::at(program).unwrap(),
            home: Home::open(dir).unwrap(),
            proxy_app: "unix:///none".into(),
            log: dir.join("cometbft.log"),
            linked: Box::new(|| false),
            timing: Timing {
                backoff_min: ms(10),
                backoff_max: ms(40),
                poll: ms(10),
                unlinked: ms(50),
                term: ms(100),
                ..Timing::default()
            },
        }
    }

    fn wait(what: &str, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(20), "waited too long: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn alive(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    const LINGER: &str = "trap '' TERM; echo ready; while :; do sleep 0.01; done";

    #[test]
    fn what_ends_is_started_again_and_the_reason_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::start(options(dir.path(), "echo lock is held; exit 3")).unwrap();
        wait("restarts", || supervisor.status().restarts >= 4);
        let begun = Instant::now();
        wait("the pause", || supervisor.status().pid.is_none());
        let error = supervisor.health().unwrap_err().to_string();
        assert!(error.contains("exit code 3") && error.contains("cometbft.log"), "{error}");
        assert!(fs::read_to_string(dir.path().join("cometbft.log")).unwrap().contains("lock is held"));
        let error = supervisor.wait_height(1, Duration::from_millis(10)).unwrap_err().to_string();
        assert!(error.contains("waited for 1"), "{error}");
        supervisor.stop();
        assert!(begun.elapsed() < Duration::from_secs(5), "stopping does not wait for a pause to end");
    }

    #[test]
    fn a_child_that_ignores_sigterm_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::start(options(dir.path(), LINGER)).unwrap();
        wait("start", || fs::read_to_string(dir.path().join("cometbft.log")).unwrap().contains("ready"));
        wait("its id", || supervisor.status().pid.is_some());
        let pid = supervisor.status().pid.unwrap();
        assert!(alive(pid));
        supervisor.stop();
        assert!(!alive(pid));
    }

    #[test]
    fn a_child_that_lost_the_application_and_lingers_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let linked = Arc::new(AtomicBool::new(false));
        let probe = linked.clone();
        let mut options = options(dir.path(), LINGER);
        options.linked = Box::new(move || probe.load(Ordering::Relaxed));
        let supervisor = Supervisor::start(options).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(
            supervisor.status().restarts,
            0,
            "one that has not connected yet may wait for the application"
        );
        linked.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(200));
        wait("its id", || supervisor.status().pid.is_some());
        let first = supervisor.status().pid.unwrap();
        linked.store(false, Ordering::Relaxed);
        wait("replacement", || supervisor.status().restarts == 1);
        let end = supervisor.status().last_end.unwrap();
        assert!(end.contains("hung") && end.contains("killed"), "{end}");
        assert!(!alive(first));
    }

    #[test]
    fn a_long_log_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("cometbft.log");
        File::create(&log).unwrap().set_len(LOG_KEPT + 1).unwrap();
        assert_eq!(open_log(&log).unwrap().metadata().unwrap().len(), 0);
        assert_eq!(fs::metadata(dir.path().join("cometbft.log.old")).unwrap().len(), LOG_KEPT + 1);
    }
}
