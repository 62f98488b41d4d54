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

/// Where Linux tells how fast a processor may run.
const FREQUENCIES: &str = "/sys/devices/system/cpu/cpu0/cpufreq";

pub fn processor() -> Check {
    speed(Isa::detect(), Path::new(FREQUENCIES))
}

/// `frequencies` need not be there: many virtual machines do not tell.
fn speed(isa: Isa, frequencies: &Path) -> Check {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let khz = |name| std::fs::read_to_string(frequencies.join(name)).ok()?.trim().parse::<u64>().ok();
    let (can, may) = (khz("cpuinfo_max_freq"), khz("scaling_max_freq"));
    let mut found = format!("{threads} threads, {isa:?}");
    if let Some(can) = can {
        found += &format!(", up to {} MHz", can / 1000);
    }
    match (isa, can, may) {
        (Isa::Portable, ..) => {
            let remedy = "a processor with AVX2 or AVX-512 is several times faster; results are the same";
            Check::warning("processor", found, remedy)
        }
        (_, Some(can), Some(may)) if may < can => {
            found += &format!(" and held at {} MHz", may / 1000);
            Check::warning("processor", found, format!("cpupower frequency-set --max {}MHz", can / 1000))
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
        let (number, name, memory) = (card.ordinal, &card.name, card.memory >> 30);
        let (major, minor) = card.capability;
        let clocks = match card.clocks {
            Some((card, memory)) => format!("up to {} MHz, memory {} MHz", card / 1000, memory / 1000),
            None => "clocks unknown".into(),
        };
        format!("{number}: {name}, {memory} GiB, compute capability {major}.{minor}, {clocks}")
    };
    let driver = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let driver = driver_version(&driver).unwrap_or("unknown");
    let found = format!("driver {driver}; {}", cards.iter().map(name).collect::<Vec<_>>().join("; "));
    match wanted {
        Some(Device::Cuda(number)) if !cards.iter().any(|card| card.ordinal == number) => {
            Check::mend("gpu", format!("no card {number} among {found}"), "correct device in worker.toml")
        }
        _ => Check::ok("gpu", found),
    }
}

/// The version in what the driver tells of itself: the first word of the NVRM line that is one.
fn driver_version(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("NVRM version"))?;
    line.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
}

/// Whether the models fit into the memory of the card that is to compute them, where there is one. `models` has the bytes of
/// each one's weights as halves, which is how a card holds them.
pub fn card_memory(wanted: Device, models: &[u64]) -> Option<Check> {
    let mut cards = cards().ok()?.into_iter();
    let card = match wanted {
        Device::Cpu => None,
        Device::Auto => cards.next(),
        Device::Cuda(number) => cards.find(|card| card.ordinal == number),
    }?;
    Some(fits(&card, wanted, models))
}

fn fits(card: &Card, wanted: Device, models: &[u64]) -> Check {
    let needed: u64 = models.iter().sum();
    let found = format!(
        "card {} has {} MiB, the models' weights take {} MiB there",
        card.ordinal,
        card.memory >> 20,
        needed >> 20
    );
    // Keys and values, and room to compute in.
    let fits = needed.saturating_add(needed / 4) <= card.memory as u64;
    match (fits, wanted) {
        (false, Device::Auto) => {
            let remedy = "list fewer models in worker.toml: what does not fit is computed on the processor";
            Check::warning("gpu memory", found, remedy)
        }
        (false, _) => {
            let remedy = "list fewer models in worker.toml, take another card, or device = \"cpu\"";
            Check::mend("gpu memory", found, remedy)
        }
        (true, _) if models.len() > 1 => {
            let remedy = "list one model in worker.toml: the first one's keys and values take what is left of the card";
            Check::warning("gpu memory", found, remedy)
        }
        (true, _) => Check::ok("gpu memory", found),
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
    fn a_processor_that_is_held_back_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, khz: &str| std::fs::write(folder.path().join(name), khz).unwrap();
        let found = |isa| speed(isa, folder.path()).to_string();
        assert_eq!(speed(Isa::Avx2, folder.path()).state, State::Ok);
        write("cpuinfo_max_freq", "3900000\n");
        write("scaling_max_freq", "3900000\n");
        assert!(found(Isa::Avx2).contains("Avx2, up to 3900 MHz"), "{}", found(Isa::Avx2));
        write("scaling_max_freq", "1200000\n");
        let check = speed(Isa::Avx2, folder.path());
        assert_eq!(check.state, State::Warning);
        assert!(check.found.ends_with("up to 3900 MHz and held at 1200 MHz"), "{check}");
        assert_eq!(speed(Isa::Portable, folder.path()).state, State::Warning);
    }

    #[test]
    fn a_driver_says_its_version() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Wed Jul 30 2025\nGCC version:  gcc 12.2.0\n";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\n";
        assert_eq!(driver_version(closed), Some("580.65.06"));
        assert_eq!(driver_version(open), Some("575.57.08"));
        assert_eq!(driver_version("GCC version:  gcc 12.2.0\n"), None);
    }

    #[test]
    fn a_card_has_room_for_the_models_or_not() {
        let card =
            Card { ordinal: 1, name: "card".into(), capability: (9, 0), memory: 10 << 30, clocks: None };
        let state = |wanted, models: &[u64]| fits(&card, wanted, models).state;
        assert_eq!(state(Device::Cuda(1), &[8 << 30]), State::Ok);
        assert_eq!(state(Device::Cuda(1), &[9 << 30]), State::Mend);
        assert_eq!(state(Device::Auto, &[9 << 30]), State::Warning);
        assert_eq!(state(Device::Auto, &[1 << 30, 1 << 30]), State::Warning);
        let found = fits(&card, Device::Auto, &[9 << 30]).found;
        assert_eq!(found, "card 1 has 10240 MiB, the models' weights take 9216 MiB there");
        assert!(card_memory(Device::Cpu, &[u64::MAX]).is_none());
    }

    #[test]
    fn the_disk_of_a_folder_that_is_not_there_yet() {
        let home = tempfile::tempdir().unwrap();
        let check = disk(&home.path().join("a/b"));
        assert!(check.found.contains(&home.path().display().to_string()), "{check}");
    }
}
