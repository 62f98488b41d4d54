//! The pinned compiler: CUDA's from pip, in a folder of the project that git ignores.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{bail, Context, Result};

/// Packages of the compiler. Drivers refuse PTX that is newer than they are, so that these stay at the release whose
/// driver the worker asks for.
pub const PACKAGES: [(&str, &str); 8] = [
    ("nvidia-cuda-cccl", "13.0.85"),
    ("nvidia-cuda-crt", "13.0.88"),
    ("nvidia-cuda-cuobjdump", "13.2.86"),
    ("nvidia-cuda-nvcc", "13.0.88"),
    ("nvidia-cuda-nvdisasm", "13.2.86"),
    ("nvidia-cuda-nvrtc", "13.0.88"),
    ("nvidia-cuda-runtime", "13.0.96"),
    ("nvidia-nvvm", "13.0.88"),
];

/// CUDA's folder with bin/nvcc, installed below `root` if it is not there yet.
pub fn install(root: &Path) -> Result<PathBuf> {
    let venv = root.join(".tools/cuda");
    let wanted: Vec<String> = PACKAGES.iter().map(|(name, version)| format!("{name}=={version}")).collect();
    let stamp = venv.join("installed");
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(&wanted.join("\n")) {
        println!("installing CUDA's compiler into {}", venv.display());
        output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        let pip = venv.join("bin/pip");
        output(Command::new(pip).args(["install", "--quiet", "--no-deps"]).args(&wanted))?;
        std::fs::write(stamp, wanted.join("\n"))?;
    }
    let libraries = venv.join("lib");
    for python in std::fs::read_dir(&libraries).with_context(|| libraries.display().to_string())? {
        let cuda = python?.path().join("site-packages/nvidia/cu13");
        if cuda.join("bin/nvcc").is_file() {
            return Ok(cuda);
        }
    }
    bail!("no nvcc in {}", libraries.display())
}

/// Runs a command that must succeed.
pub fn output(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| name.clone())?;
    if !output.status.success() {
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        bail!("{name}: {}\n{}", output.status, String::from_utf8_lossy(&said));
    }
    Ok(output)
}
