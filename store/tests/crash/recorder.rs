//! Records what a process does to the files below a directory, in order: these definitions of libc's file functions
//! take their place in this binary, do the same through the system call, and write it down while recording.

use std::ffi::{c_char, c_int, c_uint, c_void, CStr};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use borsh::{BorshDeserialize, BorshSerialize};
use libc::{mode_t, off64_t, size_t, ssize_t, syscall};

/// What was done. Paths are absolute.
#[derive(Clone, Debug, BorshSerialize, BorshDeserialize)]
pub enum Event {
    None,
    /// A file that did not exist was created.
    Create(String),
    Write(String, u64, Vec<u8>),
    /// The length was set.
    Resize(String, u64),
    /// Space was allocated: the file is at least this long.
    Extend(String, u64),
    /// fsync or fdatasync returned, on a file or directory.
    Sync(String),
    /// sync_file_range returned; a length of 0 means to the end.
    SyncRange(String, u64, u64),
    Rename(String, String),
    Unlink(String),
    Mkdir(String),
    /// The writer said that this height is committed.
    Ack(u64),
}

struct Recorder {
    log: c_int,
    root: String,
}

static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);

fn recorder() -> MutexGuard<'static, Option<Recorder>> {
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts recording what happens below `root` into the file `log`.
pub fn start(log: &Path, root: &Path) {
    let log = std::os::fd::IntoRawFd::into_raw_fd(fs::File::create(log).unwrap());
    *recorder() = Some(Recorder { log, root: root.to_str().unwrap().to_owned() + "/" });
}

/// Stops recording.
pub fn stop() {
    *recorder() = None;
}

/// Records that `height` was acknowledged.
pub fn ack(height: u64) {
    if let Some(recorder) = &*recorder() {
        recorder.log(&Event::Ack(height));
    }
}

/// The events in a log.
pub fn read(log: &Path) -> Vec<Event> {
    let bytes = fs::read(log).unwrap();
    let mut rest = bytes.as_slice();
    std::iter::from_fn(|| (!rest.is_empty()).then(|| Event::deserialize(&mut rest).unwrap())).collect()
}

impl Recorder {
    fn log(&self, event: &Event) {
        struct Raw(c_int);
        impl Write for Raw {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                // SAFETY: the buffer is valid for its length.
                let written = unsafe { syscall(libc::SYS_write, self.0, bytes.as_ptr(), bytes.len()) };
                usize::try_from(written).map_err(|_| std::io::Error::last_os_error())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        Raw(self.log).write_all(&borsh::to_vec(event).unwrap()).unwrap();
    }

    fn mine(&self, path: &str) -> bool {
        (path.starts_with(&self.root) || path == &self.root[..self.root.len() - 1])
            && !path.ends_with(" (deleted)")
    }

    fn of_fd(&self, fd: c_int) -> Option<String> {
        let link = format!("/proc/self/fd/{fd}\0");
        let mut path = vec![0u8; 4096];
        // SAFETY: the link is terminated and the buffer is valid for its length.
        let len = unsafe {
            syscall(libc::SYS_readlinkat, libc::AT_FDCWD, link.as_ptr(), path.as_mut_ptr(), path.len())
        };
        path.truncate(usize::try_from(len).ok()?);
        String::from_utf8(path).ok().filter(|path| self.mine(path))
    }
}

/// Does `call`, which succeeds with a number that is not negative, and records `event` of its result.
fn on_fd<T: Into<i64> + Copy>(
    fd: c_int,
    call: impl FnOnce() -> T,
    event: impl FnOnce(String, u64) -> Event,
) -> T {
    let recorder = recorder();
    let path = recorder.as_ref().and_then(|recorder| recorder.of_fd(fd));
    let result = call();
    if let (Some(recorder), Some(path), Ok(n)) = (&*recorder, path, u64::try_from(result.into())) {
        recorder.log(&event(path, n));
    }
    result
}

/// As `on_fd`, for calls that name a path.
///
/// # Safety
/// `path` is a terminated string.
unsafe fn on_path(
    path: *const c_char,
    call: impl FnOnce() -> c_int,
    event: impl FnOnce(String) -> Event,
) -> c_int {
    let recorder = recorder();
    let result = call();
    // SAFETY: as promised by the caller.
    let path = unsafe { CStr::from_ptr(path) }.to_str().unwrap_or_default().to_owned();
    if let Some(recorder) = recorder.as_ref().filter(|recorder| result >= 0 && recorder.mine(&path)) {
        recorder.log(&event(path));
    }
    result
}

/// # Safety
/// `bytes` is valid for `n` bytes.
unsafe fn slice<'a>(bytes: *const c_void, n: u64) -> &'a [u8] {
    // SAFETY: as promised by the caller.
    unsafe { std::slice::from_raw_parts(bytes.cast(), n as usize) }
}

/// # Safety
/// As `open(2)`.
unsafe fn open_and_record(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: passed on as it came.
    let call =
        |flags: c_int| unsafe { syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) as c_int };
    if flags & (libc::O_CREAT | libc::O_TRUNC) == 0 {
        return call(flags);
    }
    // SAFETY: a terminated path.
    let existed = unsafe { syscall(libc::SYS_faccessat, libc::AT_FDCWD, path, libc::F_OK) } == 0;
    // SAFETY: a terminated path.
    unsafe {
        on_path(
            path,
            || call(flags),
            |path| match (existed, flags & libc::O_TRUNC != 0) {
                (false, _) => Event::Create(path),
                (true, true) => Event::Resize(path, 0),
                (true, false) => Event::None,
            },
        )
    }
}

/// The functions of libc. Rust's standard library and sled call no others to change files.
///
/// # Safety
/// Each is to be called as libc documents it; arguments are passed on as they come.
#[allow(clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]
mod libc_functions {
    use super::*;

    #[no_mangle]
    unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        unsafe { open_and_record(path, flags, mode) }
    }

    #[no_mangle]
    unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        unsafe { open_and_record(path, flags, mode) }
    }

    #[no_mangle]
    unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, len: size_t) -> ssize_t {
        let call = || unsafe { syscall(libc::SYS_write, fd, bytes, len) as ssize_t };
        on_fd(fd, call_i64(call), |path, n| {
            let after = unsafe { syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) } as u64;
            Event::Write(path, after - n, unsafe { slice(bytes, n) }.to_vec())
        }) as ssize_t
    }

    #[no_mangle]
    unsafe extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, len: size_t, at: off64_t) -> ssize_t {
        let call = || unsafe { syscall(libc::SYS_pwrite64, fd, bytes, len, at) as ssize_t };
        on_fd(fd, call_i64(call), |path, n| {
            Event::Write(path, at as u64, unsafe { slice(bytes, n) }.to_vec())
        }) as ssize_t
    }

    #[no_mangle]
    unsafe extern "C" fn ftruncate64(fd: c_int, len: off64_t) -> c_int {
        let call = || unsafe { syscall(libc::SYS_ftruncate, fd, len) as c_int };
        on_fd(fd, call, |path, _| Event::Resize(path, len as u64))
    }

    #[no_mangle]
    unsafe extern "C" fn fallocate64(fd: c_int, mode: c_int, at: off64_t, len: off64_t) -> c_int {
        let call = || unsafe { syscall(libc::SYS_fallocate, fd, mode, at, len) as c_int };
        on_fd(fd, call, |path, _| match mode {
            0 => Event::Extend(path, (at + len) as u64),
            _ => Event::None,
        })
    }

    #[no_mangle]
    unsafe extern "C" fn fsync(fd: c_int) -> c_int {
        on_fd(fd, || unsafe { syscall(libc::SYS_fsync, fd) as c_int }, |path, _| Event::Sync(path))
    }

    #[no_mangle]
    unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
        on_fd(fd, || unsafe { syscall(libc::SYS_fdatasync, fd) as c_int }, |path, _| Event::Sync(path))
    }

    #[no_mangle]
    unsafe extern "C" fn sync_file_range(fd: c_int, at: off64_t, len: off64_t, flags: c_uint) -> c_int {
        let call = || unsafe { syscall(libc::SYS_sync_file_range, fd, at, len, flags) as c_int };
        on_fd(fd, call, |path, _| match flags & libc::SYNC_FILE_RANGE_WAIT_AFTER {
            0 => Event::None,
            _ => Event::SyncRange(path, at as u64, len as u64),
        })
    }

    #[no_mangle]
    unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
        let call =
            || unsafe { syscall(libc::SYS_renameat2, libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) as c_int };
        let to = unsafe { CStr::from_ptr(to) }.to_str().unwrap_or_default().to_owned();
        unsafe { on_path(from, call, |from| Event::Rename(from, to)) }
    }

    #[no_mangle]
    unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
        let call = || unsafe { syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) as c_int };
        unsafe { on_path(path, call, Event::Unlink) }
    }

    #[no_mangle]
    unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
        let call = || unsafe { syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) as c_int };
        unsafe { on_path(path, call, Event::Mkdir) }
    }

    fn call_i64(call: impl FnOnce() -> ssize_t) -> impl FnOnce() -> i64 {
        || call() as i64
    }
}
