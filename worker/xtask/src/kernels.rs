use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};
use sha2::{Digest, Sha256};

use crate::budget::Budget;
use crate::manifest::{add_sass, check_ptx, from_ptxas, Manifest};
use crate::tools::{install, output, PACKAGES};

/// Contraction is off: where the arithmetic fuses, the sources say fmaf. Division, square root and subnormals are exact
/// by default. Machine code for 8.x and 9.0, PTX for later ones.
const FLAGS: [&str; 13] = [
    "-O3",
    "-std=c++17",
    "-fmad=false",
    "-Xptxas",
    "-v",
    "-fatbin",
    "--compress-mode=size",
    "-gencode",
    "arch=compute_80,code=sm_80",
    "-gencode",
    "arch=compute_90a,code=sm_90a",
    "-gencode",
    "arch=compute_80,code=compute_80",
];

/// Builds, and writes or compares.
pub fn run(check: bool) -> Result<()> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let root = root.canonicalize().with_context(|| root.display().to_string())?;
    let folder = root.join("worker/kernels");
    let cuda = install(&root)?;
    let (fatbin, manifest) = build(&cuda, &folder)?;
    Budget::read(&folder)?.check(&manifest.kernels)?;
    let text = format!("# Written by `cargo xtask kernels`.\n\n{}", toml::to_string_pretty(&manifest)?);
    for (name, bytes) in [("kernels.fatbin", &fatbin[..]), ("MANIFEST.toml", text.as_bytes())] {
        let path = folder.join(name);
        if check {
            if std::fs::read(&path).with_context(|| path.display().to_string())? != bytes {
                bail!("{} is not what the sources give; `cargo xtask kernels` writes it", path.display());
            }
        } else {
            std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        }
        println!("{} {}: {} bytes", if check { "same" } else { "wrote" }, path.display(), bytes.len());
    }
    Ok(())
}

fn build(cuda: &Path, folder: &Path) -> Result<(Vec<u8>, Manifest)> {
    let work = tempfile::tempdir()?;
    let file = work.path().join("kernels.fatbin");
    // The source by its bare name: no path of this machine gets into the result.
    let mut nvcc = Command::new(cuda.join("bin/nvcc"));
    let nvcc = nvcc.args(FLAGS).arg("kernels.cu").arg("-o").arg(&file).current_dir(folder);
    let said = output(nvcc)?.stderr;
    let mut kernels = from_ptxas(&String::from_utf8_lossy(&said))?;
    let path = format!("{}:{}", cuda.join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let dump = |what: &str| -> Result<String> {
        let mut dump = Command::new(cuda.join("bin/cuobjdump"));
        let listing = output(dump.arg(what).arg(&file).env("PATH", &path))?.stdout;
        Ok(String::from_utf8_lossy(&listing).into_owned())
    };
    add_sass(&mut kernels, &dump("-sass")?)?;
    check_ptx(&dump("-ptx")?)?;
    let fatbin = std::fs::read(&file)?;
    let manifest = Manifest {
        fatbin: sha256(&fatbin),
        flags: FLAGS.map(str::to_string).to_vec(),
        compiler: PACKAGES.iter().map(|(name, version)| (name.to_string(), version.to_string())).collect(),
        sources: sources(folder)?,
        kernels,
    };
    Ok((fatbin, manifest))
}

/// SHA-256 of each source.
fn sources(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut sources = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "cu" || e == "cuh") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            sources.insert(name, sha256(&std::fs::read(&path)?));
        }
    }
    Ok(sources)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
