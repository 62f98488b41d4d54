//! Finds the `cometbft` program and makes sure that it speaks ABCI 2.0 as 0.38 does.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What `version` must begin with: 0.37 speaks another ABCI, and so will 1.0.
const VERSION: &str = "0.38.";
/// Where `make cometbft` puts it, below the project's folder.
const TOOLS: &str = ".tools/bin/cometbft";

/// A CometBFT that was asked for its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    path: PathBuf,
    version: String,
}

#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    #[error(
        "cometbft not found in {TOOLS} or PATH: run `make cometbft`, or name it with --cometbft or COMETBFT"
    )]
    NotFound,
    #[error("{} cannot be run: {source}", path.display())]
    NotRunnable { path: PathBuf, source: io::Error },
    #[error("{} is version {found:?}, and {VERSION}x is needed", path.display())]
    Version { path: PathBuf, found: String },
}

impl Binary {
    /// The program that `flag` names, else COMETBFT; else the project's own (beside a parent folder of our program, or of
    /// the current folder), else the one in PATH. One that is named must be right; there is no falling through.
    pub fn find(flag: Option<&Path>) -> Result<Self, BinaryError> {
        let named = flag.map(Path::to_owned).or_else(|| env::var_os("COMETBFT").map(PathBuf::from));
        if let Some(path) = named.filter(|p| !p.as_os_str().is_empty()) {
            return Self::at(path);
        }
        let exe = env::current_exe().unwrap_or_default();
        let here = env::current_dir().unwrap_or_default();
        let path = env::var_os("PATH").unwrap_or_default();
        let found = candidates(&exe, &here, &path).find(|p| p.is_file());
        found.map_or(Err(BinaryError::NotFound), Self::at)
    }

    /// The program at `path`, if it is a CometBFT 0.38.
    pub fn at(path: PathBuf) -> Result<Self, BinaryError> {
        let out = match Command::new(&path).arg("version").output() {
            Ok(out) => out,
            Err(source) => return Err(BinaryError::NotRunnable { path, source }),
        };
        let text = String::from_utf8_lossy(&out.stdout);
        let found = text.lines().next().unwrap_or_default().trim().trim_start_matches('v').to_owned();
        if !out.status.success() || !found.starts_with(VERSION) {
            return Err(BinaryError::Version { path, found });
        }
        Ok(Self { path, version: found })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Such as `0.38.26`, with what a build appends.
    pub fn version(&self) -> &str {
        &self.version
    }
}

fn candidates<'a>(exe: &'a Path, here: &'a Path, path: &OsStr) -> impl Iterator<Item = PathBuf> + 'a {
    let in_path: Vec<PathBuf> =
        env::split_paths(path).filter(|d| d.is_absolute()).map(|d| d.join("cometbft")).collect();
    exe.ancestors().skip(1).chain([here]).map(|d| d.join(TOOLS)).chain(in_path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comet::fake::program;

    #[test]
    fn only_a_working_0_38_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let ok = Binary::at(program(dir.path(), "echo v0.38.26+abc")).unwrap();
        assert_eq!(ok.version(), "0.38.26+abc");
        for body in ["echo 0.37.4", "echo 1.0.0", "echo 0.380.1", "", "echo 0.38.26; exit 1"] {
            let error = Binary::at(program(dir.path(), body)).unwrap_err();
            assert!(matches!(error, BinaryError::Version { .. }), "{body}: {error}");
        }
        let missing = Binary::find(Some(&dir.path().join("missing"))).unwrap_err();
        assert!(matches!(missing, BinaryError::NotRunnable { .. }), "{missing}");
    }

    #[test]
    fn the_projects_own_comes_before_the_path() {
        let found: Vec<_> =
            candidates(Path::new("/p/target/debug/deepnoded"), Path::new("/w"), OsStr::new("rel:/usr/bin"))
                .collect();
        assert_eq!(found.first().unwrap(), Path::new("/p/target/debug/.tools/bin/cometbft"));
        assert!(found.contains(&"/p/.tools/bin/cometbft".into()));
        assert_eq!(found.last().unwrap(), Path::new("/usr/bin/cometbft"));
        assert!(found.iter().all(|p| p.is_absolute()));
    }
}
