//! Processor, graphics card, memory, disk and clock.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::super::Device;
use super::Check;
use crate::cpu::Isa;
use crate::cuda::{cards, Card};

/// Least free space, bytes: blobs of tasks, journals, room for an import's last step.
const DISK: u64 = 2 << 30;

pub fn processor() -> Check {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let isa = Isa::detect();
    let found = format!("{threads} threads, {isa:?}");
    match isa {
        Isa::Portable => {
            let remedy = "a processor with AVX2 or AVX-512 is several times faster; results are the same";
            Check::warning("processor", found, remedy)
        }
        _ => Check::ok("processor", found),
    }
}

/// Cards that can compute, as NVIDIA's driver has them; a card that cannot be used is worth knowing of.
pub fn gpu(wanted: Option<Device>) -> Check {
    let there = Path::new("/dev/nvidia0").exists() || Path::new("/proc/driver/nvidia/version").exists();
    let cards = match cards() {
        Ok(cards) => cards,
        Err(error) => {
            let remedy = "install a newer driver, or pass card and driver into the container (--gpus all); device = \"cpu\" does without";
            return match wanted {
                Some(Device::Cuda(_)) => Check::mend("gpu", error.to_string(), remedy),
                _ if there => Check::warning("gpu", error.to_string(), remedy),
                _ => Check::ok("gpu", "none: computes on the processor"),
            };
        }
    };
    let name = |card: &Card| {
        let (major, minor) = card.capability;
        format!(
            "{}: {}, {} GiB, compute capability {major}.{minor}",
            card.ordinal,
            card.name,
            card.memory >> 30
        )
    };
    let found = cards.iter().map(name).collect::<Vec<_>>().join("; ");
    match wanted {
        Some(Device::Cuda(number)) if !cards.iter().any(|card| card.ordinal == number) => {
            Check::mend("gpu", format!("no card {number} among {found}"), "correct device in worker.toml")
        }
        _ => Check::ok("gpu", found),
    }
}

/// Whether somebody keeps the clock right: credentials are good for minutes only.
pub fn clock() -> Check {
    // SAFETY: all zeroes is a valid timex that asks for nothing to be changed; the call fills it.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&mut timex), timex)
    };
    let unsynchronised = state == libc::TIME_ERROR || timex.status & libc::STA_UNSYNC != 0;
    match (state, unsynchronised) {
        (-1, _) => Check::warning("clock", "the kernel does not say whether it is set", "run chrony or ntpd"),
        (_, true) => {
            let remedy = "run chrony, systemd-timesyncd or ntpd (in a container: on its host)";
            Check::warning("clock", "nothing keeps it right", remedy)
        }
        _ => Check::ok("clock", "synchronised"),
    }
}

pub fn disk(home: &Path) -> Check {
    // The folder may not be there yet: its nearest ancestor is on the same disk.
    let absolute = std::path::absolute(home).unwrap_or_else(|_| home.into());
    let folder = absolute.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    match free(folder) {
        None => Check::warning("disk", format!("{} does not say what is free", folder.display()), "df"),
        Some(free) if free < DISK => Check::mend(
            "disk",
            format!("{} MiB free at {}", free >> 20, folder.display()),
            format!("make room: at least {} MiB", DISK >> 20),
        ),
        Some(free) => Check::ok("disk", format!("{} GiB free at {}", free >> 30, folder.display())),
    }
}

/// Bytes that this user may still write to the disk of a folder.
fn free(folder: &Path) -> Option<u64> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: the path is a C string, and the call fills the struct where it answers 0.
    unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut stat) == 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Whether models of so many bytes fit into memory.
pub fn memory(models: u64) -> Check {
    let Some(available) = available() else {
        return Check::warning("memory", "/proc/meminfo does not say what is available", "free -h");
    };
    let found = format!("{} MiB available, the models take {} MiB", available >> 20, models >> 20);
    // Keys and values, and room for the system.
    if models.saturating_add(models / 4) > available {
        let remedy = "list fewer models in worker.toml, or add memory: weights that do not fit are read from disk for every token";
        return Check::mend("memory", found, remedy);
    }
    Check::ok("memory", found)
}

fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn what_does_not_fit_is_to_be_mended() {
        assert_eq!(memory(0).state, State::Ok);
        let check = memory(1 << 60);
        assert_eq!(check.state, State::Mend);
        assert!(check.remedy.unwrap().contains("fewer models"));
    }

    #[test]
    fn the_disk_of_a_folder_that_is_not_there_yet() {
        let home = tempfile::tempdir().unwrap();
        let check = disk(&home.path().join("a/b"));
        assert!(check.found.contains(&home.path().display().to_string()), "{check}");
    }
}
