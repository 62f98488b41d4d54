//! What the kernels' folder must hold, checked without any tool of CUDA's.

use std::fmt::Write;
use std::path::PathBuf;

use deepnode_worker::canon::constants::*;
use deepnode_worker::cuda::args;
use sha2::{Digest, Sha256};

const PRODUCTS: [args::ProductKernels; 4] = [args::QKV, args::RESIDUAL, args::GATE, args::LOGITS];

/// The products for few rows.
pub fn few() -> impl Iterator<Item = &'static str> {
    PRODUCTS.into_iter().flat_map(|kernels| kernels.into_iter().take(args::WIDTHS.len()))
}

/// The products for many rows.
fn many() -> impl Iterator<Item = &'static str> {
    PRODUCTS.into_iter().map(|kernels| kernels[args::WIDTHS.len()])
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels"))
}

/// The sources, by name.
fn sources() -> Vec<(String, String)> {
    let mut sources: Vec<(String, String)> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu" || e == "cuh"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    sources.sort();
    sources
}

/// Kernel, file and line of every wait in the kernels: of one that is made of a function, the function's.
pub fn waits() -> Vec<(&'static str, String, u32)> {
    let mut waits = Vec::new();
    for (file, text) in sources().iter().filter(|(name, _)| name != "device.cuh") {
        let mut function = "";
        for (number, line) in (1..).zip(text.lines()) {
            // `KERNEL(name, ...` and `DEVICE type name(...` begin at the margin.
            if let Some(rest) = line.strip_prefix("KERNEL(") {
                function = rest.split(',').next().unwrap();
            } else if line.starts_with("DEVICE ") {
                function = line.split('(').next().unwrap().rsplit(' ').next().unwrap();
            }
            if line.contains("barrier();") || line.contains("copies_wait();") {
                waits.extend(made_of(function).into_iter().map(|kernel| (kernel, file.clone(), number)));
            }
        }
    }
    waits
}

/// The kernels that a function is part of; a kernel by itself.
fn made_of(function: &str) -> Vec<&'static str> {
    match function {
        "decode" => few().collect(),
        "prefill" => many().collect(),
        "greatest" => vec![args::TOP, args::CHOOSE],
        kernel => vec![args::kernels().find(|name| *name == kernel).expect(kernel)],
    }
}

/// `constants.cuh` as it must be: the CPU's table in CUDA's words.
fn constants() -> String {
    let mut text = String::from(
        "// Written from worker/src/canon/constants.rs, and compared with it by a test of the worker.\n\
         #pragma once\n#include \"device.cuh\"\n\n",
    );
    let mut one = |name: &str, value: String| writeln!(text, "constexpr u32 {name} = {value};").unwrap();
    let hex = |x: f32| format!("{:#010x}", x.to_bits());
    one("BLOCK", BLOCK.to_string());
    one("LOG2E", hex(LOG2E));
    one("LN2_HI", hex(LN2_HI));
    one("LN2_LO", hex(LN2_LO));
    one("EXP_MIN", hex(EXP_MIN));
    one("EXP_MAX", hex(EXP_MAX));
    one("LOG_SPLIT", format!("{LOG_SPLIT:#010x}"));
    one("PHILOX_ROUNDS", PHILOX_ROUNDS.to_string());
    let mut several = |name: &str, bits: &[u32]| {
        let values: Vec<String> = bits.iter().map(|bits| format!("{bits:#010x}")).collect();
        writeln!(text, "TABLE u32 {name}[{}] = {{{}}};", bits.len(), values.join(", ")).unwrap();
    };
    several("EXP", &EXP.map(f32::to_bits));
    several("LOG", &LOG.map(f32::to_bits));
    several("PHILOX_M", &PHILOX_M);
    several("PHILOX_W", &PHILOX_W);
    text
}

#[test]
fn constants_are_the_cpus() {
    let path = folder().join("constants.cuh");
    let found = std::fs::read_to_string(path).unwrap();
    assert!(found == constants(), "kernels/constants.cuh must be:\n{}", constants());
}

#[test]
fn every_kernel_is_there() {
    for kernel in args::kernels() {
        assert!(deepnode_emulator::args_of(kernel).is_some(), "{kernel}");
    }
}

/// What is committed was built from these sources; `cargo xtask kernels --check` also builds again and compares.
#[test]
fn the_manifest_is_of_these_sources() {
    let manifest: toml::Table =
        std::fs::read_to_string(folder().join("MANIFEST.toml")).unwrap().parse().unwrap();
    let sha256 = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let sources = sources();
    let found: Vec<(&str, String)> =
        sources.iter().map(|(name, text)| (&name[..], sha256(text.as_bytes()))).collect();
    let named = manifest["sources"].as_table().unwrap();
    let named: Vec<(&str, String)> =
        named.iter().map(|(name, sha)| (&name[..], sha.as_str().unwrap().to_string())).collect();
    assert_eq!(named, found, "kernels/MANIFEST.toml: `cargo xtask kernels` builds anew");
    let fatbin = std::fs::read(folder().join("kernels.fatbin")).unwrap();
    assert_eq!(manifest["fatbin"].as_str().unwrap(), sha256(&fatbin));
    for kernels in ["sm_80", "sm_90a"].map(|arch| manifest["kernels"][arch].as_table().unwrap()) {
        let mut all: Vec<&str> = args::kernels().collect();
        all.sort_unstable();
        assert_eq!(kernels.keys().map(String::as_str).collect::<Vec<_>>(), all);
        for kernel in all {
            let cost = &kernels[kernel];
            assert_eq!(
                (cost["spills"].as_integer(), cost["stack"].as_integer()),
                (Some(0), Some(0)),
                "{kernel}"
            );
        }
    }
}
